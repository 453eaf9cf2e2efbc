"""LoRA's forward and backward pass with no more memory traffic than they need; the matrices stay peft's own.

peft adds a scaled product to a layer's output in three passes over memory; here one matrix product accumulates into the
other, both ways. On a CPU, where memory is the bottleneck, that is a tenth of the training time.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from drone_ft.local.int8 import Int8Matrices
from drone_ft.local.together import Together, families


def speed_up(model: Any, *, int8: bool = False) -> int:
    """Give every plain LoRA layer of a peft model the short way; how many it was. Others are left as they are.

    With `int8` the frozen matrices are multiplied in whole numbers, see Int8Matrices.
    """
    from peft.tuners.lora import Linear

    def is_wanted(module: Any) -> bool:
        return isinstance(module, Linear) and _is_plain(module)

    def likeness(layer: Any) -> Any:
        return layer.in_features, layer.scaling[layer.active_adapters[0]]

    found = list(families(model, is_wanted, likeness))
    for layers in found:
        linear = [layer.base_layer for layer in layers]
        Together(layers, _Pass(layers, Int8Matrices([m.weight for m in linear]) if int8 else _Matrices(linear)))
    return sum(map(len, found))


def _is_plain(layer: Any) -> bool:
    import torch

    adapters = layer.active_adapters
    return (
        len(adapters) == 1
        and type(layer.base_layer) is torch.nn.Linear
        and layer.base_layer.bias is None
        and not layer.lora_variant
        and isinstance(layer.lora_dropout[adapters[0]], torch.nn.Identity)
    )


class _Matrices:
    """Frozen linear layers' matrices, multiplied as they are, on whatever device the layers are by then."""

    def __init__(self, linear: Sequence[Any]) -> None:
        self.linear = linear

    def forward(self, x: Any) -> list[Any]:
        """x·Wᵀ for each."""
        return [x @ layer.weight.T for layer in self.linear]

    def backward(self, grads: Sequence[Any]) -> Any:
        """The sum of grad·W."""
        total = grads[0] @ self.linear[0].weight
        for grad, layer in zip(grads[1:], self.linear[1:], strict=True):
            total.addmm_(grad, layer.weight)
        return total


class _Pass:
    """The forward pass of LoRA layers that read the same input and scale alike."""

    def __init__(self, layers: Sequence[Any], frozen: _Matrices | Int8Matrices) -> None:
        adapter = layers[0].active_adapters[0]
        self.frozen, self.scale = frozen, layers[0].scaling[adapter]
        self.pairs = [(layer.lora_A[adapter], layer.lora_B[adapter]) for layer in layers]

    def __call__(self, x: Any) -> tuple[Any, ...]:
        matrices = (matrix.weight for pair in zip(*self.pairs, strict=True) for matrix in pair)
        result: tuple[Any, ...] = _function().apply(x, self.frozen, self.scale, *matrices)
        return result


@lru_cache(maxsize=1)
def _function() -> Any:
    """The autograd function, made on first use: this module must not import torch."""
    import torch

    class LowRank(torch.autograd.Function):  # type: ignore[misc]
        """x·Wᵀ + scale·(x·Aᵀ)·Bᵀ for each pair A, B, with all W frozen; gradients for x, every A and every B."""

        @staticmethod
        def forward(ctx: Any, x: Any, frozen: Any, scale: float, *matrices: Any) -> tuple[Any, ...]:
            half = len(matrices) // 2
            down, ups = torch.cat(matrices[:half]).to(x.dtype), [up.to(x.dtype) for up in matrices[half:]]
            inner = x @ down.T
            ctx.save_for_backward(x, inner, down, *ups)
            ctx.frozen, ctx.scale = frozen, scale
            results = frozen.forward(x)
            for result, part, up in zip(results, _parts(inner, ups), ups, strict=True):
                result.addmm_(part, up.T, alpha=scale)
            return tuple(results)

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> tuple[Any, ...]:
            x, inner, down, *ups = ctx.saved_tensors
            inner_grad = torch.empty_like(inner)
            for part, grad, up in zip(_parts(inner_grad, ups), grads, ups, strict=True):
                torch.mm(grad, up, out=part)
            inner_grad.mul_(ctx.scale)
            x_grad = ctx.frozen.backward(grads).addmm_(inner_grad, down) if ctx.needs_input_grad[0] else None
            down_grads = _parts(inner_grad.T @ x, ups, dim=0)
            up_grads = (grad.T @ part for grad, part in zip(grads, _parts(inner, ups), strict=True))
            return (
                x_grad,
                None,
                None,
                *(grad.float() for grad in down_grads),
                *(grad.float().mul_(ctx.scale) for grad in up_grads),
            )

    return LowRank


def _parts(inner: Any, ups: Sequence[Any], dim: int = 1) -> Sequence[Any]:
    parts: Sequence[Any] = inner.split([up.shape[1] for up in ups], dim=dim)
    return parts
