"""A scripted server in OpenAI's shapes: models, chat, files, fine-tuning jobs, batches; slow, full or broken as asked.

In a test, `with running(Script(latency=0.3)) as server:` gives a server on a free port, its `script` open to change;
as a process, `python -m tests.scripted --port 0 --latency 0.3` prints its base URL. `GET /counters` tells what was
asked and answered how often, `POST /script` changes plain settings while it runs.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import hashlib
import importlib
import json
import random
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field, fields
from typing import Any

import openai
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

Body = dict[str, Any]
TROUBLES = ("429", "500", "timeout", "garbage")
WORDS = ("amber", "brisk", "calm", "delta", "ember", "fjord", "gentle", "harbor", "ivory", "jolly", "keen", "lunar")


@dataclass(frozen=True)
class Model:
    """A model with the requests it refuses, each a key of `REFUSALS`."""

    id: str
    refuses: tuple[str, ...] = ()
    shutdown_date: str | int | None = None


def _no(message: str, param: str | None = None, code: str | None = None) -> Body:
    return {"message": message, "type": "invalid_request_error", "param": param, "code": code}


def _format(body: Body) -> str | None:
    return (body.get("response_format") or {}).get("type")


# What a model may refuse: when, and in the words servers really use.
REFUSALS: dict[str, tuple[Callable[[Body], bool], Body | str]] = {
    "max_tokens": (
        lambda b: "max_tokens" in b,
        _no(
            "Unsupported parameter: 'max_tokens' is not supported with this model. "
            "Use 'max_completion_tokens' instead.",
            "max_tokens",
            "unsupported_parameter",
        ),
    ),
    "temperature": (
        lambda b: b.get("temperature", 1) != 1,
        _no(
            "Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) value is "
            "supported.",
            "temperature",
            "unsupported_value",
        ),
    ),
    "parallel_tool_calls": (
        lambda b: "parallel_tool_calls" in b,
        _no(
            "Unsupported parameter: 'parallel_tool_calls' is not supported with this model.",
            "parallel_tool_calls",
            "unsupported_parameter",
        ),
    ),
    "reasoning": (
        lambda b: bool(b.get("tools")) and b.get("reasoning_effort") != "none",
        _no(
            "Function tools with reasoning_effort are not supported for gpt-x in /v1/chat/completions. To use function "
            "tools, use /v1/responses or set reasoning_effort to 'none'.",
            "reasoning_effort",
        ),
    ),
    "json_schema": (
        lambda b: _format(b) == "json_schema",
        _no(
            "Invalid parameter: 'response_format' of type 'json_schema' is not supported with this model.",
            "response_format",
        ),
    ),
    "json_object": (
        lambda b: _format(b) == "json_object",
        # another server's shape: the error is a bare string
        "'response_format.type' must be 'json_schema' or 'text'",
    ),
    "required": (
        lambda b: b.get("tool_choice") == "required",
        _no("tool_choice 'required' is not supported by this model's chat template. Use 'auto'.", "tool_choice"),
    ),
    "tools": (lambda b: bool(b.get("tools")), _no("gemma:2b does not support tools", None, None)),
}

REASONING = ("max_tokens", "temperature", "parallel_tool_calls", "reasoning")
MODELS = (
    Model("gpt-4.1-mini", shutdown_date="2027-01-14"),
    Model("gpt-4o-mini", shutdown_date=1_799_884_800),
    Model("gpt-reasoning", REASONING),
    Model("llama-plain", ("json_schema", "json_object", "required")),
    Model("gemma-mute", ("tools",)),
    Model("text-embedding-3-small"),
)


@dataclass
class Script:
    """How the server behaves; tests may change it while it runs.

    `latency` seconds a chat answer takes; `at_once` chat requests are answered at a time, more get a 429; `trouble` is
    the share of chat requests that get one of `troubles`, drawn from `seed`, the request and how often it was asked,
    so that the order of arrival changes nothing; a timeout hangs for `hang` seconds. `answer`, when given, gets the
    chat request and returns the content (text) or the call ({"name", "arguments"}) of the answer. `creations` says
    what happens to the first creations of a job: "made", "lost" (made, answered 500), "failed" (not made, answered
    500), "late" (made, hangs). A job goes one status or step further with each look. `finishes` is the share of a
    batch that is done before it expires, which it does with the look after `lasts` others; the next `outages` requests
    that concern a batch are answered 503.
    """

    latency: float = 0.0
    at_once: int = 64
    trouble: float = 0.0
    troubles: tuple[str, ...] = TROUBLES
    hang: float = 30.0
    retry_after: float | None = None
    seed: int = 0
    models: tuple[Model, ...] = MODELS
    may_tune: bool = True
    tunes: bool = True
    key: str | None = None
    answer: Callable[[Body], str | Body] | None = None
    creations: tuple[str, ...] = ()
    steps: int = 6
    ends: str = "succeeded"
    result: str = "base64"
    finishes: float = 1.0
    lasts: int = 1
    outages: int = 0


def _digest(*parts: Any) -> int:
    return int.from_bytes(hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).digest()[:6], "big")


def sample(schema: Body, draw: random.Random, key: str = "value") -> Any:
    """A value that a plain schema admits; different draws, different values."""
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return draw.choice(schema["enum"])
    for several in ("anyOf", "oneOf"):
        if schema.get(several):
            return sample(schema[several][0], draw, key)
    kind = schema.get("type", "object" if "properties" in schema else "string")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        wanted = schema.get("required") or list(schema.get("properties", {}))
        return {name: sample(schema.get("properties", {}).get(name, {}), draw, name) for name in wanted}
    if kind == "array":
        many = max(schema.get("minItems", 0), min(2, schema.get("maxItems", 2)))
        return [sample(schema.get("items", {}), draw, key) for _ in range(many)]
    if kind in ("integer", "number"):
        low = schema.get("minimum", schema.get("exclusiveMinimum", 0) + ("exclusiveMinimum" in schema))
        high = schema.get("maximum", schema.get("exclusiveMaximum", low + 101) - ("exclusiveMaximum" in schema))
        return draw.randint(int(-(-low // 1)), max(int(-(-low // 1)), int(high // 1)))
    if kind in ("boolean", "null"):
        return draw.random() < 0.5 if kind == "boolean" else None
    return " ".join(draw.sample(WORDS, 3))


class State:
    """What the server has: files, jobs, batches, counters."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.files: dict[str, tuple[Body, bytes]] = {}
        self.jobs: dict[str, Body] = {}
        self.events: dict[str, list[Body]] = {}
        self.batches: dict[str, Body] = {}
        self.learned: dict[str, list[tuple[set[str], Body]]] = {}  # what a tuned model was shown
        self.looks: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()
        self.statuses: Counter[str] = Counter()
        self.troubles: Counter[str] = Counter()
        self.asked: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.billed: Counter[str] = Counter()  # worked on, also where the answer is lost
        self.under_way = self.most_under_way = 0
        self.tokens = 0

    def counters(self) -> Body:
        """What was asked and answered how often; `asked`, `answered` and `billed` by the last words of the person."""
        return {
            "requests": dict(self.requests),
            "statuses": dict(self.statuses),
            "troubles": dict(self.troubles),
            "asked": dict(self.asked),
            "answered": dict(self.answered),
            "billed": dict(self.billed),
            "most_under_way": self.most_under_way,
            "tokens": self.tokens,
            "jobs": len(self.jobs),
        }

    def keep_file(self, name: str, content: bytes, purpose: str) -> Body:
        """A new file with its description."""
        made = {
            "id": f"file-{len(self.files) + 1}",
            "object": "file",
            "bytes": len(content),
            "created_at": int(time.time()),
            "filename": name,
            "purpose": purpose,
            "status": "processed",
        }
        self.files[str(made["id"])] = (made, content)
        return made

    def model(self, name: str) -> Model:
        """The model of that name, a tuned one with its base's habits; a 404 where there is none."""
        known = {model.id: model for model in self.script.models}
        base = name.split(":")[1] if name.startswith("ft:") and name in self.learned else name
        if base not in known:
            raise Refused(404, _no(f"The model `{name}` does not exist", "model", "model_not_found"))
        return known[base]

    def reply(self, body: Body) -> Body:
        """A chat completion; raises Refused."""
        model = self.model(str(body.get("model")))
        for name in model.refuses:
            meant, error = REFUSALS[name]
            if meant(body):
                raise Refused(400, error)
        given = self.script.answer(body) if self.script.answer else self._answer(body)
        message: Body = {"role": "assistant", "content": None, "refusal": None}
        if isinstance(given, str):
            message["content"] = given
        else:
            called = {"name": given["name"], "arguments": json.dumps(given["arguments"])}
            message["tool_calls"] = [{"id": "call_1", "type": "function", "function": called}]
        sent, written = len(json.dumps(body)) // 4 + 1, len(json.dumps(message)) // 4 + 1
        self.tokens += sent + written
        return {
            "id": f"chatcmpl-{_digest(body)}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": body["model"],
            "choices": [{"index": 0, "finish_reason": "stop", "logprobs": None, "message": message}],
            "usage": {
                "prompt_tokens": sent,
                "completion_tokens": written,
                "total_tokens": sent + written,
                "prompt_tokens_details": {"cached_tokens": 0},
            },
        }

    def _answer(self, body: Body) -> str | Body:
        draw = random.Random(_digest(self.script.seed, body["messages"], body.get("tools")))
        if body.get("tools"):
            words = set(last_words(body).lower().split())
            shown = self.learned.get(body["model"])
            if shown:
                # A tuned model answers as the most similar of its examples did.
                return max(shown, key=lambda row: len(words & row[0]) / len(words | row[0] or {""}))[1]
            tool = draw.choice(body["tools"])["function"]
            return {"name": tool["name"], "arguments": sample(tool.get("parameters") or {}, draw)}
        if _format(body) == "json_schema":
            return json.dumps(sample(body["response_format"]["json_schema"]["schema"], draw))
        found = re.search(r"\{.*\}", " ".join(str(m["content"]) for m in body["messages"]), re.DOTALL)
        with contextlib.suppress(ValueError, TypeError, AttributeError):
            return json.dumps(sample(json.loads(found.group()), draw)) if found else " ".join(draw.sample(WORDS, 6))
        return " ".join(draw.sample(WORDS, 6))

    def learn(self, job: Body) -> None:
        """Give the job its model, which knows the training file."""
        rows = []
        for line in self.files[job["training_file"]][1].decode().splitlines():
            with contextlib.suppress(ValueError, KeyError, IndexError, TypeError):
                messages = json.loads(line)["messages"]
                words = next(m["content"] for m in messages if m["role"] == "user")
                called = messages[-1]["tool_calls"][0]["function"]
                call = {"name": called["name"], "arguments": json.loads(called["arguments"])}
                rows.append((set(words.lower().split()), call))
        suffix = job["user_provided_suffix"] or ""
        job["fine_tuned_model"] = f"ft:{job['model']}:scripted:{suffix}:{len(self.learned) + 1}"
        self.learned[job["fine_tuned_model"]] = rows


