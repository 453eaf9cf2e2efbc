"""What a model accepts, learned from its server's refusals once and remembered; no model is known by its name."""

from __future__ import annotations

import json
import re
import threading
from collections import defaultdict
from collections.abc import Callable
from typing import Any, Protocol, cast

import openai
import tenacity
from openai.types.chat import ChatCompletion

from drone_ft.endpoints import patiently
from drone_ft.errors import EndpointRefused

LEFT_OUT = "left out"
NO_CALLS = "tools_unsupported"  # the code of a refusal that meets every request with functions
# A request means the same without these, or nearly so.
OPTIONAL = (
    "temperature", "top_p", "seed", "parallel_tool_calls", "reasoning_effort", "logprobs", "top_logprobs",
    "presence_penalty", "frequency_penalty",
)  # fmt: skip
NO = re.compile(
    r"unsupported|not .{0,12}support|n't support|unrecogni[sz]ed|unknown|not permitted|extra_forbidden|unavailable"
    r"|deprecated|not (yet )?(implemented|allowed|available)|only (the )?(default|1)\b|'?response_format.*must be",
)
REFUSED = {"parallel_tool_calls": "several calls at once", "reasoning_effort": "thinking before a call"}
WORDS = {
    ("max_tokens", "max_completion_tokens"): "has another name for the most it may write",
    ("max_completion_tokens", "max_tokens"): "has an older name for the most it may write",
    ("json_schema", "json_object"): "is told in words how its JSON should look",
    ("json_object", "plain"): "is asked in words for JSON",
    ("tool_choice", "auto"): "cannot be made to call a function and may answer in words",
}


class Memory(Protocol):
    """Where lessons are kept: what a model wants changed, by the name of the setting.

    A base URL has no slash at its end.
    """

    def get(self, base_url: str, model: str) -> dict[str, str]:
        """The lessons of a model; empty when there are none."""

    def put(self, base_url: str, model: str, learned: dict[str, str]) -> None:
        """Keep the lessons of a model in place of earlier ones."""


