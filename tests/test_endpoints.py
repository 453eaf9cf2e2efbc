"""Which servers are known, whose key goes where, how long to wait, and what a test of a connection says."""

from __future__ import annotations

import contextlib
import datetime
import json
import traceback
from collections.abc import Callable
from typing import Any

import httpx2
import openai
import pytest

from drone_ft import endpoints, fine_tuning, pipeline, probing
from drone_ft.endpoints import LOCAL, Endpoint
from drone_ft.errors import DroneFTError, EndpointError, EndpointRefused, EndpointUnavailable
from tests.scripted import Model, Script, running

SECRET = "sk-very-secret-0123456789"


def client_of(answer: Callable[[httpx2.Request], httpx2.Response], key: str = "k") -> openai.OpenAI:
    http = httpx2.Client(transport=httpx2.MockTransport(answer))
    return openai.OpenAI(base_url="http://test/v1", api_key=key, max_retries=0, http_client=http)


@pytest.mark.parametrize(
    ("told", "slept", "trouble"),
    [
        (["processed"], 0, None),
        (["pending", "running", "processed"], 2, None),
        (["pending"] * 500, endpoints.READS, None),  # some never say that they are done; the job's creation tells then
        (["pending", "error"], 1, "could not use it: line 3 is no JSON"),
    ],
    ids=["at once", "after a while", "never", "broken"],
)
def test_a_file_is_handed_over_when_its_server_has_read_it(told: list[str], slept: int, trouble: str | None) -> None:
    statuses, waits = iter(told), list[float]()

    def answer(request: httpx2.Request) -> httpx2.Response:
        file = {"id": "file-1", "object": "file", "bytes": 1, "created_at": 1, "filename": "a", "purpose": "batch"}
        return httpx2.Response(200, json=file | {"status": next(statuses), "status_details": "line 3 is no JSON"})

    def handed_over() -> str:
        return endpoints.upload(client_of(answer), "a.jsonl", "{}", "batch", waits.append)

    if trouble:
        with pytest.raises(EndpointRefused, match=trouble):
            handed_over()
    else:
        assert handed_over() == "file-1"
    assert len(waits) == slept


@pytest.mark.parametrize(
    ("model", "tuned"),
    [
        ("ft:gpt-4.1-mini-2025-04-14:me::x", True),
        ("gpt-4.1-mini-2025-04-14.ft-0e208cf33a6a466994aff31a08aba678", True),
        ("gpt-4.1-mini", False),
        ("left-ft-model", False),
    ],
)
def test_tuned_models_are_told_from_others(model: str, tuned: bool) -> None:
    assert endpoints.is_tuned(model) is tuned


def test_what_is_known_without_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_OPENAI_ENDPOINT", raising=False)
    assert [(e.name, e.base_url, e.kind) for e in endpoints.from_environment()] == [
        (LOCAL, "", "local"),
        ("OpenAI", "https://api.openai.com/v1", "openai"),
    ]
    monkeypatch.setenv("OPENAI_BASE_URL", "http://proxy/v1")
    for given in (
        "https://me.openai.azure.com",
        "https://me.openai.azure.com/",
        "https://me.openai.azure.com/openai/v1/",
    ):
        monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", given)
        _, hosted, azure = endpoints.from_environment()
        assert hosted.base_url == "http://proxy/v1"
        assert (azure.base_url, azure.kind) == ("https://me.openai.azure.com/openai/v1/", "azure")


