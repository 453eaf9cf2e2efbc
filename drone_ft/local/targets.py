"""The loss over what is to be learnt: where a grammar leaves a choice, among what it admits; else among all tokens.

That is how answers are chosen, so nothing is learnt there about tokens that could never come; and the product with the
whole vocabulary, a fifth of a small model's work, is spared.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from drone_ft.local.rows import Sample

MOST = 0.25  # share of the vocabulary; where a grammar admits more, as in free text, nothing would be spared
_RESCALED = ("final_logit_softcapping", "logits_scaling", "logit_scale")


class Targets:
    """Loss over the targets of samples; the model then projects onto its vocabulary only where that is needed."""

    def __init__(self, model: Any, admitted: Sequence[int]) -> None:
        head = model.get_output_embeddings()
        self._weight = head.weight
        self._admitted = list(admitted) if _is_plain(model, head, admitted) else []
        self._rows: Any = None  # those of the head for the admitted tokens, where the weights are by then
        self._place = {token: place for place, token in enumerate(admitted)}
        self._before: tuple[Any, Any] = (None, None)  # positions just before open targets, and before the others
        self._hidden: Any = None
        head.register_forward_pre_hook(self._project)

    def _project(self, _module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        open_, others = self._before
        self._hidden = inputs[0][0, open_]
        return (inputs[0][:, others],)

    def loss(self, pack: Sequence[Sample], shared: int, run: Callable[[], Any]) -> tuple[Any, list[float]]:
        """(summed loss, its tally) of `run`: the model's pass over the `shared` beginning and the rest of each."""
        import torch

        open_: list[tuple[int, int]] = []  # (position before it, target)
        others: list[tuple[int, int]] = []
        start = 0
        for sample in pack:
            part = open_ if sample.is_open and self._admitted else others
            part += [(start + at - 1, sample.ids[at]) for at in sample.targets]
            start += len(sample.ids) - 1 - shared
        self._before = (self._indices([at for at, _ in open_]), self._indices([at for at, _ in others]))
        logits = run().logits[0]
        loss, tally = _cross_entropy(logits, [token for _, token in others])
        if open_:
            if self._rows is None:
                self._rows = self._weight.detach()[self._indices(self._admitted)]
            places = [self._place[token] for _, token in open_]
            more, counted = _cross_entropy(torch.nn.functional.linear(self._hidden, self._rows), places)
            loss, tally = loss + more, counted + tally
        else:
            tally = [0.0, 0.0, 0.0, *tally]
        self._hidden = None
        return loss, tally

    def _indices(self, places: list[int]) -> Any:
        import torch

        return torch.tensor(places, dtype=torch.long, device=self._weight.device)


def told(tally: Sequence[float]) -> tuple[float, float]:
    """(mean loss, share of targets right) of a tally; of open targets where there are any, as the others are easy."""
    loss, right, count = tally[:3] if tally[2] else tally[3:]
    return loss / max(1, count), right / max(1, count)


def _is_plain(model: Any, head: Any, admitted: Sequence[int]) -> bool:
    """Whether scores are the plain product with the head's weights, and taking a part of them spares much."""
    config = model.config.get_text_config()
    plain = getattr(head, "bias", None) is None and not any(getattr(config, name, None) for name in _RESCALED)
    return plain and 0 < len(admitted) <= MOST * head.weight.shape[0]


def _cross_entropy(logits: Any, wanted: list[int]) -> tuple[Any, list[float]]:
    """(summed loss, [it as a number, how many are right, how many there are])."""
    import torch

    target = torch.tensor(wanted, dtype=torch.long, device=logits.device)
    scores = logits.float()
    loss = torch.nn.functional.cross_entropy(scores, target, reduction="sum")
    right = int((scores.argmax(-1) == target).sum()) if wanted else 0
    return loss, [float(loss.detach()), float(right), float(len(wanted))]