class Forgetful:
    """A memory that lasts as long as the process."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], dict[str, str]] = {}

    def get(self, base_url: str, model: str) -> dict[str, str]:
        """The lessons of a model; empty when there are none."""
        return dict(self._kept.get((base_url, model), {}))

    def put(self, base_url: str, model: str, learned: dict[str, str]) -> None:
        """Keep the lessons of a model in place of earlier ones."""
        self._kept[base_url, model] = dict(learned)


REMEMBERED = Forgetful()
_learning: defaultdict[tuple[str, str], threading.Lock] = defaultdict(threading.Lock)


def chat(
    client: openai.OpenAI,
    model: str,
    memory: Memory | None = None,
    *,
    attempts: int = 4,
    sleep: Callable[[float], None] = tenacity.nap.sleep,
    **request: Any,
) -> ChatCompletion:
    """A chat completion, with the request changed to what the model accepts; each refusal teaches once.

    Raises EndpointRefused, also when the model cannot call functions, and EndpointUnavailable.
    """
    memory, url = memory or REMEMBERED, str(client.base_url).rstrip("/")

    def send(learned: dict[str, str]) -> ChatCompletion:
        create: Any = client.chat.completions.create
        sent = adapted(request, learned)
        return cast(ChatCompletion, patiently(lambda: create(model=model, **sent), attempts, sleep))

    known = memory.get(url, model)
    try:
        return send(known)
    except EndpointRefused as error:
        first = lesson(error, adapted(request, known))
        if not first:
            raise _clear(error, model, request) from error
    # One learns for all: requests sent side by side would each be refused for every single lesson.
    with _learning[url, model]:
        if memory.get(url, model) == known:
            reply, learned = _taught(send, model, request, {**known, first[0]: first[1]}, {first})
            memory.put(url, model, learned)
            return reply
    return chat(client, model, memory, attempts=attempts, sleep=sleep, **request)


def _taught(
    send: Callable[[dict[str, str]], ChatCompletion],
    model: str,
    request: dict[str, Any],
    learned: dict[str, str],
    taught: set[tuple[str, str]],
) -> tuple[ChatCompletion, dict[str, str]]:
    """The reply once nothing is refused any more, and all that was learned; no lesson of `taught` is taken twice."""
    while True:
        try:
            return send(learned), learned
        except EndpointRefused as error:
            found = lesson(error, adapted(request, learned))
            if not found or found in taught:
                raise _clear(error, model, request) from error
            taught = {*taught, found}
            learned = {**learned, found[0]: found[1]}


def lesson(refused: EndpointRefused, request: dict[str, Any]) -> tuple[str, str] | None:
    """What a refusal of this request teaches: a setting and what to do with it; None for other refusals."""
    said = f"{refused.said} {refused.code or ''}".lower()
    if refused.status not in (400, 422):
        return None
    if "invalid schema" in said:
        # Azure's strict form has fewer words than JSON Schema; told in the request's own words, it does as well.
        strict = "response_format" in said and request.get("response_format", {}).get("type") == "json_schema"
        return ("json_schema", "json_object") if strict else None
    if "max_tokens" in request and "max_completion_tokens" in said:
        return "max_tokens", "max_completion_tokens"
    if not NO.search(said):
        return None

    def meant(name: str) -> bool:
        return name in request and (refused.param == name or re.search(rf"\b{name}\b", said) is not None)

    if meant("max_completion_tokens"):
        return "max_completion_tokens", "max_tokens"
    if request.get("tools") and "reasoning_effort" in said and request.get("reasoning_effort") != "none":
        return "reasoning_effort", "none"
    if "response_format" in request and re.search(r"response_format|json_schema|json_object|structured output", said):
        form = str(request["response_format"].get("type"))
        return form, "json_object" if form == "json_schema" else "plain"
    if request.get("tool_choice") not in (None, "auto", "none") and re.search(r"tool[_ ]choice", said):
        return "tool_choice", "auto"
    return next(((name, LEFT_OUT) for name in OPTIONAL if meant(name)), None)


def adapted(request: dict[str, Any], learned: dict[str, str]) -> dict[str, Any]:
    """The request as a model with these lessons accepts it; also for the lines of a batch."""
    changed = dict(request)
    for name, what in learned.items():
        if name == "reasoning_effort" and what == "none":
            if changed.get("tools"):
                changed[name] = what
        elif name not in changed:
            continue
        elif name == "tool_choice":
            changed[name] = what if changed[name] != "none" else "none"
        elif what == LEFT_OUT:
            del changed[name]
        else:
            changed[what] = changed.pop(name)
    return _described(changed, learned) if "response_format" in changed else changed


def _described(request: dict[str, Any], learned: dict[str, str]) -> dict[str, Any]:
    """The request with its answer's form told in words, where the server does not hold the model to it."""
    wanted = request["response_format"]
    form = asked = str(wanted.get("type"))
    while form in learned:
        form = learned[form]
    if form == asked:
        return request
    words = "Answer with one JSON object and nothing else."
    if asked == "json_schema":
        words += f" It must fit this JSON Schema:\n{json.dumps(wanted['json_schema'].get('schema', {}))}"
    rest = {name: value for name, value in request.items() if name != "response_format"}
    if form != "plain":
        rest["response_format"] = {"type": form}
    first, *others = request["messages"]
    if first["role"] in ("system", "developer") and isinstance(first["content"], str):
        return {**rest, "messages": [{**first, "content": f"{first['content']}\n\n{words}"}, *others]}
    return {**rest, "messages": [{"role": "system", "content": words}, first, *others]}


def _clear(refused: EndpointRefused, model: str, request: dict[str, Any]) -> EndpointRefused:
    """The refusal, in plain words when it means that the model cannot call functions."""
    said = refused.said.lower()
    calls = re.search(r"\btools?\b|\bfunctions?\b|function[ -]call", said) and (NO.search(said) or "requires" in said)
    if not request.get("tools") or refused.status not in (400, 422, 501) or not calls or "schema" in said:
        return refused
    return EndpointRefused(
        f"{model} cannot call functions at this server ({refused.said}). Choose another model, or let its server "
        "allow function calls.",
        refused.status,
        NO_CALLS,
        refused.param,
        refused.said,
    )


def told(learned: dict[str, str]) -> str:
    """What was changed for a model, for the user; empty when nothing was."""
    refused = [name for name, what in learned.items() if what in (LEFT_OUT, "none")]
    others = [WORDS.get(pair, f"takes {pair[0]} as {pair[1]}") for pair in learned.items() if pair[0] not in refused]
    sentences = ["Nothing is wrong."] if learned else []
    if refused:
        names = ", ".join(REFUSED.get(name, name.replace("_", " ")) for name in refused)
        sentences.append(f"This app leaves out settings this model refuses: {names}.")
    if others:
        joined = " and ".join(", ".join(part) for part in (others[:-1], others[-1:]) if part)
        sentences.append(f"This model {joined}; requests are written to suit it.")
    return " ".join(sentences)
