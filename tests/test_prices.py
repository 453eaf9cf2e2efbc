"""What tokens cost, and what is said where nobody knows."""

from __future__ import annotations

import pytest

from drone_ft import prices
from drone_ft.endpoints import LOCAL

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
        ("ft:smollm2-135m-instruct:me::1", {"training": MILLION, "where": LOCAL}, 0.0),
        ("ft:", {"input": 1}, None),
        ("", {"input": 1}, None),
    ],
)
def test_tokens_cost_what_their_model_costs(model: str, counted: dict[str, int], dollars: float | None) -> None:
    cost = prices.cost(model, **counted)
    assert cost == pytest.approx(dollars) if dollars is not None else cost is None


@pytest.mark.parametrize(
    ("where", "dollars"),
    [
        ("https://api.openai.com/v1", 0.30),
        ("https://eu.api.openai.com/v1/", 0.30),
        ("https://ours.openai.azure.com/openai/v1/", 0.30),
        ("https://ours.services.ai.azure.com/openai/v1", 0.30),
        ("http://proxy:8080/v1/", 0.30),
        ("https://gateway/openai/v1", 0.30),
        ("http://localhost:11434/v1", None),
        ("http://box/v1", None),
        ("https://notopenai.com/v1", None),
        ("https://openai.com.example.org/v1", None),
        ("http://[half/v1", None),
        (LOCAL, 0.0),
    ],
)
def test_a_price_is_claimed_only_for_openai_azure_and_what_stands_in_their_place(
    where: str, dollars: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://proxy:8080/v1")
    monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", "https://gateway/")
    cost = prices.cost("gpt-4o-mini", input=MILLION, where=where)
    assert cost == pytest.approx(dollars) if dollars is not None else cost is None


def test_an_estimate_is_one_line() -> None:
    assert prices.expected(76, 33_120, 0.0186) == "about 76 requests, about 33,120 tokens, about $0.02"
    assert prices.expected(76, 33_120, None).endswith("tokens, price unknown")


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
