"""The local server as the unmodified openai client sees it: a fake engine and a fake training process behind it."""

import base64
import errno
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import openai
import pytest
import uvicorn

from drone_ft.errors import CatalogError
from drone_ft.local import files as local_files
from drone_ft.local.decoding import Answer
from drone_ft.local.prompt import PromptError
from drone_ft.local.scheduling import News
from drone_ft.local.server import create_app

BASE = "tiny"
TRAINING = [sys.executable, str(Path(__file__).with_name("fake_training.py"))]
HELLO = [{"role": "user", "content": "hello"}]
TOOLS = [
    {
        "type": "function",
        "function": {"name": name, "description": "", "parameters": {"type": "object", "properties": {}}},
    }
    for name in ("takeoff_drone", "land_drone")
]
FUNCTIONS = [tool["function"] for tool in TOOLS]
ROW = {"messages": [{"role": "user", "content": "land"}, {"role": "assistant", "content": "ok"}]}
ROWS = "\n".join(json.dumps(ROW) for _ in range(12)).encode()


class FakeEngine:
    """Calls the function that was named, else the first; echoes the last message where no call is possible."""

    def __init__(self, models: Path) -> None:
        self.folder = models
        self.batches: list[int] = []
        self.requests: list[object] = []
        self.dropped: list[int] = []
        self.refused = 0
        self.seconds = 0.0

    def models(self):
        found = [json.loads(path.read_text())["id"] for path in sorted(self.folder.glob("*/settings.json"))]
        return [BASE, *found]

    def has(self, model):
        return model in self.models() or model.startswith(f"{self.models()[-1]}:ckpt-step-")

    def forget(self, model):
        pass

    def scheduler(self):
        return FakeScheduler(self)

    def answer(self, request):
        said = request.messages[-1]["content"]
        if said == "too long":
            raise PromptError("The messages take too many tokens. Send fewer.", "messages")
        if said == "endless":
            raise CatalogError("The reference # leads back to itself.")
        if said == "break":
            raise RuntimeError("something broke")
        if request.tools and request.tool_choice != "none" and said != "chat":
            named = request.tool_choice["name"] if isinstance(request.tool_choice, dict) else "takeoff_drone"
            calls = [(named, '{"altitude": 15}')] * (2 if said == "twice" and request.parallel else 1)
            return Answer(tuple(calls), "", "tool_calls", 7, 3)
        return Answer((), f"you said {said}", "stop", 7, 3)


class FakeScheduler:
    """Answers all it has in one step; streamed text takes a step a word. What is asked "for ever" has no end."""

    def __init__(self, engine: FakeEngine) -> None:
        self.engine, self.rows, self.added = engine, {}, 0

    @property
    def busy(self):
        return bool(self.rows)

    def add(self, model, request, *, streamed=False):
        self.engine.requests.append(request)
        self.added += 1
        self.rows[self.added] = (request, streamed, [])
        return self.added

    def drop(self, number):
        self.engine.dropped.append(number)
        del self.rows[number]

    def step(self):
        self.engine.batches.append(len(self.rows))
        time.sleep(self.engine.seconds)
        news = [self._one(number, *row) for number, row in self.rows.items()]
        self.rows = {told.number: self.rows[told.number] for told in news if not told.is_last}
        return news

    def _one(self, number, request, streamed, told):
        said = request.messages[-1]["content"]
        if said == "break all":
            raise RuntimeError("everything broke")
        if said == "one too many" and not self.engine.refused:
            self.engine.refused = number
            return News(number, error=PromptError("The messages take too many tokens. Send fewer.", "messages"))
        if said in ("for ever", "one too many") or told == ["one"]:
            time.sleep(0.01)
            return News(number)
        try:
            answer = self.engine.answer(request)
        except Exception as error:
            return News(number, error=error)
        words = said.split(" ") if said.startswith("one word") else answer.text.split(" ")
        if streamed and len(told) < len(words):
            told.append(words[len(told)])
            return News(number, told[-1])
        return News(number, answer=answer)


