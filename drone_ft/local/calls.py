"""How a model writes calls, and how they are read back.

- JSON: `{"name": "f", "arguments": {"a": 1}}`, one a line: a base model whose chat template knows no tools is told so;
- its own way, found in its chat template, where that knows tools: it has learnt that from many examples;
- COMPACT: JSON without blanks, learnt here from rows that share their tools: what need not be read costs no time.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

Tool = dict[str, Any]


@dataclass(frozen=True)
class Writing:
    """What stands around a call's name and arguments, and between calls (None: only one can be made)."""

    before: str
    between: str
    after: str
    joint: str | None = "\n"
    separators: tuple[str, str] = (", ", ": ")  # what stands between items and behind keys

    def call(self, name: str, arguments: Any) -> str:
        """One call."""
        written = json.dumps(arguments, ensure_ascii=False, separators=self.separators)
        return f"{self.before}{name}{self.between}{written}{self.after}"


JSON = Writing('{"name": "', '", "arguments": ', "}")
COMPACT = Writing('{"name":"', '","arguments":', "}", separators=(",", ":"))


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
    written = []
    for call in calls:
        arguments = _in_order(json.loads(call.get("arguments") or "{}"), schemas.get(call["name"], {}))
        written.append(writing.call(call["name"], arguments))
    return (writing.joint or "\n").join(written)


def _in_order(value: Any, schema: dict[str, Any]) -> Any:
    """Objects with their keys in the schema's order: the grammar admits no other."""
    if not isinstance(value, dict):
        return value
    properties = schema.get("properties") or {}
    known = {name: _in_order(value[name], properties[name]) for name in properties if name in value}
    return known | {name: item for name, item in value.items() if name not in known}


def read(text: str, tools: Sequence[Tool], writing: Writing) -> list[tuple[str, str]]:
    """The calls written in an answer as (name, arguments as JSON text); [] when it is plain text."""
    found, rest = _read(text, tools, writing)
    return [] if rest else found


def complete(text: str, tools: Sequence[Tool], writing: Writing) -> list[tuple[str, str]]:
    """The whole calls at the beginning of an answer, whatever follows them."""
    return _read(text, tools, writing)[0]


def named(text: str, writing: Writing) -> str:
    """The name of the function an answer begins to call."""
    return _call(text.strip(), writing)[0]


def _read(text: str, tools: Sequence[Tool], writing: Writing) -> tuple[list[tuple[str, str]], str]:
    """(the calls at the beginning of an answer, what follows that is none)."""
    schemas, decoder = _schemas(tools), json.JSONDecoder()
    after = writing.after.rstrip()
    found: list[tuple[str, str]] = []
    rest = text.strip()
    while rest:
        name, mark, behind = _call(rest, writing)
        try:
            arguments, end = decoder.raw_decode(behind)
        except ValueError:
            return found, rest
        if not mark or name not in schemas or not behind.startswith(after, end):
            return found, rest
        found.append((name, json.dumps(_unique(arguments, schemas[name]), ensure_ascii=False)))
        rest = behind[end + len(after) :].strip().removeprefix((writing.joint or "").strip()).strip()
    return found, ""


def may_be_call(text: str, tools: Sequence[Tool], writing: Writing) -> bool:
    """Whether an answer that begins so is a call, or may still become one."""
    said = text.lstrip()
    beginnings = [f"{writing.before.lstrip()}{function_of(tool)['name']}{writing.between[:1]}" for tool in tools]
    return any(said.startswith(beginning) or beginning.startswith(said) for beginning in beginnings)


def _call(text: str, writing: Writing) -> tuple[str, str, str]:
    """(the name in front, what stands behind a name if it is there, the rest); empty where no call begins."""
    before = writing.before.lstrip()
    return text.removeprefix(before).partition(writing.between) if text.startswith(before) else ("", "", "")


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


# A model's own way


@lru_cache(maxsize=8)
def own(tokenizer: Any) -> Writing | None:
    """How a model's chat template writes calls; None where it knows no tools, or no grammar could hold to its way."""
    name, arguments = "some_function", {"first": 1, "second": 2}
    tools = [{"type": "function", "function": {"name": name, "description": "", "parameters": {"type": "object"}}}]
    call = {"type": "function", "id": "abcdefghi", "function": {"name": name, "arguments": arguments}}

    def answer(calls: int) -> str:
        """What the template writes for an answer of so many calls, "" where it refuses."""
        asked = [{"role": "user", "content": "?"}]
        made = {"role": "assistant", "content": "", "tool_calls": [call] * calls}
        try:
            before = _render(tokenizer, asked, tools, reply=True)
            whole = _render(tokenizer, [*asked, made], tools, reply=False)
        except Exception:  # a template may raise whatever it likes
            return ""
        known = name in before and whole.startswith(before)
        return whole[len(before) :].split(tokenizer.eos_token)[0] if known else ""

    if not tokenizer.eos_token:
        return None
    special = [*tokenizer.all_special_tokens, *(str(t) for t in tokenizer.added_tokens_decoder.values() if t.special)]
    one, two = answer(1), answer(2)
    for separators in ((", ", ": "), (",", ":")):
        before, _, rest = one.partition(name)
        between, mark, after = rest.partition(json.dumps(arguments, separators=separators))
        if mark and between and not any(token in before + between + after for token in special):
            is_pair = two.startswith(one) and two.endswith(one)
            return Writing(before, between, after, two[len(one) : -len(one)] if is_pair else None, separators)
    return None


def _render(tokenizer: Any, messages: list[Any], tools: list[Tool], *, reply: bool) -> str:
    return str(tokenizer.apply_chat_template(messages, tools=tools, tokenize=False, add_generation_prompt=reply))
