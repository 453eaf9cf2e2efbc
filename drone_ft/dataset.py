"""Examples: people's words with the call they mean; split, written to JSONL and read back."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from drone_ft.catalog import Call, Catalog, breaks_off, parse_catalog, problems
from drone_ft.errors import CatalogError, DatasetError

Form = Literal["tools", "functions"]
READINGS = 8000  # examples read in all: the default data once, what ten minutes on two cores allow


@dataclass(frozen=True)
class Example:
    """One request and the call it means; an impossible request calls the catalog's reject function.

    `accept` lists further right values per argument; `template` names the wording it was written from, and
    examples of one wording are twins; `split` is "train", "test" or None.
    """

    id: str
    prompt: str
    call: Call
    accept: dict[str, list[Any]] = field(default_factory=dict)
    origin: str = "person"
    template: str = ""
    status: str = "approved"
    split: str | None = None


def make_example(prompt: str, call: Call, *, origin: str = "person", template: str = "", **more: Any) -> Example:
    """An example whose id follows from its words and call, so that the same data has the same ids."""
    digest = hashlib.sha256(f"{prompt}\n{call.key}".encode()).hexdigest()[:12]
    return Example(digest, prompt, call, origin=origin, template=template or wording(prompt), **more)


def wording(prompt: str) -> str:
    """The words of a prompt without case, punctuation and numbers: equal for twins."""
    return re.sub(r"[^\w#]+|_", " ", re.sub(r"\d+(?:[.,]\d+)*", "#", prompt.casefold())).strip() or prompt


def split(examples: Sequence[Example], test_share: float = 0.15, seed: int = 0) -> list[Example]:
    """The examples in their order, each given to train or test.

    Whole wordings are dealt out, never single rows, so that no test request has a twin in training; each
    function gives its share, and a function with a single wording keeps it for training.
    """
    return _deal([dataclasses.replace(example, split=None) for example in examples], test_share, seed)


def place(new: Sequence[Example], among: Sequence[Example]) -> list[Example]:
    """New examples with their split: beside their twins among those there, or dealt out as `split` deals.

    However many come at a time, each function comes to its share; of its new wordings half at most are for testing.
    """
    return _deal([*complete_split(among), *new])[len(among) :]


def _deal(examples: Sequence[Example], test_share: float = 0.15, seed: int = 0) -> list[Example]:
    """The examples, those without a split given one."""
    by_function: dict[str, list[list[int]]] = {}
    for group in _twins(examples):
        by_function.setdefault(examples[group[0]].call.name, []).append(group)
    splits: dict[int, str] = {}
    for name, members in by_function.items():
        known = {id(g): next((s for i in g if (s := examples[i].split)), None) for g in members}
        free = [group for group in members if not known[id(group)]]
        random.Random(f"{seed}:{name}").shuffle(free)
        share = min(len(members) - 1, round(len(members) * test_share)) if test_share > 0 else 0
        due = max(0, share - sum(split == "test" for split in known.values()))
        take = due if len(free) == len(members) else min(due, -(-len(free) // 2))
        for group in members:
            side = known[id(group)] or ("test" if group in free[:take] else "train")
            splits.update({i: examples[i].split or side for i in group})
    return [dataclasses.replace(example, split=splits[i]) for i, example in enumerate(examples)]


def complete_split(examples: Sequence[Example]) -> list[Example]:
    """The examples, where one has no split yet it joins its twins, or training when it has none."""
    splits: dict[int, str] = {}
    for group in _twins(examples):
        known = [examples[i].split for i in group if examples[i].split]
        splits.update({i: examples[i].split or known[0] if known else "train" for i in group})  # type: ignore[misc]
    return [dataclasses.replace(e, split=splits[i]) for i, e in enumerate(examples)]


def _twins(examples: Sequence[Example]) -> list[list[int]]:
    """Indices of examples, grouped where they share a template or have the same words but for numbers."""
    group_of: dict[str, list[int]] = {}
    groups: list[list[int]] = []
    for index, example in enumerate(examples):
        keys = [f"template:{example.template}", f"words:{wording(example.prompt)}"]
        found = [group_of[key] for key in keys if key in group_of]
        group = found[0] if found else []
        if not found:
            groups.append(group)
        for other in found[1:]:
            if other is not group:
                group.extend(other)
                groups.remove(other)
                group_of.update({key: group for key, value in group_of.items() if value is other})
        group.append(index)
        group_of.update(dict.fromkeys(keys, group))
    return [sorted(group) for group in groups]


def auto_epochs(count: int) -> int:
    """How many times to read `count` examples where nobody says: few examples are read more often."""
    return min(10, max(1, round(READINGS / max(1, count))))


def to_jsonl(examples: Iterable[Example], catalog: Catalog, form: Form = "tools") -> str:
    """Training lines in OpenAI's chat format; `form` "functions" is the older one of the cookbook."""
    tools = catalog.tools()
    return "".join(json.dumps(_line(e, catalog, tools, form), ensure_ascii=False) + "\n" for e in examples)


def write_jsonl(path: Path, text: str) -> None:
    """Write a file whole or not at all: a full disk leaves the old one as it was. Raises DatasetError."""
    beside = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(text, encoding="utf-8")
        beside.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        raise DatasetError(
            f"{path} was not written: {error.strerror}. Free the disk or choose another folder."
        ) from error


