"""What a model accepts is learned from its refusals, once; and what is no such refusal teaches nothing."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import openai
import pytest

from drone_ft import abilities, evaluation
from drone_ft.abilities import LEFT_OUT, Forgetful, Memory
from drone_ft.catalog import default_catalog
from drone_ft.errors import EndpointRefused, EndpointUnavailable
from drone_ft.store import Store
from tests.scripted import REASONING, REFUSALS, Model, Script, Server, running

TOOL = {"type": "function", "function": {"name": "up", "parameters": {"type": "object", "properties": {}}}}
SCHEMA = {"type": "object", "properties": {"words": {"type": "string"}}, "required": ["words"]}
FORM = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": SCHEMA}}
CALL = {"tools": [TOOL], "tool_choice": "required", "parallel_tool_calls": False, "temperature": 0, "max_tokens": 50}


def ask(server: Server, model: str, memory: Memory, **request: Any) -> Any:
    asked = {"messages": [{"role": "user", "content": "up"}], **request}
    return abilities.chat(server.client(), model, memory, attempts=1, **asked)


def test_what_was_learned_is_listed_for_a_place_and_forgotten_for_a_model_so_that_it_is_learned_anew() -> None:
    store, model = Store(), Model("m", ("max_tokens",))
    with running(Script(models=(model,))) as server:
        for _ in range(2):
            ask(server, "m", store, **CALL)
        assert server.state.statuses["400"] == 1
        store.put(server.base_url, "easy", {})
        store.put("http://elsewhere/v1", "m", {"temperature": LEFT_OUT})
        lessons = {"max_tokens": "max_completion_tokens"}
        assert store.learned(f"{server.base_url}/") == {"m": lessons}
        store.forget(f"{server.base_url}/", "m")
        assert store.learned(server.base_url) == {} and store.learned("http://elsewhere/v1")
        ask(server, "m", store, **CALL)
        assert server.state.statuses["400"] == 2 and store.learned(server.base_url) == {"m": lessons}


@pytest.mark.parametrize(
    ("refuses", "request_", "learned"),
    [
        ((), CALL, {}),
        (("max_tokens",), CALL, {"max_tokens": "max_completion_tokens"}),
        (("temperature",), CALL, {"temperature": LEFT_OUT}),
        (("parallel_tool_calls",), CALL, {"parallel_tool_calls": LEFT_OUT}),
        (("reasoning",), CALL, {"reasoning_effort": "none"}),
        (("required",), CALL, {"tool_choice": "auto"}),
        (
            (*REASONING, "required"),
            CALL,
            {
                "max_tokens": "max_completion_tokens",
                "temperature": LEFT_OUT,
                "parallel_tool_calls": LEFT_OUT,
                "reasoning_effort": "none",
                "tool_choice": "auto",
            },
        ),
        (("json_schema",), {"response_format": FORM}, {"json_schema": "json_object"}),
        (
            ("json_schema", "json_object"),
            {"response_format": FORM},
            {"json_schema": "json_object", "json_object": "plain"},
        ),
        (("json_object",), {"response_format": {"type": "json_object"}}, {"json_object": "plain"}),
    ],
)
def test_each_refusal_teaches_once_and_is_remembered(
    refuses: tuple[str, ...], request_: dict[str, Any], learned: dict[str, str]
) -> None:
    memory = Forgetful()
    with running(Script(models=(Model("m", refuses),))) as server:
        first = ask(server, "m", memory, **request_)
        tried = server.state.requests["POST /v1/chat/completions"]
        ask(server, "m", memory, **request_)
        again = server.state.requests["POST /v1/chat/completions"] - tried
    assert memory.get(server.base_url, "m") == learned and again == 1
    assert tried == len(refuses) + 1
    message = first.choices[0].message
    assert message.tool_calls if "tools" in request_ else message.content
    if request_.get("response_format") is FORM:
        assert list(json.loads(message.content)) == ["words"], "told in words, the schema still reaches the model"


def test_many_requests_at_once_learn_together() -> None:
    memory = Forgetful()
    with running(Script(models=(Model("m", REASONING),), latency=0.05)) as server:
        client, messages = server.client(), [{"role": "user", "content": "up"}]
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda _: abilities.chat(client, "m", memory, messages=messages, **CALL), range(16)))
        refused = server.state.statuses["400"]
    assert server.state.statuses["200"] == 16 and refused <= 16 + len(REASONING), "not every lesson for everybody"


REFUSED = [  # what servers say: where the request goes on, and where it cannot
    ("temperature", 400, "invalid temperature: only 1 is allowed for this model", ("temperature", LEFT_OUT)),
    ("temperature", 400, "`temperature` is deprecated for this model.", ("temperature", LEFT_OUT)),
    (None, 422, '[{"type": "extra_forbidden", "loc": ["body", "parallel_tool_calls"]}]',
     ("parallel_tool_calls", LEFT_OUT)),
    (None, 400, "Function tools with reasoning_effort are not supported for gpt-5.4 in /v1/chat/completions. Please "
     "use /v1/responses instead.", ("reasoning_effort", "none")),
    (None, 400, "This response_format type is unavailable now", ("json_schema", "json_object")),
    ("temperature", 400, "Invalid 'temperature': decimal above maximum value", None),
    ("max_tokens", 400, "max_tokens is too large: 100000. This model supports at most 16384 completion tokens.", None),
    ("response_format", 400, "Invalid schema for response_format 'x': 'minLength' is not permitted.",
     ("json_schema", "json_object")),
    ("messages", 400, "This model's maximum context length is 8192 tokens. Please reduce the length.", None),
    ("temperature", 404, "temperature not supported", None),
]  # fmt: skip


@pytest.mark.parametrize(("param", "status", "said", "taught"), REFUSED)
def test_a_refusal_about_something_else_teaches_nothing(
    param: str | None, status: int, said: str, taught: tuple[str, str] | None
) -> None:
    request = {**CALL, "response_format": FORM}
    assert abilities.lesson(EndpointRefused("no", status, None, param, said), request) == taught


@pytest.mark.parametrize(
    "said",
    [
        "registry.ollama.ai/library/gemma:2b does not support tools",
        '"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set',
    ],
)
def test_a_model_that_cannot_call_functions_is_said_to_be_so_and_not_asked_on(
    said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(REFUSALS, "tools", (REFUSALS["tools"][0], {"message": said, "type": "x", "code": None}))
    memory = Forgetful()
    with running(Script(models=(Model("gemma", ("tools",)),))) as server:
        with pytest.raises(EndpointRefused, match="gemma cannot call functions"):
            ask(server, "gemma", memory, tools=[TOOL])
        assert server.state.requests["POST /v1/chat/completions"] == 1
        with pytest.raises(EndpointRefused, match="cannot call functions"):
            evaluation.ask_all(server.client(), "gemma", default_catalog(), ["up", "down"], memory=memory)
    assert memory.get(server.base_url, "gemma") == {}, "its owner may teach it tomorrow"


def test_a_server_that_refuses_whatever_is_sent_is_not_asked_for_ever() -> None:
    body = {"error": {"message": "temperature, top_p, max_tokens are unsupported: use max_completion_tokens"}}
    seen: list[dict[str, Any]] = []

    def refuse(request: httpx2.Request) -> httpx2.Response:
        seen.append(json.loads(request.content))
        return httpx2.Response(400, json=body)

    http = httpx2.Client(transport=httpx2.MockTransport(refuse))
    client = openai.OpenAI(base_url="http://test/v1", api_key="k", max_retries=0, http_client=http)
    with pytest.raises(EndpointRefused, match="unsupported"):
        abilities.chat(client, "m", Forgetful(), messages=[], temperature=0, top_p=1, max_tokens=5)
    assert len(seen) < 8


def test_a_hosted_reasoning_model_is_evaluated_like_any_other() -> None:
    with running() as server:
        answers, _ = evaluation.ask_all(
            server.client(), "gpt-reasoning", default_catalog(), ["up", "down", "left"], memory=Forgetful()
        )
    assert all(answer.call and not answer.error for answer in answers)


def test_what_a_proxy_writes_in_place_of_an_answer_is_an_outage() -> None:
    for answer in (
        httpx2.Response(200, text="<html>Welcome</html>"),
        httpx2.Response(200, content=b'{"id": "half', headers={"content-type": "application/json"}),
    ):
        http = httpx2.Client(transport=httpx2.MockTransport(lambda request, answer=answer: answer))
        client = openai.OpenAI(base_url="http://test/v1", api_key="k", max_retries=0, http_client=http)
        with pytest.raises(EndpointUnavailable):
            abilities.chat(client, "m", Forgetful(), attempts=1, messages=[])


def test_the_user_is_told_what_was_changed_and_that_nothing_went_wrong() -> None:
    assert abilities.told({}) == ""
    words = abilities.told({"temperature": LEFT_OUT, "reasoning_effort": "none", "max_tokens": "max_completion_tokens"})
    assert words == (
        "Nothing is wrong. This app leaves out settings this model refuses: temperature, thinking before a call. "
        "This model has another name for the most it may write; requests are written to suit it."
    )


def test_a_lesson_about_one_form_of_json_leaves_the_other_alone() -> None:
    request = {"messages": [{"role": "system", "content": "Be brief."}], "response_format": FORM}
    assert abilities.adapted(request, {"json_object": "plain"}) == request
    sent = abilities.adapted(request, {"json_schema": "json_object"})
    assert sent["response_format"] == {"type": "json_object"} and len(sent["messages"]) == 1
    assert (
        sent["messages"][0]["content"].startswith("Be brief.") and json.dumps(SCHEMA) in sent["messages"][0]["content"]
    )
    assert request["response_format"] is FORM and request["messages"][0]["content"] == "Be brief.", "nothing is changed"


def test_what_is_learned_of_one_model_changes_nothing_for_another() -> None:
    memory = Forgetful()
    with running(Script(models=(Model("m", ("temperature",)), Model("other")))) as server:
        ask(server, "m", memory, temperature=0)
        ask(server, "other", memory, temperature=0)
    assert memory.get(server.base_url, "m") and not memory.get(server.base_url, "other")
