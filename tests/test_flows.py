"""The whole way against servers that really keep state: our own, and one that others wrote."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import openai
import pytest

from drone_ft import composing, endpoints, evaluation, fine_tuning
from drone_ft.catalog import Call, Catalog, Function
from drone_ft.composing import How
from drone_ft.dataset import make_example, to_jsonl
from drone_ft.endpoints import LOCAL, Endpoint
from drone_ft.errors import WorkCancelled
from drone_ft.evaluation import Case, Outcome
from drone_ft.fine_tuning import Job
from drone_ft.store import Store
from drone_ft.synthesis import by_model
from drone_ft.synthesis.by_model import Heard, Plan, Request
from tests import aimock, people
from tests.local.test_server import BASE, FakeEngine, Running

TAG = "flow"
LOST = Job(TAG, "", "", "", "", 1, "creating", 1.0)
HEIGHT = {"altitude": {"type": "integer", "minimum": 1, "maximum": 500, "description": "Metres."}}
PLACE = {"place": {"type": "string", "enum": ["home", "field"]}}
NOTHING: dict[str, Any] = {"type": "object", "properties": {}}
CATALOG = Catalog(
    "two functions",
    "You fly a drone.",
    (
        Function("takeoff_drone", "Take off.", {"type": "object", "properties": HEIGHT, "required": ["altitude"]}),
        Function("land_drone", "Land.", {"type": "object", "properties": PLACE, "required": ["place"]}),
        Function("reject_request", "Turn down what cannot be done.", NOTHING),
    ),
    "reject_request",
)
CASE = Case("Up to fifteen metres, please", Call("takeoff_drone", {"altitude": 15}))
ROWS = to_jsonl(
    [make_example(f"Take off to {n} metres", Call("takeoff_drone", {"altitude": n})) for n in range(1, 13)], CATALOG
)
PLAN = Plan(CATALOG, tuple(by_model.choose(CATALOG, by_model.ALL)), commands=2, impossible=1)
REQUESTS = 1 + 3 + 2  # values, commands for each call, impossible ones for each function


@dataclass(frozen=True)
class Place:
    """A server, and what it offers; `curve` is the result file's training loss, empty where it has no such file."""

    endpoint: Endpoint
    model: str
    asked: Callable[[], int]  # how many chat requests it has got
    checkpoints: int
    curve: list[float]

    @property
    def client(self) -> openai.OpenAI:
        return endpoints.client(self.endpoint)


class WritingEngine(FakeEngine):
    """The fake engine, which also writes as people speak."""

    def answer(self, request: Any) -> Any:
        answer = super().answer(request)
        if not request.schema:
            return answer
        name = next(iter(request.schema["properties"]))
        form = {"name": name if name in ("commands", "requests") else "values", "schema": request.schema}
        written = people.answer({"messages": request.messages, "response_format": {"json_schema": form}})
        return replace(answer, calls=(), text=written, finish_reason="stop")


def fixtures() -> list[dict[str, Any]]:
    """What aimock is to answer: the same call, and the same words."""
    call = {"name": CASE.call.name, "arguments": CASE.call.arguments}
    told = [{"match": {"toolName": CASE.call.name}, "response": {"toolCalls": [call]}}]

    def answered(requests: list[Request]) -> list[Heard]:
        words = [people.answer(request) for request in requests]
        for request, text in zip(requests, words, strict=True):
            match = {"userMessage": request["messages"][-1]["content"], "responseFormat": "json_schema"}
            told.append({"match": match, "response": {"content": text}})
        return [Heard(text) for text in words]

    by_model.write(PLAN, answered)
    return told


@pytest.fixture(params=["this computer", "aimock"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    with ExitStack() as stack:
        if request.param == "aimock":
            url = stack.enter_context(aimock.running(fixtures(), tmp_path))
            yield Place(Endpoint("aimock", url, "custom"), "gpt-4.1-mini", lambda: aimock.asked(url), 0, [])
        else:
            engine = WritingEngine(tmp_path / "engine" / "models")
            url = stack.enter_context(Running(tmp_path, engine)).url
            yield Place(Endpoint(LOCAL, f"{url}/v1"), BASE, lambda: len(engine.requests), 2, [1.0, 0.5])


def start(place: Place, suffix: str) -> Job:
    return fine_tuning.start(
        place.client, place.endpoint.name, ROWS, None, place.model, 2, suffix, 7, lost=LOST, catalog=CATALOG.name
    )


def test_from_an_upload_to_a_tuned_model_that_calls_and_a_base_that_writes(place: Place) -> None:
    store, client = Store(), place.client
    job = start(place, "demo")
    store.save_job(job, ROWS)
    assert start(place, "demo").endpoint_job_id == job.endpoint_job_id, "with the same tag no other job is created"
    statuses: list[str] = []
    done = fine_tuning.follow(client, job, store.save_job, lambda now: statuses.append(now.status), every=0.05)
    assert done.tuned_model and "demo" in done.tuned_model and statuses[-1] == "succeeded"
    assert len(done.events) == len({event["id"] for event in done.events}) > 2
    assert [event["created"] for event in done.events] == sorted(event["created"] for event in done.events)
    assert store.job(TAG) == done and store.job_data(TAG) == (ROWS, "")

    [found] = fine_tuning.found_again(client, place.endpoint.name)
    assert (found.id, found.endpoint_job_id, found.tuned_model) == (TAG, job.endpoint_job_id, done.tuned_model)
    assert (found.examples, found.catalog, found.epochs) == (12, CATALOG.name, 2)
    kept = fine_tuning.checkpoints(client, done)
    assert [checkpoint.step for checkpoint in kept] == [*range(1, place.checkpoints + 1)]
    assert [point["train_loss"] for point in fine_tuning.result_points(client, done)] == place.curve

    for model in [done.tuned_model, *(checkpoint.model for checkpoint in kept)]:
        answer = evaluation.ask(client, model, CATALOG, CASE.prompt, memory=store)
        assert evaluation.score(CASE, answer, CATALOG.reject) is Outcome.CORRECT, answer

    before, how = place.asked(), How(place.endpoint, place.model, at_once=2)
    writing, tally = composing.compose(store, PLAN, how)
    assert (tally.new, tally.kept, place.asked() - before) == (REQUESTS, 0, REQUESTS)
    assert len(writing.examples) == 2 * 3 + 2 and writing.left_out == []
    again, tally = composing.compose(Store(), PLAN, how)
    assert again == writing and (tally.new, tally.kept, place.asked() - before) == (0, REQUESTS, REQUESTS)


def test_who_stops_following_cancels_the_job_at_the_server(place: Place) -> None:
    def stop(job: Job) -> None:
        if job.status == "running":
            raise WorkCancelled("stopped")

    store, client, job = Store(), place.client, start(place, "slow")
    with pytest.raises(WorkCancelled):
        fine_tuning.follow(client, job, store.save_job, stop, every=0.02)
    there, here = fine_tuning.refresh(client, job), store.job(TAG)
    assert here and here.status == there.status == "cancelled" and there.tuned_model is None
    assert json.dumps(there.events).count("cancel") >= 1
