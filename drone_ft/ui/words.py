"""Words for people: names, types, times and calls as they are said, not as they are stored."""

from __future__ import annotations

import json
import re
from typing import Any

from drone_ft.catalog import Call
from drone_ft.schema import words as schema_words

# Read as letters wherever they stand in a code name.
_LETTERS = ("led", "gps", "sos", "usb", "id", "url", "api", "tv", "ac", "sms")
ABSURD = 10**12  # a number this large is counted, not read
LONGEST_VALUE = 80  # a longer one is cut: a sentence is read, not scrolled
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()<>#+|~$:!-])")


def escape(text: str) -> str:
    """Text that markdown shows as it is."""
    return _MARKDOWN.sub(r"\\\1", text)


def title(name: str) -> str:
    """A code name as words: takeoff_drone → Takeoff drone."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name).replace("_", " ").replace("-", " ").replace(".", " ")
    spoken = [word.upper() if word.lower() in _LETTERS else word for word in spaced.split()]
    return first_up(" ".join(spoken)) or name


def first_up(text: str) -> str:
    """Text with a capital first letter; the rest as it is."""
    return text[:1].upper() + text[1:]


def count(number: int, noun: str, plural: str | None = None) -> str:
    """A number with its noun: 1 function, 1,204 functions."""
    return f"{number:,} {form(number, noun, plural)}"


def form(number: int, noun: str, plural: str | None = None) -> str:
    """A noun as it stands behind a number: call, calls."""
    return noun if number == 1 else plural or f"{noun}s"


def big(number: int) -> str:
    """A number a person can take in: 8,300 or about 2.4 million."""
    for size, name in ((10**12, "trillion"), (10**9, "billion"), (10**6, "million")):
        if number >= size:
            return f"about {number / size:,.1f} {name}"
    return f"{number:,}"


def about(number: int) -> str:
    """The same for an estimate: about 8,300."""
    return f"about {big(number).removeprefix('about ')}"


def listed(items: list[str], last: str = "or") -> str:
    """a, b or c."""
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} {last} {items[-1]}"


def duration(seconds: float) -> str:
    """A time as people say it: a few seconds, 40 seconds, 3 minutes, 1 hour 20 minutes."""
    if seconds < 10:
        return "a few seconds"
    if seconds < 90:
        return f"{round(seconds / 10) * 10} seconds"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} minutes"
    hours, rest = divmod(minutes, 60)
    return count(hours, "hour") + (f" {count(rest, 'minute')}" if rest else "")


def short(text: str, most: int = LONGEST_VALUE) -> str:
    """A text, cut where it is too long to be read in passing."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def value(thing: Any) -> str:
    """An argument's value as words."""
    if isinstance(thing, bool):
        return "yes" if thing else "no"
    if thing is None:
        return "nothing"
    if isinstance(thing, dict):
        return ", ".join(f"{title(key).lower()} {value(inner)}" for key, inner in thing.items()) or "nothing set"
    if isinstance(thing, list):
        return listed([value(item) for item in thing], "and") or "an empty list"
    if isinstance(thing, str):
        return short(thing.replace("_", " ")) if re.fullmatch(r"[a-z0-9_]+", thing) else f"“{short(thing)}”"
    if isinstance(thing, float) and thing.is_integer():
        thing = int(thing)
    if isinstance(thing, int) and abs(thing) >= ABSURD:
        return f"a number of {len(str(abs(thing)))} digits"
    return short(f"{thing:,}" if isinstance(thing, int) and abs(thing) >= 10_000 else json.dumps(thing))


def call(made: Call | None, reject: str | None = None) -> str:
    """A call as a sentence: Control camera: mode video, duration 120."""
    if made is None:
        return "No call"
    if reject is not None and made.name == reject:
        return "Impossible request"
    arguments = ", ".join(f"{title(key).lower()} {value(thing)}" for key, thing in made.arguments.items())
    return f"{title(made.name)}: {arguments}" if arguments else title(made.name)


def takes(schema: dict[str, Any]) -> str:
    """Which values a schema takes: on or off, any whole number from 1 to 500, yes or no."""
    if "const" in schema:
        return f"always {schema_words.plain(schema['const'])}"
    if "enum" in schema:
        choices = [schema_words.plain(item) for item in schema["enum"]]
        return listed(choices) if len(choices) > 1 else f"always {choices[0]}"
    sort = schema.get("type")
    if isinstance(sort, list):
        return listed([takes({**schema, "type": one}) for one in sort])
    if sort == "boolean":
        return "yes or no"
    if sort == "null":
        return "nothing"
    if sort == "object":
        return listed(list(schema.get("properties", {})), "and") or "any group of values"
    if sort == "array" and isinstance(schema.get("items"), dict):
        return f"{schema_words.blank(schema).removeprefix('any ')}, each {takes(schema['items'])}".replace(
            "list", "a list", 1
        )
    return schema_words.blank(schema)
