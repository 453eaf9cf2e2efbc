"""A chat completions request, checked field by field and brought into today's shape for the engine."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match
from openai.types.chat.completion_create_params import CompletionCreateParamsBase

from drone_ft.local import api
from drone_ft.local.api import Json, bad
from drone_ft.local.prompt import ChatRequest

KNOWN = (*CompletionCreateParamsBase.__annotations__, "stream")
ROLES = ("system", "developer", "user", "assistant", "tool", "function")
NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
MOST_TOOLS = 128
MOST_CHOICES = 16
MOST_LOGPROBS = 20
LARGEST_COUNT = 1_000_000_000
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "audio": (None,),
    "frequency_penalty": (None, 0),
    "presence_penalty": (None, 0),
    "logit_bias": (None, {}),
    "modalities": (None, ["text"]),
    "moderation": (None,),
    "prediction": (None,),
    "web_search_options": (None,),
}
"""What the engine cannot do, with the values that ask for nothing; any other value is refused, not ignored."""


@dataclass(frozen=True)
class Chat:
    """A checked request: one engine request a choice, and the shape its answer must have."""

    model: str
    choices: tuple[ChatRequest, ...]
    older: bool
    """Asked with `functions`: a call is answered in `message.function_call`."""
    stream: bool
    include_usage: bool


def read_chat(body: Json) -> Chat:
    """The request in `body`; ApiError 400 says what is wrong with it, in the API's words."""
    api.known_only(body, KNOWN)
    model = api.text(body, "model", required=True) or ""
    for key, neutral in NEUTRAL.items():
        if body.get(key) not in neutral:
            raise bad(
                f"Unsupported value: '{key}' is not supported by the model on this computer.", key, "unsupported_value"
            )
    older = body.get("functions") is not None or body.get("function_call") is not None
    if older and (body.get("tools") is not None or body.get("tool_choice") is not None):
        raise bad("Give either 'tools' or the older 'functions', not both.", "functions")
    tools = _functions(body) if older else _tools(body)
    settings = {
        "messages": _messages(body.get("messages")),
        "tools": tools,
        "tool_choice": _older_choice(body, tools) if older else _tool_choice(body, tools),
        "parallel": not older and _parallel(body, tools),
        "schema": _schema(body.get("response_format")),
        "logprobs": _logprobs(body),
        **_sampling(body),
    }
    stream = api.flag(body, "stream")
    return Chat(model, _choices(body, settings), older, stream, _include_usage(body, stream))


def _choices(body: Json, settings: Json) -> tuple[ChatRequest, ...]:
    count = api.whole(body, "n", 1, MOST_CHOICES) or 1
    seed = settings.pop("seed", None)
    first = random.randrange(LARGEST_COUNT) if seed is None else seed
    return tuple(ChatRequest(**settings, seed=(first + index) % 2**63) for index in range(count))


def _sampling(body: Json) -> Json:
    """The settings that were given; what was not keeps the engine's own default."""
    most, older_most = (api.whole(body, key, 1, LARGEST_COUNT) for key in ("max_completion_tokens", "max_tokens"))
    if most is not None and older_most is not None:
        raise bad(
            "Give either 'max_tokens' or 'max_completion_tokens', not both.",
            "max_tokens",
            "invalid_parameter_combination",
        )
    given = {
        "max_tokens": most if most is not None else older_most,
        "temperature": api.number(body, "temperature", 0, 2),
        "top_p": api.number(body, "top_p", 0, 1),
        "seed": api.whole(body, "seed", -(2**63), 2**63 - 1),
        "stop": _stop(body.get("stop")),
    }
    return {key: value for key, value in given.items() if value is not None}


def _schema(value: object) -> Json | None:
    """What `response_format` asks an answer in text to fit."""
    if value is None or value == {"type": "text"}:
        return None
    if not isinstance(value, dict):
        raise api.wrong_type("response_format", "an object", value)
    if value.get("type") == "json_object":
        return {"type": "object"}
    if value.get("type") != "json_schema":
        message = f"Invalid value: {str(value.get('type'))[:50]!r}. Supported values are: 'text', 'json_object', "
        raise bad(f"{message}'json_schema'.", "response_format.type", "invalid_value")
    name, wanted = "response_format.json_schema", value.get("json_schema")
    if not isinstance(wanted, dict) or not isinstance(wanted.get("schema"), dict):
        raise api.wrong_type(f"{name}.schema", "an object", wanted.get("schema") if isinstance(wanted, dict) else None)
    if not NAME.fullmatch(str(wanted.get("name", ""))):
        message = f"Invalid '{name}.name': expected 1 to 64 letters, digits, '_' or '-'."
        raise bad(message, f"{name}.name", "invalid_value")
    if trouble := _schema_trouble(json.dumps(wanted["schema"])):
        raise bad(f"Invalid schema for response_format: {trouble}.", f"{name}.schema", "invalid_json_schema")
    schema: Json = wanted["schema"]
    return schema