class Refused(Exception):
    """A request answered with an error of the API's shape."""

    def __init__(self, status: int, error: Body | str, headers: dict[str, str] | None = None) -> None:
        super().__init__(str(error))
        self.status, self.error, self.headers = status, error, headers or {}


def last_words(body: Body) -> str:
    """The person's last message."""
    said = [m for m in body.get("messages", []) if m.get("role") == "user"]
    return str(said[-1]["content"]) if said else ""


def _page(rows: list[Body], request: Request, limit: int = 20) -> JSONResponse:
    """A page of rows, newest first, as the API pages them."""
    limit = int(request.query_params.get("limit", limit))
    after = request.query_params.get("after")
    start = next((n + 1 for n, row in enumerate(rows) if row["id"] == after), 0)
    cut = rows[start : start + limit]
    return JSONResponse({"object": "list", "data": cut, "has_more": start + limit < len(rows)})


async def chat(request: Request) -> Response:
    """POST /v1/chat/completions."""
    state: State = request.app.state.held
    script, body = state.script, await request.json()
    words = last_words(body)
    state.asked[words] += 1
    draw = random.Random(_digest(script.seed, body, state.asked[words]))
    state.under_way += 1
    state.most_under_way = max(state.most_under_way, state.under_way)
    try:
        room = script.at_once - state.under_way
        wait = max(script.latency, 0.001)
        headers = {
            "x-ratelimit-limit-requests": str(script.at_once),
            "x-ratelimit-remaining-requests": str(max(0, room)),
            "x-ratelimit-reset-requests": f"{round(wait * 1000)}ms",
        }
        if script.retry_after is not None:
            headers["retry-after"] = str(script.retry_after)
        busy = Refused(429, _no("Rate limit reached for requests.", None, "rate_limit_exceeded"), headers)
        if room < 0:
            raise busy
        await asyncio.sleep(script.latency)
        if draw.random() < script.trouble:
            kind = draw.choice(script.troubles)
            state.troubles[kind] += 1
            if kind == "429":
                raise busy
            if kind == "500":
                raise Refused(500, _no("The server had an error while processing your request."))
            state.billed[words] += 1
            if kind == "timeout":
                await asyncio.sleep(script.hang)
                raise Refused(504, _no("Gateway timeout."))
            return _garbage(state.reply(body), draw)
        made = state.reply(body)
        state.billed[words] += 1
        state.answered[words] += 1
        return JSONResponse(made, headers=headers)
    finally:
        state.under_way -= 1


