"""What a JSON Schema allows, as disjoint pieces: the arithmetic behind `schema.variants`.

A piece is a finite list of values, an open range of values, or an object whose fields hold pieces again. `meet` keeps
the part of a piece that a schema allows, `minus` the part it rules out; a condition is both, side by side. Pieces that
need no distinction are joined again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from jsonschema import Draft202012Validator

Schema = dict[str, Any]

KINDS = {
    "array": "a list",
    "boolean": "true or false",
    "integer": "a whole number",
    "null": "null",
    "number": "a number",
    "object": "an object with named values",
    "string": "text",
}
NOTES = ("title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "$comment")
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
CONDITIONS = (
    "if", "allOf", "anyOf", "oneOf", "not", "dependentRequired", "dependentSchemas", "minProperties",
    "maxProperties",
)  # fmt: skip
_OBJECT_WORDS = ("properties", "required", "additionalProperties", *CONDITIONS[-4:])
_ORDER = ("type", "enum", "const", "properties", "required", "additionalProperties")
# lower bound, upper bound, the kinds they speak about
_BOUNDS = (
    ("minimum", "maximum", ("integer", "number")),
    ("minLength", "maxLength", ("string",)),
    ("minItems", "maxItems", ("array",)),
)
_EXCLUSIVE = ("exclusiveMinimum", "exclusiveMaximum")
_HINTS = {
    "object": ("properties", "required", "additionalProperties"),
    "array": ("items", "minItems", "maxItems", "uniqueItems"),
    "string": ("minLength", "maxLength", "pattern", "format"),
    "number": ("minimum", "maximum", "multipleOf", *_EXCLUSIVE),
}


class EndlessError(Exception):
    """A condition divides values that cannot be divided into plain schemas; `path` leads to the parameter."""

    def __init__(self, word: str) -> None:
        super().__init__(word)
        self.word = word
        self.path: tuple[str, ...] = ()


@dataclass(frozen=True)
class Values:
    """Finitely many values, each with its place in the list it came from."""

    ranked: tuple[tuple[int, Any], ...]


@dataclass(frozen=True)
class Open:
    """Values without end: plain keywords about one type, or about any if "type" is absent."""

    words: Schema


@dataclass(frozen=True)
class Field:
    """What a property may hold; no pieces means it must be absent."""

    pieces: tuple[Piece, ...]
    needed: bool
    notes: Schema


@dataclass(frozen=True)
class Shape:
    """Objects: their fields, whether others may be present, and keywords passed through untouched."""

    fields: dict[str, Field]
    closed: bool
    rest: Schema


Piece = Values | Open | Shape
ANY = Open({})


def canonical(value: Any) -> str:
    """JSON text that is the same for equal values, the way JSON Schema compares: 1 and 1.0 are, 1 and true not."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    return json.dumps(_whole(value), sort_keys=True, ensure_ascii=False, default=repr)


