"""The offline writer: hand-written wordings with slots become requests with the calls they mean.

A phrasebook (data/phrasebooks/*.json) lists calls: a function, the arguments its wordings imply, the values
they leave open (a unit with a range, or choices), the wordings, and some `everyday` ones that anyone would type first;
those with open values are used oftener than the rest, since a model has to know them best. A slot is `{argument}` or
`{argument:form}`; forms are those of `spoken.FORMS`, and the directions down, left (the value is negative) and up,
right (positive). Near misses have slots, too, for the open values of their function: were their numbers always the same
few, a model would learn to refuse those ("30 metres").
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drone_ft.catalog import Call, Catalog, problems
from drone_ft.dataset import Example, make_example
from drone_ft.errors import DatasetError
from drone_ft.synthesis import spoken

FOLDER = Path(__file__).resolve().parents[2] / "data" / "phrasebooks"
KINDS = ("near_misses", "other_abilities", "status_questions", "off_topic", "unclear")
_SIGNS = {"down": -1, "left": -1, "up": 1, "right": 1}
_SLOT = re.compile(r"\{([^{}]*)\}")
_COMMON = ("set", "get", "control", "drone", "configure", "the", "mode", "start", "stop", "toggle", "enable", "disable")
_ATTEMPTS = 30
EVERYDAY_USES = 3  # of an everyday wording with open values, each time with others


@dataclass(frozen=True)
class Open:
    """A value the wordings leave open: its unit (`spoken.UNITS`), and its range or its choices."""

    unit: str
    low: int = 1
    high: int = 100
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Entry:
    """One kind of call and the ways to ask for it; `where` names it in messages."""

    where: str
    function: str
    arguments: dict[str, Any]
    values: dict[str, Open]
    wordings: tuple[str, ...]
    everyday: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Phrasebook:
    """Wordings for calls, and impossible requests by kind; near misses belong to a function."""

    name: str
    entries: tuple[Entry, ...]
    near_misses: dict[str, tuple[str, ...]] = field(default_factory=dict)
    impossible: dict[str, tuple[str, ...]] = field(default_factory=dict)


def read_phrasebook(path: Path | None = None) -> Phrasebook:
    """The phrasebook in a JSON file, the drone's by default; DatasetError names the entry and the wording."""
    path = path or FOLDER / "drone.json"
    try:
        return parse_phrasebook(json.loads(path.read_text("utf-8")), path.stem)
    except OSError as error:
        raise DatasetError(f"Phrasebook {path} cannot be read: {error.strerror}. Put the file there.") from error
    except ValueError as error:
        raise DatasetError(f"Phrasebook {path} is not JSON ({error}). Correct the file at that place.") from error


def parse_phrasebook(data: object, name: str) -> Phrasebook:
    """A phrasebook from plain data, checked; nothing half-loaded."""
    calls = _get(data, "calls", list, f"Phrasebook {name}")
    entries = tuple(_entry(item, f"Phrasebook {name}, entry {n}") for n, item in enumerate(calls, 1))
    impossible = data.get("impossible", {}) if isinstance(data, dict) else {}
    for kind in impossible:
        if kind not in KINDS:
            known = ", ".join(KINDS)
            raise DatasetError(f"Phrasebook {name}: unknown kind of impossible requests {kind!r}; known are {known}.")
    functions = {entry.function for entry in entries}
    near_misses: dict[str, tuple[str, ...]] = {}
    for function, wordings in impossible.get("near_misses", {}).items():
        if function not in functions:
            raise DatasetError(f"Phrasebook {name}: near misses of {function!r}, a function it has no calls of.")
        where = f"Phrasebook {name}, near misses of {function}"
        near_misses[function] = _texts(wordings, where)
        values = open_values(entries, function)
        for wording in near_misses[function]:
            _check_slots(wording, {}, values, f"{where}, wording {wording!r}")
    others = {kind: _texts(impossible[kind], f"Phrasebook {name}, {kind}") for kind in KINDS[1:] if kind in impossible}
    for kind, wordings in others.items():
        for wording in wordings:
            _check_slots(wording, {}, {}, f"Phrasebook {name}, {kind}, wording {wording!r}")
    book = Phrasebook(name, entries, near_misses, others)
    _check_distinct(book)
    return book


def _get(data: object, key: str, kind: type, where: str) -> Any:
    value = data.get(key) if isinstance(data, dict) else None
    if not isinstance(value, kind):
        raise DatasetError(f"{where} needs {key!r} ({kind.__name__}), received {value!r:.60}.")
    return value