def _garbage(made: Body, draw: random.Random) -> Response:
    """Something with status 200 that is no answer: a proxy's page, half a body, no choice, half a JSON text."""
    kind = draw.randrange(4)
    if kind == 0:
        return PlainTextResponse("<html>Bad gateway</html>", media_type="text/html")
    if kind == 1:
        return Response(json.dumps(made)[:40], media_type="application/json")
    if kind == 2:
        return JSONResponse({**made, "choices": []})
    made["choices"][0]["message"] = {"role": "assistant", "content": '{"commands": ["half a'}
    return JSONResponse(made)


async def models(request: Request) -> Response:
    """GET /v1/models."""
    state: State = request.app.state.held
    rows = [
        {"id": m.id, "object": "model", "created": 1, "owned_by": "scripted", "shutdown_date": m.shutdown_date}
        for m in (*state.script.models, *(Model(name) for name in state.learned))
    ]
    return JSONResponse({"object": "list", "data": rows})


async def files(request: Request) -> Response:
    """POST and GET /v1/files."""
    state: State = request.app.state.held
    if request.method == "GET":
        return _page([made for made, _ in reversed(state.files.values())], request)
    form = await request.form()
    sent = form["file"]
    assert not isinstance(sent, str)
    return JSONResponse(state.keep_file(sent.filename or "file", await sent.read(), str(form["purpose"])))


