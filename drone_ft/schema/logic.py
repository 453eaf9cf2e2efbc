"""What a schema allows of a piece, and what it rules out: the logic behind `schema.variants`.

`meet` keeps the part of a piece that a schema allows, `minus` the part it rules out; both give disjoint pieces. A
condition is both, side by side: what meets `if` and `then`, and what is left without `if` but meets `else`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from jsonschema import Draft202012Validator

from drone_ft.schema.pieces import (
    ANY,
    CONDITIONS,
    HINTS,
    KINDS,
    NOTES,
    EndlessError,
    Field,
    Open,
    Piece,
    Schema,
    Shape,
    Values,
    beyond,
    bounded,
    canonical,
    limited,
    speaks_of,
    written,
)

_IGNORED = (
    *NOTES,
    "$schema",
    "$id",
    "$anchor",
    "$defs",
    "definitions",
    "then",
    "else",
    "unevaluatedProperties",
)
_ORDER = ("type", "enum", "const", "properties", "required", "additionalProperties")


# ---------------------------------------------------------------- pieces: what a schema allows, what it rules out


def _words(schema: Schema) -> list[str]:
    """The keywords that constrain, types first, conditions last; a missing type is read off the others."""
    first = [word for word in _ORDER if word in schema]
    last = [word for word in CONDITIONS if word in schema]
    return [*first, *(w for w in schema if w not in first and w not in last and w not in _IGNORED), *last]


def _kind(schema: Schema) -> str | None:
    """The type a schema without one means, judged by its keywords."""
    if any(word in schema for word in ("type", "enum", "const", *CONDITIONS)):
        return None
    return next((kind for kind, words in HINTS.items() if any(word in schema for word in words)), None)


def meet(piece: Piece, schema: Schema | bool) -> list[Piece]:
    """The part of a piece that a schema allows."""
    if isinstance(schema, bool):
        return [piece] if schema else []
    if piece == ANY and (kind := _kind(schema)):
        schema = {"type": kind, **schema}
    done = [piece]
    for word in _words(schema):
        done = [part for some in done for part in _meet_word(some, word, schema)]
    return done


def meet_all(some: Iterable[Piece], schema: Schema | bool) -> list[Piece]:
    return [part for piece in some for part in meet(piece, schema)]


def minus(piece: Piece, schema: Schema | bool) -> list[Piece]:
    """The part of a piece that a schema rules out; EndlessError if it cannot be written."""
    if isinstance(schema, bool):
        return [] if schema else [piece]
    out: list[Piece] = []
    rest = [piece]
    for word in _words(schema):
        out += [part for some in rest for part in _minus_word(some, word, schema)]
        rest = [part for some in rest for part in _meet_word(some, word, schema)]
    return out


def minus_all(some: Iterable[Piece], schema: Schema | bool) -> list[Piece]:
    return [part for piece in some for part in minus(piece, schema)]


def _meet_word(piece: Piece, word: str, schema: Schema) -> list[Piece]:
    value = schema[word]
    if word in _COMBINED:
        return _COMBINED[word](piece, schema, True)
    if isinstance(piece, Values):
        return _kept(piece, word, schema, True)
    if word == "type":
        return _of_kinds(piece, value if isinstance(value, list) else [value])
    if word in ("enum", "const"):
        fits = Draft202012Validator(written(piece))
        listed = value if word == "enum" else [value]
        unique = {canonical(item): item for item in listed if fits.is_valid(item)}
        return [Values(tuple(enumerate(unique.values())))] if unique else []
    if isinstance(piece, Shape):
        return list(_meet_shape(piece, word, schema))
    return limited(piece, word, value)


def _minus_word(piece: Piece, word: str, schema: Schema) -> list[Piece]:
    value = schema[word]
    if word in _COMBINED:
        return _COMBINED[word](piece, schema, False)
    if isinstance(piece, Values):
        return _kept(piece, word, schema, False)
    if word == "type":
        kinds = value if isinstance(value, list) else [value]
        fractions = isinstance(piece, Open) and piece.words.get("type", "number") == "number"
        if fractions and "integer" in kinds and "number" not in kinds:
            raise EndlessError("type")
        return _of_kinds(piece, [kind for kind in KINDS if kind not in kinds and _parent(kind) not in kinds])
    if word in ("enum", "const"):
        return _without(piece, value if word == "enum" else [value], word)
    if isinstance(piece, Shape):
        return list(_minus_shape(piece, word, schema))
    return beyond(piece, word, value)


def _parent(kind: str) -> str:
    return "number" if kind == "integer" else kind


def _kept(piece: Values, word: str, schema: Schema, wanted: bool) -> list[Piece]:
    """The values for which a keyword holds (or does not)."""
    value = schema[word]
    if word in ("enum", "const"):
        listed = {canonical(item) for item in (value if word == "enum" else [value])}
        kept = [entry for entry in piece.ranked if (canonical(entry[1]) in listed) == wanted]
    else:
        near = ("properties", "patternProperties") if word == "additionalProperties" else ("prefixItems",)
        holds = Draft202012Validator({name: schema[name] for name in (word, *near) if name in schema})
        kept = [entry for entry in piece.ranked if holds.is_valid(entry[1]) == wanted]
    return [Values(tuple(kept))] if kept else []


def _of_kinds(piece: Piece, kinds: list[str]) -> list[Piece]:
    """The part of an open piece or shape that has one of these types."""
    if isinstance(piece, Shape):
        return [piece] if "object" in kinds else []
    if isinstance(piece, Values):
        return _kept(piece, "type", {"type": kinds}, True)
    own = piece.words.get("type")
    if own == "number" and "integer" in kinds and "number" not in kinds:
        return bounded({**piece.words, "type": "integer"})
    if own is not None:
        return [piece] if own in kinds or _parent(own) in kinds else []
    done: list[Piece] = []
    for kind in kinds:
        if kind == "boolean":
            done += _met_words(Values(((0, True), (1, False))), piece.words)
        elif kind == "null":
            done += _met_words(Values(((0, None),)), piece.words)
        elif kind == "object":
            done += _met_words(Shape({}, False, {}), piece.words)
        elif kind != "integer" or "number" not in kinds:
            done += bounded({"type": kind, **piece.words})
    return done


def _met_words(piece: Piece, words: Schema) -> list[Piece]:
    return meet(piece, {word: value for word, value in words.items() if word != "type"})


def _without(piece: Piece, listed: list[Any], word: str) -> list[Piece]:
    """An open piece without some of its values: numbers split into ranges around them."""
    fits = Draft202012Validator(written(piece))
    done = [piece]
    for value in listed:
        if not fits.is_valid(value):
            continue
        if not isinstance(piece, Open) or piece.words.get("type") not in ("integer", "number"):
            raise EndlessError(word)
        sides = ({"exclusiveMaximum": value}, {"exclusiveMinimum": value})
        done = [part for side in sides for part in meet_all(done, side)]
    return done


# ---------------------------------------------------------------- objects


def _field(shape: Shape, name: str) -> Field:
    """A field as it is; one never heard of may hold anything, or must be absent from a closed object."""
    if name in shape.fields:
        return shape.fields[name]
    if shape.closed:
        return Field((), False, {})
    others = shape.rest.get("additionalProperties", True)
    return Field(tuple(meet(ANY, others)), False, {})


def _with(shape: Shape, name: str, field: Field) -> list[Shape]:
    if field.needed and not field.pieces:
        return []
    return [replace(shape, fields={**shape.fields, name: field})]


def _meet_shape(shape: Shape, word: str, schema: Schema) -> list[Shape]:
    value = schema[word]
    done = [shape]
    if word == "properties":
        for name, inner in value.items():
            done = [part for some in done for part in _meet_field(some, name, inner)]
        return done
    if word == "required":
        for name in value:
            done = [part for some in done for part in _present(some, name)]
        return done
    if word == "additionalProperties":
        return _meet_others(shape, value, list(schema.get("properties", {})))
    if not speaks_of(word, "object") or shape.rest.get(word) == value:
        return done
    if word in shape.rest:
        raise EndlessError(word)
    return [replace(shape, rest={**shape.rest, word: value})]


def _meet_field(shape: Shape, name: str, inner: Schema | bool) -> list[Shape]:
    field = _field(shape, name)
    notes = {w: inner[w] for w in NOTES if w in inner} if isinstance(inner, dict) else {}
    with _naming(name):
        left = tuple(meet_all(field.pieces, inner))
    return _with(shape, name, replace(field, pieces=left, notes=notes | field.notes))


def _present(shape: Shape, name: str) -> list[Shape]:
    return _with(shape, name, replace(_field(shape, name), needed=True))


def _absent(shape: Shape, name: str) -> list[Shape]:
    return _with(shape, name, replace(_field(shape, name), pieces=()))


def _meet_others(shape: Shape, value: Schema | bool, own: list[str]) -> list[Shape]:
    """An object whose properties outside `own` follow `value`."""
    if value is True:
        return [shape]
    done = [shape]
    for name in shape.fields:
        if name not in own:
            done = [part for some in done for part in _meet_field(some, name, value)]
    if value is False:
        return [replace(some, closed=True) for some in done]
    if shape.rest.get("additionalProperties", value) != value:
        raise EndlessError("additionalProperties")
    rest = {**shape.rest, "additionalProperties": value}
    return [replace(some, rest=rest) for some in done]


def _minus_shape(shape: Shape, word: str, schema: Schema) -> list[Shape]:
    value = schema[word]
    out: list[Shape] = []
    rest = [shape]
    if word == "properties":
        for name, inner in value.items():
            for some in rest:
                field = _field(some, name)
                with _naming(name):
                    left = tuple(minus_all(field.pieces, inner))
                out += _with(some, name, replace(field, pieces=left, needed=True))
            rest = [part for some in rest for part in _meet_field(some, name, inner)]
        return out
    if word == "required":
        for name in value:
            out += [part for some in rest if not _field(some, name).needed for part in _absent(some, name)]
            rest = [part for some in rest for part in _present(some, name)]
        return out
    if word == "additionalProperties" and (value is True or shape.closed):
        own = [name for name in shape.fields if name in schema.get("properties", {})]
        others = {name: value for name in shape.fields if name not in own}
        return _minus_shape(shape, "properties", {"properties": others})
    if not speaks_of(word, "object") or shape.rest.get(word) == value:
        return []
    raise EndlessError(word)


def _amount(shape: Shape, low: float, high: float) -> list[Shape]:
    """The objects that have between `low` and `high` of the known properties."""
    has = sum(field.needed for field in shape.fields.values())
    free = [name for name, field in shape.fields.items() if field.pieces and not field.needed]
    if has > high or has + len(free) < low:
        return []
    if low <= has and has + len(free) <= high:
        return [replace(shape, closed=True)]
    sides = [*_absent(shape, free[0]), *_present(shape, free[0])]
    return [part for side in sides for part in _amount(side, low, high)]


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Adds a property's name to the path of an EndlessError that passes."""
    try:
        yield
    except EndlessError as error:
        error.path = (name, *error.path)
        raise


