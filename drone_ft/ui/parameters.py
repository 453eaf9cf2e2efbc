"""A function's parameters as rows people can read: which values it takes, when it is needed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from drone_ft.schema import variants
from drone_ft.ui import words


@dataclass(frozen=True)
class Row:
    """One parameter in words; `path` leads to it through nested groups."""

    path: tuple[str, ...]
    takes: str
    needed: str
    meaning: str

    @property
    def name(self) -> str:
        return " › ".join(self.path)


def rows(parameters: dict[str, Any], path: tuple[str, ...] = ()) -> list[Row]:
    """Every parameter in schema order; the members of a group follow their group."""
    cases = variants(parameters)
    found: list[Row] = []
    for name, schema in parameters.get("properties", {}).items():
        shape = _merged(name, schema, cases)
        here = (*path, name)
        when = needed(name, cases)
        if path and when == "always":
            when = f"with {path[-1]}"
        found.append(Row(here, words.takes(shape), when, shape.get("description", "")))
        if shape.get("type") == "object":
            found += rows(shape, here)
    return found


def needed(name: str, cases: list[dict[str, Any]]) -> str:
    """When a parameter must or may be given, told from the condition-free cases of its schema."""
    having = [case for case in cases if name in case.get("properties", {})]
    without = [case for case in cases if name not in case.get("properties", {})]
    must = [case for case in having if name in case.get("required", [])]
    may = [case for case in having if name not in case.get("required", [])]
    if not without:
        if not may:
            return "always"
        if not must:
            return "optional"
        return f"{_when(name, must, may)}; otherwise optional"
    when = _when(name, having, without)
    if not may:
        return f"{when}, and only then"
    return f"optional, only {when}"


def _when(name: str, yes: list[dict[str, Any]], no: list[dict[str, Any]]) -> str:
    """The choice elsewhere that tells two groups of cases apart, in words."""
    for other in yes[0].get("properties", {}):
        if other == name:
            continue
        here, there = _choices(other, yes), _choices(other, no)
        if here and there and not any(item in there for item in here):
            return f"when {other} is {words.listed([str(item) for item in here])}"
        if here is not None and not there and all(other not in case.get("properties", {}) for case in no):
            return f"when {other} is given"
    return "depending on the other values"


def _choices(name: str, cases: list[dict[str, Any]]) -> list[Any]:
    """The values a parameter may take in some cases; empty where they cannot be listed."""
    found: list[Any] = []
    for case in cases:
        schema = case.get("properties", {}).get(name, {})
        values = schema.get("enum", [schema["const"]] if "const" in schema else [])
        if schema.get("type") == "boolean" and not values:
            values = [True, False]
        if not values:
            return []
        found += [value for value in values if value not in found]
    return found


def _merged(name: str, schema: Any, cases: list[dict[str, Any]]) -> dict[str, Any]:
    """A parameter's schema with local references resolved, as the cases show it, and all its choices."""
    shapes = [case["properties"][name] for case in cases if name in case.get("properties", {})]
    own = schema if isinstance(schema, dict) else {}
    return {**(shapes[0] if shapes else {}), **{key: own[key] for key in own if key != "$ref"}}
