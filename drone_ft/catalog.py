"""What the model may call: functions, catalogs and single calls; reading a catalog and checking a call."""

from __future__ import annotations

import difflib
import functools
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drone_ft import schema
from drone_ft.errors import CatalogError
from drone_ft.schema import faults as schema_faults
from drone_ft.schema import words as schema_words
from drone_ft.schema.pieces import canonical

DEFAULT_PATH = Path(__file__).resolve().parent.parent / "data" / "catalogs" / "drone.json"
REJECT = "reject_request"
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_NAME_RULE = "1 to 64 letters, digits, underscores or hyphens"
_SHAPES = 'a list of functions, {"tools": […]} or {"functions": […]}'
_SUCH_AS = 'such as [{"name": "open_door", "description": "Open a door.", "parameters": {"type": "object"}}]'


@dataclass(frozen=True)
class Function:
    """One function the model may call; `parameters` is its JSON Schema, verbatim."""

    name: str
    description: str
    parameters: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The function as plain data, as chat requests and our file write it."""
        return {"name": self.name, "description": self.description, "parameters": self.parameters}


@dataclass(frozen=True, eq=False)
class Call:
    """One call: a function's name and its arguments; 1 and 1.0 are the same number, true and 1 are not."""

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Canonical JSON: equal calls have equal keys."""
        return canonical([self.name, self.arguments])

    def to_json(self) -> dict[str, Any]:
        """The call as plain data."""
        return {"name": self.name, "arguments": self.arguments}

    @classmethod
    def from_json(cls, data: object) -> Call:
        """The call in {"name", "arguments"}; arguments may be JSON text. CatalogError if it is none."""
        name = data.get("name") if isinstance(data, dict) else None
        arguments = data.get("arguments", {}) if isinstance(data, dict) else None
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments or "{}")
            except ValueError as error:
                raise CatalogError(
                    f"A call's arguments are not JSON: {schema_words.show(arguments)}. "
                    'Write them as an object, such as {"door": "front"}.'
                ) from error
        if not isinstance(name, str) or not isinstance(arguments, dict):
            raise CatalogError(
                f"Not a call: {schema_words.show(data)}. "
                'Write it as {"name": "open_door", "arguments": {"door": "front"}}.'
            )
        return cls(name, arguments)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Call) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


@dataclass(frozen=True)
class Catalog:
    """Everything a model may call; `reject` names the function for requests that are not possible."""

    name: str
    system_prompt: str
    functions: tuple[Function, ...]
    reject: str | None = None

    @property
    def callable_functions(self) -> tuple[Function, ...]:
        """The functions without the reject function, in catalog order."""
        return tuple(function for function in self.functions if function.name != self.reject)

    def function(self, name: str) -> Function:
        """The function of that name; CatalogError if there is none."""
        for function in self.functions:
            if function.name == name:
                return function
        names = [function.name for function in self.functions]
        near = difflib.get_close_matches(str(name), names, n=3) or names
        raise CatalogError(
            f"Catalog '{self.name}' has no function {schema_words.show(name)}. "
            f"Use one of its own, such as {', '.join(near[:3])}."
        )

    def tools(self) -> list[dict[str, Any]]:
        """The functions as the `tools` of a chat request."""
        return [{"type": "function", "function": function.to_json()} for function in self.functions]

    def to_json(self) -> dict[str, Any]:
        """The catalog as plain data; `parse_catalog` reads it back."""
        return {
            "name": self.name,
            "system_prompt": self.system_prompt,
            "reject": self.reject,
            "functions": [function.to_json() for function in self.functions],
        }


def problems(catalog: Catalog, call: Call) -> list[str]:
    """What is wrong with a call against its function's schema, in words for people; [] if nothing is."""
    try:
        function = catalog.function(call.name)
    except CatalogError as error:
        return [str(error)]
    return schema_words.violations(function.parameters, call.arguments)


@functools.cache
def default_catalog() -> Catalog:
    """The drone catalog the app starts with; read and checked once."""
    return read_catalog(DEFAULT_PATH)


