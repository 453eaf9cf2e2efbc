"""Many rows end to end in one sequence: the big matrices see no padding, attention sees each row alone.

What all rows begin with is read once, in front, and every row attends to it: exact, gradients included, since no row
can change what comes before it.
"""

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
    """Make a model take rows end to end; give it position_ids, row_lengths and shared_length with every pass."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(NAME, _attend)
    AttentionMaskInterface.register(NAME, _no_mask)
    model.set_attn_implementation(NAME)


def is_packed(model: Any) -> bool:
    """Whether pack() was called on this model, or on the one it was copied from."""
    return getattr(model.config, "_attn_implementation", None) == NAME


def _no_mask(*_: Any, **__: Any) -> None:
    return None


def _attend(
    module: Any,
    query: Any,
    key: Any,
    value: Any,
    _mask: Any,
    *,
    row_lengths: Sequence[int] = (),
    shared_length: int = 0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    memory: Any = None,
    **_given: Any,
) -> tuple[Any, None]:
    """Causal attention of each row to the shared beginning and itself.

    Tensors are (1, heads, tokens, size), the result (1, tokens, heads, size); row_lengths do not count the beginning.
    """
    import torch

    def one_row(q: Any, k: Any, v: Any) -> Any:
        mask = _mask_of(q, k, sliding_window)
        return torch.nn.functional.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=mask,
            is_causal=mask is None and q.shape[2] > 1,
            scale=scaling,
            enable_gqa=k.shape[1] != q.shape[1],
        )

    if memory is not None:
        return memory.attend(module.layer_idx, query, key, value, one_row).transpose(1, 2).contiguous(), None
    lengths = [length for length in (shared_length, *row_lengths) if length] or [query.shape[2]]
    rows = list(zip(*(tensor.split(lengths, dim=2) for tensor in (query, key, value)), strict=True))
    attended = []
    for place, (q, k, v) in enumerate(rows):
        if shared_length and place:
            k, v = torch.cat([rows[0][1], k], dim=2), torch.cat([rows[0][2], v], dim=2)
        attended.append(one_row(q, k, v))
    return torch.cat(attended, dim=2).transpose(1, 2).contiguous(), None


def _mask_of(query: Any, key: Any, window: int | None) -> Any:
    """What a row may see as (queries, keys), None where plain causal attention says the same."""
    import torch

    queries, keys = query.shape[2], key.shape[2]
    if queries in (1, keys) and (not window or keys <= window):
        return None
    seen = torch.ones(queries, keys, dtype=torch.bool, device=query.device).tril(keys - queries)
    return seen.triu(keys - queries + 1 - window) if window and keys > window else seen
