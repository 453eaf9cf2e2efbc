"""Rows of tokens read by a model a few at a time, each going on where it stopped; the model's memory of them is here.

A row may begin where another one is: what many requests share is read once and only ever looked at again.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from drone_ft.local import packing


def reader(model: Any, beginning: Any = None) -> Packed | OneByOne:
    """A reader of rows that all begin after `beginning`, another reader's memory of a row."""
    return Packed(model, beginning) if packing.is_packed(model) else OneByOne(model, beginning)


class Packed:
    """Reads all rows in one pass, end to end: no padding, and rows come and go as they like."""

    def __init__(self, model: Any, beginning: list[tuple[Any, Any]] | None) -> None:
        self.model = model
        self.beginning = beginning or []
        self._rows: dict[int, list[tuple[Any, Any]]] = {}
        self._now: list[tuple[int, int]] = []  # (row, tokens it reads) in this pass

    def read(self, unread: dict[int, Sequence[int]]) -> Any:
        """Logits (rows, vocabulary) after each row, by number, read its tokens; in the order given."""
        import torch

        self._now = [(row, len(tokens)) for row, tokens in unread.items()]
        ids = [token for tokens in unread.values() for token in tokens]
        starts = {row: self._length(row) for row in unread}
        positions = [at for row, count in self._now for at in range(starts[row], starts[row] + count)]
        ends = torch.tensor([count for _, count in self._now]).cumsum(0) - 1
        device = self.model.device
        output = self.model(
            input_ids=torch.tensor([ids], device=device),
            position_ids=torch.tensor([positions], device=device),
            use_cache=False,
            logits_to_keep=ends.to(device),
            memory=self,
        )
        return output.logits[0]

    def remembered(self, row: int) -> list[tuple[Any, Any]]:
        """Keys and values of a row, one pair a layer: a beginning for other rows."""
        return self._rows[row]

    def forget(self, row: int) -> None:
        """Drop a row that is finished."""
        self._rows.pop(row, None)

    def _length(self, row: int) -> int:
        begun = self.beginning[0][0].shape[2] if self.beginning else 0
        return int(begun + (self._rows[row][0][0].shape[2] if row in self._rows else 0))

    def attend(self, layer: int, query: Any, key: Any, value: Any, attention: Any) -> Any:
        """The rows' attention in one layer (called by it): each sees the beginning, what it read before, and itself.

        Tensors are (1, heads, tokens, size); `attention(q, k, v)` does one row.
        """
        import torch

        counts = [count for _, count in self._now]
        done = []
        parts = zip(*(tensor.split(counts, dim=2) for tensor in (query, key, value)), strict=True)
        for (row, _), (q, k, v) in zip(self._now, parts, strict=True):
            memory = self._rows.setdefault(row, [])
            if layer < len(memory):
                k, v = torch.cat([memory[layer][0], k], dim=2), torch.cat([memory[layer][1], v], dim=2)
                memory[layer] = (k, v)
            else:
                memory.append((k.clone(), v.clone()))  # a view would keep the whole pass in memory
            if self.beginning:
                k = torch.cat([self.beginning[layer][0], k], dim=2)
                v = torch.cat([self.beginning[layer][1], v], dim=2)
            done.append(attention(q, k, v))
        return torch.cat(done, dim=2)


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
                self._rows[row] = DynamicCache() if self.beginning is None else copy.deepcopy(self.beginning)
            ids = torch.tensor([list(tokens)], device=self.model.device)
            output = self.model(input_ids=ids, past_key_values=self._rows[row], use_cache=True, logits_to_keep=1)
            found.append(output.logits[0, -1])
        return torch.stack(found)

    def remembered(self, row: int) -> Any:
        """The cache of a row: a beginning for other rows."""
        return self._rows[row]

    def forget(self, row: int) -> None:
        """Drop a row that is finished."""
        self._rows.pop(row, None)