def read_catalog(path: Path | str) -> Catalog:
    """The catalog in a JSON file; CatalogError if it cannot be read, and then nothing of it is loaded."""
    path = Path(path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise CatalogError(f"There is no catalog file {path}. Check the path and try again.") from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise CatalogError(f"The catalog file {path} cannot be read: {reason}. Choose another file.") from error
    except UnicodeDecodeError as error:
        raise CatalogError(
            f"The catalog file {path} is not UTF-8 text: byte {error.start} is {error.object[error.start]:#04x}. "
            "Save it as UTF-8 and load it again."
        ) from error
    return parse_text(text, path.name)


def parse_text(text: str, file_name: str) -> Catalog:
    """The catalog in a file's text; CatalogError if it is not JSON or no catalog."""
    return parse_catalog(_json(text, file_name), file_name.rsplit(".", 1)[0])


def _json(text: str, name: str) -> object:
    """The data in JSON text; a key given twice is an error, because one of the two would be lost."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        seen: dict[str, Any] = {}
        for key, value in pairs:
            if key in seen:
                raise CatalogError(
                    f"The catalog file {name} has the key '{key}' twice in one object: "
                    f"{schema_words.show(seen[key])} and {schema_words.show(value)}. Keep one and load it again."
                )
            seen[key] = value
        return seen

    if not text.strip():
        raise CatalogError(
            f"The catalog file {name} is empty. Nothing was loaded; a catalog is a list of functions, {_SUCH_AS}."
        )
    try:
        return json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise CatalogError(_not_json(error, name)) from error
    except RecursionError as error:
        raise CatalogError(f"The catalog file {name} is nested too deep to read. Choose another file.") from error


def _not_json(error: json.JSONDecodeError, name: str) -> str:
    """What keeps a text from being JSON: it breaks off, or a place in it is wrong, or it is something else."""
    where = f"line {error.lineno}, column {error.colno}"
    if not error.doc.lstrip().startswith(("[", "{")):
        return (
            f"The catalog file {name} is not JSON: it starts with {schema_words.show(error.doc.split()[0], 30)}. "
            f"Nothing was loaded; a catalog is a list of functions, {_SUCH_AS}."
        )
    if breaks_off(error):
        return (
            f"The catalog file {name} is not complete JSON: it breaks off at {where}. "
            "Nothing was loaded; copy or save the whole file again."
        )
    return (
        f"The catalog file {name} is not JSON at {where}: {error.msg}. "
        "Nothing was loaded; correct that place and load it again."
    )


def breaks_off(error: json.JSONDecodeError) -> bool:
    """Whether a text was JSON up to its very end, as one that was cut off is."""
    return error.pos >= len(error.doc.rstrip()) or error.msg.startswith("Unterminated string")


def parse_catalog(data: object, name: str) -> Catalog:
    """A catalog from our own form, a bare list of functions, or `tools` entries; one CatalogError if malformed.

    `name` is used where the data has none. Without a `reject` key, a function called reject_request is it.
    """
    entries, header = _entries(data, name)
    name = header.get("name", name)
    if not isinstance(name, str) or not name.strip():
        raise _refusal("a catalog", f"the name {schema_words.show(name)}", "a text that is not empty")
    functions: list[Function] = []
    for position, entry in enumerate(entries, start=1):
        function = _function(entry, position, name)
        if any(function.name == other.name for other in functions):
            where = f"catalog '{name}', function '{function.name}'"
            raise _refusal(where, "the same name twice", "every function once")
        functions.append(function)
    reject = _reject(header, functions, name)
    prompt = header.get("system_prompt", _default_prompt(reject))
    if not isinstance(prompt, str):
        raise _refusal(f"catalog '{name}'", f"the system_prompt {schema_words.show(prompt)}", "text")
    return Catalog(name, prompt, tuple(functions), reject)


def _refusal(where: str, found: str, expected: str) -> CatalogError:
    return CatalogError(
        f"Cannot load {where}: found {found}; expected {expected}. Nothing was loaded; correct it and load it again."
    )


def _entries(data: object, name: str) -> tuple[list[object], dict[str, Any]]:
    """The list of functions, and what stands beside it."""
    where = f"catalog '{name}'"
    header = data if isinstance(data, dict) else {}
    entries = data
    if isinstance(data, dict):
        if "functions" not in data and "tools" not in data:
            found = "an object with " + (", ".join(map(str, data)) or "nothing in it")
            raise _refusal(where, found, f"{_SHAPES}, {_SUCH_AS}")
        entries = data["functions"] if "functions" in data else data["tools"]
    if not isinstance(entries, list):
        raise _refusal(where, schema_words.show(entries), f"{_SHAPES}, {_SUCH_AS}")
    if not entries:
        raise _refusal(where, "no functions", "at least one")
    return entries, header


def _function(entry: object, position: int, catalog: str) -> Function:
    """One function, bare or inside a `tools` entry."""
    where = f"catalog '{catalog}', function number {position}"
    body = entry.get("function", entry) if isinstance(entry, dict) and entry.get("type") == "function" else entry
    if not isinstance(body, dict):
        raise _refusal(where, schema_words.show(body), "an object with name, description and parameters")
    name, description = body.get("name"), body.get("description", "")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        found = f"the name {schema_words.show(name)}" if "name" in body else "no name"
        raise _refusal(where, found, f"a name of {_NAME_RULE}")
    where = f"catalog '{catalog}', function '{name}'"
    if not isinstance(description, str):
        raise _refusal(where, f"the description {schema_words.show(description)}", "text")
    for key in body:
        meant = difflib.get_close_matches(str(key), ["description", "parameters"], n=1)
        if (meant and key not in meant) or key in ("input_schema", "inputSchema"):
            raise _refusal(where, f"the key '{key}'", meant[0] if meant else "parameters")
    parameters = body.get("parameters", {"type": "object", "properties": {}})
    try:
        fault = schema_faults.fault(parameters)
        if fault is None:
            schema.check(parameters)
    except CatalogError as error:
        raise CatalogError(f"Cannot load {where}. {error} Nothing was loaded.") from error
    if fault is not None:
        place = f", parameter '{'.'.join(fault.path)}'" if fault.path else ""
        raise _refusal(where + place, fault.found, fault.expected)
    return Function(name, description, parameters)


def _reject(header: dict[str, Any], functions: list[Function], catalog: str) -> str | None:
    """The reject function's name; it must exist and need no arguments, because every refusal is `name()`."""
    names = [function.name for function in functions]
    reject = header.get("reject", REJECT if REJECT in names else None)
    if reject is None:
        return None
    if reject not in names:
        found = f"{schema_words.show(reject)} as its reject function"
        raise _refusal(f"catalog '{catalog}'", found, "the name of one of its functions, or null")
    needed = functions[names.index(reject)].parameters.get("required", [])
    if needed:
        where = f"catalog '{catalog}', function '{reject}', parameter '{needed[0]}'"
        raise _refusal(where, "a required parameter on the reject function", "none, or an optional one")
    return str(reject)


def _default_prompt(reject: str | None) -> str:
    """The system prompt for a catalog that brings none."""
    prompt = "Given a command or request from the user, call one of your functions to complete the request."
    if reject:
        prompt += f" If the request cannot be completed by your available functions, or is unclear, call {reject}."
    return prompt
