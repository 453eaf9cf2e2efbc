"""Mistakes in a function's parameter schema: where, what was found, what was expected."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError

from drone_ft.schema import inline, target
from drone_ft.schema.pieces import KINDS, Schema
from drone_ft.schema.words import show

_BOUNDS = (("minimum", "maximum"), ("minLength", "maxLength"), ("minItems", "maxItems"))
_ONE_SCHEMA = ("if", "then", "else", "not")
_MANY_SCHEMAS = ("allOf", "anyOf", "oneOf")


class Fault(NamedTuple):
    """One mistake in a schema: the parameter's path (empty: the whole), what was found, what was expected."""

    path: tuple[str, ...]
    found: str
    expected: str


def fault(parameters: object) -> Fault | None:
    """The first mistake in a function's `parameters`, or None; {} means a function without parameters.

    CatalogError if a `$ref` leads back to itself.
    """
    if not isinstance(parameters, dict):
        return Fault((), f"{show(parameters)} as its parameters", "a JSON Schema of type 'object'")
    if parameters and parameters.get("type") != "object":
        found = f"type {show(parameters['type'])}" if "type" in parameters else "no type"
        return Fault((), f"parameters with {found}", "parameters of type 'object'")
    first = next(_references(parameters, (), parameters), None)
    if first is None:
        whole = inline(parameters)
        first = next(_faults(whole, (), [whole]), None)
    if first is None:
        try:
            Draft202012Validator.check_schema(parameters)
        except SchemaError as error:
            return _translated(error)
    return first


def _references(schema: object, path: tuple[str, ...], root: Schema) -> Iterator[Fault]:
    """References that lead nowhere."""
    if not isinstance(schema, dict):
        return
    reference = schema.get("$ref")
    if reference is not None and (not isinstance(reference, str) or target(reference, root) is None):
        yield Fault(path, f"$ref {show(reference)}", "a reference into the same schema, such as '#/$defs/point'")
    for place, inner in _inside(schema, path):
        yield from _references(inner, place, root)


def _inside(schema: Schema, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], object]]:
    """The schemas directly below one, each with the path of the parameter it speaks of."""
    properties = schema.get("properties")
    if isinstance(properties, dict):
        yield from (((*path, name), inner) for name, inner in properties.items())
    for word in (*_ONE_SCHEMA, "items", "additionalProperties"):
        if word in schema and not (word == "items" and isinstance(schema[word], list)):
            yield path, schema[word]
    for word in _MANY_SCHEMAS:
        if isinstance(schema.get(word), list):
            yield from ((path, branch) for branch in schema[word])
    dependent = schema.get("dependentSchemas")
    if isinstance(dependent, dict):
        yield from ((path, inner) for inner in dependent.values())


def _faults(schema: object, path: tuple[str, ...], declaring: list[Schema]) -> Iterator[Fault]:
    """Mistakes of one schema and all below it; `declaring` are the schemas that say which properties there are."""
    if isinstance(schema, bool):
        return
    if not isinstance(schema, dict):
        yield Fault(path, f"{show(schema)} as a schema", 'an object such as {"type": "string"}')
        return
    yield from _type_faults(schema, path)
    yield from _bound_faults(schema, path)
    if not isinstance(schema.get("properties", {}), dict):
        yield Fault(path, f"properties that are {show(schema['properties'])}", "an object of names and schemas")
        return
    if declaring:
        yield from _name_faults(schema, path, declaring)
    for place, inner in _inside(schema, path):
        if place != path:
            yield from _faults(inner, place, _declarations(declaring, place[-1]))
        elif inner is schema.get("items") or inner is schema.get("additionalProperties"):
            yield from _faults(inner, path, [inner] if isinstance(inner, dict) else [])
        else:
            yield from _faults(inner, path, declaring)


def _declarations(declaring: list[Schema], name: str) -> list[Schema]:
    """The schemas that declare the property `name`, conditions left out."""
    found: list[Schema] = []
    for schema in declaring:
        properties = schema.get("properties")
        if isinstance(properties, dict) and isinstance(properties.get(name), dict):
            found.append(properties[name])
        found += _declarations(_branches(schema), name)
    return found


def _branches(schema: Schema) -> list[Schema]:
    lists = [schema[word] for word in _MANY_SCHEMAS if isinstance(schema.get(word), list)]
    return [branch for branches in lists for branch in branches if isinstance(branch, dict)]


def _declared(declaring: list[Schema]) -> list[str]:
    """The names these schemas declare, themselves or through allOf, anyOf and oneOf."""
    names: list[str] = []
    for schema in declaring:
        properties = schema.get("properties")
        names += [*(properties if isinstance(properties, dict) else []), *_declared(_branches(schema))]
    return list(dict.fromkeys(names))


def _type_faults(schema: Schema, path: tuple[str, ...]) -> Iterator[Fault]:
    kinds = schema.get("type", list(KINDS))
    kinds = kinds if isinstance(kinds, list) else [kinds]
    for kind in kinds:
        if not isinstance(kind, str) or kind not in KINDS:
            yield Fault(path, f"type {show(kind)}", "one of " + ", ".join(KINDS))
            return
    if "enum" in schema and (not isinstance(schema["enum"], list) or not schema["enum"]):
        yield Fault(path, f"enum {show(schema['enum'])}", "a list with at least one value")
        return
    check = Draft202012Validator({"type": kinds})
    for word, values in (
        ("enum", schema.get("enum", [])),
        ("const", [schema[c] for c in ("const",) if c in schema]),
    ):
        for value in values:
            if not check.is_valid(value):
                expected = " or ".join(KINDS[kind] for kind in kinds)
                yield Fault(path, f"{word} value {show(value)}", f"{expected}, as its type says")


def _bound_faults(schema: Schema, path: tuple[str, ...]) -> Iterator[Fault]:
    for low, high in _BOUNDS:
        least, most = schema.get(low), schema.get(high)
        if isinstance(least, int | float) and isinstance(most, int | float) and least > most:
            yield Fault(path, f"{low} {least} with {high} {most}", f"a {low} that is not above the {high}")


def _name_faults(schema: Schema, path: tuple[str, ...], declaring: list[Schema]) -> Iterator[Fault]:
    """Names that are required or made a condition, but declared nowhere."""
    known = _declared(declaring)
    expected = "one of its properties: " + ", ".join(known) if known else "properties that declare it"
    places: list[tuple[str, object]] = [
        ("required names", schema.get("required")),
        ("a condition mentions", list(schema.get("properties", {}))),
    ]
    for word in ("dependentRequired", "dependentSchemas"):
        rules = schema.get(word)
        if isinstance(rules, dict):
            places += [
                (f"{word} names", list(rules)),
                *((f"{word} names", needs) for needs in rules.values()),
            ]
    for words, names in places:
        for name in names if isinstance(names, list) else []:
            if isinstance(name, str) and name not in known:
                yield Fault(path, f"that {words} the unknown property '{name}'", expected)


def _translated(error: SchemaError) -> Fault:
    """A mistake found by the meta-schema, with the parameter it belongs to."""
    steps = [str(step) for step in error.absolute_path]
    path = tuple(steps[i + 1] for i in range(len(steps) - 1) if steps[i] == "properties")
    word = steps[-1] if steps and steps[-1] not in path else "schema"
    expected = error.message
    if error.validator == "type":
        kinds = error.validator_value if isinstance(error.validator_value, list) else [error.validator_value]
        expected = " or ".join(KINDS[str(kind)] for kind in kinds)
    elif error.validator == "format":
        expected = f"a valid {error.validator_value}"
    return Fault(path, f"{word} {show(error.instance)}", expected)
