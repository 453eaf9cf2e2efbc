"""Many rows end to end in one sequence: the big matrices see no padding, attention sees each row alone.

What all rows begin with is read once, in front, and every row attends to it: exact, gradients included, since no row
can change what comes before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

NAME = "each_row_alone"
FILL = 32  # tokens: a pass reads a multiple of it
LARGEST_KEPT = 1 << 18  # entries of a mask
STEP = 8  # places: the longest row of a grid has a multiple of it


def can_pack(model: Any) -> bool:
    """Whether this model lets us replace its attention without changing what it computes."""
    config = model.config
    special = getattr(config, "attn_logit_softcapping", None) or config.model_type == "gpt_oss"
    others = set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    return bool(getattr(model, "_supports_attention_backend", False)) and not special and not others


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
    Tokens behind the last row only fill up.
    """
    import torch

    def attend(q: Any, k: Any, v: Any) -> Any:
        mask = _mask_of(q.shape[2], k.shape[2], sliding_window, str(q.device))
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
        return memory.attend(module.layer_idx, query, key, value, scaling, sliding_window), None
    if query.shape[0] != 1:
        raise ValueError(f"A packed model reads one sequence of rows end to end, not a batch of {query.shape[0]}.")
    kind, (lengths, shared) = query.dtype, ((row_lengths, shared_length) if row_lengths else ([query.shape[2]], 0))
    if query.device.type == "cpu":  # there attention to so few tokens is several times slower in shorter numbers
        query, key, value = query.float(), key.float(), value.float()
    grid = _grid(tuple(lengths), shared, str(query.device))
    rows = _gather(attend(*(_spread(tensor, grid, tensor is not query) for tensor in (query, key, value))), grid)
    filler = rows.new_zeros(1, query.shape[2] - shared - sum(lengths), *rows.shape[2:])
    begun = [attend(*(tensor[:, :, :shared] for tensor in (query, key, value))).transpose(1, 2)] if shared else []
    return torch.cat([*begun, rows, filler], dim=1).to(kind), None


def filled(tokens: int) -> int:
    """How many tokens to read in place of so many: products of ever new sizes are prepared anew each time."""
    return -(-tokens // FILL) * FILL


@dataclass(frozen=True)
class _Grid:
    """Rows of unequal length side by side, the shorter ones filled up: attention then takes one call a layer."""

    rows: int
    longest: int
    shared: int
    fill: Any  # for each place of the grid the token that stands there; any where none does
    place: Any  # for each token behind the shared beginning its place in the grid


@lru_cache(maxsize=2)
def _grid(lengths: tuple[int, ...], shared: int, device: str) -> _Grid:
    import torch

    longest, starts = -(-max(lengths) // STEP) * STEP, [shared + sum(lengths[:row]) for row in range(len(lengths))]
    fill = [start + min(at, length - 1) for start, length in zip(starts, lengths, strict=True) for at in range(longest)]
    place = [row * longest + at for row, length in enumerate(lengths) for at in range(length)]
    return _Grid(len(lengths), longest, shared, torch.tensor(fill, device=device), torch.tensor(place, device=device))


def _spread(tensor: Any, grid: _Grid, beginning: bool) -> Any:
    """(1, heads, tokens, size) as (rows, heads, places, size), each row behind the shared `beginning` if wanted."""
    import torch

    heads, size = tensor.shape[1], tensor.shape[3]
    tokens = tensor.transpose(1, 2)[0]
    spread = _moves()[0].apply(tokens, grid.fill, grid.place, grid.shared).view(grid.rows, grid.longest, heads, size)
    if beginning and grid.shared:
        spread = torch.cat([tokens[: grid.shared].expand(grid.rows, -1, -1, -1), spread], dim=1)
    return spread.transpose(1, 2)


def _gather(spread: Any, grid: _Grid) -> Any:
    """(rows, heads, places, size) as (1, tokens, heads, size), without what only filled up."""
    tokens = spread.transpose(1, 2).reshape(grid.rows * grid.longest, *spread.shape[1::2])
    return _moves()[1].apply(tokens, grid.place)[None]


@lru_cache(maxsize=1)
def _moves() -> tuple[Any, Any]:
    """Both ways between a sequence and a grid; made on first use: this module must not import torch.

    Every token has one place, so no gradient need be added up, which is what torch's own indexing would do.
    """
    import torch

    class Spread(torch.autograd.Function):  # type: ignore[misc]
        @staticmethod
        def forward(ctx: Any, tokens: Any, fill: Any, place: Any, shared: int) -> Any:
            ctx.place, ctx.shared, ctx.shape = place, shared, tokens.shape
            return tokens.index_select(0, fill)

        @staticmethod
        def backward(ctx: Any, grad: Any) -> tuple[Any, ...]:
            back = grad.new_zeros(ctx.shape)
            torch.index_select(grad, 0, ctx.place, out=back[ctx.shared : ctx.shared + len(ctx.place)])
            return back, None, None, None

    class Gather(torch.autograd.Function):  # type: ignore[misc]
        @staticmethod
        def forward(ctx: Any, places: Any, place: Any) -> Any:
            ctx.place, ctx.shape = place, places.shape
            return places.index_select(0, place)

        @staticmethod
        def backward(ctx: Any, grad: Any) -> tuple[Any, ...]:
            # what only fills up must not lead anywhere
            return grad.new_zeros(ctx.shape).index_copy_(0, ctx.place, grad), None

    return Spread, Gather


def _mask_of(queries: int, keys: int, window: int | None, device: str) -> Any:
    """What rows may see as (queries, keys), None where plain causal attention says the same."""
    if queries in (1, keys) and (not window or keys <= window):
        return None
    made = _made_mask if queries * keys <= LARGEST_KEPT else _made_mask.__wrapped__
    return made(queries, keys, window, device)


@lru_cache(maxsize=64)  # equal in every layer, and small ones from pass to pass
def _made_mask(queries: int, keys: int, window: int | None, device: str) -> Any:
    import torch

    seen = torch.ones(queries, keys, dtype=torch.bool, device=device).tril(keys - queries)
    return seen.triu(keys - queries + 1 - window) if window and keys > window else seen