class Running:
    """A server in a thread, with a client and what is behind it."""

    def __init__(self, workspace: Path, engine=None, **settings) -> None:
        self.workspace = workspace
        self.engine = engine or FakeEngine(workspace / "engine" / "models")
        self.app = create_app(self.engine, workspace, **{"command": TRAINING, "grace": 1.0, **settings})
        self.server = uvicorn.Server(uvicorn.Config(self.app, port=0, log_level="error"))
        self.thread = threading.Thread(target=self.server.run, daemon=True)

    def __enter__(self):
        self.thread.start()
        wait_for(lambda: self.server.started)
        port = self.server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.client = openai.OpenAI(base_url=f"{self.url}/v1", api_key="local", max_retries=0)
        return self

    def __exit__(self, *_):
        self.client.close()
        self.server.should_exit = True
        self.thread.join(10)

    @property
    def jobs(self):
        return self.client.fine_tuning.jobs

    def upload(self, content=ROWS, name="train.jsonl"):
        return self.client.files.create(file=(name, content), purpose="fine-tune").id

    def tune(self, content=ROWS, **settings):
        return self.jobs.create(model=BASE, training_file=self.upload(content), **settings)

    def ended(self, job):
        return wait_for(lambda: (now := self.jobs.retrieve(job.id)).finished_at and now)

    def running(self, job):
        def told():
            return [event.type for event in self.jobs.list_events(job.id).data[:1]] == ["metrics"]

        wait_for(told)
        return self.jobs.retrieve(job.id)

    def folder(self, job):
        return self.workspace / "engine" / "jobs" / job.id


def wait_for(check, seconds=10.0):
    """What `check` says as soon as it is true."""
    deadline = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)
    return found


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Running]:
    with Running(tmp_path_factory.mktemp("workspace")) as running:
        yield running


@contextmanager
def refused(status, code=None, param=None):
    """Expects the API's own error: status, code, param and a sentence."""
    with pytest.raises(openai.APIStatusError) as caught:
        yield caught
    error = caught.value
    assert (error.status_code, error.code, error.param) == (status, code, param)
    assert set(error.body) == {"message", "type", "param", "code"}
    assert error.body["message"].endswith((".", ")"))


# Chat


def test_a_tool_call_has_the_shape_clients_expect(server):
    reply = server.client.chat.completions.create(model=BASE, messages=HELLO, tools=TOOLS, tool_choice="required")
    [choice] = reply.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None and choice.message.function_call is None
    [call] = choice.message.tool_calls
    assert (call.type, call.function.name, call.function.arguments) == ("function", "takeoff_drone", '{"altitude": 15}')
    assert (reply.object, reply.model, reply.usage.total_tokens) == ("chat.completion", BASE, 10)


def test_the_older_functions_are_answered_in_function_call(server):
    reply = server.client.chat.completions.create(
        model=BASE, messages=HELLO, functions=FUNCTIONS, function_call={"name": "land_drone"}
    )
    message = reply.choices[0].message
    assert message.function_call.name == "land_drone" and message.tool_calls is None
    assert reply.choices[0].finish_reason == "function_call"
    assert server.engine.requests[-1].parallel is False


@pytest.mark.parametrize(
    ("asked", "calls"),
    [
        ({"tool_choice": "none"}, None),
        ({"tool_choice": "auto"}, ["takeoff_drone"] * 2),
        ({"parallel_tool_calls": False}, ["takeoff_drone"]),
        ({"tool_choice": {"type": "function", "function": {"name": "land_drone"}}}, ["land_drone"] * 2),
    ],
)
def test_tool_choice_and_parallel_calls_reach_the_engine(server, asked, calls):
    messages = [{"role": "user", "content": "twice"}]
    message = (
        server.client.chat.completions.create(model=BASE, messages=messages, tools=TOOLS, **asked).choices[0].message
    )
    assert (message.tool_calls and [call.function.name for call in message.tool_calls]) == calls
    assert (message.content is None) == bool(calls)


def test_sampling_settings_reach_the_engine(server):
    server.client.chat.completions.create(
        model=BASE, messages=HELLO, temperature=0.5, top_p=0.9, seed=4, stop="x", max_completion_tokens=9, n=2
    )
    first, second = server.engine.requests[-2:]
    assert (first.temperature, first.top_p, first.seed, first.stop, first.max_tokens) == (0.5, 0.9, 4, ("x",), 9)
    assert second.seed == 5


def test_a_wanted_schema_reaches_the_engine(server):
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    wanted = {"type": "json_schema", "json_schema": {"name": "place", "strict": True, "schema": schema}}
    for given, expected in ((wanted, schema), ({"type": "json_object"}, {"type": "object"}), ({"type": "text"}, None)):
        server.client.chat.completions.create(model=BASE, messages=HELLO, response_format=given)
        assert server.engine.requests[-1].schema == expected


