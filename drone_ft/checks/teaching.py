"""What the examples teach: whether every function and choice is called, and whether the words say the numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from drone_ft import numbers, schema
from drone_ft.catalog import REJECT, Call
from drone_ft.checks.offers import Trouble, elsewhere
from drone_ft.checks.reading import Given, Row
from drone_ft.schema.pieces import canonical
from drone_ft.schema.words import show


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
            said = numbers.Said(row.words)
            for path, number in _numbers(row.answer.arguments) if isinstance(row.answer, Call) else ():
                if number and not said.says(number):
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