async def file(request: Request) -> Response:
    """GET /v1/files/{id} and its content."""
    state: State = request.app.state.held
    found = state.files.get(request.path_params["id"])
    if not found:
        raise Refused(404, _no("No such File object", "id"))
    if request.url.path.endswith("/content"):
        return Response(found[1], media_type="application/octet-stream")
    return JSONResponse(found[0])


async def jobs(request: Request) -> Response:
    """POST and GET /v1/fine_tuning/jobs."""
    state: State = request.app.state.held
    script = state.script
    if not script.tunes:
        raise Refused(404, _no("Not found"))
    if request.method == "GET":
        return _page(list(reversed(state.jobs.values())), request)
    body = await request.json()
    if not script.may_tune:
        words = "Fine-tuning is no longer available to your organization."
        raise Refused(403, _no(words, None, "training_not_available"))
    if body["training_file"] not in state.files:
        raise Refused(400, _no("No such file", "training_file", "invalid_training_file"))
    state.model(body["model"])
    fate, *rest = script.creations or ("made",)
    script.creations = tuple(rest)
    if fate == "failed":
        raise Refused(500, _no("The server had an error while processing your request."))
    made = _new_job(state, body)
    if fate == "late":
        await asyncio.sleep(script.hang)
    if fate == "lost":
        raise Refused(500, _no("The server had an error while processing your request."))
    return JSONResponse(made)


def _new_job(state: State, body: Body) -> Body:
    given = ((body.get("method") or {}).get("supervised") or {}).get("hyperparameters") or body.get("hyperparameters")
    epochs = (given or {}).get("n_epochs", "auto")
    number = len(state.jobs) + 1
    job: Body = {
        "id": f"ftjob-{number}",
        "object": "fine_tuning.job",
        "created_at": int(time.time()),
        "model": body["model"],
        "organization_id": "org-scripted",
        "status": "validating_files",
        "training_file": body["training_file"],
        "validation_file": body.get("validation_file"),
        "result_files": [],
        "seed": body.get("seed", 7),
        "hyperparameters": {"n_epochs": 3 if epochs == "auto" else epochs, "batch_size": 1},
        "metadata": body.get("metadata"),
        "user_provided_suffix": body.get("suffix"),
        "error": None,
        "fine_tuned_model": None,
        "finished_at": None,
        "trained_tokens": None,
        "estimated_finish": None,
    }
    state.jobs[str(job["id"])], state.events[str(job["id"])] = job, []
    _tell(state, job, "Created fine-tuning job")
    return job


