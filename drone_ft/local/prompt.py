"""From a chat request to what the model reads.

Forms of one request:
- full: the request's system prompt, the functions, the conversation: as the model's chat template shows functions, or
  where it knows none, each as one signature line;
- turns: only the conversation, for a model tuned on rows that all shared one system prompt and one list of tools, asked
  with the very same ones. It has learnt what they say; reading them again would take many times the tokens;
- short: the same with the system prompt, for models tuned by earlier versions.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import lru_cache
from os.path import commonprefix
from typing import Any

from drone_ft.errors import DroneFTError
from drone_ft.local import calls
from drone_ft.local.calls import COMPACT, JSON, Tool, Writing, function_of

Message = dict[str, Any]

_INSTRUCTION = 'Functions you can call:\n{lines}\n\nTo call one, write: {{"name": …, "arguments": {{…}}}}'


class PromptError(DroneFTError):
    """A request that cannot be shown to the model; `param` names the request's field."""

    def __init__(self, message: str, param: str) -> None:
        super().__init__(message)
        self.param = param


@dataclass(frozen=True)
class ChatRequest:
    """One chat completion: OpenAI-shaped messages and tools; None means the engine's default."""

    messages: Sequence[Message]
    tools: Sequence[Tool] = ()
    tool_choice: str | dict[str, Any] = "auto"  # "auto", "none", "required" or {"name": …}
    parallel: bool = False
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: Sequence[str] = ()
    schema: dict[str, Any] | None = None  # what an answer in text must fit; None: any text
    logprobs: int | None = None  # how many likeliest tokens to tell at each place beside the chosen one

    @property
    def callable(self) -> Sequence[Tool]:
        """The tools an answer may call."""
        return () if self.tool_choice == "none" else self.tools