def _texts(data: object, where: str) -> tuple[str, ...]:
    if not isinstance(data, list) or not data:
        raise DatasetError(f"{where}: expected a list of wordings, received {data!r:.60}.")
    for text in data:
        if not isinstance(text, str) or not text.strip() or text != text.strip():
            raise DatasetError(f"{where}: expected a wording without spaces around it, received {text!r:.60}.")
    return tuple(data)


def _entry(data: object, where: str) -> Entry:
    function = _get(data, "function", str, where)
    assert isinstance(data, dict)
    arguments = data.get("arguments", {})
    where = f"{where} ({' '.join([function, *map(str, arguments.values())])})"
    values = {name: _open(spec, f"{where}, value {name!r}") for name, spec in data.get("values", {}).items()}
    for name in values:
        if name in arguments:
            raise DatasetError(f"{where}: {name!r} is both fixed and left open. Keep it in arguments or in values.")
    everyday = _texts(data["everyday"], f"{where}, everyday") if "everyday" in data else ()
    wordings = everyday + _texts(data.get("wordings"), where)
    for wording in wordings:
        _check_wording(wording, arguments, values, where)
    return Entry(where, function, dict(arguments), values, wordings, frozenset(everyday))


def _open(spec: object, where: str) -> Open:
    if isinstance(spec, list) and spec:
        return Open("choice", choices=tuple(spec))
    unit = spec.get("unit") if isinstance(spec, dict) else None
    if not isinstance(spec, dict) or unit not in spoken.UNITS:
        units = ", ".join(spoken.UNITS)
        raise DatasetError(f"{where}: expected a list of choices or a unit among {units}, received {spec!r:.60}.")
    return Open(str(unit), spec.get("from", 1), spec.get("to", 100))


def _check_wording(wording: str, arguments: dict[str, Any], values: dict[str, Open], where: str) -> None:
    where = f"{where}, wording {wording!r}"
    said = _check_slots(wording, arguments, values, where)
    if sorted(said) != sorted(values):
        missing = ", ".join(name for name in values if said.count(name) != 1)
        raise DatasetError(f"{where}: every open value must be said exactly once; look at {missing}.")


def _check_slots(wording: str, arguments: dict[str, Any], values: dict[str, Open], where: str) -> list[str]:
    """The values a wording has slots for, each slot checked."""
    said = []
    for name, forms in _slots(wording):
        if name in arguments:
            raise DatasetError(f"{where}: the slot {{{name}}} is for an argument that is fixed there. Leave it out.")
        if name not in values:
            known = ", ".join(values) or "none"
            raise DatasetError(f"{where}: unknown slot {{{name}}}; the entry's open values are: {known}.")
        for form in forms:
            if form not in spoken.FORMS and form not in _SIGNS:
                raise DatasetError(f"{where}: unknown form {form!r}; known are {', '.join([*spoken.FORMS, *_SIGNS])}.")
        said.append(name)
    if set("{}") & set(_SLOT.sub("", wording)):
        raise DatasetError(f"{where}: a brace has no partner. Write slots as {{argument}} or {{argument:form}}.")
    return said


def open_values(entries: Iterable[Entry], function: str) -> dict[str, Open]:
    """The values that entries of a function leave open, by argument; where they differ, the first entry's."""
    found: dict[str, Open] = {}
    for entry in entries:
        if entry.function == function:
            found = entry.values | found
    return found


def _slots(wording: str) -> list[tuple[str, list[str]]]:
    found = [match.partition(":") for match in _SLOT.findall(wording)]
    return [(name, forms.split()) for name, _, forms in found]


def _check_distinct(book: Phrasebook) -> None:
    first: dict[str, str] = {}
    places = [(wording, entry.where) for entry in book.entries for wording in entry.wordings]
    places += [(text, f"near misses of {name}") for name, texts in book.near_misses.items() for text in texts]
    places += [(text, kind) for kind, texts in book.impossible.items() for text in texts]
    for text, where in places:
        if text.casefold() in first:
            raise DatasetError(f"{where}: the wording {text!r} is already in {first[text.casefold()]}. Keep one.")
        first[text.casefold()] = where


def write_calls(book: Phrasebook, catalog: Catalog, seed: int = 0, per_wording: int = 1) -> list[Example]:
    """Requests for every entry that fits the catalog; the same seed gives the same examples.

    A wording with open values is used `per_wording` times with different values (an everyday one EVERYDAY_USES times
    as often), any other once.
    """
    names = {function.name for function in catalog.callable_functions}
    examples: list[Example] = []
    for entry in book.entries:
        if entry.function not in names:
            continue
        for number, wording in enumerate(entry.wordings):
            uses = per_wording * (EVERYDAY_USES if wording in entry.everyday else 1)
            written: dict[str, Example] = {}  # by prompt: a value may come up twice
            for use in range(uses if entry.values else 1):
                rng = random.Random(f"{seed}:{use}:{wording}")
                if example := _write(entry, wording, catalog, rng, number + use + seed):
                    written.setdefault(example.prompt.casefold(), example)
            examples += written.values()
    return examples


