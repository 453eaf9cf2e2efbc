"""The pieces a JSON Schema falls into: finite values, open ranges, objects; joining them and writing them down."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

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
CONDITIONS = (
    "if", "allOf", "anyOf", "oneOf", "not", "dependentRequired", "dependentSchemas", "minProperties",
    "maxProperties",
)  # fmt: skip
# lower bound, upper bound, the kinds they speak about
_BOUNDS = (
    ("minimum", "maximum", ("integer", "number")),
    ("minLength", "maxLength", ("string",)),
    ("minItems", "maxItems", ("array",)),
)
_EXCLUSIVE = ("exclusiveMinimum", "exclusiveMaximum")
# the keywords that speak about values of one type only
HINTS = {
    "object": ("properties", "required", "additionalProperties", *CONDITIONS[-4:]),
    "array": (
        "items",
        "minItems",
        "maxItems",
        "uniqueItems",
        "prefixItems",
        "contains",
        "minContains",
        "maxContains",
    ),
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


# ---------------------------------------------------------------- open ranges


def limited(piece: Open, word: str, value: Any) -> list[Piece]:
    """An open piece with one more keyword."""
    words, own = piece.words, piece.words.get("type")
    if not speaks_of(word, own) or words.get(word) == value:
        return [piece]
    if word not in words:
        return bounded({**words, word: value})
    if word.startswith(("min", "exclusiveMin")):
        return bounded({**words, word: max(words[word], value)})
    if word.startswith(("max", "exclusiveMax")):
        return bounded({**words, word: min(words[word], value)})
    if word == "multipleOf" and isinstance(value, int) and isinstance(words[word], int):
        return bounded({**words, word: math.lcm(words[word], value)})
    raise EndlessError(word)


def beyond(piece: Open, word: str, value: Any) -> list[Piece]:
    """The part of an open piece for which a keyword does not hold."""
    if not speaks_of(word, piece.words.get("type")) or piece.words.get(word) == value:
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
        return limited(piece, *opposite[word])
    if not any(word in words for words in HINTS.values()):
        return []  # an annotation nobody checks rules nothing out
    raise EndlessError(word)


def speaks_of(word: str, kind: str | None) -> bool:
    """Whether a keyword constrains values of a type at all."""
    if kind is None:
        return True
    about = {"integer": "number"}.get(kind, kind)
    homes = [home for home, words in HINTS.items() if word in words]
    return not homes or about in homes


def bounded(words: Schema) -> list[Piece]:
    """An open piece, whole bounds for whole numbers; [] if nothing lies between its bounds."""
    words = {word: value for word, value in words.items() if speaks_of(word, words.get("type"))}
    if words.get("type") == "integer":
        words = _whole_bounds(words)
    for low, high, _ in _BOUNDS:
        if words.get(low, -math.inf) > words.get(high, math.inf):
            return []
    for low, high in (("exclusiveMinimum", "maximum"), ("minimum", "exclusiveMaximum"), _EXCLUSIVE):
        if words.get(low, -math.inf) >= words.get(high, math.inf):
            return []
    words = _tighter(_tighter(words, "minimum", "exclusiveMinimum", 1), "maximum", "exclusiveMaximum", -1)
    return [Open(words)]


def _tighter(words: Schema, plain: str, strict: str, sign: int) -> Schema:
    """The keywords with only the tighter of a plain and a strict bound."""
    if plain not in words or strict not in words:
        return words
    idle = plain if sign * words[strict] >= sign * words[plain] else strict
    return {word: value for word, value in words.items() if word != idle}


def _whole_bounds(words: Schema) -> Schema:
    lows = [math.ceil(words["minimum"])] if "minimum" in words else []
    highs = [math.floor(words["maximum"])] if "maximum" in words else []
    lows += [math.floor(words["exclusiveMinimum"]) + 1] if "exclusiveMinimum" in words else []
    highs += [math.ceil(words["exclusiveMaximum"]) - 1] if "exclusiveMaximum" in words else []
    done = {word: value for word, value in words.items() if word not in _EXCLUSIVE}
    return {**done, **({"minimum": max(lows)} if lows else {}), **({"maximum": min(highs)} if highs else {})}


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
            done = bounded({**rest, **opened, **closed})
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
    """Sorting key: fields that may be absent first, then by the place of the first value."""
    return [_first(field) if field.needed else -1 for field in shape.fields.values()]


def _first(field: Field) -> int:
    return min((p.ranked[0][0] if isinstance(p, Values) else 0 for p in field.pieces), default=0)


def written_shape(shape: Shape, source: Schema, base: Shape) -> Schema:
    """A shape as a schema; fields that no condition changed keep the schema they came with."""
    properties: Schema = {}
    for name, field in shape.fields.items():
        unchanged = name in source["properties"] and name in base.fields and base.fields[name].pieces == field.pieces
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