def _line(example: Example, catalog: Catalog, tools: list[dict[str, Any]], form: Form) -> dict[str, Any]:
    called = {"name": example.call.name, "arguments": json.dumps(example.call.arguments, ensure_ascii=False)}
    messages: list[dict[str, Any]] = (
        [{"role": "system", "content": catalog.system_prompt}] if catalog.system_prompt else []
    )
    messages.append({"role": "user", "content": example.prompt})
    if form == "functions":
        messages.append({"role": "assistant", "function_call": called})
        return {"messages": messages, "functions": [tool["function"] for tool in tools]}
    call = {"id": f"call_{example.id}", "type": "function", "function": called}
    messages.append({"role": "assistant", "tool_calls": [call]})
    return {"messages": messages, "tools": tools, "parallel_tool_calls": False}


def from_jsonl(text: str, name: str = "file") -> tuple[list[Example], Catalog]:
    """The examples and the catalog of a JSONL file; DatasetError names the first line and field in trouble."""
    rows: list[_Row] = []
    troubles: list[str] = []
    catalogs: dict[str, Catalog] = {}
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
        try:
            rows += [_read_row(line, name, catalogs)] if line.strip() else []
        except _Bad as bad:
            troubles.append(f", line {number}, {bad.field}: {bad}")
    if not rows and not troubles:
        troubles.append(": it is empty; it should have an example a line, each with messages")
    if troubles:
        more = f" Lines in trouble besides: {len(troubles) - 1}." if len(troubles) > 1 else ""
        raise DatasetError(f"{name}{troubles[0].rstrip('.')}. Nothing was added.{more}")
    return [row.example for row in rows], rows[0].catalog


@dataclass(frozen=True)
class _Row:
    example: Example
    catalog: Catalog


class _Bad(Exception):
    """A line in trouble: field and message."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


def _read_row(line: str, name: str, catalogs: dict[str, Catalog]) -> _Row:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        what = "the line is not complete JSON, it breaks off" if breaks_off(error) else f"not JSON ({error.msg})"
        raise _Bad(f"column {error.colno}", f"{what}; received {line[:40]!r}") from error
    if not isinstance(row, dict):
        raise _Bad("whole line", f"expected a JSON object with messages, received {_kind(row)}")
    messages = row.get("messages")
    if not isinstance(messages, list) or not messages:
        raise _Bad("messages", f"expected a list with system, user and assistant messages, received {_kind(messages)}")
    said = {"system": "", "user": ""}
    for index, message in enumerate(messages):
        role = message.get("role") if isinstance(message, dict) else None
        if role not in ("system", "developer", "user", "assistant", "tool", "function"):
            raise _Bad(f"messages[{index}].role", f"expected system, user or assistant, received {role!r}")
        if role in ("system", "developer", "user"):
            if not isinstance(message.get("content"), str) or not message["content"].strip():
                raise _Bad(f"messages[{index}].content", f"expected words, received {_kind(message.get('content'))}")
            said["user" if role == "user" else "system"] = message["content"]
    if not said["user"]:
        raise _Bad("messages", "there is no user message; add the person's words")
    if messages[-1]["role"] != "assistant":
        raise _Bad(
            f"messages[{len(messages) - 1}].role",
            f"the last message must be the assistant's, received {messages[-1]['role']!r}",
        )
    catalog = _row_catalog(row, said["system"], name, catalogs)
    call = _row_call(messages[-1], f"messages[{len(messages) - 1}]")
    wrong = problems(catalog, call)
    if wrong:
        raise _Bad(f"messages[{len(messages) - 1}] call of {call.name}", "; ".join(wrong))
    return _Row(make_example(said["user"], call, origin="file"), catalog)


def _row_catalog(row: dict[str, Any], system: str, name: str, catalogs: dict[str, Catalog]) -> Catalog:
    field = "tools" if "tools" in row else "functions"
    if field not in row:
        raise _Bad("tools", "missing; list the functions the model may call under tools (or functions)")
    key = json.dumps([row[field], system], sort_keys=True)
    if key not in catalogs:
        try:
            catalogs[key] = dataclasses.replace(parse_catalog(row[field], name), system_prompt=system)
        except CatalogError as error:
            raise _Bad(field, str(error)) from error
    return catalogs[key]


def _row_call(message: dict[str, Any], where: str) -> Call:
    if "function_call" in message and message["function_call"] is not None:
        called, where = message["function_call"], f"{where}.function_call"
    else:
        calls = message.get("tool_calls")
        if not isinstance(calls, list) or len(calls) != 1 or not isinstance(calls[0], dict):
            raise _Bad(f"{where}.tool_calls", f"expected exactly one call, received {_kind(calls)}")
        called, where = calls[0].get("function"), f"{where}.tool_calls[0].function"
    if not isinstance(called, dict) or not isinstance(called.get("name"), str):
        raise _Bad(f"{where}.name", f"expected a function's name, received {_kind(called)}")
    try:
        arguments = json.loads(called.get("arguments", ""))
    except (TypeError, json.JSONDecodeError) as error:
        received = called.get("arguments")
        raise _Bad(f"{where}.arguments", f"expected JSON text of an object, received {received!r}") from error
    if not isinstance(arguments, dict):
        raise _Bad(f"{where}.arguments", f"expected a JSON object, received {_kind(arguments)}")
    return Call(called["name"], arguments)


def _kind(value: object) -> str:
    """What a value is, in words."""
    if value is None:
        return "nothing"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    names = {dict: "an object", str: "text", bool: "true or false", int: "a number", float: "a number"}
    return names.get(type(value), type(value).__name__)