def test_a_conversation_with_results_of_calls_comes_in_todays_shape(server):
    call = {"id": "c1", "type": "function", "function": {"name": "land_drone", "arguments": "{}"}}
    server.client.chat.completions.create(
        model=BASE,
        messages=[
            {"role": "developer", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "land"}]},
            {"role": "assistant", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "landed"},
            {"role": "assistant", "content": None, "function_call": {"name": "land_drone", "arguments": "{}"}},
            {"role": "function", "name": "land_drone", "content": "landed again"},
        ],
    )
    messages = server.engine.requests[-1].messages
    assert [message["role"] for message in messages] == ["system", "user", "assistant", "tool", "assistant", "tool"]
    assert messages[1]["content"] == "land"
    assert messages[4]["tool_calls"][0]["id"] == messages[5]["tool_call_id"]


@pytest.mark.parametrize("given", [{}, {"tools": TOOLS}, {"functions": FUNCTIONS}])
def test_streamed_text_arrives_in_pieces_and_ends_with_usage(server, given):
    """Also where the answer could have been a call."""
    messages = [{"role": "user", "content": "chat"}]
    chunks = [
        *server.client.chat.completions.create(
            model=BASE, messages=messages, stream=True, stream_options={"include_usage": True}, **given
        )
    ]
    pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    assert pieces == ["you", "said", "chat"]
    assert [chunk.choices[0].delta.role for chunk in chunks if chunk.choices].count("assistant") == 1
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]][-1] == "stop"
    assert chunks[-1].choices == [] and chunks[-1].usage.total_tokens == 10
    assert len({chunk.id for chunk in chunks}) == 1


@pytest.mark.parametrize("older", [False, True])
def test_streamed_calls_add_up_to_the_call(server, older):
    with server.client.chat.completions.create(
        model=BASE, messages=HELLO, stream=True, **({"functions": FUNCTIONS} if older else {"tools": TOOLS})
    ) as stream:
        deltas = [(chunk.choices[0].delta, chunk.choices[0].finish_reason) for chunk in stream]
    parts = [d.function_call if older else d.tool_calls and d.tool_calls[0].function for d, _ in deltas]
    parts = [part for part in parts if part]
    assert parts[0].name == "takeoff_drone"
    assert "".join(part.arguments for part in parts) == '{"altitude": 15}'
    assert deltas[-1][1] == ("function_call" if older else "tool_calls")


@pytest.mark.parametrize("said", ["for ever", "one word, then for ever"])
def test_a_stream_that_is_left_frees_the_engine(server, said):
    """Whether or not anything of it was told by then."""
    server.engine.dropped.clear()
    with pytest.raises(openai.APITimeoutError):
        for _ in server.client.with_options(timeout=1.5).chat.completions.create(
            model=BASE, messages=[{"role": "user", "content": said}], stream=True
        ):
            pass
    wait_for(lambda: len(server.engine.dropped) == 1)


@pytest.mark.parametrize("stream", [False, True])
def test_more_requests_than_may_wait_are_refused_and_leave_nothing_behind(server, monkeypatch, stream):
    server.engine.dropped.clear()
    monkeypatch.setattr(server.app.state.routes.batcher, "_most", 2)
    with refused(429, "rate_limit_exceeded"):
        messages = [{"role": "user", "content": "for ever"}]
        server.client.chat.completions.create(model=BASE, messages=messages, n=5, stream=stream)
    wait_for(lambda: len(server.engine.dropped) == 2)
    assert server.client.chat.completions.create(model=BASE, messages=HELLO).choices[0].message.content


def test_a_stream_whose_beginning_is_refused_gives_up_the_other_choices(server):
    server.engine.dropped.clear()
    with refused(400, "invalid_value", "messages"):
        messages = [{"role": "user", "content": "one too many"}]
        server.client.chat.completions.create(model=BASE, messages=messages, n=3, stream=True)
    wait_for(lambda: len(server.engine.dropped) == 2)


def test_questions_that_wait_together_are_answered_together(server):
    server.engine.batches.clear()
    server.engine.seconds = 0.3
    ask = [
        threading.Thread(target=server.client.chat.completions.create, kwargs={"model": BASE, "messages": HELLO})
        for _ in range(12)
    ]
    for thread in ask:
        thread.start()
    time.sleep(0.1)
    start = time.monotonic()
    assert httpx2.get(f"{server.url}/health").json()["status"] == "ok"
    assert time.monotonic() - start < 0.15
    for thread in ask:
        thread.join()
    server.engine.seconds = 0.0
    assert sum(server.engine.batches) == 12 and len(server.engine.batches) <= 3