def _logprobs(body: Json) -> int | None:
    top = api.whole(body, "top_logprobs", 0, MOST_LOGPROBS)
    if api.flag(body, "logprobs"):
        return top or 0
    if top:
        raise bad("'top_logprobs' is only allowed when 'logprobs' is enabled.", "top_logprobs", "invalid_value")
    return None


def _stop(value: object) -> tuple[str, ...] | None:
    if value is None:
        return None
    words = [value] if isinstance(value, str) else value
    if not isinstance(words, list) or len(words) > 4 or not all(isinstance(word, str) and word for word in words):
        raise bad(
            "Invalid 'stop': expected a string or an array of up to 4 strings, none empty.", "stop", "invalid_type"
        )
    return tuple(words)


def _include_usage(body: Json, stream: bool) -> bool:
    options = body.get("stream_options")
    if options is None:
        return False
    if not isinstance(options, dict):
        raise api.wrong_type("stream_options", "an object", options)
    if not stream:
        raise bad("'stream_options' is only allowed when 'stream' is enabled.", "stream_options")
    api.known_only(options, ("include_usage", "include_obfuscation"))
    return api.flag(options, "include_usage")


def _tools(body: Json) -> tuple[Json, ...]:
    tools = body.get("tools")
    if tools is None:
        return ()
    entries = _filled_list(tools, "tools")
    for index, tool in enumerate(entries):
        if not isinstance(tool, dict):
            raise api.wrong_type(f"tools[{index}]", "an object", tool)
        if tool.get("type") != "function":
            message = f"Invalid value: {str(tool.get('type'))[:50]!r}. Supported values are: 'function'."
            raise bad(message, f"tools[{index}].type", "invalid_value")
    return _distinct(
        [_function(tool.get("function"), f"tools[{index}].function") for index, tool in enumerate(entries)]
    )


def _functions(body: Json) -> tuple[Json, ...]:
    entries = body.get("functions")
    if entries is None:
        raise bad("'function_call' is only allowed when 'functions' are specified.", "function_call")
    entries = _filled_list(entries, "functions")
    return _distinct([_function(entry, f"functions[{index}]") for index, entry in enumerate(entries)])