def _tell(state: State, job: Body, message: str, kind: str = "message", data: Body | None = None) -> None:
    told = state.events[job["id"]]
    told.append(
        {
            "id": f"ftevent-{job['id']}-{len(told)}",
            "object": "fine_tuning.job.event",
            "created_at": int(time.time()),
            "level": "info",
            "type": kind,
            "message": message,
            "data": data,
        }
    )


def _losses(step: int) -> tuple[float, float]:
    return round(2.0 / step, 4), round(2.2 / step, 4)


def _advance(state: State, job: Body) -> None:
    """One status or one step further."""
    script, done = state.script, sum(event["type"] == "metrics" for event in state.events[job["id"]])
    if job["status"] == "validating_files":
        job["status"] = "queued"
    elif job["status"] == "queued":
        job["status"] = "running"
        _tell(state, job, "Fine-tuning job started")
    elif job["status"] == "running" and done < script.steps:
        train, valid = _losses(done + 1)
        data = {"step": done + 1, "total_steps": script.steps, "train_loss": train, "valid_loss": valid}
        _tell(state, job, f"Step {done + 1}/{script.steps}: training loss={train}", "metrics", data)
    elif job["status"] == "running":
        _end(state, job)


def _end(state: State, job: Body) -> None:
    script, job["status"], job["finished_at"] = state.script, state.script.ends, int(time.time())
    if script.ends != "succeeded":
        job["error"] = {"code": "invalid_training_file", "message": "line 3 is broken", "param": "training_file"}
        return
    state.learn(job)
    job["trained_tokens"] = len(state.files[job["training_file"]][1]) // 4 * int(job["hyperparameters"]["n_epochs"])
    table = "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy\n" + "".join(
        f"{step},{_losses(step)[0]},0.5,{_losses(step)[1] if step % 2 == 0 else ''},\n"
        for step in range(1, script.steps + 1)
    )
    raw = table.encode()
    content = base64.b64encode(raw) if script.result == "base64" else raw
    job["result_files"] = [state.keep_file("step_metrics.csv", content, "fine-tune-results")["id"]]
    _tell(state, job, f"New fine-tuned model created: {job['fine_tuned_model']}")


async def job(request: Request) -> Response:
    """GET a job, its events and checkpoints; POST cancel, pause, resume."""
    state: State = request.app.state.held
    found = state.jobs.get(request.path_params["id"])
    if not found:
        raise Refused(404, _no("Could not find fine tune", "fine_tuning_job_id", "fine_tune_not_found"))
    verb = request.path_params.get("verb")
    if verb == "events":
        return _page(list(reversed(state.events[found["id"]])), request)
    if verb == "checkpoints":
        return _page(_checkpoints(state, found), request, 10)
    changes = {"cancel": "cancelled", "pause": "paused", "resume": "queued"}
    if request.method == "POST" and verb in changes:
        if found["finished_at"]:
            raise Refused(400, _no(f"Job has already completed: {found['status']}"))
        found["status"] = changes[verb]
        if verb == "cancel":
            found["finished_at"] = int(time.time())
    elif not verb:
        _advance(state, found)
    return JSONResponse(found)


def _checkpoints(state: State, job: Body) -> list[Body]:
    if not job["fine_tuned_model"]:
        return []
    return [
        {
            "id": f"ftckpt-{step}",
            "object": "fine_tuning.job.checkpoint",
            "created_at": 1,
            "fine_tuned_model_checkpoint": f"{job['fine_tuned_model']}:ckpt-step-{step}",
            "fine_tuning_job_id": job["id"],
            "metrics": {"step": step, "train_loss": _losses(step)[0], "valid_loss": _losses(step)[1]},
            "step_number": step,
        }
        for step in range(state.script.steps, max(0, state.script.steps - 3), -1)
    ]


