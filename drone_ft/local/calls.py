"""How a model writes calls, `{"name": "f", "arguments": {"a": 1}}` one a line, and how they are read back.

A base model is asked for "json", with blanks as people write it. Models learn "compact", without: what need not be read
costs no time, in learning or in answering. Those that earlier versions taught go on with blanks.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

Tool = dict[str, Any]
Writing = Literal["json", "compact"]

SEPARATORS: dict[Writing, tuple[str, str]] = {"json": (", ", ": "), "compact": (",", ":")}
"""What stands between items and behind keys."""


def function_of(tool: Tool) -> dict[str, Any]:
    """Name, description and parameters of a tool, each with its default."""
    function = tool.get("function") or {}
    return {
        "name": function.get("name", ""),
        "description": function.get("description") or "",
        "parameters": function.get("parameters") or {"type": "object", "properties": {}},
    }


def write(calls: Sequence[dict[str, Any]], tools: Sequence[Tool], writing: Writing) -> str:
    """Calls ({"name", "arguments": JSON text}) as the model writes them, arguments in the order of their schema."""
    schemas = _schemas(tools)
    lines = []
    for call in calls:
        arguments = _in_order(json.loads(call.get("arguments") or "{}"), schemas.get(call["name"], {}))
        whole = {"name": call["name"], "arguments": arguments}
        lines.append(json.dumps(whole, ensure_ascii=False, separators=SEPARATORS[writing]))
    return "\n".join(lines)


def _in_order(value: Any, schema: dict[str, Any]) -> Any:
    """Objects with their keys in the schema's order: the grammar admits no other."""
    if not isinstance(value, dict):
        return value
    properties = schema.get("properties") or {}
    known = {name: _in_order(value[name], properties[name]) for name in properties if name in value}
    return known | {name: item for name, item in value.items() if name not in known}


def read(text: str, tools: Sequence[Tool]) -> list[tuple[str, str]]:
    """The calls written in an answer as (name, arguments as JSON text); [] when it is plain text."""
    schemas, decoder = _schemas(tools), json.JSONDecoder()
    found, rest = [], text.strip()
    while rest:
        try:
            call, end = decoder.raw_decode(rest)
        except ValueError:
            return []
        if not isinstance(call, dict) or call.get("name") not in schemas:
            return []
        arguments = _unique(call.get("arguments") or {}, schemas[call["name"]])
        found.append((str(call["name"]), json.dumps(arguments, ensure_ascii=False)))
        rest = rest[end:].strip()
    return found


def _schemas(tools: Sequence[Tool]) -> dict[str, Any]:
    """The parameters of each function by its name."""
    return {function["name"]: function["parameters"] for function in map(function_of, tools)}


def _unique(value: Any, schema: Any) -> Any:
    """Without the repeated items of lists that want each one once, which no grammar can see to."""
    if not isinstance(schema, dict):
        return value
    if isinstance(value, dict):
        properties = schema.get("properties") or {}
        return {name: _unique(item, properties.get(name)) for name, item in value.items()}
    if isinstance(value, list):
        items = [_unique(item, schema.get("items")) for item in value]
        return [x for at, x in enumerate(items) if x not in items[:at]] if schema.get("uniqueItems") else items
    return value
