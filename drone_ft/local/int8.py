"""Products with matrices that are not learnt, in whole numbers of 8 bits: up to four times as many a second.

Each row of either side has a scale of its own (its largest number becomes 127), so a row with an outlier costs no other
row its precision. What is learnt, and everything between two products, stays in float32; answering is float32 as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from drone_ft.local.together import Together, families

_LEAST = 1e-12  # a row of zeros has a scale too


def exact() -> bool:
    """Whether int8 products are right here: some CPUs add them in 16 bits and overflow without a word."""
    import torch

    if not hasattr(torch, "_int_mm"):
        return False
    most = torch.full((64, 64), 127, dtype=torch.int8)
    try:
        return bool((torch._int_mm(most, most) == 64 * 127 * 127).all())
    except RuntimeError:
        return False


class Int8Matrices:
    """Frozen weights of shape (out, in), multiplied as one; rounded once, a quarter of their memory on top."""

    def __init__(self, weights: Sequence[Any]) -> None:
        import torch

        self.sizes = [len(weight) for weight in weights]
        self.numbers, scale = _rounded(torch.cat([weight.detach() for weight in weights]))
        self.scale = scale.flatten()

    def forward(self, x: Any) -> Sequence[Any]:
        """x·Wᵀ for each weight and x of shape (rows, in)."""
        import torch

        numbers, scale = _rounded(x)
        product = torch._int_mm(numbers, self.numbers.T).float().mul_(scale).mul_(self.scale)
        parts: Sequence[Any] = product.split(self.sizes, dim=1)
        return parts

    def backward(self, grads: Sequence[Any]) -> Any:
        """The sum of grad·W over the weights' gradients of shape (rows, out)."""
        import torch

        scaled = grads[0].new_empty(len(grads[0]), len(self.scale))
        parts = zip(scaled.split(self.sizes, dim=1), grads, self.scale.split(self.sizes), strict=True)
        for part, grad, scale in parts:
            torch.mul(grad, scale, out=part)
        numbers, scale = _rounded(scaled)
        return torch._int_mm(numbers, self.numbers).float().mul_(scale)


def _rounded(x: Any) -> tuple[Any, Any]:
    """(x in whole numbers, scales of shape (rows, 1)) for x of shape (rows, columns)."""
    import torch

    scale = x.abs().amax(-1, keepdim=True).clamp_(min=_LEAST).div_(127)
    return (x / scale).round_().to(torch.int8), scale


def round_frozen(layers: Any) -> int:
    """Let the plain linear layers in frozen ones, which need no gradient, multiply in int8; how many it was."""
    import torch

    count = 0
    for layer in layers:
        for found in families(layer, lambda m: type(m) is torch.nn.Linear and m.bias is None, lambda m: m.in_features):
            Together(found, Int8Matrices([m.weight for m in found]).forward)
            count += len(found)
    return count
