"""JSON Schema in words for people: what is wrong with a schema, with a call, and what a blank may hold."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError

from drone_ft.schema import below, inline, target
from drone_ft.schema_pieces import KINDS, Schema

_BOUNDS = (("minimum", "maximum"), ("minLength", "maxLength"), ("minItems", "maxItems"))
_ONE_SCHEMA = ("if", "then", "else", "not")
_MANY_SCHEMAS = ("allOf", "anyOf", "oneOf")


class Fault(NamedTuple):
    """One mistake in a schema: the parameter's path (empty: the whole), what was found, what was expected."""

    path: tuple[str, ...]
    found: str
    expected: str


def show(value: object, limit: int = 80) -> str:
    """A value as short JSON; text in single quotes."""
    text = f"'{value}'" if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= limit else text[: limit - 1] + "…"


# ---------------------------------------------------------------- schemas


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
        yield Fault(
            path, f"$ref {show(reference)}", "a reference into the same schema, such as '#/$defs/point'"
        )
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
        yield Fault(
            path, f"properties that are {show(schema['properties'])}", "an object of names and schemas"
        )
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


# ---------------------------------------------------------------- calls


def violations(parameters: Schema, arguments: object) -> list[str]:
    """What is wrong with arguments against their schema, one sentence each; [] if nothing is."""
    spelled = _spelled(inline(parameters))
    errors = sorted(
        Draft202012Validator(spelled).iter_errors(arguments), key=lambda e: [str(s) for s in e.path]
    )
    conditions = [_condition(error, spelled, arguments) for error in errors]
    broken = [
        name for error, names in zip(errors, conditions, strict=True) if not names for name in _blamed(error)
    ]
    found = [
        sentence
        for error, names in zip(errors, conditions, strict=True)
        if not any(name in broken for name in names)  # mend what the condition looks at first
        for sentence in _sentences(error, spelled, arguments)
    ]
    return list(dict.fromkeys(found))


def _blamed(error: Any) -> list[str]:
    """The properties an error is about."""
    if error.validator == "required":
        return [name for name in error.validator_value if name not in error.instance]
    return [str(step) for step in list(error.absolute_path)[-1:]]


def _spelled(schema: Schema | bool) -> Schema:
    """The schema with `{"not": {}}` for `false`, because the validator does not say which property a `false` met."""
    if not isinstance(schema, dict):
        return {} if schema else {"not": {}}
    done = below(schema, _spelled)
    if "additionalProperties" in schema and not schema["additionalProperties"]:
        done["additionalProperties"] = False
    return done


def _sentences(error: Any, parameters: Schema, arguments: object) -> list[str]:
    """One validation error in words; a missing or unknown property is named by its own path."""
    path = ".".join(str(step) for step in error.absolute_path)
    inside = f"{path}." if path else ""
    value, limit, word = error.instance, error.validator_value, error.validator
    because = _because(error, parameters, arguments)
    if word == "required":
        missing = next((name for name in limit if error.message.startswith(repr(name))), limit[0])
        return [f"{inside}{missing} is missing" + (f", needed with {because}" if because else "")]
    if word == "dependentRequired":
        pairs = [
            (has, name) for has, needs in limit.items() if has in value for name in needs if name not in value
        ]
        return [f"{inside}{name} is missing, needed with {inside}{has}" for has, name in pairs]
    if word == "additionalProperties" and limit is False:
        known = list(error.schema.get("properties", {}))
        takes = "; it takes " + (", ".join(known) if known else "none")
        return [f"{inside}{name} is not a parameter{takes}" for name in value if name not in known]
    if word in ("anyOf", "oneOf") and error.context:
        return _nearest_branch(error, path, parameters, arguments)
    if word == "not" and isinstance(value, dict) and limit:
        together = _named(_looked_at(limit, value))
        return [f"{inside}{together} " + ("do not go together" if " and " in together else "is ruled out")]
    if word == "not" and not limit:
        return [f"{path} does not go with {because}" if because else f"{path} is not allowed"]
    name = f"{path} is" if path else "the arguments are"
    return [f"{name} {_reason(word, value, limit, error.message)}" + (f" with {because}" if because else "")]


def _nearest_branch(error: Any, path: str, parameters: Schema, arguments: object) -> list[str]:
    """What keeps a value from the alternative it comes closest to."""
    branches: dict[int, list[Any]] = {}
    for inner in error.context:
        branches.setdefault(inner.schema_path[0], []).append(inner)
    kinds = [inner.validator_value for inner in error.context if inner.validator == "type" and not inner.path]
    if len(kinds) == len(branches) and all(isinstance(kind, str) for kind in kinds):
        words = " or ".join(KINDS[kind] for kind in dict.fromkeys(kinds))
        return [f"{path} is {show(error.instance)}, not {words}"]
    nearest = min(
        branches.values(),
        key=lambda found: (any(e.validator == "type" and not e.path for e in found), len(found)),
    )
    return [sentence for inner in nearest for sentence in _sentences(inner, parameters, arguments)]


