"""Many rows end to end in one sequence: the big matrices see no padding, attention sees each row alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

NAME = "each_row_alone"


def can_pack(model: Any) -> bool:
    """Whether this model lets us replace its attention without changing what it computes."""
    config = model.config
    special = getattr(config, "attn_logit_softcapping", None) or config.model_type == "gpt_oss"
    return bool(getattr(model, "_supports_attention_backend", False)) and not special


def pack(model: Any) -> None:
    """Make a model take rows end to end; give it `position_ids` and `row_lengths` with every pass."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, _attend)
    AttentionMaskInterface.register(NAME, _no_mask)
    model.set_attn_implementation(NAME)


def _no_mask(*_: Any, **__: Any) -> None:
    return None


def _attend(
    _module: Any, query: Any, key: Any, value: Any, _mask: Any, *, row_lengths: Sequence[int] = (), **given: Any
) -> tuple[Any, None]:
    """Causal attention within each row; tensors are (1, heads, tokens, size), the result (1, tokens, heads, size)."""
    import torch

    lengths = list(row_lengths) or [query.shape[2]]
    parts = zip(*(tensor.split(lengths, dim=2) for tensor in (query, key, value)), strict=True)
    shared = key.shape[1] != query.shape[1]
    attended = [
        torch.nn.functional.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=_window(q, given.get("sliding_window")),
            is_causal=not _narrow(q, given.get("sliding_window")),
            scale=given.get("scaling"),
            enable_gqa=shared,
        )
        for q, k, v in parts
    ]
    return torch.cat(attended, dim=2).transpose(1, 2).contiguous(), None


def _narrow(query: Any, window: int | None) -> bool:
    return bool(window) and query.shape[2] > (window or 0)


def _window(query: Any, window: int | None) -> Any:
    """The mask of a sliding window, None where the row fits in it."""
    import torch

    if window is None or not _narrow(query, window):
        return None
    length = query.shape[2]
    return torch.ones(length, length, dtype=torch.bool, device=query.device).tril().triu(1 - window)
