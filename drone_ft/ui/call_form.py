"""A call as typed fields made from its schema: choices, bounded numbers, groups; conditions decide what is shown."""

from __future__ import annotations

import json
from typing import Any

import streamlit as st

from drone_ft.catalog import Call, Catalog
from drone_ft.schema import variants
from drone_ft.ui import words

Schema = dict[str, Any]
_NOTHING = object()


def edit(catalog: Catalog, call: Call | None, key: str) -> Call | None:
    """Fields for a call, filled from `call`; returns the call as entered, or None while no function is chosen."""
    names = [function.name for function in catalog.callable_functions] + ([catalog.reject] if catalog.reject else [])
    index = names.index(call.name) if call and call.name in names else None
    name = st.selectbox(
        "The model should",
        names,
        index,
        format_func=lambda n: "Say no: the request is impossible" if n == catalog.reject else words.title(n),
        key=f"{key}.function",
        placeholder="Choose what the model should do",
    )
    if name is None:
        return None
    function = catalog.function(name)
    if name != catalog.reject:
        st.caption(words.escape(function.description))
    before = call.arguments if call and call.name == name else {}
    return Call(name, _group(function.parameters, before, f"{key}.{name}"))


def _group(schema: Schema, before: dict[str, Any], key: str) -> dict[str, Any]:
    """Fields of an object; a field appears while one of the schema's cases still allows it."""
    cases = variants(schema)
    given: dict[str, Any] = {}
    for name in schema.get("properties", {}):
        having = [case for case in cases if _offers(case, name)]
        if not having:
            continue
        must = all(name in case.get("required", []) for case in cases)
        value = _field(
            name,
            _united([case["properties"][name] for case in having]),
            before.get(name, _NOTHING),
            must,
            f"{key}.{name}",
        )
        if value is not _NOTHING:
            given[name] = value
        cases = [case for case in cases if _agrees(case, name, value)] or cases
    return given


def _offers(case: Schema, name: str) -> bool:
    return isinstance(case.get("properties", {}).get(name), dict)


def _agrees(case: Schema, name: str, value: Any) -> bool:
    """Whether a case still holds after a field was filled or left empty."""
    if value is _NOTHING:
        return name not in case.get("required", [])
    shape = case.get("properties", {}).get(name)
    if not isinstance(shape, dict):
        return False
    choices = _choices(shape)
    return value in choices if choices else True


def _choices(schema: Schema) -> list[Any]:
    if "const" in schema:
        return [schema["const"]]
    return list(schema.get("enum", []))


def _united(shapes: list[Schema]) -> Schema:
    """One schema for a field that several cases allow: all their choices."""
    choices: list[Any] = []
    for shape in shapes:
        choices += [choice for choice in _choices(shape) if choice not in choices]
    return {**{k: v for k, v in shapes[0].items() if k != "const"}, "enum": choices} if choices else shapes[0]


def _field(name: str, schema: Schema, before: Any, must: bool, key: str) -> Any:
    """One field; _NOTHING when it is left empty."""
    label = words.title(name) if must else f"{words.title(name)} (optional)"
    sort, hint = schema.get("type"), schema.get("description")
    if "enum" in schema or sort == "boolean":
        return _choice(label, schema.get("enum", [True, False]), before, key, hint)
    if sort in ("integer", "number"):
        return _number(label, schema, before, key, hint)
    if sort == "object" and schema.get("properties"):
        return _nested(label, schema, before, must, key, hint)
    if sort == "array":
        return _list(label, schema, before, key, hint)
    if sort == "string":
        text = st.text_input(
            label, "" if before is _NOTHING else str(before), schema.get("maxLength"), key=key, help=hint
        )
        return text if text or (must and before == "") else _NOTHING
    return _json(label, before, key, hint)


def _choice(label: str, choices: list[Any], before: Any, key: str, hint: str | None) -> Any:
    """A choice by its JSON text, which stays the same when a condition changes which choices there are."""
    options = {json.dumps(choice, ensure_ascii=False): choice for choice in choices}
    given = None if before is _NOTHING else json.dumps(before, ensure_ascii=False)
    if st.session_state.setdefault(key, given) not in options:
        st.session_state[key] = None
    picked = st.selectbox(
        label,
        list(options),
        None,
        format_func=lambda text: words.value(options[text]),
        key=key,
        help=hint,
        placeholder="Not given",
    )
    return options.get(picked, _NOTHING)


def _number(label: str, schema: Schema, before: Any, key: str, hint: str | None) -> Any:
    whole = schema.get("type") == "integer"
    kind: Any = int if whole else float
    low, high = schema.get("minimum"), schema.get("maximum")
    value = kind(before) if isinstance(before, int | float) and not isinstance(before, bool) else None
    # Set as state, not as the default: a field with a default cannot be emptied again.
    st.session_state.setdefault(key, value)
    # The bounds are only said, and checked on saving: a widget that knows them keeps a wrong number to itself, and
    # what is saved is the number before.
    entered = st.number_input(
        f"{label}, {_range(low, high)}" if low is not None or high is not None else label,
        value=None,
        step=kind(1 if whole else 0.1),
        format="%d" if whole else "%.10g",
        key=key,
        help=hint,
        placeholder="Not given",
    )
    if entered is None:
        return _NOTHING
    return int(entered) if float(entered).is_integer() else float(entered)


def _range(low: Any, high: Any) -> str:
    if low is not None and high is not None:
        return f"{low:,} to {high:,}"
    return f"at least {low:,}" if low is not None else f"at most {high:,}"


def _nested(label: str, schema: Schema, before: Any, must: bool, key: str, hint: str | None) -> Any:
    inner = before if isinstance(before, dict) else {}
    if not must and not st.toggle(label, before is not _NOTHING, key=f"{key}.given", help=hint):
        return _NOTHING
    with st.container(border=True):
        if must:
            st.markdown(f"**{words.escape(label)}**", help=hint)
        return _group(schema, inner, key)


def _list(label: str, schema: Schema, before: Any, key: str, hint: str | None) -> Any:
    items = schema.get("items", {})
    now = before if isinstance(before, list) else []
    if isinstance(items, dict) and "enum" in items:
        picked = st.multiselect(
            label,
            items["enum"],
            [item for item in now if item in items["enum"]],
            format_func=words.value,
            key=key,
            help=hint,
        )
    elif isinstance(items, dict) and items.get("type") == "string":
        picked = st.multiselect(
            label, now, now, key=key, help=hint, accept_new_options=True, placeholder="Type and press Enter"
        )
    else:
        return _json(label, before, key, hint)
    return list(picked) if picked or before is not _NOTHING else _NOTHING


def _json(label: str, before: Any, key: str, hint: str | None) -> Any:
    text = st.text_area(
        f"{label}, as JSON", "" if before is _NOTHING else json.dumps(before, ensure_ascii=False), key=key, help=hint
    )
    if not text.strip():
        return _NOTHING
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        st.error(f"This is not JSON yet: {error.msg.lower()} at column {error.colno}.", icon=":material/error:")
        return text