def _write(entry: Entry, wording: str, catalog: Catalog, rng: random.Random, turn: int) -> Example | None:
    """One example of a wording, or None where the catalog refuses the call whatever the values are."""
    for attempt in range(_ATTEMPTS if entry.values else 1):
        prompt, chosen = _fill(wording, entry.values, entry.function, catalog, rng, turn + attempt)
        call = Call(entry.function, _ordered(catalog, entry.function, {**entry.arguments, **chosen}))
        if not problems(catalog, call):
            return make_example(prompt, call, origin="phrasebook", template=wording)
    return None


def _fill(
    wording: str, values: dict[str, Open], function: str, catalog: Catalog, rng: random.Random, turn: int
) -> tuple[str, dict[str, Any]]:
    """(the wording with its slots said, the values chosen for them)."""
    slots = dict(_slots(wording))
    open_ = {name: value for name, value in values.items() if name in slots}
    chosen = {name: _value(open_[name], slots[name], _limits(catalog, function, name), rng, turn) for name in open_}
    said = {name: _say(chosen[name], open_[name], slots[name], rng) for name in open_}
    return _tidy(_SLOT.sub(lambda match: said[match[1].partition(":")[0]], wording)), chosen


def _ordered(catalog: Catalog, function: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """Arguments in the order of the function's parameters."""
    order = list(catalog.function(function).parameters.get("properties", {}))
    return dict(sorted(arguments.items(), key=lambda item: order.index(item[0]) if item[0] in order else len(order)))


def _limits(catalog: Catalog, function: str, name: str) -> dict[str, Any]:
    schema = catalog.function(function).parameters.get("properties", {}).get(name, {})
    return schema if isinstance(schema, dict) else {}


def _value(open_: Open, forms: list[str], limits: dict[str, Any], rng: random.Random, turn: int) -> Any:
    if open_.unit == "choice":
        return open_.choices[turn % len(open_.choices)]
    if open_.unit == "place":
        return dict(zip(("latitude", "longitude"), spoken.some_place(rng), strict=True))
    low, high = open_.low, open_.high
    sign = next((_SIGNS[form] for form in forms if form in _SIGNS), 0)
    if sign:
        return sign * spoken.some_number(max(low, 1), high, rng, open_.unit)
    low, high = max(low, limits.get("minimum", low)), min(high, limits.get("maximum", high))
    return spoken.some_number(low, max(low, high), rng, open_.unit)


def _say(value: Any, open_: Open, forms: list[str], rng: random.Random) -> str:
    form = next((form for form in forms if form in spoken.FORMS), "")
    if open_.unit == "choice":
        return str(value)
    if open_.unit == "place":
        return spoken.say_place(value["latitude"], value["longitude"], rng, form)
    return spoken.say_number(value, rng, open_.unit, form)


def _tidy(prompt: str) -> str:
    """Articles before numbers that begin with a vowel: "an 8-metre climb"."""
    return re.sub(r"\b([Aa]) (?=8|11\b|18\b|eight|eleven)", r"\1n ", prompt)


def write_impossible(book: Phrasebook, catalog: Catalog, by_hand: list[str], seed: int = 0) -> Iterator[Example]:
    """Impossible requests that stay impossible with this catalog; `by_hand` names its functions with own wordings.

    Requests of no function in particular are only used where the phrasebook covers half of the catalog.
    """
    if catalog.reject is None:
        return
    call = Call(catalog.reject, {})
    others = [_topic(f.name) for f in catalog.callable_functions if f.name not in by_hand]
    values = {name: open_values(book.entries, name) for name in by_hand}
    texts = [(text, name) for name, wordings in book.near_misses.items() if name in by_hand for text in wordings]
    if len(by_hand) * 2 >= len(catalog.callable_functions):
        texts += [(text, "") for wordings in book.impossible.values() for text in wordings]
    for number, (text, function) in enumerate(texts):
        rng = random.Random(f"{seed}:{text}")
        prompt, _ = _fill(text, values.get(function, {}), function, catalog, rng, number + seed)
        said = frozenset(re.findall(r"[a-z]+", prompt.lower()))
        if not any(topic and topic <= said for topic in others):
            yield make_example(prompt, call, origin="phrasebook", template=text)


def _topic(name: str) -> frozenset[str]:
    """The words of a function's name that say what it is about."""
    return frozenset(word for word in re.findall(r"[a-z]+", name.lower()) if word not in _COMMON)
