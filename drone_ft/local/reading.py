"""Rows of tokens read by a model a few at a time, each going on where it stopped; the model's memory of them is here.

A row may begin where another one is: what many requests share is read once and only ever looked at again.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from drone_ft.local import packing

SCORES = 1 << 24  # looked at together; more would cost memory only
NEVER = -1e30  # the score of what is hidden: unlike infinity it can be reckoned with


def reader(model: Any, beginning: Any = None) -> Packed | OneByOne:
    """A reader of rows that all begin after `beginning`, another reader's memory of a row."""
    return Packed(model, beginning) if packing.is_packed(model) else OneByOne(model, beginning)


class Packed:
    """Reads all rows in one pass, end to end: no padding, and rows come and go as they like.

    What they read is kept in one memory a layer; each row has a list of places in it.
    """

    def __init__(self, model: Any, beginning: list[tuple[Any, Any]] | None) -> None:
        self.model = model
        self.beginning = beginning or []
        self._begun = beginning[0][0].shape[2] if beginning else 0  # tokens of it
        self._memory: list[tuple[Any, Any]] = []  # keys and values of each layer, (places, heads, size)
        self._size = 0  # places
        self._free: list[int] = []
        self._places: dict[int, list[int]] = {}  # of each row's tokens, in their order
        self._new: Any = None  # places of the tokens of this pass
        self._positions: Any = None  # where each stands in its row, the beginning counted
        self._groups: list[_Group] = []  # of the rows of this pass

    def read(self, unread: dict[int, Sequence[int]]) -> Any:
        """Logits (rows, vocabulary) after each row, by number, read its tokens; in the order given."""
        import torch

        device = self.model.device
        counts, new = [len(tokens) for tokens in unread.values()], self._settle(unread)
        places = [self._places[row] for row in unread]
        ends = [self._begun + len(held) for held in places]
        positions = [at for end, count in zip(ends, counts, strict=True) for at in range(end - count, end)]
        self._new, self._positions = (torch.tensor(numbers, device=device) for numbers in (new, positions))
        self._groups = _groups(places, counts, device)
        output = self.model(
            input_ids=torch.tensor([[token for tokens in unread.values() for token in tokens]], device=device),
            position_ids=self._positions[None],
            use_cache=False,
            logits_to_keep=(torch.tensor(counts).cumsum(0) - 1).to(device),
            memory=self,
        )
        return output.logits[0]

    def remembered(self, row: int) -> list[tuple[Any, Any]]:
        """Keys and values of a row, each (1, heads, tokens, size), one pair a layer: a beginning for other rows."""
        import torch

        places = torch.tensor(self._places[row], device=self.model.device)
        return [(_picked(keys, places[None]), _picked(values, places[None])) for keys, values in self._memory]

    def forget(self, row: int, kept: int = 0) -> int:
        """Drop what a row read but its first `kept` tokens; says how many of them are still known."""
        places = self._places.pop(row, [])
        self._free += places[kept:]
        if kept:
            self._places[row] = places[:kept]
        return min(kept, len(places))

    def _settle(self, unread: dict[int, Sequence[int]]) -> list[int]:
        """Give each unread token a place; the places, in the tokens' order."""
        lacking = sum(map(len, unread.values())) - len(self._free)
        if lacking > 0:
            more = max(lacking, self._size // 4)
            self._free += range(self._size, self._size + more)
            self._size += more
        new = []
        for row, tokens in unread.items():
            found = [self._free.pop() for _ in tokens]
            self._places.setdefault(row, []).extend(found)
            new += found
        return new

    def attend(self, layer: int, query: Any, key: Any, value: Any, scaling: float | None, window: int | None) -> Any:
        """The rows' attention in one layer (called by it): each sees the beginning, what it read before, and itself.

        Tensors are (1, heads, tokens, size), the result (1, tokens, heads, size).
        """
        import torch

        (heads, tokens, size), kinds = query.shape[1:], key.shape[1]
        keys, values = self._keep(layer, key, value)
        # (tokens, kinds of keys, heads that share them, size)
        asked = (query[0] * (scaling or size**-0.5)).transpose(0, 1).reshape(tokens, kinds, heads // kinds, size)
        seen = asked.new_empty(*asked.shape[:3], value.shape[3])
        weight = asked.new_empty(*asked.shape[:3], 1, dtype=torch.float32)
        for group in self._groups:
            rows = (asked[group.asked].transpose(1, 2), _picked(keys, group.places), _picked(values, group.places))
            if _is_quick(*rows) and group.begins and not (window and window < group.places.shape[1]):
                found = _look_back(*rows)
            else:
                found = _look(*rows, group.hidden(window))
            for whole, part in zip((seen, weight), found, strict=True):
                whole[group.tokens] = part.transpose(1, 2)[group.real]
        if self.beginning:
            begun, more = _look(asked.transpose(0, 1)[None], *self.beginning[layer], self._out_of_sight(window))
            share = (more[0].transpose(0, 1) - weight).sigmoid()
            seen = torch.lerp(seen, begun[0].transpose(0, 1), share.to(seen.dtype))
        return seen.reshape(1, tokens, heads, -1)

    def _out_of_sight(self, window: int | None) -> Any:
        """What of the beginning each token may not look at, as (1, 1, tokens, 1, beginning); None if it sees it all."""
        import torch

        if not window:
            return None
        at = torch.arange(self._begun, device=self._positions.device)
        return (at <= self._positions[:, None] - window)[None, None, :, None]

    def _keep(self, layer: int, *read: Any) -> tuple[Any, Any]:
        """The layer's memory after what it reads now, keys and values as (1, heads, tokens, size), is put there."""
        import torch

        if layer == len(self._memory):
            self._memory.append(tuple(tensor.new_zeros(0, *tensor.shape[1::2]) for tensor in read))
        kept = []
        for memory, tensor in zip(self._memory[layer], read, strict=True):
            if len(memory) < self._size:
                memory = torch.cat([memory, memory.new_zeros(self._size - len(memory), *memory.shape[1:])])
            kept.append(memory.index_copy_(0, self._new, tensor[0].transpose(0, 1)))
        self._memory[layer] = (kept[0], kept[1])
        return self._memory[layer]


@dataclass
class _Group:
    """Rows of like length side by side, the shorter ones filled up: their attention then takes one call a layer."""

    asked: Any  # (rows, most) which token of the pass stands there; any where none does
    tokens: Any  # the tokens of the pass that are among them
    real: tuple[Any, Any]  # where these stand, as rows and columns
    places: Any  # (rows, longest) where in memory each row's tokens are; any where there is none
    at: Any  # (rows, most) how many tokens of its row each one follows
    begins: bool  # whether these are the first tokens of all its rows
    _hidden: dict[int | None, Any] = field(default_factory=dict)

    def hidden(self, window: int | None) -> Any:
        """What each may not look at, as (rows, 1, most, 1, longest); None where it sees everything."""
        import torch

        if window not in self._hidden:  # equal in every layer
            other = torch.arange(self.places.shape[1], device=self.at.device)
            hidden = other > self.at[..., None]
            if window:
                hidden |= other <= self.at[..., None] - window
            self._hidden[window] = hidden[:, None, :, None] if bool(hidden.any()) else None
        return self._hidden[window]


def _groups(places: Sequence[Sequence[int]], counts: Sequence[int], device: Any) -> list[_Group]:
    """Rows with so many new tokens at the end of their places, in groups that lose little by being filled up."""
    import torch

    def tensor(numbers: Sequence[Any]) -> Any:
        return torch.tensor(numbers, device=device)

    alike: dict[tuple[int, int], list[int]] = {}
    for row, (held, count) in enumerate(zip(places, counts, strict=True)):
        alike.setdefault((count.bit_length() // 2, len(held).bit_length() // 2), []).append(row)
    starts = [sum(counts[:row]) for row in range(len(counts))]
    found = []
    for rows in alike.values():
        most, longest = max(counts[row] for row in rows), max(len(places[row]) for row in rows)
        each = [[min(at, counts[row] - 1) for at in range(most)] for row in rows]
        asked = [[starts[row] + at for at in ats] for row, ats in zip(rows, each, strict=True)]
        follows = [[len(places[row]) - counts[row] + at for at in ats] for row, ats in zip(rows, each, strict=True)]
        kept = [[*places[row], *[places[row][0]] * (longest - len(places[row]))] for row in rows]
        real = [(line, at) for line, row in enumerate(rows) for at in range(counts[row])]
        tokens = [asked[line][at] for line, at in real]
        lines, columns = zip(*real, strict=True)
        found.append(
            _Group(
                tensor(asked),
                tensor(tokens),
                (tensor(lines), tensor(columns)),
                tensor(kept),
                tensor(follows),
                begins=all(follow[0] == 0 for follow in follows),
            )
        )
    return found


def _picked(memory: Any, places: Any) -> Any:
    """(places, heads, size) as (rows, heads, longest, size)."""
    rows, longest = places.shape
    return memory.index_select(0, places.view(-1)).view(rows, longest, *memory.shape[1:]).transpose(1, 2)


def _look(query: Any, key: Any, value: Any, hidden: Any) -> tuple[Any, Any]:
    """Attention, and the logarithm of what its weights added up to: what was looked at in parts can be put together.

    (rows, kinds, queries, heads, size) of queries, (rows, kinds, keys, size) of keys and values; the results are
    (rows, kinds, queries, heads, the values' size and 1).
    """
    import torch

    rows, kinds, queries, heads, _ = query.shape
    step = max(1, SCORES // (rows * kinds * heads * key.shape[2]))
    attend = _attend_on_processors if _is_quick(query, key, value) else _attend_anywhere
    found = []
    for start in range(0, queries, step):
        seen_by = hidden if hidden is None else hidden[:, :, start : start + step]
        found.append(attend(query[:, :, start : start + step], key, value, seen_by))
    return tuple(torch.cat(parts, dim=2) if len(parts) > 1 else parts[0] for parts in zip(*found, strict=True))


def _attend_anywhere(query: Any, key: Any, value: Any, hidden: Any) -> tuple[Any, Any]:
    rows, kinds, *_, size = query.shape
    scores = query.reshape(rows, kinds, -1, size) @ key.transpose(2, 3)
    scores = scores.view(*query.shape[:4], -1).float()
    if hidden is not None:
        scores.masked_fill_(hidden, NEVER)
    most = scores.amax(-1, keepdim=True)
    whole = scores.sub_(most).exp_().sum(-1, keepdim=True)
    seen = scores.to(value.dtype).view(rows, kinds, -1, key.shape[2]) @ value
    return seen.view(*query.shape[:4], -1) / whole.to(value.dtype), most + whole.log()


def _is_quick(query: Any, key: Any, value: Any) -> bool:
    """Whether torch's attention for processors can do it: a sixth quicker for a hundred requests.

    It is private to torch, for what is public tells no sums.
    """
    return bool(query.device.type == "cpu" and key.shape[3] == value.shape[3])


def _look_back(query: Any, key: Any, value: Any) -> tuple[Any, Any]:
    """As `_look`, where each token sees those before it and itself: half the work, and no list of what is hidden."""
    import torch

    rows, kinds, queries, heads, size = query.shape
    seen, weight = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query.transpose(2, 3).reshape(rows, kinds * heads, queries, size),
        *(tensor.repeat_interleave(heads, dim=1) for tensor in (key, value)),
        is_causal=True,
        scale=1.0,
    )
    return tuple(part.reshape(rows, kinds, heads, queries, -1).transpose(2, 3) for part in (seen, weight))


def _attend_on_processors(query: Any, key: Any, value: Any, hidden: Any) -> tuple[Any, Any]:
    import torch

    rows, kinds, queries, heads, size = query.shape
    mask = None
    if hidden is not None:
        mask = query.new_zeros(hidden.shape).masked_fill_(hidden, NEVER)
        mask = mask.expand(-1, -1, -1, heads, -1).reshape(rows, 1, queries * heads, -1)
    seen, weight = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query.reshape(rows, kinds, -1, size), key, value, attn_mask=mask, scale=1.0
    )
    return seen.view(query.shape), weight.view(*query.shape[:4], 1)


class OneByOne:
    """Reads row after row with the model's own cache: slower, for models whose attention cannot be replaced."""

    def __init__(self, model: Any, beginning: Any = None) -> None:
        self.model, self.beginning = model, beginning
        self._rows: dict[int, Any] = {}

    def read(self, unread: dict[int, Sequence[int]]) -> Any:
        """Logits (rows, vocabulary) after each row, by number, read its tokens; in the order given."""
        import torch
        from transformers import DynamicCache

        found = []
        for row, tokens in unread.items():
            if row not in self._rows:
                empty = DynamicCache(config=self.model.config) if self.beginning is None else self.beginning
                self._rows[row] = copy.deepcopy(empty)
            ids = torch.tensor([list(tokens)], device=self.model.device)
            output = self.model(input_ids=ids, past_key_values=self._rows[row], use_cache=True, logits_to_keep=1)
            found.append(output.logits[0, -1])
        return torch.stack(found)

    def remembered(self, row: int) -> Any:
        """The cache of a row: a beginning for other rows."""
        return self._rows[row]

    def forget(self, row: int, kept: int = 0) -> int:
        """Drop what a row read, all of it: how to shorten a cache differs from model to model."""
        self._rows.pop(row, None)
        return 0
