"""What hosted models cost, and estimates before anything is spent."""

from __future__ import annotations

import datetime
import re
from dataclasses import dataclass

from drone_ft.endpoints import LOCAL, OPENAI_URL, from_environment


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
SELLERS = re.compile(r"https?://([\w-]+\.)*(openai|azure)\.com([:/]|$)")


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
    where: str = OPENAI_URL,
) -> float | None:
    """US dollars for so many tokens: None when the price is unknown, 0 on this computer.

    `where` is LOCAL or a base URL, as `asking.where` tells it. `input` counts the `cached` ones too, as a reply's usage
    does; `training` is tokens times epochs; `batch` halves what is read and written.
    """
    if where == LOCAL:
        return 0.0
    known = price(model) if is_sold_at(where) else None
    if known is None:
        return None
    asked = max(0, input - cached) * known.input + cached * known.cached + output * known.output
    return (asked * (BATCH if batch else 1.0) + training * known.training) / 1_000_000


def is_sold_at(base_url: str) -> bool:
    """Whether OpenAI's prices hold at a base URL: its own, Azure's, and what the environment names in their place."""
    ours = [known.base_url.rstrip("/") for known in from_environment() if not known.is_local]
    return bool(SELLERS.match(base_url)) or base_url.rstrip("/") in ours


def tokens(text: str) -> int:
    """About how many tokens a text has: an estimate, as hosted tokenizers are not at hand (English: 4 letters each)."""
    return -(-len(text) // 4)


def expected(requests: int, tokens: int, dollars: float | None) -> str:
    """An estimate for people, before the start: "about 76 requests, about 33,000 tokens, about $0.02"."""
    return (
        f"about {requests:,} request{'s' * (requests != 1)}, about {tokens:,} tokens, {words(dollars, estimate=True)}"
    )


def words(dollars: float | None, estimate: bool = False) -> str:
    """An amount for people: "free", "$0.02", "less than $0.01", "price unknown"; with "about" for an estimate."""
    if dollars is None:
        return "price unknown"
    if dollars == 0:
        return "free"
    if dollars < 0.01:
        return "less than $0.01"
    return f"{'about ' if estimate else ''}${dollars:,.2f}"