# ---------------------------------------------------------------- conditions


def _all_of(piece: Piece, schema: Schema, wanted: bool) -> list[Piece]:
    out: list[Piece] = []
    rest = [piece]
    for inner in schema["allOf"]:
        if not wanted:
            out += minus_all(rest, inner)
        rest = meet_all(rest, inner)
    return rest if wanted else out


def _any_of(piece: Piece, schema: Schema, wanted: bool) -> list[Piece]:
    if not wanted:
        rest = [piece]
        for inner in schema["anyOf"]:
            rest = minus_all(rest, inner)
        return rest
    branches = _closed_branches(piece, schema["anyOf"])
    out: list[Piece] = []
    for index, inner in enumerate(branches):
        fresh = meet(piece, inner)
        for earlier in branches[:index]:
            try:
                fresh = minus_all(fresh, earlier)
            except EndlessError:
                if isinstance(piece, Shape):
                    raise
                # A value's alternatives that overlap are still right, they are only listed apart.
        out += fresh
    return out


def _one_of(piece: Piece, schema: Schema, wanted: bool) -> list[Piece]:
    branches = schema["oneOf"]
    if wanted:
        out: list[Piece] = []
        for index, inner in enumerate(_closed_branches(piece, branches)):
            fresh = meet(piece, inner)
            for other in (*branches[:index], *branches[index + 1 :]):
                fresh = minus_all(fresh, other)
            out += fresh
        return out
    none, one, more = [piece], list[Piece](), list[Piece]()
    for inner in branches:
        more += meet_all(one, inner)
        one = [*minus_all(one, inner), *meet_all(none, inner)]
        none = minus_all(none, inner)
    return [*none, *more]


