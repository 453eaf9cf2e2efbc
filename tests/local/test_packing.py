"""Rows that attend side by side, and layers asked as one: the same results and gradients as one by one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from drone_ft.local import lora, packing
from drone_ft.local.learner import packs
from drone_ft.local.rows import Sample
from drone_ft.local.together import Together, families

HEADS, KEYS, SIZE = 6, 2, 8


def one_by_one(query: Any, key: Any, value: Any, lengths: list[int], shared: int, window: int | None) -> Any:
    """Attention written down as it is defined, row after row."""
    done = []
    starts = [0, *(shared + sum(lengths[:row]) for row in range(len(lengths)))]
    for start, length in zip(starts, [shared, *lengths], strict=True):
        begun = list(range(shared)) if start else []
        own = list(range(start, start + length))
        seen = [*begun, *own] if start else own
        for at, token in enumerate(own):
            place = len(begun) + at
            visible = [t for order, t in enumerate(seen) if order <= place and (not window or order > place - window)]
            for head in range(HEADS):
                k, v = (tensor[0, head * KEYS // HEADS, visible] for tensor in (key, value))
                weights = (k @ query[0, head, token] / SIZE**0.5).softmax(0)
                done.append(weights @ v)
    return torch.stack(done).view(1, -1, HEADS, SIZE)


@pytest.mark.parametrize(
    ("lengths", "shared", "window", "filler", "kind"),
    [
        pytest.param([5, 3, 9], 4, None, 0, torch.float32, id="behind a shared beginning"),
        pytest.param([5, 3, 9], 0, None, 3, torch.float32, id="without one, filled up"),
        pytest.param([1, 1], 4, None, 2, torch.float32, id="a token each"),
        pytest.param([17, 2, 2, 2], 3, None, 6, torch.float32, id="one long, others short"),
        pytest.param([12, 7], 4, 5, 1, torch.float32, id="a sliding window"),
        pytest.param([12, 7], 0, 5, 0, torch.float32, id="a sliding window and nothing shared"),
        pytest.param([6, 4], 3, None, 3, torch.bfloat16, id="short numbers"),
    ],
)
def test_each_row_attends_to_the_beginning_and_itself_gradients_included(
    lengths: list[int], shared: int, window: int | None, filler: int, kind: torch.dtype
) -> None:
    torch.manual_seed(1)
    tokens = shared + sum(lengths)
    shapes = [(1, heads, tokens + filler, SIZE) for heads in (HEADS, KEYS, KEYS)]
    given = [torch.randn(shape).to(kind).requires_grad_() for shape in shapes]
    result, _ = packing._attend(
        SimpleNamespace(),
        *given,
        None,
        row_lengths=lengths,
        shared_length=shared,
        sliding_window=window,
    )
    exact = [tensor.detach().float().requires_grad_() for tensor in given]
    expected = one_by_one(*exact, lengths, shared, window)
    close = {"rtol": 1e-4, "atol": 1e-5} if kind is torch.float32 else {"rtol": 0.02, "atol": 0.02}
    assert result.dtype is kind and result.shape == (1, tokens + filler, HEADS, SIZE)
    assert torch.allclose(result[:, :tokens].float(), expected, **close) and not result[:, tokens:].any()
    weights = torch.randn(1, tokens + filler, HEADS, SIZE)  # what stands on filler must lead nowhere
    (result.float() * weights).sum().backward()
    (expected * weights[:, :tokens]).sum().backward()
    for one, other in zip(given, exact, strict=True):
        assert torch.allclose(one.grad.float(), other.grad, **close)


def test_a_batch_of_several_sequences_is_refused_in_a_sentence() -> None:
    several = torch.zeros(2, HEADS, 3, SIZE)
    with pytest.raises(ValueError, match="not a batch of 2"):
        packing._attend(SimpleNamespace(), several, several, several, None)


def sample(length: int) -> Sample:
    return Sample(tuple(range(length)), (length - 1,))


@pytest.mark.parametrize(
    ("lengths", "tokens", "expected"),
    [
        ([10, 10, 10, 10], 40, [[10, 10, 10, 10]]),
        ([4, 30, 4, 4], 40, [[30], [4, 4, 4]]),
        ([90, 4], 40, [[90], [4]]),
        ([12, 12, 12, 6, 6], 40, [[12, 12, 12], [6, 6]]),
    ],
    ids=str,
)
def test_a_pass_is_bounded_by_its_longest_row_times_their_number(
    lengths: list[int], tokens: int, expected: list[list[int]]
) -> None:
    found = packs([sample(length) for length in lengths], tokens)
    assert [[len(one.ids) for one in pack] for pack in found] == expected


class Attention(torch.nn.Module):
    """Three siblings and a stranger."""

    def __init__(self, widths: tuple[int, int, int] = (4, 4, 4)) -> None:
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj = (torch.nn.Linear(width, 3, bias=False) for width in widths)
        self.o_proj = torch.nn.Linear(3, 4, bias=False)


def is_linear(module: Any) -> bool:
    return isinstance(module, torch.nn.Linear)


@pytest.mark.parametrize(("widths", "sizes"), [((4, 4, 4), [3, 1]), ((4, 5, 5), [1, 1, 1, 1])], ids=str)
def test_siblings_are_found_where_they_are_alike(widths: tuple[int, int, int], sizes: list[int]) -> None:
    model = Attention(widths)
    found = list(families(model, is_linear, lambda layer: layer.in_features))
    assert [len(family) for family in found] == sizes
    assert {id(layer) for family in found for layer in family} == {id(m) for m in model.modules() if is_linear(m)}


def test_siblings_asked_about_one_input_share_the_work_and_about_others_each_answers_for_itself() -> None:
    model = Attention()
    layers = [model.q_proj, model.k_proj, model.v_proj]
    asked = []

    def compute(x: Any) -> list[Any]:
        asked.append(x)
        return [x @ layer.weight.T for layer in layers]

    Together(layers, compute)
    one, other = torch.randn(2, 5, 4), torch.randn(2, 5, 4)
    results = [layer(one) for layer in layers]
    assert len(asked) == 1
    mixed = [model.q_proj(one), model.k_proj(other), model.v_proj(one)]
    for layer, result in zip(layers, results, strict=True):
        assert torch.allclose(result, one @ layer.weight.T)
    for layer, given, result in zip(layers, (one, other, one), mixed, strict=True):
        assert torch.allclose(result, given @ layer.weight.T)


def test_lora_layers_that_scale_unlike_are_not_asked_as_one() -> None:
    from peft import LoraConfig, get_peft_model

    model = torch.nn.Module()
    model.attention = Attention()
    config = LoraConfig(
        r=2, lora_alpha=4, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"], alpha_pattern={"k_proj": 16}
    )
    tuned = get_peft_model(model, config)
    torch.manual_seed(0)
    for name, weight in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    attention, x = tuned.base_model.model.attention, torch.randn(1, 5, 4)
    names = ("q_proj", "k_proj", "v_proj")
    expected = [getattr(attention, name)(x) for name in names]
    assert lora.speed_up(tuned) == 4
    for name, result in zip(names, expected, strict=True):
        assert torch.allclose(getattr(attention, name)(x), result, atol=1e-5)
