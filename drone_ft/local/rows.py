"""Training rows: lines of a JSONL file, read strictly, then as token ids with the answer marked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from drone_ft.errors import DatasetError
from drone_ft.local.calls import JSON
from drone_ft.local.grammar import Grammars
from drone_ft.local.prompt import (
    ChatRequest,
    PromptError,
    Settings,
    build,
    encode,
    plain_message,
    split_system,
    tools_key,
    writing_of,
)

ROLES = ("system", "developer", "user", "assistant", "tool", "function")


@dataclass(frozen=True)
class Row:
    """One line: a conversation that ends in an answer, and the tools it could use (today's shape)."""

    line: int
    messages: Sequence[dict[str, Any]]
    tools: Sequence[dict[str, Any]]
    parallel: bool = False  # whether several calls at once are allowed


@dataclass(frozen=True)
class Sample:
    """Token ids of one answer with all it follows, up to the last target; places of the targets, rising.

    `is_open`: the targets are only the tokens that the grammar leaves open, else the whole answer.
    """

    ids: tuple[int, ...]
    targets: tuple[int, ...]
    is_open: bool = False


def read_rows(path: Path) -> list[Row]:
    """The rows of a JSONL file. Raises DatasetError naming line and field."""
    try:
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path.name} is not UTF-8 text (byte {error.start}). Save it as UTF-8 JSONL.") from error
    rows: list[Row] = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            row = _row(line, number)
            # the same tools stand in every line, and would fill the memory so many times
            same = rows and row.tools == rows[-1].tools
            rows.append(replace(row, tools=rows[-1].tools) if same else row)
    if not rows:
        raise DatasetError(f"{path.name} holds no examples. Add at least one line with messages.")
    return rows


def _row(line: str, number: int) -> Row:
    try:
        data = json.loads(line)
    except ValueError as error:
        raise DatasetError(f"Line {number} is not JSON ({error}). Write one JSON object a line.") from error
    if not isinstance(data, dict):
        raise _trouble(number, "", data, "a JSON object with messages")
    messages = data.get("messages")
    if not isinstance(messages, list) or not messages:
        raise _trouble(number, "messages", messages, "a list of messages")
    tools = _tools(data, number)
    names = [tool["function"]["name"] for tool in tools]
    for place, message in enumerate(messages):
        _check_message(message, f"messages[{place}]", number, names)
    if not any(message["role"] == "assistant" for message in messages):
        raise DatasetError(f"Line {number}, messages: no assistant message to learn from. Add the wanted answer.")
    parallel = data.get("parallel_tool_calls", "functions" not in data)
    return Row(number, messages, tools, parallel=bool(parallel))


