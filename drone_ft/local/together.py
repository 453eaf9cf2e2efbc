"""Linear layers that read the same input, asked as one: what they need of it is made once for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


def families(model: Any, wanted: Callable[[Any], bool], like: Callable[[Any], Any]) -> Iterator[list[Any]]:
    """The layers of a model that are `wanted`, each once: siblings that read the same input together, others alone.

    Siblings must be `like` each other, for instance of one width.
    """
    done: set[int] = set()
    for parent in model.modules():
        children = dict(parent.named_children())
        for names in SIBLINGS:
            found = [children[name] for name in names if name in children and wanted(children[name])]
            if len(found) == len(names) and all(like(layer) == like(found[0]) for layer in found):
                done.update(map(id, found))
                yield found
    for layer in model.modules():
        if wanted(layer) and id(layer) not in done:
            yield [layer]


class Together:
    """What layers make of the same input: when the first is asked, all are answered.

    A layer that is asked about another input than its siblings gets an answer of its own, so that names that mislead
    cost time and nothing else.
    """

    def __init__(self, layers: Sequence[Any], compute: Callable[[Any], Sequence[Any]]) -> None:
        self._compute = compute
        self._input: Any = None
        self._waiting: dict[int, Any] = {}
        for place, layer in enumerate(layers):
            layer.forward = _Member(self, place)

    def answer(self, x: Any, place: int) -> Any:
        """What the layer at a place makes of x."""
        if x is not self._input or place not in self._waiting:
            results = self._compute(x.reshape(-1, x.shape[-1]))
            self._input = x
            self._waiting = {at: result.view(*x.shape[:-1], -1) for at, result in enumerate(results)}
        result = self._waiting.pop(place)
        if not self._waiting:
            self._input = None
        return result


class _Member:
    """The forward pass of one of them."""

    def __init__(self, together: Together, place: int) -> None:
        self._together, self._place = together, place

    def __call__(self, x: Any) -> Any:
        return self._together.answer(x, self._place)