def test_whoever_comes_late_does_not_wait_for_the_end_of_others(server):
    """What has no end holds nobody up, and is given up when its client leaves."""
    server.engine.dropped.clear()

    def ask_for_ever(seconds):
        with pytest.raises(openai.APITimeoutError):
            messages = [{"role": "user", "content": "for ever"}]
            server.client.with_options(timeout=seconds).chat.completions.create(model=BASE, messages=messages)

    ask_for_ever(1)
    wait_for(lambda: len(server.engine.dropped) == 1)
    other = threading.Thread(target=ask_for_ever, args=(2,))
    other.start()
    time.sleep(0.2)
    said = server.client.chat.completions.create(model=BASE, messages=HELLO)
    assert said.choices[0].message.content == "you said hello" and other.is_alive()
    other.join()
    wait_for(lambda: len(server.engine.dropped) == 2)


def test_an_engine_that_breaks_fails_its_requests_and_answers_the_next(server):
    with pytest.raises(openai.InternalServerError, match="everything broke"):
        server.client.chat.completions.create(model=BASE, messages=[{"role": "user", "content": "break all"}])
    assert server.client.chat.completions.create(model=BASE, messages=HELLO).choices[0].message.content


def test_one_bad_request_does_not_spoil_the_batch(server):
    server.engine.seconds = 0.1
    replies = {}

    def ask(said):
        try:
            replies[said] = (
                server.client.chat.completions.create(model=BASE, messages=[{"role": "user", "content": said}])
                .choices[0]
                .message.content
            )
        except openai.APIStatusError as error:
            replies[said] = error.status_code

    threads = [threading.Thread(target=ask, args=(said,)) for said in ("a", "too long", "b", "break", "c")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    server.engine.seconds = 0.0
    assert replies == {"a": "you said a", "b": "you said b", "c": "you said c", "too long": 400, "break": 500}


BAD_CHATS = [
    ({"model": "gpt-4o"}, 404, "model_not_found", "model"),
    ({"model": 5}, 400, "invalid_type", "model"),
    ({"messages": []}, 400, "empty_array", "messages"),
    ({"messages": "hello"}, 400, "invalid_type", "messages"),
    ({"messages": [5]}, 400, "invalid_type", "messages[0]"),
    ({"messages": [{"role": "robot", "content": "x"}]}, 400, "invalid_value", "messages[0].role"),
    ({"messages": [{"role": ["user"], "content": "x"}]}, 400, "invalid_value", "messages[0].role"),
    ({"messages": [{"role": "user"}]}, 400, "invalid_type", "messages[0].content"),
    ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "c"}]}, 400, None, "messages[0]"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        400,
        "unsupported_value",
        "messages[0].content[0]",
    ),
    ({"messages": [{"role": "user", "content": "too long"}]}, 400, "invalid_value", "messages"),
    ({"messages": [{"role": "user", "content": "endless"}]}, 400, "invalid_function_parameters", "tools"),
    ({"messages": [{"role": "user", "content": "too long"}], "stream": True}, 400, "invalid_value", "messages"),
    ({"temperature": 3}, 400, "decimal_above_max_value", "temperature"),
    ({"temperature": "hot"}, 400, "invalid_type", "temperature"),
    ({"top_p": -1}, 400, "decimal_below_min_value", "top_p"),
    ({"max_tokens": 0}, 400, "integer_below_min_value", "max_tokens"),
    ({"max_tokens": 1.5}, 400, "invalid_type", "max_tokens"),
    ({"max_tokens": 1, "max_completion_tokens": 1}, 400, "invalid_parameter_combination", "max_tokens"),
    ({"n": 0}, 400, "integer_below_min_value", "n"),
    ({"stop": [1]}, 400, "invalid_type", "stop"),
    ({"stream": "yes"}, 400, "invalid_type", "stream"),
    ({"stream_options": {}}, 400, None, "stream_options"),
    ({"logprobs": "yes"}, 400, "invalid_type", "logprobs"),
    ({"top_logprobs": 2}, 400, "invalid_value", "top_logprobs"),
    ({"logprobs": True, "top_logprobs": 21}, 400, "integer_above_max_value", "top_logprobs"),
    ({"response_format": "json"}, 400, "invalid_type", "response_format"),
    ({"response_format": {"type": "xml"}}, 400, "invalid_value", "response_format.type"),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}},
        400,
        "invalid_type",
        "response_format.json_schema.schema",
    ),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "string"}}}},
        400,
        "invalid_json_schema",
        "response_format.json_schema.schema",
    ),
    ({"temprature": 1}, 400, "unknown_parameter", "temprature"),
    ({"tools": []}, 400, "empty_array", "tools"),
    ({"tools": [{"type": "custom"}]}, 400, "invalid_value", "tools[0].type"),
    ({"tools": [{"type": "function"}]}, 400, "invalid_type", "tools[0].function"),
    ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, 400, "invalid_value", "tools[0].function.name"),
    (
        {"functions": [{"name": "f", "parameters": {"type": "object", "properties": {"a": {"type": "whole"}}}}]},
        400,
        "invalid_function_parameters",
        "functions[0].parameters",
    ),
    (
        {"functions": [{"name": "f", "parameters": {"type": "string"}}]},
        400,
        "invalid_function_parameters",
        "functions[0].parameters",
    ),
    ({"tools": TOOLS + TOOLS}, 400, "invalid_value", "tools"),
    ({"tools": TOOLS, "tool_choice": "all"}, 400, "invalid_value", "tool_choice"),
    (
        {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "fly"}}},
        400,
        "invalid_value",
        "tool_choice",
    ),
    ({"tool_choice": "auto"}, 400, None, "tool_choice"),
    ({"tools": TOOLS, "functions": FUNCTIONS}, 400, None, "functions"),
    ({"function_call": "auto"}, 400, None, "function_call"),
]


