"""What is wrong with words a model wrote for a call: honest checks, each with its reason in plain words."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from rapidfuzz import fuzz

from drone_ft import numbers
from drone_ft.catalog import Call, Function
from drone_ft.permutations import Path
from drone_ft.synthesis import plain

LONGEST = 500  # characters that anybody would say in one go
NEAR = 93.0  # of 100: how alike two requests for one call may be
_REFUSAL = re.compile(
    r"\bas an? (ai|language|artificial)\b|\blanguage model\b"
    r"|\bi('m| am)? ?(can ?not|can't|won't|unable to|not able to) "
    r"(help|assist|comply|fulfil|provide|generate|create|write|do that|do this)",
    re.IGNORECASE,
)
_POLITE = frozenset("please can could would you i want need to the a an my me for now just hey ok".split())  # noqa: SIM905
_MONTHS = "january february march april may june july august september october november december".split()  # noqa: SIM905


@dataclass(frozen=True)
class Said:
    """Words with the call they are to mean; `open_paths` leads to the values that stand in no list of choices."""

    words: str
    call: Call
    function: Function
    open_paths: tuple[Path, ...] = field(default=())


def trouble(said: Said) -> str | None:
    """The first thing wrong with words for a call, or None."""
    found = (check(said) for check in CHECKS)
    return next((reason for reason in found if reason), None)


def bare_trouble(words: str) -> str | None:
    """What is wrong with words whatever they are to mean, or None."""
    if not re.search(r"\w", words):
        return "there are no words"
    if len(words) > LONGEST:
        return f"it is longer than anybody would say ({len(words)} characters)"
    if is_refusal(words):
        return "the model refused instead of writing a request"
    if re.search(r"[{}<>]|\w\(.*\)|\w+ ?= ?\w+|```", words):
        return "it looks like code, not like something a person says"
    return None


def is_refusal(text: str) -> bool:
    """Whether a model talks about itself instead of doing what it was asked."""
    return bool(_REFUSAL.search(text.replace("’", "'")))


def is_placeholder(value: str, path: Path, rules: dict[str, Any]) -> bool:
    """Whether a value only says what is to be put there: its name, its description, "string"."""
    names = [path[-1], str(rules.get("description", "")), "string", "value", "example", "text", "placeholder"]
    return fold(value.replace("_", " ")) in [fold(name.replace("_", " ")) for name in names if name]


def is_near(one: str, other: str) -> bool:
    """Whether two requests are the same but for a letter or a comma."""
    return bool(fuzz.ratio(fold(one), fold(other)) >= NEAR)


def fold(text: str) -> str:
    """Words without case and punctuation, a space at both ends; numbers keep their points and signs drop."""
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", text.casefold())
    return " " + " ".join(re.findall(r"\d+(?:\.\d+)?|[^\W\d_]+", text)) + " "


# ---------------------------------------------------------------- the checks


def _bare(said: Said) -> str | None:
    return bare_trouble(said.words)


def _technical(said: Said) -> str | None:
    free = [str(value) for path, value in _single(said.call.arguments) if path in said.open_paths]
    names = [said.function.name, *_names(said.function.parameters)]
    return technical_trouble(said.words, [name for name in names if name not in free])


def technical_trouble(words: str, names: Iterable[str]) -> str | None:
    """Whether words hold identifiers as only programs write them, out of the given names."""
    odd = (name for name in names if "_" in name or re.search(r"[a-z][A-Z]", name))
    found = next((name for name in odd if re.search(rf"\b{re.escape(name)}\b", words)), None)
    return f"it says the technical name “{found}”, as nobody would" if found else None


def _names(rules: Any) -> Iterator[str]:
    """Names of parameters and choices anywhere in a schema."""
    if isinstance(rules, dict):
        yield from (name for name in rules.get("properties", {}) if isinstance(rules.get("properties"), dict))
        yield from (choice for choice in rules.get("enum", []) if isinstance(choice, str))
        for inner in rules.values():
            yield from _names(inner)
    elif isinstance(rules, list):
        for inner in rules:
            yield from _names(inner)


def _parrots(said: Said) -> str | None:
    words = [word for word in fold(said.words).split() if word not in _POLITE]
    name = [word.lower() for word in plain.split_name(said.function.name) if word.lower() not in _POLITE]
    return "it merely repeats the function's name" if words == name else None


def _ungrounded(said: Said) -> str | None:
    """Values that the words never say: nobody could know them."""
    for path, value in _single(said.call.arguments):
        name = " ".join(path)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if number and not numbers.says(said.words, value):
            return f"the words never say {name} {value}"
        if isinstance(value, str) and value and path in said.open_paths and not says_text(said.words, value):
            return f"the words never say {name} “{value}”"
        if isinstance(value, str) and path not in said.open_paths:
            other = _said_instead(said, path, value)
            if other:
                return f"the words say “{other}”, but {name} is “{value}”"
    return None


def _said_instead(said: Said, path: Path, value: str) -> str | None:
    """Another choice that the words name while they do not name this one; people name most choices in other words."""
    rules: Any = said.function.parameters
    for step in path:
        rules = rules.get("properties", {}).get(step) if isinstance(rules, dict) else None
    choices = rules.get("enum", []) if isinstance(rules, dict) else []
    words = fold(said.words)
    if fold(value) in words:
        return None
    # "on" and "up" stand in sentences that mean neither.
    telling = [choice for choice in choices if isinstance(choice, str) and len(choice) > 2 and choice != value]
    return next((choice for choice in telling if fold(choice).strip() and fold(choice) in words), None)


CHECKS: tuple[Callable[[Said], str | None], ...] = (_bare, _technical, _parrots, _ungrounded)


# ---------------------------------------------------------------- values in words


def leaves(arguments: dict[str, Any], path: Path = ()) -> dict[Path, Any]:
    """The values of nested objects by path; lists and empty objects are values."""
    found: dict[Path, Any] = {}
    for name, inner in arguments.items():
        found |= leaves(inner, (*path, name)) if isinstance(inner, dict) and inner else {(*path, name): inner}
    return found


def _single(arguments: dict[str, Any]) -> Iterator[tuple[Path, Any]]:
    """Every single value with the way to it; the items of a list share their list's."""
    for path, value in leaves(arguments).items():
        for item in value if isinstance(value, list) else [value]:
            if isinstance(item, dict):
                yield from ((path, inner) for _, inner in _single(item))
            else:
                yield path, item


