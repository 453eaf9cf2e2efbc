"""Every call a catalog allows: count, iterate, sample; open values are blanks that know their schema.

A schema becomes a *space* of calls: a size and the call at each place, by arithmetic alone. That is why counting costs
nothing, iteration is lazy, and a sample never has to list what it leaves out.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from drone_ft import schema
from drone_ft.catalog import Call, Catalog, Function
from drone_ft.errors import CatalogError
from drone_ft.schema import words as schema_words
from drone_ft.schema.pieces import CONDITIONS, Schema, canonical

Path = tuple[str, ...]


@dataclass(frozen=True)
class CallTemplate:
    """A call with holes: `fixed` arguments as they will be, `blanks` as the schema of what is still open, by path.

    `order` lists the paths of all values in the order of the schema, so that filled calls read like it.
    """

    function: str
    fixed: dict[str, Any] = field(default_factory=dict)
    blanks: dict[Path, Schema] = field(default_factory=dict)
    order: tuple[Path, ...] = field(default=(), compare=False)

    @property
    def key(self) -> str:
        """Canonical JSON: equal templates have equal keys."""
        blanks = sorted([list(path), rules] for path, rules in self.blanks.items()) if self.blanks else []
        return json.dumps([self.function, json.loads(canonical([self.fixed, blanks]))], sort_keys=True)

    def __hash__(self) -> int:
        return hash(self.key)

    def fill(self, values: dict[Path, Any]) -> Call:
        """The call with every blank filled; CatalogError if one is left open or unknown."""
        missing = [path for path in self.blanks if path not in values]
        unknown = [path for path in values if path not in self.blanks]
        if missing or unknown:
            verb, path = ("left open", missing[0]) if missing else ("not there", unknown[0])
            raise CatalogError(
                f"Cannot fill {self.function}: the blank '{'.'.join(path)}' is {verb}. "
                f"Its blanks are: {', '.join('.'.join(p) for p in self.blanks) or 'none'}."
            )
        leaves = {**_leaves(self.fixed), **values}
        arguments: dict[str, Any] = {}
        for path in dict.fromkeys([*self.order, *leaves]):
            inner = arguments
            for step in path[:-1]:
                inner = inner.setdefault(step, {})
            inner[path[-1]] = leaves[path]
        return Call(self.function, arguments)

    def sentence(self) -> str:
        """The template in words: "control_camera: mode is video, duration is any whole number from 1 to 3600"."""
        leaves = _leaves(self.fixed)
        words = []
        for path in dict.fromkeys([*self.order, *leaves, *self.blanks]):
            value = schema_words.blank(self.blanks[path]) if path in self.blanks else schema_words.plain(leaves[path])
            words.append(f"{' '.join(path)} is {value}")
        return f"{self.function}: " + (", ".join(words) or "no arguments")


def _leaves(value: dict[str, Any], path: Path = ()) -> dict[Path, Any]:
    """The values of nested objects by path; an empty object is a value."""
    found: dict[Path, Any] = {}
    for name, inner in value.items():
        if isinstance(inner, dict) and inner:
            found |= _leaves(inner, (*path, name))
        else:
            found[(*path, name)] = inner
    return found


# ---------------------------------------------------------------- public


def count(function: Function) -> int:
    """How many calls the function's schema allows, blanks counted once; nothing is listed."""
    return _of_object(function.parameters).size


def iterate(function: Function) -> Iterator[CallTemplate]:
    """Every call the function's schema allows, one by one, always in the same order."""
    space = _of_object(function.parameters)
    place = 0
    while place < space.size:
        yield _template(function.name, space.at(place))
        place += 1


def sample(function: Function, k: int, seed: int = 0) -> list[CallTemplate]:
    """`k` different calls (all, if there are no more), each set of `k` as likely as any other."""
    space = _of_object(function.parameters)
    return [_template(function.name, space.at(place)) for place in _places(space.size, k, seed)]


def _places(size: int, k: int, seed: int) -> list[int]:
    """Different places below `size`, in random order; `size` may be beyond what range() can hold."""
    chance = random.Random(seed)
    if k * 2 >= size:
        return chance.sample(range(size), min(k, size))
    chosen: dict[int, None] = {}
    while len(chosen) < k:
        chosen[chance.randrange(size)] = None
    return list(chosen)


def count_catalog(catalog: Catalog) -> dict[str, int]:
    """The number of calls of each function in catalog order, the reject function left out."""
    return {function.name: count(function) for function in catalog.callable_functions}


def iterate_catalog(catalog: Catalog) -> Iterator[CallTemplate]:
    """Every call of every function in catalog order, the reject function left out."""
    for function in catalog.callable_functions:
        yield from iterate(function)


# ---------------------------------------------------------------- spaces


@dataclass(frozen=True)
class _Blank:
    """A value still open."""

    rules: Schema


class _Space:
    """Values in a fixed order: how many, and the one at each place."""

    size: int

    def at(self, place: int) -> Any:
        """The value at a place, 0 ≤ place < size."""
        raise NotImplementedError


class _Choice(_Space):
    """Listed values."""

    def __init__(self, values: list[Any]) -> None:
        self.values, self.size = values, len(values)

    def at(self, place: int) -> Any:
        return self.values[place]