@pytest.mark.parametrize(
    ("endpoint", "variable", "without"),
    [
        (Endpoint(LOCAL, "http://127.0.0.1:1/v1"), "DRONE_FT_TOKEN", "local"),
        (Endpoint("http://box/v1", "http://box/v1"), "OPENAI_API_KEY", None),
        (Endpoint("Azure OpenAI", "http://a/openai/v1/", "azure"), "AZURE_OPENAI_API_KEY", None),
        (Endpoint("Other Azure", "http://b/openai/v1/", "azure"), "DRONE_FT_KEY_OTHER_AZURE_863BC6", None),
        (Endpoint("My vLLM, 2nd", "http://box/v1", "custom"), "DRONE_FT_KEY_MY_VLLM_2ND_3BB665", "none"),
        (Endpoint("办公室", "http://c/v1", "custom"), "DRONE_FT_KEY_F377FC", "none"),
    ],
)
def test_each_server_gets_its_own_key_and_no_other(
    endpoint: Endpoint, variable: str, without: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", "http://a")
    for name in ("DRONE_FT_TOKEN", "OPENAI_API_KEY", "AZURE_OPENAI_API_KEY", variable):
        monkeypatch.setenv(name, f"key-of-{name}")
    monkeypatch.setenv("OPENAI_ORG_ID", "org-of-openai")
    made = endpoints.client(endpoint)
    assert endpoints.key_variable(endpoint) == variable and made.api_key == f"key-of-{variable}"
    assert made.max_retries == 0 and (made.organization is None or endpoint.kind == "openai")
    assert endpoints.client(endpoint, key=" given\n").api_key == "given", "a pasted line break is no part of a key"
    monkeypatch.delenv(variable)
    if without:
        assert endpoints.client(endpoint).api_key == without
    else:
        with pytest.raises(EndpointRefused, match=f"{variable} is not set"):
            endpoints.client(endpoint)


def chain(error: BaseException) -> str:
    return "".join(traceback.format_exception(error)) + repr(error)


def echo(status: int) -> Callable[[httpx2.Request], httpx2.Response]:
    return lambda request: httpx2.Response(
        status, json={"error": {"message": f"Bad key {request.headers['authorization']}", "code": "invalid_api_key"}}
    )


def unreachable(request: httpx2.Request) -> httpx2.Response:
    raise httpx2.ConnectError(f"could not send {request.headers['authorization']}", request=request)


@pytest.mark.parametrize("answer", [echo(401), echo(403), echo(400), echo(503), unreachable])
def test_a_key_is_in_no_message_and_no_traceback(answer: Callable[[httpx2.Request], httpx2.Response]) -> None:
    with pytest.raises(EndpointError) as caught:
        endpoints.translated(client_of(answer, SECRET).models.list)
    assert SECRET not in chain(caught.value) and SECRET not in str(vars(caught.value))


def test_a_key_that_cannot_be_one_is_refused_without_showing_it() -> None:
    with pytest.raises(EndpointRefused, match="Copy it again") as caught:
        endpoints.client(Endpoint("Box", "http://box/v1", "custom"), key=f"{SECRET}\n\u201dx")
    assert SECRET not in chain(caught.value)


def test_a_password_in_the_url_is_not_repeated() -> None:
    def boom(request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError("x", request=request)

    http = httpx2.Client(transport=httpx2.MockTransport(boom))
    client = openai.OpenAI(base_url=f"http://me:{SECRET}@box/v1", api_key="k", max_retries=0, http_client=http)
    with pytest.raises(EndpointUnavailable, match=r"http://box/v1\. Start it") as caught:
        endpoints.translated(client.models.list)
    assert SECRET not in str(caught.value)


NOW = datetime.datetime(2026, 11, 27, 12, 0, tzinfo=datetime.UTC)


@pytest.mark.parametrize(
    ("status", "headers", "waited"),
    [
        (429, {"retry-after": "7"}, 7.0),
        (503, {"retry-after": "7"}, 7.0),
        (429, {"retry-after-ms": "250"}, 0.25),
        (429, {"retry-after": "Fri, 27 Nov 2026 12:00:30 GMT"}, 30.0),
        (429, {"retry-after": "Fri, 27 Nov 2026 11:00:00 GMT"}, 0.0),
        (429, {"retry-after": "86400"}, endpoints.MOST_WAIT_SECONDS),
        (429, {"retry-after": "soon"}, 0.0),
        (429, {"retry-after": "2", "x-ratelimit-reset-requests": "40s"}, 2.0),
        (429, {"x-ratelimit-reset-requests": "1m2s"}, endpoints.MOST_WAIT_SECONDS),
        (429, {"x-ratelimit-reset-requests": "20ms", "x-ratelimit-reset-tokens": "6.5s"}, 0.02),
        (429, {"x-ratelimit-reset-requests": "1s", "x-ratelimit-reset-tokens": "9s",
               "x-ratelimit-remaining-requests": "4", "x-ratelimit-remaining-tokens": "0"}, 9.0),
        (500, {"x-ratelimit-reset-requests": "30s"}, 0.0),
    ],
)  # fmt: skip
def test_the_server_is_given_the_time_it_asks_for(
    status: int, headers: dict[str, str], waited: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.time", NOW.timestamp)
    answers = [httpx2.Response(status, headers=headers, json={"error": {"message": "busy"}})]
    slept: list[float] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        return answers.pop() if answers else httpx2.Response(200, json={"object": "list", "data": []})

    endpoints.patiently(client_of(answer).models.list, sleep=slept.append)
    # On top comes at most the half second by which those who wait for the same moment are spread.
    assert len(slept) == 1 and waited <= slept[0] <= waited + 0.5


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1s", 1.0),
        ("6m0s", 360.0),
        ("20ms", 0.02),
        ("1.5", 1.5),
        ("7", 7.0),
        (" 7 ", 7.0),
        ("0", 0.0),
        ("1h2m", 3720.0),
        ("1d", 86400.0),
        ("Fri, 27 Nov 2026 12:00:30 GMT", 30.0),
        ("Fri, 27 Nov 2026 13:00:30 +0100", 30.0),
        ("Fri, 27 Nov 2026 11:00:00 GMT", 0.0),
        ("Fri, 27 Nov 20260 12:00:30 GMT", None),
        ("Fri, 99 Foo 2026 12:00:30 GMT", None),
        ("2026-11-27T12:00:30Z", None),
        ("-5", None),
        ("-5s", None),
        ("1s soon", None),
        ("soon", None),
        ("1,5", None),
        ("1e3", None),
        ("nan", None),
        ("ms", None),
        ("", None),
    ],
)
def test_times_are_read_in_every_form_servers_write(text: str, value: float | None) -> None:
    assert endpoints.seconds(text, NOW.timestamp()) == (None if value is None else pytest.approx(value))


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422, 429])
def test_what_will_not_change_is_not_asked_again(status: int) -> None:
    asked: list[float] = []
    error = {"message": "You exceeded your quota", "type": "insufficient_quota" if status == 429 else "x", "code": None}

    def answer(request: httpx2.Request) -> httpx2.Response:
        asked.append(0)
        return httpx2.Response(status, json={"error": error}, headers={"retry-after": "1"})

    with pytest.raises(EndpointRefused, match="exceeded your quota"):
        endpoints.patiently(client_of(answer).models.list, sleep=asked.append)
    assert asked == [0]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"error": {"message": "the model is asleep", "code": 3}}, "the model is asleep"),
        ({"error": "the model is asleep"}, "the model is asleep"),
        ({"object": "error", "message": "the model is asleep", "code": 400}, "the model is asleep"),
        ({"detail": [{"msg": "the model is asleep"}]}, "the model is asleep"),
        ("the model is asleep", "the model is asleep"),
        ("<html><h1>Bad gateway", "status 400"),
    ],
)
def test_errors_are_read_in_every_shape_servers_send(body: Any, said: str) -> None:
    raw = body if isinstance(body, str) else json.dumps(body)
    with pytest.raises(EndpointRefused, match=said) as caught:
        endpoints.translated(client_of(lambda request: httpx2.Response(400, text=raw)).models.list)
    assert "<html>" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "code", "todo"),
    [
        (404, "DeploymentNotFound", "deploy it in the Azure portal, then type the deployment's name"),
        (404, "model_not_found", "Check the name"),
        (401, None, "Check the key"),
        (429, "insufficient_quota", "Add credit"),
        (400, "anything", "Change the request"),
    ],
)
def test_a_refusal_says_what_to_do(status: int, code: str | None, todo: str) -> None:
    body = {"error": {"code": code, "message": "The API deployment for this resource does not exist."}}
    with pytest.raises(EndpointRefused, match=todo) as caught:
        endpoints.translated(client_of(lambda request: httpx2.Response(status, json=body)).models.list)
    assert "deployment for this resource does not exist" in str(caught.value) and caught.value.code == code