async def batches(request: Request) -> Response:
    """POST and GET /v1/batches."""
    state: State = request.app.state.held
    if request.method == "GET":
        return _page(list(reversed(state.batches.values())), request)
    body = await request.json()
    if body["input_file_id"] not in state.files:
        raise Refused(400, _no("No such file", "input_file_id"))
    made = {
        "id": f"batch_{len(state.batches) + 1}",
        "object": "batch",
        "endpoint": body["endpoint"],
        "input_file_id": body["input_file_id"],
        "completion_window": body["completion_window"],
        "status": "validating",
        "created_at": int(time.time()),
        "metadata": body.get("metadata"),
        "output_file_id": None,
        "error_file_id": None,
        "errors": None,
        "request_counts": {"total": 0, "completed": 0, "failed": 0},
    }
    state.batches[str(made["id"])] = made
    return JSONResponse(made)


async def batch(request: Request) -> Response:
    """GET a batch, one status further with each look; POST cancel."""
    state: State = request.app.state.held
    if state.script.outages > 0:
        state.script.outages -= 1
        raise Refused(503, _no("The service is away for a moment."))
    found = state.batches.get(request.path_params["id"])
    if not found:
        raise Refused(404, _no("No batch found", "id"))
    if request.method == "POST":
        if found["status"] in ("validating", "in_progress"):
            found["status"] = "cancelling"
    elif found["status"] == "validating":
        found["status"] = "in_progress"
        found["request_counts"]["total"] = state.files[found["input_file_id"]][1].count(b"\n")
    elif found["status"] == "in_progress":
        state.looks[found["id"]] += 1
        if state.looks[found["id"]] < state.script.lasts:
            return JSONResponse(found)
        _finish(state, found, state.script.finishes, "completed" if state.script.finishes >= 1 else "expired")
    elif found["status"] == "cancelling":
        _finish(state, found, state.script.finishes / 2, "cancelled")
    return JSONResponse(found)


def _finish(state: State, found: Body, share: float, status: str) -> None:
    lines = [json.loads(line) for line in state.files[found["input_file_id"]][1].decode().splitlines() if line.strip()]
    done, lost = [], []
    for place, line in enumerate(lines):
        row: Body = {"id": f"batch_req_{place}", "custom_id": line["custom_id"], "response": None, "error": None}
        words, draw = last_words(line["body"]), random.Random(_digest(state.script.seed, line["body"], place))
        if place >= share * len(lines):
            row["error"] = {"code": f"batch_{status}", "message": f"This request was not done: the batch {status}."}
            lost.append(row)
            continue
        state.asked[words] += 1
        try:
            if draw.random() < state.script.trouble:
                raise Refused(500, _no("The server had an error while processing your request."))
            answer, code = state.reply(line["body"]), 200
            state.billed[words] += 1
            state.answered[words] += 1
            done.append(row)
        except Refused as refused:
            answer, code = {"error": refused.error}, refused.status
            lost.append(row)
        row["response"] = {"status_code": code, "request_id": f"req_{place}", "body": answer}
    # Answers come in an order of their own.
    random.Random(state.script.seed).shuffle(done)
    for name, rows in (("output_file_id", done), ("error_file_id", lost)):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        found[name] = state.keep_file(f"{name}.jsonl", text.encode(), "batch_output")["id"] if rows else None
    found["status"] = status
    found["request_counts"] = {"total": len(lines), "completed": len(done), "failed": len(lost)}


async def counters(request: Request) -> Response:
    """GET /counters."""
    return JSONResponse(request.app.state.held.counters())


async def settings(request: Request) -> Response:
    """POST /script with the plain settings to change."""
    script: Script = request.app.state.held.script
    for name, value in (await request.json()).items():
        if name not in {known.name for known in fields(Script)} - {"models", "answer"}:
            raise Refused(400, _no(f"No such setting: {name}"))
        setattr(script, name, tuple(value) if isinstance(value, list) else value)
    return JSONResponse({})


