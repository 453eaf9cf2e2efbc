"""The functions that lines offer: each distinct list is looked at once, however many lines repeat it."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from drone_ft.catalog import Catalog, Function
from drone_ft.errors import CatalogError
from drone_ft.schema.faults import fault
from drone_ft.schema.pieces import canonical
from drone_ft.schema.words import show

TRAINING, VALIDATION = "training", "validation"
MOST_FUNCTIONS = 128


@dataclass(frozen=True)
class Trouble:
    """What a rule finds, in words; line 0 is the whole file."""

    rule: str
    field: str
    words: str
    line: int = 0
    file: str = TRAINING


@dataclass(frozen=True, eq=False)
class Offer:
    """A list of functions as a file has it; `bodies` are the readable ones by place, `key` is equal for equal ones."""

    form: str  # tools, functions, or "" where there are none
    entries: Any
    bodies: dict[int, dict[str, Any]]
    catalog: Catalog
    text: str
    key: str
    troubles: tuple[Trouble, ...]


def read(data: dict[str, Any], known: dict[str, Offer]) -> Offer:
    """What a line offers, looked up in `known` or added there."""
    form = next((form for form in ("tools", "functions") if data.get(form) is not None), "")
    text = json.dumps(data[form], ensure_ascii=False) if form else ""
    if form + text not in known:
        known[form + text] = _offer(form, data[form] if form else [], text)
    return known[form + text]


def place(form: str, index: int) -> str:
    """The field of one function."""
    return f"tools[{index}].function" if form == "tools" else f"{form}[{index}]"


def listed(value: object) -> list[Any]:
    """The value if it is a list, otherwise an empty one."""
    return value if isinstance(value, list) else []


def elsewhere(lines: Sequence[int]) -> str:
    """How many lines besides the first have the same."""
    more = len(lines) - 1
    return f" (the same in {more:,} more line{'s' * (more > 1)})" if more else ""


def _offer(form: str, entries: Any, text: str) -> Offer:
    bodies = [e.get("function") if form == "tools" and isinstance(e, dict) else e for e in listed(entries)]
    same = canonical(bodies) if isinstance(entries, list) else text
    digest = hashlib.sha256(same.encode("utf-8", "surrogatepass")).hexdigest()
    readable = {index: body for index, body in enumerate(bodies) if isinstance(body, dict)}
    functions: dict[str, Function] = {}
    troubles = []
    if not isinstance(entries, list):
        troubles.append(Trouble("functions", form, f"found {show(entries, 40)}; list the functions here"))
    if len(bodies) > MOST_FUNCTIONS:
        words = f"{len(bodies)} functions, but at most {MOST_FUNCTIONS} can be offered; remove some"
        troubles.append(Trouble("too many functions", form, words))
    for index, entry in enumerate(listed(entries)):
        troubles += _add(functions, place(form, index), entry, readable.get(index, {}))
    return Offer(form, entries, readable, Catalog("file", "", tuple(functions.values())), text, digest, tuple(troubles))


def _add(functions: dict[str, Function], where: str, entry: Any, body: dict[str, Any]) -> list[Trouble]:
    """Add a function that calls can be held against; what is wrong with it."""
    name = body.get("name")
    if not isinstance(name, str):
        return [Trouble("functions", where, f"found {show(entry, 40)}; give it a name and parameters")]
    troubles = []
    if not re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", name):
        words = f"found {show(name)}; use 1 to 64 letters, digits, underscores or hyphens"
        troubles.append(Trouble("function names", f"{where}.name", words))
    if name in functions:
        return [*troubles, Trouble("function names", f"{where}.name", f"{show(name)} stands here twice; keep one")]
    parameters: dict[str, Any] = {} if body.get("parameters") is None else body["parameters"]
    if wrong := _schema_trouble(json.dumps(parameters)):
        return [*troubles, Trouble("functions", f"{where}.parameters", wrong)]
    functions[name] = Function(name, str(body.get("description", "")), parameters)
    return troubles


@functools.lru_cache(maxsize=1024)
def _schema_trouble(parameters: str) -> str:
    """What is wrong with a function's parameters, as JSON text; remembered, for tools may differ in one function."""
    try:
        found = fault(json.loads(parameters))
    except CatalogError as error:
        return str(error).rstrip(".")
    if found is None:
        return ""
    at = f"parameter {'.'.join(found.path)}: " if found.path else ""
    return f"{at}found {found.found}; use {found.expected}"