@pytest.mark.parametrize(("change", "status", "code", "param"), BAD_CHATS, ids=[str(row[0])[:60] for row in BAD_CHATS])
def test_a_bad_chat_request_is_refused_in_the_apis_words(server, change, status, code, param):
    with refused(status, code, param):
        server.client.post("/chat/completions", body={"model": BASE, "messages": HELLO, **change}, cast_to=object)


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"\xff", b'{"model": "tiny", "messages": [{"role": "user", "content": "\\ud800"}]}', b"[" * 5000,
     b'{"a":' * 500 + b"1" + b"}" * 500, b'{"model": "tiny", "messages": [], "temperature": NaN}'],
)  # fmt: skip
@pytest.mark.parametrize("path", ["chat/completions", "fine_tuning/jobs"])
def test_a_body_that_is_no_json_object_is_refused(server, path, body):
    reply = httpx2.post(f"{server.url}/v1/{path}", content=body)
    assert reply.status_code == 400 and reply.json()["error"]["type"] == "invalid_request_error"


# Models, paths, strangers


def test_models_can_be_listed_and_looked_up(server):
    assert next(model.id for model in server.client.models.list()) == BASE
    assert server.client.models.retrieve(BASE).owned_by == "local"
    with refused(404, "model_not_found", "model"):
        server.client.models.retrieve("ft:nobody")
    with refused(403, "model_not_deletable", "model"):
        server.client.models.delete(BASE)


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/v1/nothing", {}, 404),
        ("PUT", "/v1/models", {}, 405),
        ("GET", "/health", {"host": "evil.example"}, 403),
        ("GET", "/health", {"host": "127.0.0.1.evil.example"}, 403),
        ("GET", "/health", {"host": "localhost:1"}, 200),
        ("GET", "/health", {"host": "[::1]:80"}, 200),
        ("GET", "/health", {"origin": "https://evil.example"}, 403),
        ("GET", "/health", {"origin": "http://localhost:8501"}, 200),
        ("GET", "/v1/files/..%2f..%2fsecret/content", {}, 404),
        ("GET", "/v1/files/%2e%2e/content", {}, 404),
        ("GET", "/v1/fine_tuning/jobs?limit=0", {}, 400),
        ("GET", "/v1/fine_tuning/jobs?limit=%C2%B2", {}, 400),
        ("GET", "/v1/files?after=file-x", {}, 400),
        ("POST", "/v1/files", {"content-type": "multipart/form-data"}, 400),
        ("POST", "/v1/files", {"content-type": "application/json"}, 400),
        ("DELETE", "/v1/files/file-x", {}, 404),
        ("POST", "/v1/fine_tuning/jobs/ftjob-x/cancel", {}, 404),
    ],
)
def test_strange_requests_get_an_answer_in_the_apis_shape(server, method, path, headers, status):
    reply = httpx2.request(method, server.url + path, headers=headers)
    assert reply.status_code == status
    assert status == 200 or set(reply.json()["error"]) == {"message", "type", "param", "code"}


# Files


def test_a_server_with_a_token_answers_only_who_brings_it(tmp_path):
    with Running(tmp_path, token="s3cret") as server:
        for key in ("local", "s3cret2"):
            with refused(401, "invalid_api_key"):
                server.client.with_options(api_key=key).models.list()
        assert [model.id for model in server.client.with_options(api_key="s3cret").models.list()] == [BASE]
        assert httpx2.get(f"{server.url}/health").status_code == 200
        assert "s3cret" not in httpx2.get(f"{server.url}/v1/models").text