def _filled_list(value: object, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise api.wrong_type(name, "an array of objects", value)
    if not 1 <= len(value) <= MOST_TOOLS:
        message = f"Invalid '{name}': expected an array of 1 to {MOST_TOOLS} functions, got {len(value)}."
        raise bad(message, name, "empty_array" if not value else "array_above_max_length")
    return value


def _function(value: object, name: str) -> Json:
    if not isinstance(value, dict):
        raise api.wrong_type(name, "an object", value)
    title = api.text(value, "name") or ""
    if not NAME.fullmatch(title):
        message = f"Invalid '{name}.name': expected 1 to 64 letters, digits, '_' or '-', got {title[:80]!r}."
        raise bad(message, f"{name}.name", "invalid_value")
    description, parameters = value.get("description"), value.get("parameters")
    if description is not None and not isinstance(description, str):
        raise api.wrong_type(f"{name}.description", "a string", description)
    if parameters is not None and not isinstance(parameters, dict):
        raise api.wrong_type(f"{name}.parameters", "an object", parameters)
    if trouble := _schema_trouble(json.dumps(parameters or {})):
        message = f"Invalid schema for function {title!r}: {trouble}. Correct its parameters."
        raise bad(message, f"{name}.parameters", "invalid_function_parameters")
    function = {"name": title, "description": description or "", "parameters": parameters or {"type": "object"}}
    return {"type": "function", "function": function}


@lru_cache(maxsize=512)
def _schema_trouble(parameters: str) -> str | None:
    """What makes the JSON text of `parameters` no schema of an object; None when it is one."""
    schema = json.loads(parameters)
    if schema.get("type", "object") != "object":
        return f"its type must be 'object', got {str(schema['type'])[:50]!r}"
    error = best_match(Draft202012Validator(Draft202012Validator.META_SCHEMA).iter_errors(schema))
    if error is None:
        return None
    where = ".".join(str(step) for step in error.absolute_path)
    return f"at {where or 'its top'}: {error.message[:200]}"


def _distinct(tools: Sequence[Json]) -> tuple[Json, ...]:
    names = [tool["function"]["name"] for tool in tools]
    for index, name in enumerate(names):
        if name in names[:index]:
            raise bad(f"The function {name!r} is given twice. Names must differ.", "tools", "invalid_value")
    return tuple(tools)


def _tool_choice(body: Json, tools: Sequence[Json]) -> str | Json:
    choice = body.get("tool_choice")
    if choice is None:
        return "auto"
    if not tools:
        raise bad("'tool_choice' is only allowed when 'tools' are specified.", "tool_choice")
    if choice in ("none", "auto", "required"):
        return str(choice)
    if isinstance(choice, dict) and choice.get("type") == "function" and isinstance(choice.get("function"), dict):
        return _named(choice["function"].get("name"), tools, "tool_choice")
    message = "Invalid 'tool_choice': expected 'none', 'auto', 'required' or a function to call."
    raise bad(message, "tool_choice", "invalid_value")


def _older_choice(body: Json, tools: Sequence[Json]) -> str | Json:
    choice = body.get("function_call")
    if choice is None or choice in ("none", "auto"):
        return choice or "auto"
    if isinstance(choice, dict):
        return _named(choice.get("name"), tools, "function_call")
    message = "Invalid 'function_call': expected 'none', 'auto' or a function to call."
    raise bad(message, "function_call", "invalid_value")


def _named(name: object, tools: Sequence[Json], param: str) -> Json:
    if not any(tool["function"]["name"] == name for tool in tools):
        raise bad(f"Invalid '{param}': no function {str(name)[:80]!r} was given.", param, "invalid_value")
    return {"name": name}


def _parallel(body: Json, tools: Sequence[Json]) -> bool:
    if body.get("parallel_tool_calls") is None:
        return True
    if not tools:
        raise bad("'parallel_tool_calls' is only allowed when 'tools' are specified.", "parallel_tool_calls")
    return api.flag(body, "parallel_tool_calls")


def _messages(value: object) -> list[Json]:
    if value is None:
        raise bad("Missing required parameter: 'messages'.", "messages", "missing_required_parameter")
    if not isinstance(value, list):
        raise api.wrong_type("messages", "an array of objects", value)
    if not value:
        raise bad(
            "Invalid 'messages': empty array. Expected an array with minimum length 1.", "messages", "empty_array"
        )
    messages: list[Json] = []
    asked: list[str] = []
    for index, message in enumerate(value):
        messages.append(_message(message, f"messages[{index}]", asked))
        if "tool_calls" in messages[-1]:
            asked = [call["id"] for call in messages[-1]["tool_calls"]]
        elif messages[-1]["role"] != "tool":
            asked = []
    return messages


def _message(value: object, name: str, asked: Sequence[str]) -> Json:
    """One message in today's shape; `asked` are the ids of the calls that wait for a result."""
    if not isinstance(value, dict):
        raise api.wrong_type(name, "an object", value)
    role = value.get("role")
    if role not in ROLES:
        supported = ", ".join(repr(each) for each in ROLES)
        raise bad(
            f"Invalid value: {str(role)[:50]!r}. Supported values are: {supported}.", f"{name}.role", "invalid_value"
        )
    message: Json = {"role": {"developer": "system", "function": "tool"}.get(role, role)}
    message["content"] = _content(value.get("content"), f"{name}.content")
    if role == "assistant" and (calls := _past_calls(value, name)):
        message["tool_calls"] = calls
    elif role == "assistant" and message["content"] is None:
        message["content"] = str(value.get("refusal") or "")
    elif message["content"] is None:
        raise bad(
            f"Invalid value for '{name}.content': expected a string, got null.", f"{name}.content", "invalid_type"
        )
    if message["role"] == "tool":
        id = value.get("tool_call_id") if role == "tool" else (asked[0] if asked else None)
        if id not in asked:
            text = f"'{name}' has role '{role}' but answers no call of the message before it."
            raise bad(f"{text} Its 'tool_call_id' must be one of: {', '.join(asked) or 'none'}.", name)
        message["tool_call_id"] = id
    if isinstance(value.get("name"), str):
        message["name"] = value["name"]
    return message


def _content(value: object, name: str) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise api.wrong_type(name, "a string or an array of parts", value)
    texts = []
    for index, part in enumerate(value):
        text = part.get("text", part.get("refusal")) if isinstance(part, dict) else None
        if not isinstance(text, str):
            raise bad("The model on this computer reads text only.", f"{name}[{index}]", "unsupported_value")
        texts.append(text)
    return "\n".join(texts)


def _past_calls(message: Json, name: str) -> list[Json]:
    """The calls an assistant message made, also those in the older `function_call`."""
    calls = message.get("tool_calls")
    if calls is None and message.get("function_call") is not None:
        calls = [{"id": f"call_{name}", "type": "function", "function": message["function_call"]}]
    if calls is None:
        return []
    if not isinstance(calls, list):
        raise api.wrong_type(f"{name}.tool_calls", "an array", calls)
    return [_past_call(call, f"{name}.tool_calls[{index}]") for index, call in enumerate(calls)]


def _past_call(call: object, name: str) -> Json:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(call, dict) or not isinstance(function, dict):
        raise api.wrong_type(name, "an object with a function", call)
    for field in ("name", "arguments"):
        if not isinstance(function.get(field), str):
            raise api.wrong_type(f"{name}.function.{field}", "a string", function.get(field))
    try:
        arguments = json.loads(function["arguments"] or "{}")
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        raise bad(f"Invalid '{name}.function.arguments': expected a JSON object as text.", f"{name}.function.arguments")
    if not isinstance(call.get("id"), str):
        raise api.wrong_type(f"{name}.id", "a string", call.get("id"))
    return {
        "id": call["id"],
        "type": "function",
        "function": {"name": function["name"], "arguments": function["arguments"]},
    }