class _Combinations(_Space):
    """Lists of different values, in their order, shorter lists first."""

    def __init__(self, values: list[Any], shortest: int, longest: int) -> None:
        self.values = values
        self.lengths = range(shortest, min(longest, len(values)) + 1)
        self.size = sum(math.comb(len(values), length) for length in self.lengths)

    def at(self, place: int) -> list[Any]:
        for length in self.lengths:
            amount = math.comb(len(self.values), length)
            if place < amount:
                return self._of_length(length, place)
            place -= amount
        raise IndexError(place)

    def _of_length(self, length: int, place: int) -> list[Any]:
        chosen: list[Any] = []
        for index, value in enumerate(self.values):
            if len(chosen) == length:
                break
            starting_here = math.comb(len(self.values) - index - 1, length - len(chosen) - 1)
            if place < starting_here:
                chosen.append(value)
            else:
                place -= starting_here
        return chosen


class _Either(_Space):
    """The values of several spaces, one after the other."""

    def __init__(self, spaces: list[_Space]) -> None:
        self.spaces = spaces
        self.size = sum(space.size for space in spaces)

    def at(self, place: int) -> Any:
        for space in self.spaces:
            if place < space.size:
                return space.at(place)
            place -= space.size
        raise IndexError(place)


class _Record(_Space):
    """Objects: every combination of the properties' values, an optional one also absent; the last changes fastest."""

    def __init__(self, parts: list[tuple[str, _Space, bool]]) -> None:
        self.parts = parts
        self.size = math.prod(space.size + optional for _, space, optional in parts)

    def at(self, place: int) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for name, space, optional in reversed(self.parts):
            place, digit = divmod(place, space.size + optional)
            if digit >= optional:
                values[name] = space.at(digit - optional)
        return dict(reversed(values.items()))


class _Joint(_Space):
    """Objects put together from independent groups of properties, named in a given order."""

    def __init__(self, groups: list[_Space], order: list[str]) -> None:
        self.groups, self.order = groups, order
        self.size = math.prod(group.size for group in groups)

    def at(self, place: int) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for group in reversed(self.groups):
            place, digit = divmod(place, group.size)
            values |= group.at(digit)
        return {name: values[name] for name in self.order if name in values}


# ---------------------------------------------------------------- from schema to space


def _of_object(parameters: Schema) -> _Joint:
    """The objects an object schema allows, conditions obeyed."""
    groups = schema.factors(parameters)
    order = [name for group in groups for option in group for name in option["properties"]]
    declared = schema.inline(parameters).get("properties", {})
    spaces: list[_Space] = [_Either([_of_plain_object(option) for option in group]) for group in groups]
    return _Joint(spaces, list(dict.fromkeys([*declared, *order])))


def _of_plain_object(option: Schema) -> _Record:
    required = option.get("required", [])
    return _Record([(name, _of_value(rules), name not in required) for name, rules in option["properties"].items()])


def _of_value(rules: Schema | bool) -> _Space:
    """The values one property may hold."""
    if isinstance(rules, dict) and rules.get("type") == "object" and not {"enum", "const"} & rules.keys():
        # Nobody can say what belongs in an object that declares nothing but allows anything: it has no values.
        space = _of_object(rules)
        return space if space.order or rules.get("additionalProperties") is False else _Choice([])
    return _Either([_of_piece(piece) for piece in schema.pieces(rules)])


def _of_piece(rules: Schema) -> _Space:
    """The values of a plain schema of one type."""
    kind = rules.get("type")
    if "enum" in rules:
        return _Choice(rules["enum"])
    if kind == "boolean":
        return _Choice([True, False])
    if kind == "null":
        return _Choice([None])
    if kind == "object":
        return _of_value(rules)
    items = rules.get("items")
    if kind == "array" and isinstance(items, dict) and not {"prefixItems", "contains"} & rules.keys():
        listed = _finite(items)
        if listed:
            return _Combinations(listed, max(1, rules.get("minItems", 1)), rules.get("maxItems", len(listed)))
    return _Choice([_Blank(rules)])


def _finite(items: Schema) -> list[Any]:
    """The values of list items that are finitely many scalars; [] if they are not."""
    if not {"enum", "const", *CONDITIONS} & items.keys() and items.get("type") not in ("boolean", "null"):
        return []
    spaces = [_of_piece(piece) for piece in schema.pieces(items) if piece.get("type") not in ("object", "array")]
    values = [value for space in spaces if isinstance(space, _Choice) for value in space.values]
    whole = len(spaces) == len(schema.pieces(items))
    return values if whole and not any(isinstance(value, _Blank) for value in values) else []


def _template(function: str, arguments: dict[str, Any]) -> CallTemplate:
    """Arguments with blanks among them, taken apart."""
    blanks: dict[Path, Schema] = {}
    order: list[Path] = []

    def fixed(value: dict[str, Any], path: Path) -> dict[str, Any]:
        kept: dict[str, Any] = {}
        for name, inner in value.items():
            here = (*path, name)
            if isinstance(inner, _Blank):
                blanks[here] = inner.rules
            elif isinstance(inner, dict) and inner:
                if below := fixed(inner, here):
                    kept[name] = below
                continue
            else:
                kept[name] = inner
            order.append(here)
        return kept

    rest = fixed(arguments, ())
    return CallTemplate(function, rest, blanks, tuple(order))
