"""JSON Schema in words for people: what is wrong with a schema, with a call, and what a blank may hold."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError

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
    """The first mistake in a function's `parameters`, or None; {} means a function without parameters."""
    if not isinstance(parameters, dict):
        return Fault((), f"{show(parameters)} as its parameters", "a JSON Schema of type 'object'")
    if parameters and parameters.get("type") != "object":
        found = f"type {show(parameters['type'])}" if "type" in parameters else "no type"
        return Fault((), f"parameters with {found}", "parameters of type 'object'")
    first = next(_faults(parameters, (), None, parameters), None)
    if first:
        return first
    try:
        Draft202012Validator.check_schema(parameters)
    except SchemaError as error:
        return _translated(error)
    return None


def _faults(schema: object, path: tuple[str, ...], declared: list[str] | None, root: Schema) -> Iterator[Fault]:
    """Mistakes of one schema and all below it; `declared` holds the properties a condition may mention."""
    if isinstance(schema, bool):
        return
    if not isinstance(schema, dict):
        yield Fault(path, f"{show(schema)} as a schema", "an object such as {\"type\": \"string\"}")
        return
    yield from _type_faults(schema, path)
    yield from _bound_faults(schema, path)
    yield from _reference_faults(schema, path, root)
    properties = schema.get("properties", {})
    if not isinstance(properties, dict):
        yield Fault(path, f"properties that are {show(properties)}", "an object of names and schemas")
        return
    known = _declared(schema, root) if declared is None else declared
    yield from _name_faults(schema, path, known, inside_condition=declared is not None)
    for name, inner in properties.items():
        yield from _faults(inner, (*path, name), None if isinstance(inner, dict) and "type" in inner else [], root)
    yield from _faults_below(schema, path, known, root)


def _faults_below(schema: Schema, path: tuple[str, ...], known: list[str], root: Schema) -> Iterator[Fault]:
    for word in _ONE_SCHEMA:
        if word in schema:
            yield from _faults(schema[word], path, known, root)
    for word in _MANY_SCHEMAS:
        branches = schema.get(word, [])
        if isinstance(branches, list):
            for branch in branches:
                yield from _faults(branch, path, known, root)
    for word in ("$defs", "dependentSchemas"):
        group = schema.get(word, {})
        if isinstance(group, dict):
            for inner in group.values():
                yield from _faults(inner, path, None if word == "$defs" else known, root)
    for word in ("items", "additionalProperties"):
        if isinstance(schema.get(word), dict):
            yield from _faults(schema[word], path, None, root)


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
    for word, values in (("enum", schema.get("enum", [])), ("const", [schema[c] for c in ("const",) if c in schema])):
        for value in values:
            if not check.is_valid(value):
                expected = " or ".join(KINDS[kind] for kind in kinds)
                yield Fault(path, f"{word} value {show(value)}", f"{expected}, as its type says")


def _bound_faults(schema: Schema, path: tuple[str, ...]) -> Iterator[Fault]:
    for low, high in _BOUNDS:
        least, most = schema.get(low), schema.get(high)
        if isinstance(least, int | float) and isinstance(most, int | float) and least > most:
            yield Fault(path, f"{low} {least} with {high} {most}", f"a {low} that is not above the {high}")


def _reference_faults(schema: Schema, path: tuple[str, ...], root: Schema) -> Iterator[Fault]:
    reference = schema.get("$ref")
    if reference is not None and (not isinstance(reference, str) or target(reference, root) is None):
        yield Fault(path, f"$ref {show(reference)}", "a reference to a part of the same schema, such as '#/$defs/point'")


def target(reference: str, root: Schema) -> object | None:
    """What a local reference ("#/$defs/point") points at; None if there is no such thing."""
    if not reference.startswith("#"):
        return None
    found: object = root
    for step in reference[1:].split("/")[1:]:
        key = step.replace("~1", "/").replace("~0", "~")
        if isinstance(found, list) and key.isdigit() and int(key) < len(found):
            found = found[int(key)]
        elif isinstance(found, dict) and key in found:
            found = found[key]
        else:
            return None
    return found


def _declared(schema: Schema, root: Schema, seen: tuple[str, ...] = ()) -> list[str]:
    """Names of the properties a schema declares, itself or through allOf, anyOf, oneOf and $ref."""
    properties = schema.get("properties")
    names = list(properties) if isinstance(properties, dict) else []
    branches = [b for word in _MANY_SCHEMAS if isinstance(schema.get(word), list) for b in schema[word]]
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference not in seen:
        branches.append(target(reference, root))
        seen = (*seen, reference)
    for branch in branches:
        if isinstance(branch, dict):
            names += _declared(branch, root, seen)
    return list(dict.fromkeys(names))


def _name_faults(schema: Schema, path: tuple[str, ...], known: list[str], inside_condition: bool) -> Iterator[Fault]:
    """Names that are required or made a condition, but declared nowhere."""
    places: list[tuple[str, object]] = [("required", schema.get("required"))]
    dependent = schema.get("dependentRequired")
    if isinstance(dependent, dict):
        places += [("dependentRequired", list(dependent)), *(("dependentRequired", v) for v in dependent.values())]
    if isinstance(schema.get("dependentSchemas"), dict):
        places.append(("dependentSchemas", list(schema["dependentSchemas"])))
    if inside_condition:
        places.append(("a condition", list(schema.get("properties", {}))))
    expected = "one of its properties: " + ", ".join(known) if known else "properties that declare it"
    for word, names in places:
        for name in names if isinstance(names, list) else []:
            if isinstance(name, str) and name not in known:
                verb = "mentions" if word == "a condition" else "names"
                yield Fault(path, f"that {word} {verb} the unknown property '{name}'", expected)


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
    found: list[str] = []
    errors = Draft202012Validator(parameters).iter_errors(arguments)
    for error in sorted(errors, key=lambda e: [str(step) for step in e.absolute_path]):
        found += _sentences(error, parameters, arguments)
    return list(dict.fromkeys(found))