def test_a_file_can_be_sent_listed_read_and_deleted(server):
    sent = server.client.files.create(file=("../../etc/passwd.jsonl", b"abc"), purpose="fine-tune")
    assert (sent.bytes, sent.filename, sent.status, sent.purpose) == (3, "passwd.jsonl", "processed", "fine-tune")
    assert server.client.files.retrieve(sent.id) == sent
    assert next(iter(server.client.files.list())).id == sent.id
    assert server.client.files.content(sent.id).read() == b"abc"
    assert server.client.files.delete(sent.id).deleted
    with refused(404, None, "id"):
        server.client.files.content(sent.id)
    with refused(400, "invalid_value", "purpose"):
        server.client.files.create(file=b"abc", purpose="fun")


def test_all_pages_of_a_list_come_once(server):
    sent = [server.upload(b"x", f"{number}") for number in range(5)]
    seen = [file.id for file in server.client.files.list(limit=2)]
    assert [id for id in seen if id in sent] == sent[::-1] and len(set(seen)) == len(seen)
    assert server.client.files.list(limit=2, order="asc").data[0].id == seen[-1]


def test_an_upload_has_a_largest_size(tmp_path):
    with Running(tmp_path, largest_upload=1000) as small:
        with refused(413, "request_too_large"):
            small.upload(b"x" * 100_000)

        def unannounced():
            yield b'--b\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n'
            for _ in range(20):
                yield b"x" * 10_000

        headers = {"content-type": "multipart/form-data; boundary=b"}
        reply = httpx2.post(f"{small.url}/v1/files", content=unannounced(), headers=headers)
        assert reply.status_code == 413
        assert small.upload(b"x" * 1000)


