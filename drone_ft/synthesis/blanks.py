"""Plausible values for the blanks of a call, from nothing but their schema and their name."""

from __future__ import annotations

import random
import re
from typing import Any

from drone_ft.catalog import Call, Catalog, problems
from drone_ft.permutations import CallTemplate
from drone_ft.synthesis import spoken

_ATTEMPTS = 40

_TEXTS: dict[str, tuple[str, ...]] = {
    "date": ("2026-03-14", "2027-11-02", "2026-08-30", "2027-01-19"),
    "time": ("08:45", "17:20", "12:05", "21:30"),
    "date-time": ("2026-03-14T08:45:00Z", "2027-11-02T17:20:00Z", "2026-08-30T12:05:00Z"),
    "email": ("nora@example.com", "t.okafor@example.org", "front.desk@example.net"),
    "uri": ("https://example.com/report", "https://example.org/a/b", "https://example.net/list?page=2"),
    "city": ("Lisbon", "Osaka", "Nairobi", "Winnipeg", "Porto Alegre"),
    "country": ("Portugal", "Japan", "Kenya", "Canada", "Brazil"),
    "name": ("Nora Lind", "Tunde Okafor", "Mei Tan", "Elif Kaya", "Sam Whitlock"),
    "file": ("notes.txt", "summary.pdf", "data_2.csv", "photo-18.png"),
    "id": ("A-1042", "K77", "order-318", "x9f2", "4821", "60257"),
    "": ("blue lantern", "first draft", "the long way round", "spare parts", "Tuesday meeting", "north gate"),
}
_HINTS = {
    "email": ("email",),
    "date-time": ("datetime", "timestamp"),
    "date": ("date", "day"),
    "time": ("time",),
    "uri": ("url", "uri", "link"),
    "city": ("city", "location", "place", "destination", "origin", "town"),
    "country": ("country",),
    "file": ("file", "filename", "path"),
    "id": ("id", "code", "number"),
    "name": ("name", "person", "user", "recipient", "contact"),
}


def fill(catalog: Catalog, template: CallTemplate, rng: random.Random) -> Call | None:
    """The template's call with values in its blanks, or None if no values that fit were found."""
    for _ in range(_ATTEMPTS if template.blanks else 1):
        call = template.fill({path: some_value(rules, path[-1], rng) for path, rules in template.blanks.items()})
        if not problems(catalog, call):
            return call
    return None


def some_value(schema: dict[str, Any], name: str, rng: random.Random) -> Any:
    """A plausible value for a blank called `name`; the caller checks it against the whole call."""
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((one for one in kind if one != "null"), "string")
    examples = schema.get("examples")
    if isinstance(examples, list) and examples and rng.random() < 0.7:
        return rng.choice(examples)
    if kind in ("integer", "number"):
        return _some_number(schema, kind == "integer", rng)
    if kind == "array":
        low = max(1, schema.get("minItems", 1))
        size = rng.randint(low, max(low, min(3, schema.get("maxItems", 3))))
        return [some_value(schema.get("items") or {}, name, rng) for _ in range(size)]
    if kind == "boolean":
        return rng.random() < 0.5
    if kind == "object":
        return {key: some_value(sub, key, rng) for key, sub in schema.get("properties", {}).items()}
    return _some_text(schema, name, rng)


def _some_number(schema: dict[str, Any], whole: bool, rng: random.Random) -> float:
    """A number in the schema's range, or around 1 to 100 where it has none."""
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    if low is None:
        low = 1 if high is None else min(1, high - 100)
    if high is None:
        high = max(low + 99, 100)
    step = schema.get("multipleOf")
    if step:
        first, last = -int(-low // step), int(high // step)
        value = step * rng.randint(first, max(first, last))
        return int(value) if whole or float(value).is_integer() else round(value, 6)
    if whole:
        first = -int(-low // 1)
        return spoken.some_number(first, max(first, int(high // 1)), rng)
    return round(rng.uniform(low, high), rng.choice((1, 1, 2, 3)))


def _some_text(schema: dict[str, Any], name: str, rng: random.Random) -> str:
    words = re.findall(r"[a-z]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", name).lower())
    kind = str(schema.get("format", ""))
    if kind not in _TEXTS or not kind:
        kind = next((kind for kind, hints in _HINTS.items() if any(hint in words for hint in hints)), "")
    shortest, longest = schema.get("minLength", 0), schema.get("maxLength", 1000)
    fitting = [text for text in _TEXTS[kind] if shortest <= len(text) <= longest]
    if "pattern" in schema:
        fitting = [text for texts in _TEXTS.values() for text in texts if re.search(schema["pattern"], text)] or fitting
    if not fitting:
        fitting = [(f"{text} " * (shortest // len(text) + 1)).strip()[: max(longest, 1)] for text in _TEXTS[""]]
    return rng.choice(fitting)