def _sentences(error: Any, parameters: Schema, arguments: object) -> list[str]:
    name = ".".join(str(step) for step in error.absolute_path) or "the arguments"
    prefix = "".join(f"{step}." for step in error.absolute_path)
    value, limit, word = error.instance, error.validator_value, error.validator
    because = _because(error, parameters, arguments)
    if word == "required":
        return [f"{prefix}{n} is missing{because and f', needed with {because}'}"
                for n in limit if n not in value and f"'{n}' is" in error.message]
    if word == "dependentRequired":
        return [f"{prefix}{n} is missing, needed with {prefix}{has}"
                for has, needs in limit.items() if has in value for n in needs if n not in value]
    if word == "additionalProperties":
        known = error.schema.get("properties", {})
        listed = "; it takes " + ", ".join(known) if known else "; it takes none"
        return [f"{prefix}{n} is not a parameter{listed}" for n in value if n not in known]
    if word is None:
        return [f"{name} does not go with {because}" if because else f"{name} is not allowed"]
    return [f"{name} {_reason(word, value, limit, error.message)}{because and f' with {because}'}"]


def _reason(word: str, value: Any, limit: Any, message: str) -> str:
    simple = {
        "minimum": "less than the minimum", "maximum": "more than the maximum",
        "exclusiveMinimum": "not more than", "exclusiveMaximum": "not less than", "multipleOf": "not a multiple of",
    }
    if word in simple:
        return f"is {show(value)}, {simple[word]} {show(limit)}"
    if word == "type":
        kinds = limit if isinstance(limit, list) else [limit]
        return f"is {show(value)}, not " + " or ".join(KINDS[kind] for kind in kinds)
    if word == "enum":
        return f"is {show(value)}; allowed: " + ", ".join(plain(item) for item in limit)
    if word == "const":
        return f"is {show(value)}; allowed: {plain(limit)}"
    lengths = {"minLength": "shorter than {} characters", "maxLength": "longer than {} characters",
               "minItems": "fewer than {} items", "maxItems": "more than {} items"}
    if word in lengths:
        return f"is {show(value)}, {lengths[word].format(limit)}"
    if word == "pattern":
        return f"is {show(value)}, which does not match {limit}"
    if word == "not":
        return f"is {show(value)}, which is ruled out"
    if word in ("anyOf", "oneOf"):
        return f"is {show(value)}, which fits none of its allowed forms" if "valid under each" not in message \
            else f"is {show(value)}, which fits more than one of its forms"
    return f"is not right: {message}"


def _because(error: Any, parameters: Schema, arguments: object) -> str:
    """The values that made a condition apply, such as "mode video"; "" if the error is unconditional."""
    steps, node, data = list(error.absolute_schema_path), parameters, arguments
    reason = ""
    at: Any = node
    for index, step in enumerate(steps):
        if step == "if" and isinstance(at, dict) and isinstance(data, dict):
            reason = _named(at["if"], data)
        if step == "dependentSchemas" and index + 1 < len(steps):
            reason = str(steps[index + 1])
        if index and steps[index - 1] == "properties" and isinstance(data, dict):
            data = data.get(str(step))
        if step == "$ref" and isinstance(at, dict):
            at = target(str(at["$ref"]), parameters)
        elif step == "if" and index + 1 < len(steps) and steps[index + 1] in ("then", "else"):
            continue
        else:
            at = at[step] if isinstance(at, dict | list) and not isinstance(step, bool) else None
    return reason


def _named(condition: object, data: dict[str, Any]) -> str:
    """The call's own values for everything a condition looks at."""
    if not isinstance(condition, dict):
        return ""
    names = [*condition.get("properties", {}), *condition.get("required", [])]
    for word in (*_MANY_SCHEMAS, "not"):
        parts = condition.get(word, [])
        for part in parts if isinstance(parts, list) else [parts]:
            names += [*part.get("properties", {}), *part.get("required", [])] if isinstance(part, dict) else []
    words = [f"{n} {plain(data[n])}" if n in data else f"no {n}" for n in dict.fromkeys(names)]
    return " and ".join(words)


# ---------------------------------------------------------------- blanks and values


def plain(value: object) -> str:
    """A value as a person would write it in a sentence."""
    if isinstance(value, str):
        return value if value.strip() else f"'{value}'"
    if isinstance(value, list):
        words = [plain(item) for item in value]
        return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words) or "nothing"
    return json.dumps(value, ensure_ascii=False)


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
        return "any list" + _between(schema, "minItems", "maxItems", "items")
    return "any value"


def _range(schema: Schema) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        return f" from {low} to {high}"
    words = []
    for key, text in (("minimum", "of at least"), ("exclusiveMinimum", "above"),
                      ("maximum", "of at most"), ("exclusiveMaximum", "below")):
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
