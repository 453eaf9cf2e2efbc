"""What the examples teach: whether every function and choice is called, and whether the words say the numbers."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any

from num2words import num2words

from drone_ft import schema
from drone_ft.catalog import REJECT, Call
from drone_ft.checks.offers import Trouble, elsewhere
from drone_ft.checks.reading import Given, Row
from drone_ft.schema.pieces import canonical
from drone_ft.schema.words import show

_IDIOMS = {1: ("a", "an", "once", "single"), 2: ("twice", "both", "couple", "pair"), 12: ("dozen",)}
_SCALES = (60, 3600, 1000, 0.01)  # minutes, hours, kilometres, per cent


def coverage(given: Given) -> Iterator[Trouble]:
    """Functions, and choices of their parameters, that no training line calls."""
    offers = list(dict.fromkeys(row.offer for row in given.train.rows))
    catalogs = [given.catalog] if given.catalog else [offer.catalog for offer in reversed(offers)]
    functions = {function.name: function for catalog in catalogs for function in catalog.functions}
    calls: dict[str, dict[str, Call]] = {}
    for call in (call for row in given.train.rows for _, call in row.calls):
        calls.setdefault(call.name, {})[call.key] = call
    never = [name for name in functions if name not in calls and name != _reject(given)]
    if never and calls:
        words = f"no example calls {', '.join(never)}; add examples, or offer fewer functions"
        yield Trouble("coverage", "functions", words)
    for name, function in functions.items():
        for path, choices in _choices(schema.inline(function.parameters)) if name in calls else ():
            said = {canonical(value) for call in calls[name].values() for value in _values(call.arguments, path)}
            if missing := [show(choice) for choice in choices if canonical(choice) not in said]:
                words = f"no example says {', '.join(missing)}; add some that do"
                yield Trouble("coverage", f"{name}.{'.'.join(path)}", words)


def _choices(part: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], list[Any]]]:
    """Every list of choices in a schema, with the path of its parameter; [] in a path stands for a list's items."""
    if not isinstance(part, dict):
        return
    if isinstance(part.get("enum"), list) and path:
        yield path, part["enum"]
    for name, inner in part.get("properties", {}).items():
        yield from _choices(inner, (*path, name))
    yield from _choices(part.get("items"), (*path, "[]"))


def _values(value: Any, path: tuple[str, ...]) -> Iterator[Any]:
    if not path:
        yield value
    elif path[0] == "[]" and isinstance(value, list):
        for item in value:
            yield from _values(item, path[1:])
    elif isinstance(value, dict) and path[0] in value:
        yield from _values(value[path[0]], path[1:])


def _reject(given: Given) -> str | None:
    """The function for impossible requests: the catalog's, or what the file calls so."""
    if given.catalog:
        return given.catalog.reject
    offers = dict.fromkeys(row.offer for row in given.train.rows)
    return REJECT if any(f.name == REJECT for offer in offers for f in offer.catalog.functions) else None


def impossible(given: Given) -> Iterator[Trouble]:
    """Whether there are impossible requests, and not too many."""
    reject = _reject(given)
    calls = [row.answer for row in given.train.usable if isinstance(row.answer, Call)]
    refused = sum(call.name == reject for call in calls)
    if reject and calls and not refused:
        words = f"no impossible request, so the model never learns to call {reject}; add some that it must refuse"
        yield Trouble("no impossible requests", "messages", words)
    elif reject and refused > len(calls) / 2:
        words = f"{refused:,} of {len(calls):,} requests are impossible, so the model learns to refuse too much"
        yield Trouble("many impossible requests", "messages", f"{words}; add possible ones")


def grounding(given: Given) -> Iterator[Trouble]:
    """Numbers in calls that the words say neither as digits nor in words; nothing, 0, need not be said."""
    for file in given.files:
        unsaid: dict[tuple[str, str, float], list[Row]] = {}
        for row in file.usable:
            numbers = list(_numbers(row.answer.arguments)) if isinstance(row.answer, Call) else []
            said = _Said(row.words) if numbers else None
            for path, number in numbers:
                if said and number and not said.says(number):
                    unsaid.setdefault((row.calls[-1][1].name, path, number), []).append(row)
        for (name, path, number), rows in unsaid.items():
            words = f"{name} has {path} {number:g}, which the words {show(rows[0].words, 80)} do not say"
            words += elsewhere([row.line for row in rows]) + "; say it, or correct it, unless it goes without saying"
            yield rows[0].trouble("grounding", f"{rows[0].calls[-1][0]}.arguments", words)


def _numbers(value: Any, path: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield path, value
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in inside:
        yield from _numbers(inner, f"{path}.{key}" if path else str(key))


class _Said:
    """The numbers a text says, as digits and in words, in its own unit or in minutes, hours, kilometres, per cent."""

    def __init__(self, words: str) -> None:
        digits = re.findall(r"\d+(?:\.\d+)?|(?<!\d)\.\d+", words)
        digits += [text.replace(",", "") for text in re.findall(r"\d{1,3}(?:,\d{3})+(?:\.\d+)?", words)]
        digits += [text.replace(",", ".") for text in re.findall(r"\d+,\d+", words)]
        self._digits = {float(text) for text in digits}
        self._words = f" {_spelled(words)} "

    def says(self, number: float) -> bool:
        """Whether the number is said; its sign may be hidden in a word such as "down"."""
        size = abs(number)
        if self._names(size) or any(self._names(round(size / scale, 6), True) for scale in _SCALES):
            return True
        whole, rest = divmod(size, 60)
        return bool(whole and rest) and self._names(whole, True) and self._names(rest)

    def _names(self, size: float, scaled: bool = False) -> bool:
        if size in self._digits or (scaled and size == 1):
            return True
        whole, part = divmod(size, 1)
        if part in (0.25, 0.5, 0.75):
            word = " half " if part == 0.5 else " quarter"
            return word in self._words and (whole <= 1 or self._names(whole))
        return part == 0 and any(f" {way} " in self._words for way in _ways(int(whole)))


def _spelled(words: str) -> str:
    plain = " ".join(re.sub(r"[^\w]+", " ", words.casefold()).replace(" and a ", " ").split())
    return re.sub(r"\band ", "", re.sub(r"\ba (hundred|thousand)\b", r"one \1", plain))


@functools.lru_cache(maxsize=20_000)
def _ways(number: int) -> tuple[str, ...]:
    """How people write a whole number in words."""
    ways = [_spelled(num2words(number))] if number < 10**15 else []
    if number % 100 == 0 and 1000 < number < 10_000:
        ways.append(f"{_spelled(num2words(number // 100))} hundred")
    return (*ways, *_IDIOMS.get(number, ()))
