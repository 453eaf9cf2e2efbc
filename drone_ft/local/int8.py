"""Products with matrices that are not learnt, in whole numbers of 8 bits: up to four times as many a second.

Each row of either side has a scale of its own (its largest number becomes 127), so a row with an outlier costs no other
row its precision. What is learnt, and everything between two products, stays in float32; answering is float32 as well.
"""

from __future__ import annotations

from typing import Any

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


class Int8Matrix:
    """A frozen weight of shape (out, in), rounded once; a quarter of its memory on top of its own."""

    def __init__(self, weight: Any) -> None:
        self.numbers, scale = _rounded(weight.detach())
        self.scale = scale.flatten()

    def forward(self, x: Any) -> Any:
        """x·Wᵀ for x of shape (rows, in)."""
        import torch

        numbers, scale = _rounded(x)
        return torch._int_mm(numbers, self.numbers.T).float().mul_(scale).mul_(self.scale)

    def backward(self, grad: Any) -> Any:
        """grad·W for grad of shape (rows, out)."""
        import torch

        numbers, scale = _rounded(grad * self.scale)
        return torch._int_mm(numbers, self.numbers).float().mul_(scale)


def _rounded(x: Any) -> tuple[Any, Any]:
    """(x in whole numbers, scales of shape (rows, 1)) for x of shape (rows, columns)."""
    import torch

    scale = x.abs().amax(-1, keepdim=True).clamp_(min=_LEAST) / 127
    return (x / scale).round_().to(torch.int8), scale


def round_frozen(layers: Any) -> int:
    """Let the plain linear layers in frozen ones, which need no gradient, multiply in int8; how many it was."""
    import torch

    found = [m for layer in layers for m in layer.modules() if type(m) is torch.nn.Linear and m.bias is None]
    for module in found:
        module.forward = _Forward(Int8Matrix(module.weight))
    return len(found)


class _Forward:
    """A layer's forward pass where no gradient is wanted."""

    def __init__(self, matrix: Int8Matrix) -> None:
        self.matrix = matrix

    def __call__(self, x: Any) -> Any:
        return self.matrix.forward(x.reshape(-1, x.shape[-1])).view(*x.shape[:-1], -1)
