"""The lower layers of a model, when they are not learnt: what they make of a row never changes, so it is kept.

Saves their backward pass always, and their forward pass for what is read again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from drone_ft.local import packing

BYTES_KEPT = 512 << 20


class LowerLayers:
    """Runs `count` lower layers, only once for rows that are read `again`, and feeds the rest of the model."""

    def __init__(self, model: Any, count: int, again: Collection[Any]) -> None:
        self.decoder = model.get_decoder()
        self.layers = [_Switch(layer) for layer in self.decoder.layers]
        self.count = count
        self.again = {None, *again}  # worth keeping
        self._kept: dict[Any, Any] = {}
        self._room = BYTES_KEPT
        self._given: Any = None
        self._caught: Any = None
        self.decoder.layers[count].register_forward_pre_hook(self._exchange, with_kwargs=True)

    def feed(self, keys: Sequence[Any], compute: Callable[[Sequence[Any]], dict[str, Any]]) -> None:
        """Prepare the next pass over the rows `keys`; `compute` gives a pass's arguments for some of them.

        The first key stands for the tokens all rows begin with.
        """
        import torch

        missing = [key for key in keys if key not in self._kept]
        fresh = self._run([keys[0], *[key for key in missing if key != keys[0]]], compute) if missing else {}
        parts = [self._kept.get(key, fresh.get(key)) for key in keys]
        given = torch.cat(parts, dim=1)
        self._given = torch.nn.functional.pad(given, (0, 0, 0, packing.filled(given.shape[1]) - given.shape[1]))
        self._only(lower=False)

    def _run(self, keys: Sequence[Any], compute: Callable[[Sequence[Any]], dict[str, Any]]) -> dict[Any, Any]:
        """What the lower layers make of some rows; kept while there is room."""
        import torch

        given = compute(keys[1:])
        lengths = [given["shared_length"], *given["row_lengths"]]
        self._given = None
        self._only(lower=True)
        with torch.no_grad():
            self.decoder(**given)
        fresh = dict(zip(keys, self._caught[:, : sum(lengths)].split(lengths, dim=1), strict=True))
        for key, value in fresh.items():
            size = value.numel() * value.element_size()
            if key in self.again and size <= self._room and key not in self._kept:
                self._kept[key] = value.clone()
                self._room -= size
        return fresh

    def _only(self, *, lower: bool) -> None:
        for place, layer in enumerate(self.layers):
            layer.passed_by = (place < self.count) is not lower

    def _exchange(self, _module: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Catch what comes out of the lower layers, or put in what was kept of it."""
        if self._given is None:
            self._caught = inputs[0]
            return None
        return (self._given, *inputs[1:]), named


class _Switch:
    """A layer that can be passed by."""

    def __init__(self, layer: Any) -> None:
        self._forward = layer.forward
        self.passed_by = False
        layer.forward = self

    def __call__(self, hidden: Any, *more: Any, **named: Any) -> Any:
        return hidden if self.passed_by else self._forward(hidden, *more, **named)