def _whole(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _whole(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_whole(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


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
    return next((kind for kind, words in _HINTS.items() if any(word in schema for word in words)), None)


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
        return _meet_shape(piece, word, schema)
    return _limited(piece, word, value)


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
        return _minus_shape(piece, word, schema)
    return _beyond(piece, word, value)


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
        return _bounded({**piece.words, "type": "integer"})
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
            done += _bounded({"type": kind, **piece.words})
    return done


def _met_words(piece: Piece, words: Schema) -> list[Piece]:
    return meet(piece, {word: value for word, value in words.items() if word != "type"})


# ---------------------------------------------------------------- open values: bounds


def _limited(piece: Open, word: str, value: Any) -> list[Piece]:
    """An open piece with one more keyword."""
    words, own = piece.words, piece.words.get("type")
    if not _speaks_of(word, own) or words.get(word) == value:
        return [piece]
    if word not in words:
        return _bounded({**words, word: value})
    if word.startswith(("min", "exclusiveMin")):
        return _bounded({**words, word: max(words[word], value)})
    if word.startswith(("max", "exclusiveMax")):
        return _bounded({**words, word: min(words[word], value)})
    if word == "multipleOf" and isinstance(value, int) and isinstance(words[word], int):
        return _bounded({**words, word: math.lcm(words[word], value)})
    raise EndlessError(word)


def _beyond(piece: Open, word: str, value: Any) -> list[Piece]:
    """The part of an open piece for which a keyword does not hold."""
    if not _speaks_of(word, piece.words.get("type")) or piece.words.get(word) == value:
        return []
    if piece.words.get("type") is None:
        raise EndlessError(word)
    opposite = {
        "minimum": ("exclusiveMaximum", value), "exclusiveMinimum": ("maximum", value),
        "maximum": ("exclusiveMinimum", value), "exclusiveMaximum": ("minimum", value),
    }  # fmt: skip
    for low, high, _ in _BOUNDS[1:]:
        opposite |= {
            low: (high, value - 1 if word == low else 0),
            high: (low, value + 1 if word == high else 0),
        }
    if word in opposite:
        return _limited(piece, *opposite[word])
    if not any(word in words for words in (*_HINTS.values(), *_MORE_HINTS.values())):
        return []  # an annotation nobody checks rules nothing out
    raise EndlessError(word)


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


def _speaks_of(word: str, kind: str | None) -> bool:
    """Whether a keyword constrains values of a type at all."""
    if kind is None:
        return True
    about = {"integer": "number"}.get(kind, kind)
    homes = [home for home, words in _HINTS.items() if word in words or word in _MORE_HINTS.get(home, ())]
    return not homes or about in homes


_MORE_HINTS = {"object": _OBJECT_WORDS, "array": ("prefixItems", "contains", "minContains", "maxContains")}


def _bounded(words: Schema) -> list[Piece]:
    """An open piece, whole bounds for whole numbers; [] if nothing lies between its bounds."""
    words = {word: value for word, value in words.items() if _speaks_of(word, words.get("type"))}
    if words.get("type") == "integer":
        words = _whole_bounds(words)
    for low, high, _ in _BOUNDS:
        if words.get(low, -math.inf) > words.get(high, math.inf):
            return []
    for low, high in (("exclusiveMinimum", "maximum"), ("minimum", "exclusiveMaximum"), _EXCLUSIVE):
        if words.get(low, -math.inf) >= words.get(high, math.inf):
            return []
    for word, strict, weaker in (("minimum", "exclusiveMinimum", min), ("maximum", "exclusiveMaximum", max)):
        if word in words and strict in words:
            idle = (
                strict
                if words[word] != words[strict] and weaker(words[word], words[strict]) == words[strict]
                else word
            )
            words = {name: value for name, value in words.items() if name != idle}
    return [Open(words)]


def _whole_bounds(words: Schema) -> Schema:
    lows = [math.ceil(words["minimum"])] if "minimum" in words else []
    highs = [math.floor(words["maximum"])] if "maximum" in words else []
    lows += [math.floor(words["exclusiveMinimum"]) + 1] if "exclusiveMinimum" in words else []
    highs += [math.ceil(words["exclusiveMaximum"]) - 1] if "exclusiveMaximum" in words else []
    done = {word: value for word, value in words.items() if word not in _EXCLUSIVE}
    return {**done, **({"minimum": max(lows)} if lows else {}), **({"maximum": min(highs)} if highs else {})}


# ---------------------------------------------------------------- objects


def _field(shape: Shape, name: str) -> Field:
    """A field as it is; one never heard of may hold anything, or must be absent from a closed object."""
    if name in shape.fields:
        return shape.fields[name]
    if shape.closed:
        return Field((), False, {})
    others = shape.rest.get("additionalProperties", True)
    return Field(tuple(meet(ANY, others)), False, {})


def _with(shape: Shape, name: str, field: Field) -> list[Piece]:
    if field.needed and not field.pieces:
        return []
    return [replace(shape, fields={**shape.fields, name: field})]


def _meet_shape(shape: Shape, word: str, schema: Schema) -> list[Piece]:
    value = schema[word]
    done: list[Piece] = [shape]
    if word == "properties":
        for name, inner in value.items():
            done = [
                part for some in done if isinstance(some, Shape) for part in _meet_field(some, name, inner)
            ]
        return done
    if word == "required":
        for name in value:
            done = [part for some in done if isinstance(some, Shape) for part in _present(some, name)]
        return done
    if word == "additionalProperties":
        return _meet_others(shape, value, list(schema.get("properties", {})))
    if not _speaks_of(word, "object") or shape.rest.get(word) == value:
        return done
    if word in shape.rest:
        raise EndlessError(word)
    return [replace(shape, rest={**shape.rest, word: value})]


def _meet_field(shape: Shape, name: str, inner: Schema | bool) -> list[Piece]:
    field = _field(shape, name)
    notes = {w: inner[w] for w in NOTES if w in inner} if isinstance(inner, dict) else {}
    with _naming(name):
        return _with(
            shape, name, Field(tuple(meet_all(field.pieces, inner)), field.needed, notes | field.notes)
        )


def _present(shape: Shape, name: str) -> list[Piece]:
    return _with(shape, name, replace(_field(shape, name), needed=True))


def _absent(shape: Shape, name: str) -> list[Piece]:
    return _with(shape, name, replace(_field(shape, name), pieces=()))


def _meet_others(shape: Shape, value: Schema | bool, own: list[str]) -> list[Piece]:
    """An object whose properties outside `own` follow `value`."""
    if value is True:
        return [shape]
    done: list[Piece] = [shape]
    for name in shape.fields:
        if name not in own:
            done = [
                part for some in done if isinstance(some, Shape) for part in _meet_field(some, name, value)
            ]
    if value is False:
        return [replace(some, closed=True) for some in done if isinstance(some, Shape)]
    if shape.rest.get("additionalProperties", value) != value:
        raise EndlessError("additionalProperties")
    rest = {**shape.rest, "additionalProperties": value}
    return [replace(some, rest=rest) for some in done if isinstance(some, Shape)]


def _minus_shape(shape: Shape, word: str, schema: Schema) -> list[Piece]:
    value = schema[word]
    out: list[Piece] = []
    rest = [shape]
    if word == "properties":
        for name, inner in value.items():
            for some in rest:
                field = _field(some, name)
                with _naming(name):
                    left = tuple(minus_all(field.pieces, inner))
                out += _with(some, name, replace(field, pieces=left, needed=True))
            rest = [
                part for some in rest for part in _meet_field(some, name, inner) if isinstance(part, Shape)
            ]
        return out
    if word == "required":
        for name in value:
            out += [part for some in rest if not _field(some, name).needed for part in _absent(some, name)]
            rest = [part for some in rest for part in _present(some, name) if isinstance(part, Shape)]
        return out
    if word == "additionalProperties" and (value is True or shape.closed):
        own = [name for name in shape.fields if name in schema.get("properties", {})]
        others = {name: value for name in shape.fields if name not in own}
        return _minus_shape(shape, "properties", {"properties": others})
    if not _speaks_of(word, "object") or shape.rest.get(word) == value:
        return []
    raise EndlessError(word)


def _amount(shape: Shape, low: float, high: float) -> list[Piece]:
    """The objects that have between `low` and `high` of the known properties."""
    has = sum(field.needed for field in shape.fields.values())
    free = [name for name, field in shape.fields.items() if field.pieces and not field.needed]
    if has > high or has + len(free) < low:
        return []
    if low <= has and has + len(free) <= high:
        return [replace(shape, closed=True)]
    sides = [*_absent(shape, free[0]), *_present(shape, free[0])]
    return [part for side in sides if isinstance(side, Shape) for part in _amount(side, low, high)]


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
        return _amount(piece, edge, math.inf) if at_least else _amount(piece, 0, edge)

    return apply


_COMBINED: dict[str, Callable[[Piece, Schema, bool], list[Piece]]] = {
    "if": _if, "allOf": _all_of, "anyOf": _any_of, "oneOf": _one_of, "not": _not,
    "dependentRequired": _dependent("dependentRequired"), "dependentSchemas": _dependent("dependentSchemas"),
    "minProperties": _properties("minProperties"), "maxProperties": _properties("maxProperties"),
}  # fmt: skip


# ---------------------------------------------------------------- joining and writing


def joined(some: Iterable[Piece]) -> list[Piece]:
    """The pieces, with those that together make one piece joined, again and again."""
    done: list[Piece] = []
    for piece in some:
        current = piece
        while True:
            index, joint = next(
                ((i, both) for i, other in enumerate(done) if (both := _join(other, current)) is not None),
                (-1, None),
            )
            if joint is None:
                break
            del done[index]
            current = joint
        done.append(current)
    return done


def _join(one: Piece, two: Piece) -> Piece | None:
    """Both pieces as one, if one piece can say it."""
    if isinstance(one, Values) and isinstance(two, Values):
        unique = {canonical(value): (rank, value) for rank, value in (*one.ranked, *two.ranked)}
        return Values(tuple(sorted(unique.values(), key=lambda entry: entry[0])))
    if isinstance(one, Open) and isinstance(two, Open):
        return _join_open(one.words, two.words)
    if not isinstance(one, Shape) or not isinstance(two, Shape) or list(one.fields) != list(two.fields):
        return None
    differing = [name for name in one.fields if one.fields[name] != two.fields[name]]
    if len(differing) > 1 or (one.closed, one.rest) != (two.closed, two.rest):
        return None
    if not differing:
        return one
    left, right = one.fields[differing[0]], two.fields[differing[0]]
    both = tuple(joined([*left.pieces, *right.pieces]))
    needed = left.needed and right.needed
    return replace(one, fields={**one.fields, differing[0]: Field(both, needed, right.notes | left.notes)})


def _join_open(one: Schema, two: Schema) -> Open | None:
    """Two ranges that touch or overlap, as one."""
    for low, high, kinds in _BOUNDS:
        edges = (low, high, *(_EXCLUSIVE if low == "minimum" else ()))
        rest, other = ({w: v for w, v in words.items() if w not in edges} for words in (one, two))
        if one.get("type") not in kinds or rest != other:
            continue
        below, above = sorted((_span(one, low, high), _span(two, low, high)))
        if below[1] >= above[0]:
            start, end = below[0], max(below[1], above[1])
            opened = {low if start[1] == 0 else _EXCLUSIVE[0]: start[0]} if start[0] != -math.inf else {}
            closed = {high if end[1] == 1 else _EXCLUSIVE[1]: end[0]} if end[0] != math.inf else {}
            if one["type"] != "number" and closed:
                closed = {high: end[0] - 1}
            done = _bounded({**rest, **opened, **closed})
            return done[0] if done and isinstance(done[0], Open) else None
    return None


def _span(words: Schema, low: str, high: str) -> tuple[tuple[float, int], tuple[float, int]]:
    """Where a range starts and ends: (n, 0) is just before n, (n, 1) just after it."""
    start = (words.get(low, -math.inf), 0)
    end = (words.get(high, math.inf), 1)
    if words["type"] == "number":
        start = max(start, (words.get(_EXCLUSIVE[0], -math.inf), 1))
        end = min(end, (words.get(_EXCLUSIVE[1], math.inf), 0))
    elif end[0] != math.inf:
        end = (end[0] + 1, 0)  # whole numbers: what ends after 4 touches what starts before 5
    return start, end


def place(shape: Shape) -> list[int]:
    """Sorting key: absent before present, then by the place of the first value."""
    return [
        min((p.ranked[0][0] if isinstance(p, Values) else 0 for p in field.pieces), default=-1)
        for field in shape.fields.values()
    ]


def written_shape(shape: Shape, source: Schema, base: Shape) -> Schema:
    """A shape as a schema; fields that no condition changed keep the schema they came with."""
    properties: Schema = {}
    for name, field in shape.fields.items():
        unchanged = (
            name in source["properties"] and name in base.fields and base.fields[name].pieces == field.pieces
        )
        if unchanged:
            properties[name] = source["properties"][name]
        elif field.pieces:
            properties[name] = {**_written_field(field), **field.notes}
    ruled_out = any(not field.pieces for field in shape.fields.values())
    done: Schema = {"type": "object", **shape.rest, "properties": properties}
    done["required"] = [name for name, field in shape.fields.items() if field.needed]
    if "additionalProperties" in source:
        done["additionalProperties"] = source["additionalProperties"]
    if shape.closed or ruled_out:
        done["additionalProperties"] = False
    return done


def _written_field(field: Field) -> Schema:
    done = [written(piece) for piece in joined(field.pieces)]
    return done[0] if len(done) == 1 else {"anyOf": done}


def written(piece: Piece) -> Schema:
    """A piece as a plain schema."""
    if isinstance(piece, Open):
        return dict(piece.words)
    if isinstance(piece, Shape):
        return written_shape(piece, {"properties": {}}, piece)
    values = [value for _, value in piece.ranked]
    if [canonical(value) for value in values] == ["true", "false"]:
        return {"type": "boolean"}
    kinds = list(dict.fromkeys(_kind_of(value) for value in values))
    return {"type": kinds[0], "enum": values} if len(kinds) == 1 else {"enum": values}


def _kind_of(value: Any) -> str:
    """The JSON Schema type of a value."""
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "integer"
    names = {float: "number", str: "string", list: "array", dict: "object"}
    return names.get(type(value), "null")
