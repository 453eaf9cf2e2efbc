"""JSON Schema in words for people: what is wrong with a call, what a blank may hold, how a value reads."""

from __future__ import annotations

import json
from typing import Any

from jsonschema import Draft202012Validator

from drone_ft.schema import below, inline
from drone_ft.schema.pieces import KINDS, Schema

_MANY_SCHEMAS = ("allOf", "anyOf", "oneOf")


def show(value: object, limit: int = 80) -> str:
    """A value as short JSON; text in single quotes."""
    text = f"'{value}'" if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= limit else text[: limit - 1] + "…"


# ---------------------------------------------------------------- calls


def violations(parameters: Schema, arguments: object) -> list[str]:
    """What is wrong with arguments against their schema, one sentence each; [] if nothing is."""
    if Draft202012Validator(parameters).is_valid(arguments):
        return []
    spelled = _spelled(inline(parameters))
    errors = sorted(Draft202012Validator(spelled).iter_errors(arguments), key=lambda e: [str(s) for s in e.path])
    looked_at = [_condition(error, spelled, arguments) for error in errors]
    broken = [name for error, seen in zip(errors, looked_at, strict=True) if not seen for name in _blamed(error)]
    # What a condition looks at is mended first: only then is it known whether the condition applies.
    telling = [e for e, seen in zip(errors, looked_at, strict=True) if not any(name in broken for name in seen)]
    found = [sentence for error in telling for sentence in _sentences(error, spelled, arguments)]
    return list(dict.fromkeys(found)) or [error.message for error in errors]


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
        pairs = [(has, name) for has, needs in limit.items() if has in value for name in needs if name not in value]
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
    listed = [inner for inner in error.context if inner.validator in ("const", "enum")]
    if len(listed) == len(branches) and len({tuple(inner.absolute_path) for inner in listed}) == 1:
        pairs = [(inner.validator, inner.validator_value) for inner in listed]
        allowed = [value for word, limit in pairs for value in (limit if word == "enum" else [limit])]
        name = ".".join(str(step) for step in listed[0].absolute_path)
        return [f"{name} is {_reason('enum', listed[0].instance, allowed, '')}"]
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
        words.append(f"no {name}" if value is _ABSENT else name if value is _PRESENT else f"{name} {plain(value)}")
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
