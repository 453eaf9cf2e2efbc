"""Rows read a few at a time: what each sees is what attention says of it, written down as it is defined."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from drone_ft.local import reading

HEADS, KEYS, SIZE, LAYERS = 6, 2, 8, 2
PASSES = [{0: 9, 1: 2, 2: 40}, {0: 1, 2: 1}, {1: 5, 0: 1, 3: 12}, {3: 1, 1: 30}]


class Model:
    """Makes up what its layers ask, and writes down what each row should see."""

    device = torch.device("cpu")

    def __init__(self, window: int | None, beginning: list[tuple[Any, Any]]) -> None:
        self.window = window
        self.seen: dict[tuple[int, int], tuple[Any, Any]] = defaultdict(
            lambda: (torch.zeros(KEYS, 0, SIZE), torch.zeros(KEYS, 0, SIZE))
        )
        self.beginning, self.asked = beginning, {}
        self.wrong = 0.0

    def __call__(self, input_ids: Any, memory: Any, **_: Any) -> Any:
        tokens = input_ids.shape[1]
        for layer in range(LAYERS):
            query, key, value = (torch.randn(1, heads, tokens, SIZE) for heads in (HEADS, KEYS, KEYS))
            found = memory.attend(layer, query, key, value, None, self.window)
            expected, start = torch.empty(1, tokens, HEADS, SIZE), 0
            for row, count in self.asked.items():
                part = slice(start, start + count)
                start += count
                before = self.seen[row, layer]
                if not before[0].shape[1] and self.beginning:
                    before = tuple(tensor[0] for tensor in self.beginning[layer])
                now = tuple(torch.cat([old, new[0, :, part]], 1) for old, new in zip(before, (key, value), strict=True))
                self.seen[row, layer] = now
                expected[0, part] = self.defined(query[0, :, part], *now)
            self.wrong = max(self.wrong, float((found - expected).abs().max()))
        return SimpleNamespace(logits=torch.zeros(1, len(self.asked), 3))

    def defined(self, query: Any, keys: Any, values: Any) -> Any:
        count, done = query.shape[1], []
        for at in range(count):
            end = keys.shape[1] - count + at + 1
            start = max(0, end - self.window) if self.window else 0
            k, v = (tensor[:, start:end].repeat_interleave(HEADS // KEYS, 0) for tensor in (keys, values))
            weights = (k @ query[:, at, :, None] / SIZE**0.5).softmax(1)
            done.append((weights * v).sum(1))
        return torch.stack(done)

    def read(self, reader: reading.Packed, counts: dict[int, int]) -> None:
        self.asked = counts
        reader.read({row: [7] * count for row, count in counts.items()})


@pytest.mark.parametrize("begun", [0, 11])
@pytest.mark.parametrize("window", [None, 4, 16])
@pytest.mark.parametrize("scores", [1 << 24, 100], ids=["at once", "in parts"])
@pytest.mark.parametrize("device", ["cpu", "any"])
def test_each_row_sees_the_beginning_what_it_read_and_itself(
    begun: int, window: int | None, scores: int, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(3)
    monkeypatch.setattr(reading, "SCORES", scores)
    if device == "any":
        monkeypatch.setattr(reading, "_attend_on_processors", reading._attend_anywhere)
    shape = (1, KEYS, begun, SIZE)
    beginning = [(torch.randn(shape), torch.randn(shape)) for _ in range(LAYERS)] if begun else []
    model = Model(window, beginning)
    reader = reading.Packed(model, beginning)
    for counts in PASSES:
        model.read(reader, counts)
    assert model.wrong < 1e-5
    # one row ends, one goes back to its fourth token, and a new one takes the places they leave
    assert (reader.forget(2), reader.forget(1, kept=4), reader.forget(9, kept=4)) == (0, 4, 0)
    for layer in range(LAYERS):
        model.seen[1, layer] = tuple(tensor[:, : begun + 4] for tensor in model.seen[1, layer])
    held = reader._size
    model.read(reader, {1: 3, 4: 20, 0: 1})
    assert model.wrong < 1e-5 and reader._size == held
    for (keys, values), layer in zip(reader.remembered(4), range(LAYERS), strict=True):
        assert torch.equal(keys[0], model.seen[4, layer][0][:, begun:])
        assert torch.equal(values[0], model.seen[4, layer][1][:, begun:])