def test_headers_of_every_answer_can_be_listened_to() -> None:
    heard: list[str] = []
    with running(Script(at_once=5)) as server:
        made = endpoints.client(
            Endpoint("Box", server.base_url, "custom"),
            listen=lambda headers: heard.append(headers.get("x-ratelimit-remaining-requests", "")),
        )
        made.chat.completions.create(model="gpt-4o-mini", messages=[{"role": "user", "content": "hi"}])
    assert heard == ["4"]


# ---------------------------------------------------------------- what a test of a connection says


TODAY = datetime.date(2026, 11, 27)


def test_a_probe_says_what_works_in_one_sentence() -> None:
    with running(Script(key=SECRET)) as server:
        found = probing.probe(Endpoint("My box", server.base_url, "custom"), SECRET, TODAY)
        wrong = probing.probe(Endpoint("OpenAI", server.base_url), "sk-wrong-0123456789", TODAY)
        asked = dict(server.state.requests)
    assert found.sentence == (
        "My box answers: 5 models for chat (gpt-4.1-mini, gpt-4o-mini, gpt-reasoning, llama-plain and 1 more), 1 model "
        "for other things; it can fine-tune; gpt-4.1-mini and gpt-4o-mini stop answering on "
        "14 January 2027."
    )
    assert (
        found.can_tune and len(found.models) == 6 and found.retires[0] == ("gpt-4.1-mini", datetime.date(2027, 1, 14))
    )
    assert wrong.reachable and wrong.key_accepted is False
    assert wrong.sentence == "OpenAI does not accept this key. Paste another one."
    assert not any(path.startswith("POST") for path in asked), "nothing is created to find out"


