"""Conditional JSON Schema as plain alternatives: what `if`, `allOf`, `dependentRequired`, `not` and `$ref` allow."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import product
from typing import Any

from drone_ft.errors import CatalogError
from drone_ft.schema.logic import meet, meet_all
from drone_ft.schema.pieces import (
    ANY,
    CONDITIONS,
    NOTES,
    EndlessError,
    Schema,
    Shape,
    joined,
    place,
    written,
    written_shape,
)

MOST_ALTERNATIVES = 2000


def variants(parameters: Schema) -> list[Schema]:
    """The object schema as pairwise disjoint object schemas without conditions; [the same] if it has none.

    Only plain keywords are left, at every depth; a nested value that has alternatives holds them in `anyOf`. Where a
    property is ruled out of an object that allows unknown ones, unknown ones are ruled out too. CatalogError names a
    parameter whose condition cannot be written that way.
    """
    groups = factors(parameters)
    amount = math.prod(len(group) for group in groups)
    if amount > MOST_ALTERNATIVES:
        raise CatalogError(
            f"The conditions of a function allow {amount:,} combinations; at most {MOST_ALTERNATIVES:,} can be "
            "written out. Use fewer conditions that have nothing to do with each other."
        )
    root = inline(parameters)
    names = [name for group in groups for option in group for name in option["properties"]]
    order = [*root.get("properties", {}), *names]
    return [_united(root, order, options) for options in product(*groups)]


def factors(parameters: Schema) -> list[list[Schema]]:
    """The object schema as independent groups of properties, each a list of disjoint plain object schemas.

    Every combination of one schema from each group is a variant: what a group allows does not depend on the others.
    Values that no condition touches keep their schema, nested conditions included.
    """
    root = inline(parameters)
    conditions = list(_conjuncts(root))
    try:
        return [_options(root, group, touching) for group, touching in _groups(root, conditions)]
    except EndlessError as error:
        where = f"parameter '{'.'.join(error.path)}'" if error.path else "the whole function"
        raise CatalogError(
            f"The condition on {where} cannot be listed: found '{error.word}' on values without end; "
            "expected a condition on enum, const, true/false, presence, minimum or maximum."
        ) from error


def pieces(schema: Schema | bool) -> list[Schema]:
    """A value's schema as disjoint plain schemas: one type or a list of values each."""
    if isinstance(schema, bool):
        return [{}] if schema else []
    schema = inline(schema)
    if isinstance(schema.get("type"), str) and not any(word in schema for word in ("enum", "const", *CONDITIONS)):
        return [schema]
    notes = {word: schema[word] for word in NOTES if word in schema}
    try:
        return [{**written(piece), **notes} for piece in joined(meet(ANY, schema))]
    except EndlessError as error:
        raise CatalogError(
            f"A value's alternatives cannot be told apart: found '{error.word}' on values without end; "
            "expected alternatives that differ in type, enum, const, minimum or maximum."
        ) from error


def check(parameters: Schema) -> None:
    """Nothing, if all conditions of the schema can be listed, at every depth; else the CatalogError that tells why."""
    seen: dict[int, Schema] = {}

    def visit(inner: Schema | bool) -> None:
        if not isinstance(inner, dict) or id(inner) in seen:
            return
        seen[id(inner)] = inner
        if inner.get("type") == "object" and not {"enum", "const"} & inner.keys():
            for option in (option for group in factors(inner) for option in group):
                for value in option["properties"].values():
                    visit(value)
        else:
            for piece in pieces(inner):
                visit(piece.get("items", True) if piece.get("type") != "object" else piece)

    visit({"type": "object", **inline(parameters)})


def inline(schema: Schema) -> Schema:
    """The schema with every local `$ref` replaced by what it points at; CatalogError for one that never ends."""
    replaced = _inlined(schema, schema, ())
    return replaced if isinstance(replaced, dict) else {}


def target(reference: str, root: Schema) -> Any:
    """What a local reference ("#/$defs/point") points at; None if there is no such thing."""
    if not reference.startswith("#"):
        return None
    found: Any = root
    for step in reference[1:].split("/")[1:]:
        key = step.replace("~1", "/").replace("~0", "~")
        if isinstance(found, list) and key.isdigit() and int(key) < len(found):
            found = found[int(key)]
        elif isinstance(found, dict) and key in found:
            found = found[key]
        else:
            return None
    return found


# ---------------------------------------------------------------- references


def below(schema: Schema, change: Callable[[Schema | bool], Any]) -> Schema:
    """The schema with `change` applied to each schema directly below it; data such as enum stays untouched."""
    done = dict(schema)
    for word in ("if", "then", "else", "not", "items", "additionalProperties", "contains", "propertyNames"):
        if isinstance(schema.get(word), dict | bool):
            done[word] = change(schema[word])
    for word in ("allOf", "anyOf", "oneOf", "prefixItems"):
        if isinstance(schema.get(word), list):
            done[word] = [change(inner) for inner in schema[word]]
    for word in ("properties", "patternProperties", "dependentSchemas"):
        if isinstance(schema.get(word), dict):
            done[word] = {name: change(inner) for name, inner in schema[word].items()}
    return done


def _inlined(schema: Schema | bool, root: Schema, trail: tuple[str, ...]) -> Schema | bool:
    if not isinstance(schema, dict):
        return schema
    reference = schema.get("$ref")
    rest = {word: value for word, value in schema.items() if word not in ("$ref", "$defs", "definitions")}
    rest = below(rest, lambda inner: _inlined(inner, root, trail))
    if reference is None:
        return rest
    found = target(reference, root)
    if found is None or reference in trail:
        raise CatalogError(
            f"The reference {reference} "
            + ("leads back to itself, so its calls never end. " if found is not None else "points at nothing. ")
            + "Write out what it stands for."
        )
    there = _inlined(found, root, (*trail, reference))
    if not isinstance(there, dict):
        return there and rest
    if any(word in there for word in rest if word not in NOTES):
        return {"allOf": [there, rest]}
    return {**there, **rest}


