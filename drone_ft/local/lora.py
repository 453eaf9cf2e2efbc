"""LoRA's forward and backward pass with no more memory traffic than they need; the matrices stay peft's own.

peft adds a scaled product to a layer's output in three passes over memory; here one matrix product accumulates into the
other, both ways. On a CPU, where memory is the bottleneck, that is a tenth of the training time.
"""

from __future__ import annotations

from typing import Any

from drone_ft.local.int8 import Int8Matrix


def speed_up(model: Any, *, int8: bool = False) -> int:
    """Give every plain LoRA layer of a peft model the short way; how many it was. Others are left as they are.

    With `int8` the frozen matrices are multiplied in whole numbers, see Int8Matrix.
    """
    from peft.tuners.lora import Linear

    layers = [module for module in model.modules() if isinstance(module, Linear) and _is_plain(module)]
    for layer in layers:
        base = layer.base_layer
        layer.forward = _Forward(layer, Int8Matrix(base.weight) if int8 else _Matrix(base))
    return len(layers)


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


class _Matrix:
    """A frozen linear layer's matrix, multiplied as it is, on whatever device the layer is by then."""

    def __init__(self, linear: Any) -> None:
        self.linear = linear

    def forward(self, x: Any) -> Any:
        return x @ self.linear.weight.T

    def backward(self, grad: Any) -> Any:
        return grad @ self.linear.weight


class _Forward:
    """A LoRA layer's forward pass."""

    def __init__(self, layer: Any, frozen: _Matrix | Int8Matrix) -> None:
        self.layer, self.frozen, self.adapter = layer, frozen, layer.active_adapters[0]

    def __call__(self, x: Any) -> Any:
        layer, adapter = self.layer, self.adapter
        down, up = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
        flat = x.reshape(-1, x.shape[-1])
        result = _function().apply(flat, self.frozen, down, up, layer.scaling[adapter])
        return result.view(*x.shape[:-1], -1)


def _function() -> Any:
    """The autograd function, made on first use: this module must not import torch."""
    global _cached
    if _cached is not None:
        return _cached
    import torch

    class LowRank(torch.autograd.Function):  # type: ignore[misc]
        """x·Wᵀ + scale·(x·Aᵀ)·Bᵀ with W frozen; gradients for x, A and B."""

        @staticmethod
        def forward(ctx: Any, x: Any, frozen: Any, down: Any, up: Any, scale: float) -> Any:
            down, up = down.to(x.dtype), up.to(x.dtype)
            inner = x @ down.T
            ctx.save_for_backward(x, inner, down, up)
            ctx.frozen, ctx.scale = frozen, scale
            return frozen.forward(x).addmm_(inner, up.T, alpha=scale)

        @staticmethod
        def backward(ctx: Any, grad: Any) -> tuple[Any, ...]:
            x, inner, down, up = ctx.saved_tensors
            inner_grad = (grad @ up).mul_(ctx.scale)
            x_grad = ctx.frozen.backward(grad).addmm_(inner_grad, down) if ctx.needs_input_grad[0] else None
            up_grad = (grad.T @ inner).mul_(ctx.scale)
            return x_grad, None, (inner_grad.T @ x).float(), up_grad.float(), None

    _cached = LowRank
    return _cached


_cached: Any = None