def test_a_web_page_at_the_address_is_named_as_one() -> None:
    page = httpx2.MockTransport(lambda request: httpx2.Response(200, html="<!doctype html><p>hello"))
    made = openai.OpenAI(
        base_url="http://test/v1", api_key="k", max_retries=0, http_client=httpx2.Client(transport=page)
    )
    for ask in (
        lambda: probing.listed(made, attempts=1),
        lambda: endpoints.translated(lambda: made.chat.completions.create(model="m", messages=[])),
    ):
        with pytest.raises(EndpointError, match="shows a web page, not a model server"):
            ask()


def test_a_chat_server_that_cannot_train_says_so() -> None:
    with running(Script(tunes=False, models=(Model("llama"),))) as server:
        found = probing.probe(Endpoint("Ollama", server.base_url, "custom"), None, TODAY)
    assert found.sentence == "Ollama answers: 1 model for chat (llama); it cannot fine-tune."
    assert found.can_tune is False and found.key_accepted is None


def test_nobody_there_and_no_key_are_answers_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda seconds: None)
    away = probing.probe(Endpoint("Box", "http://127.0.0.1:9/v1", "custom"))
    assert not away.reachable and "No server answers at http://127.0.0.1:9/v1. Start it" in away.sentence
    assert probing.probe(Endpoint("OpenAI", endpoints.OPENAI_URL)).sentence == "OpenAI needs a key."