def test_a_full_disk_is_said_and_survived(server, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    id = server.upload()
    monkeypatch.setattr(local_files.os, "fsync", full)
    with refused(507, "disk_full"):
        server.upload()
    with refused(507, "disk_full"):
        server.jobs.create(model=BASE, training_file=id)
    monkeypatch.undo()
    assert not [*server.workspace.rglob("*.tmp")]
    assert server.upload()


# Jobs


def test_a_job_goes_from_file_to_model(server):
    job = server.tune(suffix="my drone", metadata={"run": "7"}, hyperparameters={"n_epochs": 2})
    assert (job.status, job.fine_tuned_model, job.object) == ("validating_files", None, "fine_tuning.job")
    assert (job.hyperparameters.n_epochs, job.hyperparameters.batch_size) == (2, "auto")
    done = server.ended(job)
    assert (done.status, done.error, done.metadata) == ("succeeded", None, {"run": "7"})
    base, owner, suffix, mark = done.fine_tuned_model.removeprefix("ft:").split(":")
    assert (base, owner, suffix, len(mark)) == (BASE, "local", "my-drone", 8)
    assert server.client.models.retrieve(done.fine_tuned_model).created > 0
    assert (done.hyperparameters.n_epochs, done.hyperparameters.batch_size) == (2, 1)
    table = base64.b64decode(server.client.files.content(done.result_files[0]).read()).decode()
    assert table.startswith("step,train_loss")
    said = [event.message for event in server.jobs.list_events(job.id)]
    assert said[0] == "The job has successfully completed." and said[-1] == f"Created fine-tuning job: {job.id}"
    checkpoints = server.jobs.checkpoints.list(job.id).data
    assert [(c.step_number, c.metrics.train_loss) for c in checkpoints] == [(2, 0.5), (1, 1.0)]
    assert checkpoints[0].fine_tuned_model_checkpoint == f"{done.fine_tuned_model}:ckpt-step-2"
    assert server.jobs.list(metadata={"run": "7"}).data[0].id == job.id
    assert server.jobs.list(metadata={"run": "8"}).data == []
    reply = server.client.chat.completions.create(model=done.fine_tuned_model, messages=HELLO, tools=TOOLS)
    assert reply.choices[0].message.tool_calls
    with refused(400, "job_not_under_way"):
        server.jobs.cancel(job.id)
    reply = server.client.chat.completions.create(model=f"{done.fine_tuned_model}:ckpt-step-1", messages=HELLO)
    assert reply.choices[0].message.content
    with refused(403, "model_not_deletable", "model"):
        server.client.models.delete(f"{done.fine_tuned_model}:ckpt-step-1")
    assert server.client.models.delete(done.fine_tuned_model).deleted
    with refused(404, "model_not_found", "model"):
        server.client.models.retrieve(done.fine_tuned_model)


def test_the_training_process_gets_its_order_and_a_low_priority(server):
    given = {"n_epochs": 3, "batch_size": 4, "learning_rate_multiplier": 0.5}
    method = {"type": "supervised", "supervised": {"hyperparameters": given}}
    job = server.tune(method=method, seed=5, validation_file=server.upload(ROWS[:200].split(b"\n")[0]))
    assert server.ended(job).status == "succeeded"
    order = json.loads((server.folder(job) / "job.json").read_text())
    assert (order["model"], order["seed"], order["hyperparameters"], order["suffix"]) == (BASE, 5, given, "")
    assert order["output_model"].startswith(f"ft:{BASE}:local::")
    assert (server.folder(job) / "validation.jsonl").exists()
    assert int((server.folder(job) / "runs").read_text().split()[1]) >= os.getpriority(os.PRIO_PROCESS, 0)


BAD_JOBS = [
    ({"model": "gpt-4o-mini"}, "model_not_available", "model"),
    ({"training_file": "file-x"}, "invalid_training_file", "training_file"),
    ({"training_file": None}, "missing_required_parameter", "training_file"),
    ({"validation_file": "file-x"}, "invalid_validation_file", "validation_file"),
    ({"suffix": "x" * 65}, "invalid_value", "suffix"),
    ({"suffix": ""}, "invalid_value", "suffix"),
    ({"seed": -1}, "integer_below_min_value", "seed"),
    ({"seed": 2**31}, "integer_above_max_value", "seed"),
    ({"metadata": {"a": 1}}, "invalid_value", "metadata"),
    ({"metadata": {str(key): "" for key in range(17)}}, "invalid_value", "metadata"),
    ({"hyperparameters": {"n_epochs": 51}}, "integer_above_max_value", "hyperparameters.n_epochs"),
    ({"hyperparameters": {"n_epochs": "many"}}, "invalid_type", "hyperparameters.n_epochs"),
    ({"hyperparameters": {"batch_size": 0}}, "integer_below_min_value", "hyperparameters.batch_size"),
    (
        {"hyperparameters": {"learning_rate_multiplier": 0}},
        "decimal_below_min_value",
        "hyperparameters.learning_rate_multiplier",
    ),
    ({"hyperparameters": {"epochs": 1}}, "unknown_parameter", "epochs"),
    ({"method": {"type": "dpo"}}, "unsupported_value", "method.type"),
    (
        {"method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": 0}}}},
        "integer_below_min_value",
        "method.supervised.hyperparameters.n_epochs",
    ),
    ({"integrations": [{"type": "wandb"}]}, "unsupported_value", "integrations"),
]


@pytest.mark.parametrize(("change", "code", "param"), BAD_JOBS, ids=[str(row[0])[:60] for row in BAD_JOBS])
def test_a_bad_job_is_refused_in_the_apis_words(server, change, code, param):
    body = {"model": BASE, "training_file": server.upload(), **change}
    with refused(400, code, param):
        server.client.post("/fine_tuning/jobs", body=body, cast_to=object)


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        (ROWS.split(b"\n")[0], "invalid_n_examples", "1 example(s), but must have at least 10"),
        (b"", "invalid_n_examples", "0 example(s)"),
        (ROWS + b"\n{", "invalid_training_file", "Line 13: not valid JSON"),
        (ROWS + b"\n5", "invalid_training_file", "Line 13: expected a JSON object, found an integer"),
        (b"\x89PNG\xff" * 99, "invalid_training_file", "Line 1: not valid JSON"),
        (ROWS + b'\n{"prompt": 1}', "invalid_training_file", 'Line 13: field "messages"'),
        (
            ROWS + b'\n{"messages": [{"role": "user", "content": "x"}]}',
            "invalid_training_file",
            'field "messages[0].role"',
        ),
        (ROWS + b'\n{"messages": [{"role": "assistant"}]}', "invalid_training_file", 'field "messages[0]" needs'),
    ],
)
def test_a_bad_training_file_fails_the_job_naming_line_and_field(server, content, code, words):
    failed = server.ended(server.tune(content))
    assert (failed.status, failed.error.code, failed.error.param) == ("failed", code, "training_file")
    assert words in failed.error.message
    assert server.jobs.list_events(failed.id).data[0].level == "error"