def _closed_branches(piece: Piece, branches: list[Schema | bool]) -> list[Schema | bool]:
    """The branches, those that declare new properties without the properties of the others.

    JSON Schema would allow any value for a property of another branch; nobody means such calls.
    """
    known = list(piece.fields) if isinstance(piece, Shape) else []
    done: list[Schema | bool] = []
    for branch in branches:
        new = [n for n in branch.get("properties", {}) if n not in known] if isinstance(branch, dict) else []
        if isinstance(branch, dict) and new and "additionalProperties" not in branch:
            properties = {**dict.fromkeys(known, True), **branch["properties"]}
            branch = {**branch, "properties": properties, "additionalProperties": False}
        done.append(branch)
    return done


def _if(piece: Piece, schema: Schema, wanted: bool) -> list[Piece]:
    then, otherwise = schema.get("then", True), schema.get("else", True)
    if then is True and otherwise is True:
        return [piece] if wanted else []
    follow = meet_all if wanted else minus_all
    return [*follow(meet(piece, schema["if"]), then), *follow(minus(piece, schema["if"]), otherwise)]


def _not(piece: Piece, schema: Schema, wanted: bool) -> list[Piece]:
    return minus(piece, schema["not"]) if wanted else meet(piece, schema["not"])


def _dependent(word: str) -> Callable[[Piece, Schema, bool], list[Piece]]:
    def apply(piece: Piece, schema: Schema, wanted: bool) -> list[Piece]:
        rules = []
        for name, needs in schema[word].items():
            then = {"required": needs} if word == "dependentRequired" else needs
            rules.append({"if": {"type": "object", "required": [name]}, "then": then})
        return _all_of(piece, {"allOf": rules}, wanted)

    return apply


def _properties(word: str) -> Callable[[Piece, Schema, bool], list[Piece]]:
    def apply(piece: Piece, schema: Schema, wanted: bool) -> list[Piece]:
        if isinstance(piece, Values):
            return _kept(piece, word, schema, wanted)
        if not isinstance(piece, Shape):
            return [piece] if wanted else []
        at_least = (word == "minProperties") == wanted
        edge = schema[word] + (0 if wanted else (-1 if word == "minProperties" else 1))
        return list(_amount(piece, edge, math.inf) if at_least else _amount(piece, 0, edge))

    return apply


_COMBINED: dict[str, Callable[[Piece, Schema, bool], list[Piece]]] = {
    "if": _if, "allOf": _all_of, "anyOf": _any_of, "oneOf": _one_of, "not": _not,
    "dependentRequired": _dependent("dependentRequired"), "dependentSchemas": _dependent("dependentSchemas"),
    "minProperties": _properties("minProperties"), "maxProperties": _properties("maxProperties"),
}  # fmt: skip