# ---------------------------------------------------------------- groups of properties


def _conjuncts(root: Schema) -> Iterator[Schema]:
    """The conditions of an object schema, one schema each."""
    if "if" in root:
        yield {word: root[word] for word in ("if", "then", "else") if word in root}
    for inner in root.get("allOf", []):
        yield {"allOf": [inner]}
    for word in ("dependentRequired", "dependentSchemas"):
        for name, needs in root.get(word, {}).items():
            yield {word: {name: needs}}
    for word in ("not", "anyOf", "oneOf", "minProperties", "maxProperties"):
        if word in root:
            yield {word: root[word]}


def _mentioned(schema: Schema | bool, everything: list[str]) -> list[str]:
    """The names of the properties a condition looks at or changes."""
    if not isinstance(schema, dict):
        return []
    if any(word in schema for word in ("additionalProperties", "minProperties", "maxProperties", "enum", "const")):
        return everything
    names = [*schema.get("properties", {}), *schema.get("required", [])]
    for name, needs in schema.get("dependentRequired", {}).items():
        names += [name, *needs]
    for name, inner in schema.get("dependentSchemas", {}).items():
        names += [name, *_mentioned(inner, everything)]
    for word in ("if", "then", "else", "not"):
        names += _mentioned(schema.get(word, True), everything)
    for word in ("allOf", "anyOf", "oneOf"):
        for inner in schema.get(word, []):
            names += _mentioned(inner, everything)
    return names


def _groups(root: Schema, conditions: list[Schema]) -> list[tuple[list[str], list[Schema]]]:
    """Properties that some condition ties together, in order, with the conditions that tie them."""
    declared = list(dict.fromkeys([*root.get("properties", {}), *root.get("required", [])]))
    touched = [_mentioned(condition, declared) for condition in conditions]
    names = list(dict.fromkeys([*declared, *(name for some in touched for name in some)]))
    leader = {name: name for name in names}
    for some in touched:
        leaders = [leader[name] for name in some]
        for name in names:
            if leader[name] in leaders:
                leader[name] = leaders[0]
    members: dict[str, list[str]] = {}
    for name in names:
        members.setdefault(leader[name], []).append(name)
    groups = [
        (group, [c for c, some in zip(conditions, touched, strict=True) if some and leader[some[0]] == head])
        for head, group in members.items()
    ]
    loose = [c for c, some in zip(conditions, touched, strict=True) if not some]
    return [*groups, ([], loose)] if loose else groups


def _options(root: Schema, names: list[str], conditions: list[Schema]) -> list[Schema]:
    """One group's disjoint plain object schemas."""
    alone: Schema = {
        "type": "object",
        "properties": {name: root["properties"][name] for name in names if name in root.get("properties", {})},
        "required": [name for name in root.get("required", []) if name in names],
    }
    if "additionalProperties" in root:
        alone["additionalProperties"] = root["additionalProperties"]
    if not conditions:
        return [alone]
    base = meet(ANY, alone)
    done = base
    for condition in conditions:
        done = joined(meet_all(done, condition))
        if len(done) > MOST_ALTERNATIVES:
            raise CatalogError(
                f"The conditions on {', '.join(names)} need more than {MOST_ALTERNATIVES:,} alternatives. "
                "Use fewer or simpler conditions."
            )
    shapes = sorted((piece for piece in done if isinstance(piece, Shape)), key=place)
    if root.get("unevaluatedProperties") is False:  # unlike additionalProperties, it knows what the branches declare
        shapes = [replace(shape, closed=True) for shape in shapes]
    first = base[0] if base and isinstance(base[0], Shape) else Shape({}, False, {})
    return [written_shape(shape, alone, first) for shape in shapes]


def _united(root: Schema, order: list[str], options: Iterable[Schema]) -> Schema:
    """One variant: the chosen schema of every group together, properties in the order of the original."""
    properties: Schema = {}
    required: list[str] = []
    closed = root.get("additionalProperties") is False or root.get("unevaluatedProperties") is False
    for option in options:
        properties |= option["properties"]
        required += option["required"]
        closed = closed or option.get("additionalProperties") is False
    done = {
        word: value
        for word, value in root.items()
        if word not in (*CONDITIONS, "then", "else", "required", "properties", "unevaluatedProperties")
    }
    done = {"type": "object", **done}
    if properties or "properties" in root:
        done["properties"] = {name: _plain(properties[name]) for name in dict.fromkeys(order) if name in properties}
    if required or "required" in root:
        done["required"] = [name for name in dict.fromkeys(order) if name in required]
    if closed:
        done["additionalProperties"] = False
    return done


def _plain(schema: Schema | bool) -> Schema | bool:
    """A value's schema without conditions at any depth."""
    if not isinstance(schema, dict):
        return schema
    if not any(word in inner for inner in _everything(schema) for word in CONDITIONS if word != "anyOf"):
        return schema
    if schema.get("type") == "object":
        options = variants(schema)
        return options[0] if len(options) == 1 else {"anyOf": options}
    if any(word in schema for word in CONDITIONS):
        options = [below(piece, _plain) for piece in pieces(schema)]
        return options[0] if len(options) == 1 else {"anyOf": options}
    return below(schema, _plain)


def _everything(schema: Schema | bool) -> list[Schema]:
    """The schema and all schemas below it."""
    if not isinstance(schema, dict):
        return []
    found = [schema]
    below(schema, lambda inner: found.extend(_everything(inner)))
    return found