def _tools(data: dict[str, Any], number: int) -> list[dict[str, Any]]:
    tools = data.get("tools")
    if tools is None:
        tools = [{"type": "function", "function": function} for function in data.get("functions") or []]
    if not isinstance(tools, list):
        raise _trouble(number, "tools", tools, "a list of tools")
    for place, tool in enumerate(tools):
        function = tool.get("function") if isinstance(tool, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise _trouble(number, f"tools[{place}].function", tool, "an object with a name")
        if not isinstance(function.get("parameters") or {}, dict):
            raise _trouble(number, f"tools[{place}].function.parameters", function["parameters"], "a JSON Schema")
    return tools


def _check_message(message: Any, field: str, number: int, names: list[str]) -> None:
    if not isinstance(message, dict):
        raise _trouble(number, field, message, "an object with role and content")
    if message.get("role") not in ROLES:
        raise _trouble(number, f"{field}.role", message.get("role"), "one of " + ", ".join(ROLES))
    if message.get("weight", 1) not in (0, 1):
        raise _trouble(number, f"{field}.weight", message["weight"], "0 or 1")
    calls = message.get("tool_calls") or []
    if not isinstance(calls, list):
        raise _trouble(number, f"{field}.tool_calls", calls, "a list of calls")
    for place, call in enumerate(calls):
        function = call.get("function") if isinstance(call, dict) else None
        _check_call(function, f"{field}.tool_calls[{place}].function", number, names)
    if message.get("function_call"):
        _check_call(message["function_call"], f"{field}.function_call", number, names)
    elif not calls and not isinstance(message.get("content"), str | list):
        raise _trouble(number, f"{field}.content", message.get("content"), "text, or a call")


def _check_call(call: Any, field: str, number: int, names: list[str]) -> None:
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        raise _trouble(number, field, call, "an object with name and arguments")
    if names and call["name"] not in names:
        raise _trouble(number, f"{field}.name", call["name"], "the name of one of the line's tools")
    try:
        arguments = json.loads(call.get("arguments", ""))
    except (TypeError, ValueError) as error:
        raise _trouble(number, f"{field}.arguments", call.get("arguments"), "JSON text of an object") from error
    if not isinstance(arguments, dict):
        raise _trouble(number, f"{field}.arguments", call["arguments"], "JSON text of an object")


def _trouble(number: int, field: str, found: Any, expected: str) -> DatasetError:
    place = f"Line {number}, {field}" if field else f"Line {number}"
    shown = json.dumps(found, ensure_ascii=False, default=str)
    shown = shown if len(shown) <= 60 else shown[:57] + "…"
    return DatasetError(f"{place}: found {shown if found is not None else 'nothing'}, expected {expected}.")


def shared(rows: Sequence[Row]) -> tuple[str, str, str]:
    """(form, tools key, system prompt) the rows allow: turns when all share one system prompt and list of tools."""
    first = _system(rows[0]), tools_key(rows[0].tools)
    for row in rows[1:]:
        same_tools = row.tools == rows[0].tools or tools_key(row.tools) == first[1]
        if not same_tools or _system(row) != first[0]:
            return "full", "", ""
    return "turns", first[1], first[0]


def _system(row: Row) -> str:
    return split_system([plain_message(message, row.tools, JSON) for message in row.messages])[0]


def samples(
    tokenizer: Any, row: Row, settings: Settings, limit: int, grammars: Grammars | None = None, *, whole: bool = False
) -> list[Sample]:
    """One sample for each answer with weight 1. Raises DatasetError for one of more than `limit` tokens.

    With `grammars` the targets are only the tokens that the grammar leaves to the model when it answers, unless the
    `whole` answer is wanted. Tools that no grammar can enforce are refused either way.
    """
    found, writing = [], writing_of(tokenizer, settings)
    for place, message in enumerate(row.messages):
        if message["role"] != "assistant" or message.get("weight", 1) == 0:
            continue
        request = ChatRequest(row.messages[:place], row.tools, "required", parallel=row.parallel)
        try:
            prompt = build(tokenizer, request, settings)
            read = prompt.prefix_ids + prompt.ids
            content = plain_message(message, row.tools, writing)["content"]
            answer = _answer(tokenizer, prompt.prefix + prompt.text, read, content)
            places = grammars.open_places(request, writing, answer) if grammars else None
            places = None if whole else places
        except PromptError as error:
            raise DatasetError(f"Line {row.line}, messages[{place}]: {error}") from error
        if len(read) + len(answer) > limit:
            raise DatasetError(
                f"Line {row.line} is {len(read) + len(answer)} tokens long, more than the {limit} this model can "
                "learn from. Shorten its messages or its tools."
            )
        targets = tuple(len(read) + at for at in places or range(len(answer)))
        found.append(Sample((read + answer)[: targets[-1] + 1], targets, is_open=bool(places)))
    return found


def _answer(tokenizer: Any, text: str, before: tuple[int, ...], content: str) -> tuple[int, ...]:
    """An answer's tokens as they follow `text`, in tokens `before`: alone, some tokenizers begin it with a space."""
    both = encode(tokenizer, text + content)
    tokens = both[len(before) :] if both[: len(before)] == before else encode(tokenizer, content)
    return (*tokens, tokenizer.eos_token_id)