@pytest.mark.parametrize(
    ("jobs", "today", "can", "words"),
    [
        ((200, [{"id": "ftjob-1"}]), TODAY, True, "it can fine-tune as before; OpenAI takes"),
        ((200, []), TODAY, None, "it never fine-tuned here; OpenAI takes"),
        ((200, [{"id": "ftjob-1"}]), datetime.date(2027, 1, 6), False, "it cannot fine-tune any more"),
        ((403, []), TODAY, None, "whether it can fine-tune is unknown (no)"),
        ((500, []), TODAY, None, "whether it can fine-tune is unknown"),
        ((404, []), TODAY, False, "it cannot fine-tune"),
        ((501, []), TODAY, False, "it cannot fine-tune"),
    ],
)
def test_openais_closing_dates_are_told(
    jobs: tuple[int, list[Any]], today: datetime.date, can: bool | None, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(request: httpx2.Request) -> httpx2.Response:
        if request.url.path.endswith("/models"):
            return httpx2.Response(200, json={"object": "list", "data": [{"id": "gpt-4.1", "object": "model"}]})
        body = {"object": "list", "data": jobs[1]} if jobs[0] == 200 else {"error": {"message": "no"}}
        return httpx2.Response(jobs[0], json=body)

    def transported(endpoint: Endpoint, timeout: float, key: str | None) -> openai.OpenAI:
        http = httpx2.Client(transport=httpx2.MockTransport(answer))
        return openai.OpenAI(base_url=endpoint.base_url, api_key=key, max_retries=0, http_client=http)

    monkeypatch.setattr(probing, "client", transported)
    found = probing.probe(Endpoint("OpenAI", endpoints.OPENAI_URL), "k", today)
    assert found.can_tune is can and words in found.sentence and found.key_accepted
    assert ("6 January 2027" in found.sentence) == ("OpenAI takes" in found.sentence)


@pytest.mark.parametrize(
    ("told", "day"),
    [
        ("2027-01-14", datetime.date(2027, 1, 14)),
        ("2027-01-14T00:00:00Z", datetime.date(2027, 1, 14)),
        (1_799_884_800, datetime.date(2027, 1, 14)),
        ("1799884800", datetime.date(2027, 1, 14)),
        (None, None),
        ("some day", None),
        (10**30, None),
    ],
)
def test_the_day_a_model_retires_is_read_in_both_forms(told: Any, day: datetime.date | None) -> None:
    with running(Script(models=(Model("m", (), told),))) as server:
        found = probing.probe(Endpoint("Box", server.base_url, "custom"), None, TODAY)
    assert dict(found.retires) == ({"m": day} if day else {})


NO = r"lists no base model|Check the base URL|broke off"


def odd(body: Any) -> httpx2.Response:
    return httpx2.Response(200, text=body) if isinstance(body, bytes) else httpx2.Response(200, json=body)


NOTHING: list[Any] = [{}, {"data": None}, {"error": "x"}]
NO_LIST = [
    None,
    [],
    [{"id": "m"}],
    5,
    "hello",
    {"data": "m"},
    {"data": {"id": "m"}},
    b"<html>Sign in</html>",
    b"",
    b"{",
]
NO_IDS = {"data": [None, 5, "m", [1], {"name": "m"}, {"id": 7}, {"id": None, "shutdown_date": {}}]}


@pytest.mark.parametrize("body", [*NOTHING, *NO_LIST, NO_IDS], ids=str)
@pytest.mark.parametrize("path", ["models", "jobs"])
def test_an_odd_answer_is_a_sentence(path: str, body: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda seconds: None)
    good = {"object": "list", "data": [{"id": "m", "object": "model"}]}
    asked = client_of(lambda request: odd(body if request.url.path.endswith(path) else good))
    monkeypatch.setattr(probing, "client", lambda *given, **more: asked)
    found = probing.probe(Endpoint("Box", "http://test/v1", "custom"))
    assert found.sentence.startswith("Box") and found.sentence.endswith(".")
    if path == "models":
        assert found.models == () and bool(found.can_tune) == (body is NO_IDS)
        with pytest.raises(EndpointError, match=NO):
            pipeline.base_model(asked)
    else:
        assert found.models == ("m",) and bool(found.can_tune) == (body is NO_IDS)
        with contextlib.nullcontext() if body in NOTHING else pytest.raises(EndpointError, match=NO):
            assert fine_tuning.found_again(asked) == []


@pytest.mark.parametrize("url", ["http://[half/v1", "http://\x00/v1", "http://xn--\u2603/v1", "http://..../v1"])
def test_what_is_no_address_is_a_sentence(url: str) -> None:
    found = probing.probe(Endpoint("Box", url, "custom"))
    assert not found.reachable and "is no base URL" in found.sentence


def test_probing_never_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> Endpoint:
        raise EndpointUnavailable("The local server could not start.")

    monkeypatch.setattr(endpoints, "local_endpoint", refuse)
    found = probing.probe(Endpoint(LOCAL, "", "local"))
    assert found.sentence == "This computer: The local server could not start." and not found.reachable
    assert issubclass(EndpointUnavailable, DroneFTError)