@dataclass(frozen=True)
class Settings:
    """What a tuned model must remember of its training; settings.json in its folder."""

    id: str
    base: str
    form: str  # "full", "turns" or "short"
    tools_key: str
    system: str
    created: int = 0
    hyperparameters: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    calls: str = "json"  # how it writes them: "json", "compact", or "own", as the base model does

    def to_json(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> Settings:
        """From plain data; unknown keys are ignored."""
        return Settings(**{f.name: data[f.name] for f in fields(Settings) if f.name in data})


@dataclass(frozen=True)
class Prompt:
    """What the model reads: `prefix` (shared by many requests, may be "") then `text`, and both as token ids.

    They are the tokens of the whole; where one stands across the border, `prefix_ids` end before it.
    """

    prefix: str
    text: str
    prefix_ids: tuple[int, ...]
    ids: tuple[int, ...]


def build(tokenizer: Any, request: ChatRequest, tuned: Settings | None = None) -> Prompt:
    """The prompt of a request, for the base model or for a tuned one. Raises PromptError."""
    prefix, text = texts(tokenizer, request, tuned)
    begun, whole = _kept_ids(tokenizer, prefix), encode(tokenizer, prefix + text)
    if not whole:
        raise PromptError("The model's chat template makes no text of these messages. Send others.", "messages")
    shared = min(len(begun), len(whole) - 1)  # something must be left to read
    while begun[:shared] != whole[:shared]:
        shared -= 1
    return Prompt(prefix, text, whole[:shared], whole[shared:])


def texts(tokenizer: Any, request: ChatRequest, tuned: Settings | None = None) -> tuple[str, str]:
    """(prefix, text) of a request; training reads exactly what answering reads. Raises PromptError."""
    writing = writing_of(tokenizer, tuned)
    messages = [plain_message(message, request.tools, writing) for message in request.messages]
    if not messages:
        raise PromptError("The request has no messages; send at least one.", "messages")
    system, turns = split_system(messages)
    if tuned is not None and tuned.form != "full" and _is_known(request, system, tuned):
        return _after(tokenizer, opening_of(tokenizer, tuned), turns)
    if request.tools and writing == calls.own(tokenizer):
        return _after(tokenizer, [{"role": "system", "content": system}] if system else [], turns, request.tools)
    return full_form(tokenizer, system, turns, request.tools)


def writing_of(tokenizer: Any, tuned: Settings | None) -> Writing:
    """How a tuned model, or the base model (None), writes its calls."""
    if tuned is None or tuned.calls == "own":
        return calls.own(tokenizer) or JSON
    return COMPACT if tuned.calls == "compact" else JSON


def opening_of(tokenizer: Any, tuned: Settings) -> list[dict[str, str]]:
    """The messages a tuned model reads before every conversation: its system prompt, or else an empty one.

    Without one some templates add their own; others know none.
    """
    if tuned.form == "short":
        return [{"role": "system", "content": tuned.system}] if tuned.system else []
    return [{"role": "system", "content": ""}] if _knows_system(tokenizer) else []


@lru_cache(maxsize=8)
def _knows_system(tokenizer: Any) -> bool:
    """Whether a model's chat template takes a system prompt."""
    try:
        _render(tokenizer, [{"role": "system", "content": ""}, {"role": "user", "content": "?"}], (), reply=True)
    except PromptError:
        return False
    return True


def around(tokenizer: Any, tuned: Settings) -> tuple[str, str]:
    """What a tuned model reads before and after a single request, asked with the system prompt and tools it knows."""
    mark = "REQUEST"
    prefix, text = _after(tokenizer, opening_of(tokenizer, tuned), [{"role": "user", "content": mark}])
    before, _, after = (prefix + text).rpartition(mark)
    return before, after


def encode(tokenizer: Any, text: str) -> tuple[int, ...]:
    """Token ids of text that holds its special tokens already."""
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"]) if text else ()


@lru_cache(maxsize=8)
def _kept_ids(tokenizer: Any, text: str) -> tuple[int, ...]:
    return encode(tokenizer, text)


def _is_known(request: ChatRequest, system: str, tuned: Settings) -> bool:
    return tools_key(request.tools) == tuned.tools_key and system in ("", tuned.system)


def tools_key(tools: Sequence[Tool]) -> str:
    """A digest that is equal for equal lists of tools."""
    text = json.dumps([function_of(tool) for tool in tools], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


# Messages


def plain_message(message: Message, tools: Sequence[Tool], writing: Writing) -> dict[str, str]:
    """{"role", "content"} with text only: content parts joined, calls written out."""
    role = str(message.get("role", "user"))
    made = [call["function"] for call in message.get("tool_calls") or []]
    if message.get("function_call"):
        made = [message["function_call"]]
    if made:
        return {"role": role, "content": calls.write(made, tools, writing)}
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
    if role == "developer":
        role = "system"
    if role == "function":
        role = "tool"
    return {"role": role, "content": str(content or "")}


def split_system(messages: list[dict[str, str]]) -> tuple[str, list[dict[str, str]]]:
    """(system prompt or "", the other messages)."""
    system = "\n\n".join(message["content"] for message in messages if message["role"] == "system")
    return system, [message for message in messages if message["role"] != "system"]


# Forms


def full_form(tokenizer: Any, system: str, turns: list[dict[str, str]], tools: Sequence[Tool]) -> tuple[str, str]:
    """(prefix, text): system prompt and tools, then the turns; the prefix is equal for equal system and tools."""
    parts = [system] if system else []
    if tools:
        parts.append(_INSTRUCTION.format(lines="\n".join(signature(tool) for tool in tools)))
    return _after(tokenizer, [{"role": "system", "content": "\n\n".join(parts)}] if parts else [], turns)


def _after(
    tokenizer: Any, opening: list[dict[str, str]], turns: list[dict[str, str]], tools: Sequence[Tool] = ()
) -> tuple[str, str]:
    """(prefix, text) of turns after a system prompt, if there is one, and tools the chat template is to show.

    The prefix is what stands before the first turn's own words: they are told by what else could be said there.
    """
    whole = _render(tokenizer, opening + turns, tools, reply=True)
    others = [[*opening, {**turns[0], "content": words}] for words in ("?", "!")] if turns else [opening]
    try:
        same = commonprefix([whole, *(_render(tokenizer, other, tools, reply=False) for other in others)])  # noqa: RUF071
    except PromptError:  # a template that wants another first turn: nothing to share, only slower
        return "", whole
    return same, whole[len(same) :]


def _render(tokenizer: Any, messages: list[dict[str, str]], tools: Sequence[Tool], *, reply: bool) -> str:
    shown = [{"type": "function", "function": function_of(tool)} for tool in tools] or None
    try:
        text = tokenizer.apply_chat_template(messages, tools=shown, tokenize=False, add_generation_prompt=reply)
    except Exception as error:
        raise PromptError(f"The model's chat template refuses these messages: {error}", "messages") from error
    return str(text)


def signature(tool: Tool) -> str:
    """A function on one line: name(parameter: type, optional?: type) - description."""
    function = function_of(tool)
    return f"{function['name']}({_fields(function['parameters'])}) - {function['description']}"


def _fields(schema: dict[str, Any]) -> str:
    required = schema.get("required") or []
    return ", ".join(
        f"{name}{'' if name in required else '?'}: {_type(part)}"
        for name, part in (schema.get("properties") or {}).items()
    )


def _type(schema: Any) -> str:
    """A schema as a short type, readable by a small model."""
    if not isinstance(schema, dict):
        return "any"
    if "const" in schema:
        return json.dumps(schema["const"], ensure_ascii=False)
    if "enum" in schema:
        return "|".join(json.dumps(choice, ensure_ascii=False) for choice in schema["enum"])
    if schema.get("type") == "object" and schema.get("properties"):
        return "{" + _fields(schema) + "}"
    if schema.get("type") == "array":
        return f"[{_type(schema.get('items'))}]"
    for key in ("anyOf", "oneOf"):
        if key in schema:
            return "|".join(_type(part) for part in schema[key])
    kind = schema.get("type", "any")
    kind = "|".join(kind) if isinstance(kind, list) else str(kind)
    low, high = schema.get("minimum", ""), schema.get("maximum", "")
    return f"{kind} {low}..{high}" if low != "" or high != "" else kind