class Doorman:
    """Counts requests and answers, and asks for the key where one is set."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http" or not scope["path"].startswith("/v1/"):
            await self.app(scope, receive, send)
            return
        state: State = scope["app"].state.held
        state.requests[f"{scope['method']} {scope['path']}"] += 1

        async def counting(message: Any) -> None:
            if message["type"] == "http.response.start":
                state.statuses[str(message["status"])] += 1
            await send(message)

        given = dict(scope["headers"]).get(b"authorization", b"").decode().removeprefix("Bearer ")
        if state.script.key and given != state.script.key:
            # Careless servers do repeat the key.
            error = _no(f"Incorrect API key provided: {given}.", None, "invalid_api_key")
            await JSONResponse({"error": error}, 401)(scope, receive, counting)
            return
        await self.app(scope, receive, counting)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return JSONResponse({"error": error.error}, error.status, headers=error.headers)


async def _lost(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    return JSONResponse({"error": _no("Not found")}, status)


def create_app(script: Script | None = None) -> Starlette:
    """The server as an app; its state, with `script` and `counters()`, is at `app.state.held`."""

    @contextlib.asynccontextmanager
    async def nothing(app: Starlette) -> AsyncIterator[None]:
        yield

    app = Starlette(
        routes=[
            Route("/counters", counters),
            Route("/script", settings, methods=["POST"]),
            Route("/v1/models", models),
            Route("/v1/chat/completions", chat, methods=["POST"]),
            Route("/v1/files", files, methods=["GET", "POST"]),
            Route("/v1/files/{id}", file),
            Route("/v1/files/{id}/content", file),
            Route("/v1/fine_tuning/jobs", jobs, methods=["GET", "POST"]),
            Route("/v1/fine_tuning/jobs/{id}", job),
            Route("/v1/fine_tuning/jobs/{id}/{verb}", job, methods=["GET", "POST"]),
            Route("/v1/batches", batches, methods=["GET", "POST"]),
            Route("/v1/batches/{id}", batch),
            Route("/v1/batches/{id}/cancel", batch, methods=["POST"]),
        ],
        exception_handlers={Refused: _refused, HTTPException: _lost},
        lifespan=nothing,
    )
    app.state.held = State(script or Script())
    app.add_middleware(Doorman)
    return app


@dataclass
class Server:
    """A server that runs: its base URL, its script, its state."""

    base_url: str
    state: State = field(repr=False)

    @property
    def script(self) -> Script:
        """How it behaves; may be changed."""
        return self.state.script

    def client(self, timeout: float = 30.0, key: str = "k") -> openai.OpenAI:
        """An OpenAI client of it, without retries of its own."""
        return openai.OpenAI(
            base_url=self.base_url,
            api_key=key,
            max_retries=0,
            timeout=timeout,
            # it speaks no TLS, and reading the machine's certificates takes a while
            http_client=openai.DefaultHttpxClient(trust_env=False, verify=False),
        )


def _bound(port: int) -> socket.socket:
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind(("127.0.0.1", port))
    return listening


def _uvicorn(app: Starlette) -> uvicorn.Server:
    # Nobody waits for answers that hang when the test is over.
    config = uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=0, lifespan="on", backlog=512)
    return uvicorn.Server(config)


@contextlib.contextmanager
def running(script: Script | None = None) -> Iterator[Server]:
    """The server in a thread on a free port."""
    app, listening = create_app(script), _bound(0)
    server = _uvicorn(app)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    until = time.monotonic() + 10
    while not server.started and time.monotonic() < until:
        time.sleep(0.005)
    try:
        yield Server(f"http://127.0.0.1:{listening.getsockname()[1]}/v1", app.state.held)
    finally:
        server.should_exit = True
        thread.join(5)


def main() -> None:
    """Run as a process; prints the base URL, then serves until it is stopped."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    for name, kind in (("latency", float), ("at-once", int), ("trouble", float), ("seed", int), ("hang", float)):
        parser.add_argument(f"--{name}", type=kind)
    for name, kind in (("steps", int), ("retry-after", float), ("key", str), ("result", str), ("finishes", float)):
        parser.add_argument(f"--{name}", type=kind)
    parser.add_argument("--may-not-tune", dest="may_tune", action="store_false", default=None)
    parser.add_argument("--answer", help="module:function that answers chat requests")
    options = vars(parser.parse_args())
    port, answer = options.pop("port"), options.pop("answer")
    script = Script(**{name: value for name, value in options.items() if value is not None})
    if answer:
        module, _, function = answer.partition(":")
        script.answer = getattr(importlib.import_module(module), function)
    listening = _bound(port)
    print(f"http://127.0.0.1:{listening.getsockname()[1]}/v1", flush=True)
    _uvicorn(create_app(script)).run(sockets=[listening])


if __name__ == "__main__":
    main()
