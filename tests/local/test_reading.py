"""Rows read a few at a time: what each sees is what attention says of it, written down as it is defined."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from drone_ft.local import packing, reading

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
        monkeypatch.setattr(reading, "_is_quick", lambda *_: False)
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


SMALL = {"vocab_size": 100, "hidden_size": 64, "intermediate_size": 64, "max_position_embeddings": 256}
KINDS: dict[str, dict[str, Any]] = {
    # values narrower than keys
    "deepseek_v3": {
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4, "moe_intermediate_size": 32,
        "n_routed_experts": 4, "n_group": 2, "topk_group": 1, "num_experts_per_tok": 2, "q_lora_rank": 32,
        "kv_lora_rank": 32, "qk_rope_head_dim": 8, "qk_nope_head_dim": 16, "v_head_dim": 12, "first_k_dense_replace": 1,
    },
    # layers that are no attention at all
    "lfm2": {
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "layer_types": ["conv", "full_attention"],
    },
    # some layers see only what is near
    "gemma3_text": {
        "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention"] * 2,
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_models_of_other_kinds_read_rows_side_by_side_as_each_alone(kind: str) -> None:
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[kind](**SMALL, **KINDS[kind])).eval()
    begin, rows = list(range(60, 75)), {0: list(range(3, 30)), 1: list(range(40, 55)), 2: [7, 8, 9]}
    with torch.inference_mode():

        def alone(ids: list[int]) -> Any:
            return model(torch.tensor([ids])).logits[0, -1]

        first = torch.stack([alone([*begin, *ids]) for ids in rows.values()])
        second = torch.stack([alone([*begin, *rows[row], row]) for row in (0, 2)])
        if packing.can_pack(model):
            packing.pack(model)
        reader = reading.reader(model)
        reader.read({0: begin})
        reader = reading.reader(model, reader.remembered(0))
        assert torch.allclose(reader.read(rows), first, atol=1e-5)
        assert torch.allclose(reader.read({0: [0], 2: [2]}), second, atol=1e-5)
