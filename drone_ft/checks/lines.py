"""What is wrong with single lines, and how many tokens they have."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from drone_ft import prices
from drone_ft.catalog import Call, Catalog, problems
from drone_ft.checks import files
from drone_ft.checks.offers import Offer, Trouble, listed
from drone_ft.checks.reading import Count, Given, Row, read, text_of
from drone_ft.schema.words import show


@dataclass(frozen=True)
class TokenCount:
    """Tokens in a file and tokens trained on, that is in all epochs; an estimate where no tokenizer was at hand."""

    in_file: int
    trained: int
    is_estimate: bool


def unusable(given: Given) -> Iterator[Trouble]:
    """Lines that no target can learn from."""
    yield from (trouble for file in given.files for _, trouble in file.broken)
    seen: dict[tuple[str, str], list[str]] = {}
    for row in given.rows:
        yield from row.troubles
        for place, call in row.calls:
            key = (row.offer.key, call.key)
            if key not in seen:
                seen[key] = list(_misfits(call, row.offer, given.catalog))
            if seen[key]:
                yield row.trouble("call", f"{place} ({call.name})", "; ".join([*seen[key], "correct the call"]))


def _misfits(call: Call, offer: Offer, catalog: Catalog | None) -> Iterator[str]:
    """What keeps a call from being right, by the line's own functions and by the catalog."""
    names = [body.get("name") for body in offer.bodies.values()]
    if call.name not in names:
        offered = f"only {', '.join(map(str, names[:3]))}" + (" and others" if names[3:] else "") if names else "none"
        yield f"the line does not offer the function {show(call.name)}, {offered}"
        return
    known = [function.name for function in offer.catalog.functions]
    found = problems(offer.catalog, call) if call.name in known else []
    yield from found or (problems(catalog, call) if catalog else [])


def weights(given: Given) -> Iterator[Trouble]:
    """Weights other than 0 and 1, or on messages that nobody learns from."""
    for row in given.rows:
        for index, message in row.talk:
            if is_bad_weight(message):
                found = f"found {show(message['weight'])} on a message of {show(message.get('role'))}"
                words = f"{found}; only the assistant's messages have one, 0 or 1"
                yield row.trouble("weight", f"messages[{index}].weight", words)
        learnt = [message.get("weight", 1) for _, message in row.talk if message.get("role") == "assistant"]
        if row.answer is not None and not any(learnt):
            words = "every answer has the weight 0, so nothing is learnt from this line; set one to 1, or remove it"
            yield row.trouble("nothing to learn", "messages", words)


def is_bad_weight(message: dict[str, Any]) -> bool:
    """Whether a message has a weight it must not have."""
    weight = message.get("weight", 1)
    wrong = isinstance(weight, bool) or weight not in (0, 1)
    return wrong or ("weight" in message and message.get("role") != "assistant")


def call_ids(given: Given) -> Iterator[Trouble]:
    """Calls without the id and type that hosted targets ask for."""
    for row in given.rows if given.target.is_hosted else ():
        for index, place, _ in unidentified(row):
            words = "a call needs an id and the type 'function'; add both"
            yield row.trouble("call ids", f"messages[{index}].tool_calls[{place}]", words)


def unidentified(row: Row) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Calls without id or type: the message's place, the call's place in it, the call."""
    for index, message in row.talk:
        for place, call in enumerate(listed(message.get("tool_calls"))):
            if isinstance(call, dict) and not (has_id(call) and call.get("type") == "function"):
                yield index, place, call


def has_id(call: dict[str, Any]) -> bool:
    """Whether a call can be told from others."""
    return isinstance(call.get("id"), str) and call["id"] != ""


def tokens(text: str, epochs: int = 1, count: Count | None = None) -> TokenCount:
    """How many tokens a JSONL file has, and how many are trained on when it is read `epochs` times."""
    file, counter = read(text), count or prices.tokens
    total = sum(_length(row, counter) for row in file.rows) + sum(counter(line) for line, _ in file.broken)
    return TokenCount(total, total * epochs, count is None)


def too_long(given: Given) -> Iterator[Trouble]:
    """Examples of more tokens than a target takes."""
    target, about = given.target, "" if given.count else "about "
    with_tools = target.is_hosted or any(files.sameness(given))
    for row in given.rows:
        length = _length(row, given.count or prices.tokens, with_tools)
        if length > target.most_tokens:
            words = f"{about}{length:,} tokens, but {target.name} reads {target.most_tokens:,}: {target.excess}"
            yield row.trouble("too long", "messages", f"{words}; shorten it")


def _length(row: Row, count: Count, with_tools: bool = True) -> int:
    parts = []
    for _, message in row.talk:
        parts += [str(message.get("role", "")), text_of(message)]
        for call in (message.get("function_call"), *listed(message.get("tool_calls"))):
            parts += [json.dumps(call.get("function", call), ensure_ascii=False)] if isinstance(call, dict) else []
    return count("\n".join(parts)) + (_tools(count, row.offer) if with_tools and row.offer.text else 0)


@functools.lru_cache(maxsize=256)
def _tools(count: Count, offer: Offer) -> int:
    return count(offer.text)
