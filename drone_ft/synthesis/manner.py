"""How people say and type things: an opener, a "please, mate", a reason nobody asked for; capitals and full stops.

Dealt out alike to possible and impossible requests, so that none of it tells one kind from the other: a model had
learnt that a full stop means "possible".
"""

from __future__ import annotations

import functools
import json
import random
import re
from dataclasses import dataclass
from pathlib import Path

MANNERS = Path(__file__).resolve().parents[2] / "data" / "phrasebooks" / "manners.json"
_NUMBERS = re.compile(r"three|seven|eight|eleven|twelve|hundred|thousand|\w*(teen|ty)")


@dataclass(frozen=True)
class Manners:
    """What goes before a request, what may end it, and whole sentences beside it."""

    openers: tuple[str, ...]
    tags: tuple[str, ...]
    reasons: tuple[str, ...]


@functools.cache
def manners() -> Manners:
    """The manners in data/phrasebooks/manners.json."""
    data = json.loads(MANNERS.read_text("utf-8"))
    return Manners(*(tuple(data[key]) for key in ("openers", "tags", "reasons")))


def say(prompt: str, rng: random.Random) -> str:
    """The request as a person says it who does not get straight to the point."""
    ways = rng.choice(("opener", "tag", "tag", "reason", "reason", "opener tag", "opener reason"))
    if "opener" in ways:
        prompt = f"{rng.choice(manners().openers)}{rng.choice((', ', ', ', ' '))}{_low(prompt)}"
    if "tag" in ways:
        prompt = _tagged(prompt, rng.choice(manners().tags))
    if "reason" in ways:
        prompt = _explained(prompt, rng.choice(manners().reasons), rng)
    return prompt


def type_out(prompt: str, rng: random.Random) -> str:
    """The request as one person or another types it: capital and full stop, capital alone, or neither."""
    style = rng.randrange(3)
    prompt = prompt[0].upper() + prompt[1:] if style < 2 else _low(prompt)
    prompt = prompt.rstrip(".")
    return f"{prompt}." if style == 0 and prompt[-1].isalnum() else prompt


def slip(prompt: str, rng: random.Random, kept: str = "") -> str:
    """The request with a slip inside a word: a letter left out, doubled, or before its turn.

    Not in a number, nor in a word of `kept`, which the call must repeat letter by letter.
    """
    said = [*re.finditer(r"\b[a-z]{5,}\b", prompt)]
    words = [match.span() for match in said if not _NUMBERS.fullmatch(match[0]) and match[0] not in kept]
    if not words:
        return prompt
    start, end = rng.choice(words)
    at = rng.randrange(start + 1, end - 1)
    first, second = prompt[at], prompt[at + 1]
    slipped = prompt[start:at] + rng.choice((second, first + first + second, second + first)) + prompt[at + 2 : end]
    return prompt if _NUMBERS.fullmatch(slipped) else prompt[:start] + slipped + prompt[end:]  # "there", "three"


def _low(prompt: str) -> str:
    """Without its capital, where the first word is no name, no "I" and no abbreviation."""
    first = prompt.split(maxsplit=1)[0]
    keep = not first[1:].islower() or first.startswith("I'") or first.strip(",") in manners().openers
    return prompt if keep else prompt[0].lower() + prompt[1:]


def _tagged(prompt: str, tag: str) -> str:
    if tag.strip("?!").casefold() in prompt.casefold():
        return prompt
    bare = prompt.rstrip(".!?")
    end = "" if tag[-1] in "?!" else prompt[len(bare) :]
    gap = "" if tag == "!!" else " " if tag.startswith("for ") or len(tag) < 5 else ", "
    return f"{bare}{gap}{tag}{end}"


def _explained(prompt: str, reason: str, rng: random.Random) -> str:
    capital = reason[0].upper() + reason[1:]
    if rng.random() < 0.3:
        link = rng.choice((". ", ", so ", ", ")) if prompt[-1] != "?" else ". "
        return f"{capital}{link}{prompt if link == '. ' else _low(prompt)}"
    if prompt[-1] in ".!?":
        return f"{prompt} {capital}."
    return f"{prompt}{rng.choice((', ', ', ', ' - '))}{_low(reason)}"