def says_text(words: str, value: str) -> bool:
    """Whether words say a name or a text: letter by letter but for case, or nearly so; a date by day and month."""
    text, wanted = fold(words), fold(value)
    if value.casefold() in words.casefold() or wanted in text:
        return True
    moment = re.fullmatch(r"(\d{4})-(\d\d)-(\d\d)(?:[T ](\d\d):(\d\d).*)?|(\d\d):(\d\d)(?::\d\d)?", value)
    if moment:
        return _says_moment(text, moment)
    tokens = wanted.split()
    if tokens and all(f" {token} " in text for token in tokens):
        return True
    return len(wanted) > 6 and bool(fuzz.partial_ratio(wanted.strip(), text) >= 88)


def _says_moment(text: str, moment: re.Match[str]) -> bool:
    _, month, day, *_ = moment.groups()
    hour, minute = moment.group(4) or moment.group(6), moment.group(5) or moment.group(7)
    tokens = text.split()
    figures = {int(token) for token in tokens if token.isdigit()}
    good = True
    if day:
        spelled = _MONTHS[int(month) - 1] if 1 <= int(month) <= 12 else ""
        named = any(spelled.startswith(token) for token in tokens if len(token) > 2)
        good = (int(day) in figures or numbers.says(text, int(day))) and (named or int(month) in figures)
    if hour and good:
        twelve = int(hour) % 12 or 12
        good = bool({int(hour), twelve} & figures) or numbers.says(text, twelve)
        good = good and (int(minute) == 0 or int(minute) in figures or numbers.says(text, int(minute)))
    return good