_LIMITS = {
    "minimum": "less than the minimum {}",
    "maximum": "more than the maximum {}",
    "exclusiveMinimum": "but must be more than {}",
    "exclusiveMaximum": "but must be less than {}",
    "multipleOf": "not a multiple of {}",
    "minLength": "shorter than {} characters",
    "maxLength": "longer than {} characters",
    "minItems": "too few: at least {} needed",
    "maxItems": "too many: at most {} allowed",
    "minProperties": "too few: at least {} needed",
    "maxProperties": "too many: at most {} allowed",
    "pattern": "which does not match {}",
    "not": "which is ruled out",
    "uniqueItems": "with something twice",
    "oneOf": "which fits more than one of its forms",
}


def _reason(word: str, value: Any, limit: Any, message: str) -> str:
    """What comes after "altitude is"."""
    if word in _LIMITS:
        return f"{show(value)}, {_LIMITS[word].format(plain(limit))}"
    if word == "type":
        kinds = limit if isinstance(limit, list) else [limit]
        return f"{show(value)}, not " + " or ".join(KINDS[kind] for kind in kinds)
    if word in ("enum", "const"):
        allowed = limit if word == "enum" else [limit]
        return f"{show(value)}; allowed: " + ", ".join(plain(item) for item in allowed)
    return f"not right: {message}"


def _because(error: Any, parameters: Schema, arguments: object) -> str:
    """The call's own values that made a condition apply, such as "mode video"; "" for an unconditional error."""
    return _named(_condition(error, parameters, arguments))


def _condition(error: Any, parameters: Schema, arguments: object) -> dict[str, Any]:
    """What the innermost condition above an error looked at: names, and the values the call has for them."""
    at: Any = parameters
    data: Any = arguments
    found: dict[str, Any] = {}
    last = None
    for step in error.absolute_schema_path:
        if last == "properties":
            data = data.get(step) if isinstance(data, dict) else None
        elif last == "dependentSchemas":
            found = {str(step): _PRESENT}
        elif step in ("then", "else") and isinstance(at, dict) and isinstance(data, dict):
            found = _looked_at(at["if"], data)
        last = None if last in ("properties", "dependentSchemas") else step
        at = at[step]
    return found


_ABSENT, _PRESENT = object(), object()


def _looked_at(condition: object, data: dict[str, Any]) -> dict[str, Any]:
    """The names a condition mentions, with the values the call has for them."""
    names: list[str] = []

    def collect(part: object) -> None:
        if isinstance(part, dict):
            names.extend([*part.get("properties", {}), *part.get("required", [])])
            for inner in (part.get("not"), *(b for word in _MANY_SCHEMAS for b in part.get(word, []))):
                collect(inner)

    collect(condition)
    return {name: data.get(name, _ABSENT) for name in dict.fromkeys(names)}


def _named(values: dict[str, Any]) -> str:
    """Names and values in words: "mode video and no duration"."""
    words = []
    for name, value in values.items():
        words.append(
            f"no {name}" if value is _ABSENT else name if value is _PRESENT else f"{name} {plain(value)}"
        )
    return " and ".join(words)


# ---------------------------------------------------------------- blanks and values


def plain(value: object) -> str:
    """A value as a person would write it in a sentence."""
    if isinstance(value, str):
        return value if value.strip() else f"'{value}'"
    if isinstance(value, list):
        words = [plain(item) for item in value]
        return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words) or "nothing"
    return "empty" if value == {} else json.dumps(value, ensure_ascii=False)


def blank(schema: Schema) -> str:
    """What a blank may hold, such as "any whole number from 1 to 3600"."""
    kind = schema.get("type")
    if kind in ("integer", "number"):
        words = "any whole number" if kind == "integer" else "any number"
        steps = f", a multiple of {schema['multipleOf']}" if "multipleOf" in schema else ""
        return words + _range(schema) + steps
    if kind == "string":
        shape = f" in the form of a {schema['format']}" if "format" in schema else ""
        match = f" matching {schema['pattern']}" if "pattern" in schema else ""
        return "any text" + _between(schema, "minLength", "maxLength", "characters") + shape + match
    if kind == "array":
        items = schema.get("items")
        of = _PLURALS.get(str(items.get("type")), "") if isinstance(items, dict) else ""
        return f"any list{of}" + _between(schema, "minItems", "maxItems", "items")
    return "any value"


_PLURALS = {
    "string": " of texts",
    "integer": " of whole numbers",
    "number": " of numbers",
    "object": " of objects",
}


def _range(schema: Schema) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        return f" from {low} to {high}"
    words = []
    for key, text in (
        ("minimum", "of at least"),
        ("exclusiveMinimum", "above"),
        ("maximum", "of at most"),
        ("exclusiveMaximum", "below"),
    ):
        if key in schema:
            words.append(f" {text} {schema[key]}")
    return " and".join(words)


def _between(schema: Schema, low: str, high: str, unit: str) -> str:
    least, most = schema.get(low), schema.get(high)
    if least is not None and most is not None:
        return f" of {least} to {most} {unit}"
    if least is not None:
        return f" of at least {least} {unit}"
    return f" of at most {most} {unit}" if most is not None else ""
