"""What hosted models cost, and estimates before anything is spent."""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Price:
    """US dollars for a million tokens: trained on, read, read again from the cache, written."""

    training: float
    input: float
    cached: float
    output: float


AS_OF = datetime.date(2026, 11, 23)
# What OpenAI asks for training and for a tuned model's answers; taken for the base, too.
PRICES = {
    "gpt-4.1": Price(25.0, 3.00, 0.75, 12.00),
    "gpt-4.1-mini": Price(5.0, 0.80, 0.20, 3.20),
    "gpt-4o": Price(25.0, 3.75, 1.875, 15.00),
    "gpt-4o-mini": Price(3.0, 0.30, 0.15, 1.20),
}
BATCH = 0.5  # of the price, through the Batch API


def price(model: str) -> Price | None:
    """The price of a model, of a dated version as of its line, of a tuned one as of its base; None when unknown."""
    base = model.split(":")[1] if model.startswith("ft:") and model.count(":") else model
    return PRICES.get(re.sub(r"-\d{4}-\d{2}-\d{2}$", "", base))


def cost(
    model: str,
    *,
    input: int = 0,
    cached: int = 0,
    output: int = 0,
    training: int = 0,
    batch: bool = False,
    local: bool = False,
) -> float | None:
    """US dollars for so many tokens: None when the price is unknown, 0 on this computer.

    `input` counts the `cached` ones too, as a reply's usage does; `training` is tokens times epochs; `batch` halves
    what is read and written.
    """
    if local:
        return 0.0
    known = price(model)
    if known is None:
        return None
    asked = max(0, input - cached) * known.input + cached * known.cached + output * known.output
    return (asked * (BATCH if batch else 1.0) + training * known.training) / 1_000_000


def tokens(text: str) -> int:
    """About how many tokens a text has: an estimate, as hosted tokenizers are not at hand (English: 4 letters each)."""
    return -(-len(text) // 4)


def words(dollars: float | None, estimate: bool = False) -> str:
    """An amount for people: "free", "$0.02", "less than $0.01", "price unknown"; with "about" for an estimate."""
    if dollars is None:
        return "price unknown"
    if dollars == 0:
        return "free"
    if dollars < 0.01:
        return "less than $0.01"
    return f"{'about ' if estimate else ''}${dollars:,.2f}"