@pytest.mark.parametrize(
    ("suffix", "code", "words"),
    [
        ("refused", "invalid_training_file", "Line 3: too long."),
        ("silent", "server_error", "exit code 1"),
        ("killed", "training_killed", "memory"),
    ],
)
def test_a_training_process_that_dies_is_a_failed_job_with_a_sentence(server, suffix, code, words):
    failed = server.ended(server.tune(suffix=suffix))
    assert (failed.status, failed.error.code, failed.fine_tuned_model) == ("failed", code, None)
    assert words in failed.error.message


def test_one_job_trains_at_a_time_and_a_cancelled_one_makes_room(server):
    first = server.tune(suffix="slow")
    running = server.running(first)
    assert 30 < running.estimated_finish - time.time() < 90
    second, third = server.tune(), server.tune()
    wait_for(lambda: server.jobs.retrieve(third.id).status == "queued")
    assert server.jobs.cancel(third.id).status == "cancelled"
    assert server.jobs.retrieve(second.id).status == "queued"
    assert server.jobs.cancel(first.id).status == "cancelled"
    assert server.ended(second).status == "succeeded"
    gone = server.jobs.retrieve(first.id)
    assert (gone.status, gone.fine_tuned_model) == ("cancelled", None)
    assert not (server.folder(third) / "runs").exists()


def test_a_paused_job_makes_room_and_goes_on_when_resumed(server):
    first = server.tune(suffix="slow")
    server.running(first)
    with refused(400, "job_not_paused"):
        server.jobs.resume(first.id)
    assert server.jobs.pause(first.id).status == "paused"
    second = server.tune()
    assert server.ended(second).status == "succeeded"
    with refused(400, "job_not_under_way"):
        server.jobs.pause(second.id)
    assert server.jobs.retrieve(first.id).status == "paused"
    (server.folder(first) / "go").touch()
    assert server.jobs.resume(first.id).status == "queued"
    assert server.ended(first).status == "succeeded"
    said = [event.message for event in server.jobs.list_events(first.id)]
    assert "The job was paused." in said and "Training goes on from its last checkpoint." in said
    third = server.tune(suffix="slow")
    server.running(third)
    server.jobs.pause(third.id)
    assert server.jobs.cancel(third.id).status == "cancelled"


def test_a_job_resumed_at_once_is_not_taken_for_a_failed_one(server):
    job = server.tune(suffix="slow")
    server.running(job)
    server.jobs.pause(job.id)
    server.jobs.resume(job.id)
    (server.folder(job) / "go").touch()
    assert server.ended(job).status == "succeeded"


def test_a_process_that_will_not_stop_is_killed(server):
    job = server.tune(suffix="stubborn")
    server.running(job)
    server.jobs.cancel(job.id)
    pid = int((server.folder(job) / "runs").read_text().split()[0])
    wait_for(lambda: not _alive(pid), 5)


def test_after_a_restart_nothing_is_lost_and_training_goes_on(tmp_path):
    with Running(tmp_path) as before:
        done = before.ended(before.tune())
        training = before.tune(suffix="slow")
        before.running(training)
        waiting = before.tune()
        wait_for(lambda: before.jobs.retrieve(waiting.id).status == "queued")
    (before.folder(training) / "go").touch()
    with (before.folder(training) / "events.jsonl").open("a") as file:
        file.write('{"half a li')
    broken = tmp_path / "engine" / "jobs" / "ftjob-broken"
    broken.mkdir()
    (broken / "record.json").write_text('{"id": "ftjob-bro')
    with Running(tmp_path) as after:
        assert after.jobs.retrieve(done.id) == done
        assert after.ended(training).status == after.ended(waiting).status == "succeeded"
        assert len((after.folder(training) / "runs").read_text().splitlines()) == 2
        said = [event.message for event in after.jobs.list_events(training.id)]
        assert "Training goes on from its last checkpoint." in said
        assert after.client.files.content(done.training_file).read() == ROWS
        assert [job.id for job in after.jobs.list()] == [waiting.id, training.id, done.id]


def test_a_training_process_that_outlived_its_server_is_ended_first(tmp_path):
    with Running(tmp_path) as before:
        job = before.tune(suffix="slow")
        before.running(job)
    folder = before.folder(job).resolve()
    left = subprocess.Popen([*TRAINING, str(folder)])
    wait_for(lambda: len((folder / "runs").read_text().splitlines()) == 2)
    with Running(tmp_path) as after:
        left.wait(5)
        assert str(left.pid) in (folder / "stopped").read_text().split()
        (folder / "go").touch()
        assert after.ended(job).status == "succeeded"


def _alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
