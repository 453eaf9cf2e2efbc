"""What tokens cost, and what is said where nobody knows."""

from __future__ import annotations

import pytest

from drone_ft import prices

MILLION = 1_000_000


@pytest.mark.parametrize(
    ("model", "counted", "dollars"),
    [
        ("gpt-4o-mini", {"input": MILLION}, 0.30),
        ("gpt-4o-mini-2024-07-18", {"input": MILLION}, 0.30),
        ("ft:gpt-4o-mini-2024-07-18:org:suffix:abc", {"input": MILLION}, 0.30),
        ("ft:gpt-4o-mini-2024-07-18:org::abc:ckpt-step-9", {"output": MILLION}, 1.20),
        ("gpt-4.1", {"training": MILLION}, 25.0),
        ("gpt-4.1-mini", {"input": MILLION, "cached": MILLION}, 0.20),
        ("gpt-4.1-mini", {"input": MILLION, "cached": MILLION // 2, "output": MILLION}, 0.40 + 0.10 + 3.20),
        ("gpt-4.1-mini", {"input": MILLION, "output": MILLION, "batch": True}, 2.0),
        ("gpt-4.1-nano", {"input": MILLION}, None),
        ("gpt-4.1-mini-search", {"input": MILLION}, None),
        ("llama3.2:3b", {"input": MILLION}, None),
        ("ft:smollm2-135m-instruct:me::1", {"training": MILLION}, None),
        ("ft:smollm2-135m-instruct:me::1", {"training": MILLION, "local": True}, 0.0),
        ("ft:", {"input": 1}, None),
        ("", {"input": 1}, None),
    ],
)
def test_tokens_cost_what_their_model_costs(model: str, counted: dict[str, int], dollars: float | None) -> None:
    cost = prices.cost(model, **counted)
    assert cost == pytest.approx(dollars) if dollars is not None else cost is None


def test_tokens_are_estimated_upwards() -> None:
    assert [prices.tokens(text) for text in ("", "a", "abcd", "abcde")] == [0, 1, 1, 2]


@pytest.mark.parametrize(
    ("dollars", "words"),
    [
        (None, "price unknown"),
        (0.0, "free"),
        (0.004, "less than $0.01"),
        (0.015, "about $0.01"),
        (1234.5, "about $1,234.50"),
    ],
)
def test_amounts_are_said_for_people(dollars: float | None, words: str) -> None:
    assert prices.words(dollars, estimate=True) == words
