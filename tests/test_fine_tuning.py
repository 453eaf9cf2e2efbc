"""A job from upload to the end, against a scripted server; and what its refusals become."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx2
import openai
import pytest

from drone_ft import endpoints, fine_tuning
from drone_ft.errors import EndpointRefused, EndpointUnavailable, JobError
from drone_ft.fine_tuning import Job


class Scripted:
    """A server with one job that goes through the statuses given, one a look."""

    def __init__(self, *statuses: str, fail: dict[str, list[httpx2.Response]] | None = None) -> None:
        self.statuses, self.fail, self.seen = list(statuses), fail or {}, list[tuple[str, str, bytes]]()
        transport = httpx2.MockTransport(self.answer)
        http = httpx2.Client(transport=transport)
        self.client = openai.OpenAI(base_url="http://test/v1", api_key="k", max_retries=0, http_client=http)

    def answer(self, request: httpx2.Request) -> httpx2.Response:
        key = f"{request.method} {request.url.path.removeprefix('/v1')}"
        self.seen.append((request.method, request.url.path, request.content))
        if self.fail.get(key):
            return self.fail[key].pop(0)
        if key == "POST /files":
            return httpx2.Response(
                200,
                json={
                    "id": f"file-{len(self.seen)}",
                    "object": "file",
                    "bytes": 1,
                    "created_at": 1,
                    "filename": "f",
                    "purpose": "fine-tune",
                    "status": "processed",
                },
            )
        if key.endswith("/events"):
            return httpx2.Response(
                200, json={"object": "list", "data": list(reversed(self.events())), "has_more": False}
            )
        if key.startswith("GET /fine_tuning/jobs/") and len(self.statuses) > 1:
            self.statuses.pop(0)
        if key.endswith("/cancel"):
            self.statuses = ["cancelled"]
        return httpx2.Response(200, json=self.job())

    def job(self) -> dict[str, Any]:
        status = self.statuses[0]
        error = {"code": "invalid_training_file", "message": "line 3 is broken", "param": "training_file"}
        return {
            "id": "ftjob-1", "object": "fine_tuning.job", "created_at": 1, "model": "base", "organization_id": "o",
            "status": status, "training_file": "file-1", "result_files": [], "seed": 0,
            "hyperparameters": {"n_epochs": 3},
            "error": error if status == "failed" else {"code": "", "message": "", "param": None},
            "fine_tuned_model": "ft:base:o:s:1" if status == "succeeded" else None,
            "finished_at": 9 if status in fine_tuning.OVER else None,
        }  # fmt: skip

    def events(self) -> list[dict[str, Any]]:
        rows = [("message", "Job started", None)]
        rows += [("metrics", f"Step {n}", {"step": n, "total_steps": 4, "train_loss": 1 / n}) for n in (1, 2)]
        rows += [("metrics", "Epoch 1", {"step": 2, "total_steps": 4, "valid_loss": 0.7}), ("novelty", "?", "text")]  # type: ignore[list-item]
        return [
            {
                "id": f"e{n}",
                "object": "fine_tuning.job.event",
                "created_at": n,
                "level": "info",
                "type": t,
                "message": m,
                "data": d,
            }
            for n, (t, m, d) in enumerate(rows)
        ]


def begin(server: Scripted) -> Job:
    return fine_tuning.start(server.client, "test", "{}\n", "{}\n", "base", 3, "s")


def test_a_job_is_uploaded_created_and_followed_to_its_model() -> None:
    server, seen = Scripted("validating_files", "queued", "running", "succeeded"), list[Job]()
    job = fine_tuning.follow(server.client, begin(server), seen.append, every=0)
    assert job.tuned_model == "ft:base:o:s:1" and [j.status for j in seen] == ["queued", "running", "succeeded"]
    assert fine_tuning.progress(job) == (2, 4)
    assert [e["id"] for e in job.events] == ["e0", "e1", "e2", "e3", "e4"], "oldest first, none twice"
    assert fine_tuning.loss_curve(job.events) == [
        {"step": 1.0, "train_loss": 1.0, "valid_loss": None},
        {"step": 2.0, "train_loss": 0.5, "valid_loss": 0.7},
    ]
    assert job.last_loss == 0.7, "validation tells more than training"
    created = json.loads(next(body for method, path, body in server.seen if path == "/v1/fine_tuning/jobs"))
    assert created["method"]["supervised"]["hyperparameters"] == {"n_epochs": 3} and created["suffix"] == "s"
    assert created["validation_file"] != created["training_file"] and created["metadata"] == {"drone_ft_job": job.id}


def test_the_last_loss_is_the_newest_measured_whatever_steps_lack_one(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"step": 1, "train_loss": 0.9}, {"step": 2, "train_loss": 0.4}, {"step": 3, "total_steps": 4}]
    server = Scripted("running")
    made = [{**server.events()[0], "id": f"m{n}", "type": "metrics", "data": row} for n, row in enumerate(rows)]
    monkeypatch.setattr(server, "events", lambda: made)
    assert fine_tuning.refresh(server.client, begin(server)).last_loss == 0.4


def test_a_failed_job_says_why() -> None:
    server = Scripted("queued", "failed")
    with pytest.raises(JobError, match="line 3 is broken"):
        fine_tuning.follow(server.client, begin(server), lambda job: None, every=0)


def test_somebody_who_stops_following_cancels_the_job() -> None:
    server = Scripted("running")

    def stop(job: Job) -> None:
        raise KeyboardInterrupt

    saved: list[Job] = []
    with pytest.raises(KeyboardInterrupt):
        fine_tuning.follow(server.client, begin(server), saved.append, stop, every=0)
    assert saved[-1].status == "cancelled", "nobody may go on with it"
    assert server.seen[-1][:2] == ("POST", "/v1/fine_tuning/jobs/ftjob-1/cancel")


def refusal(status: int, code: str | None, message: str = "no") -> httpx2.Response:
    return httpx2.Response(status, json={"error": {"message": message, "type": "x", "param": None, "code": code}})


def test_creating_a_job_is_never_repeated_blindly() -> None:
    server = Scripted("queued", fail={"POST /fine_tuning/jobs": [refusal(500, None)]})
    with pytest.raises(EndpointUnavailable):
        begin(server)
    assert sum(path == "/v1/fine_tuning/jobs" for _, path, _ in server.seen) == 1


@pytest.mark.parametrize(
    ("status", "code", "kind", "asked"),
    [
        (500, None, EndpointUnavailable, 3),
        (503, None, EndpointUnavailable, 3),
        (429, "rate_limit_exceeded", EndpointUnavailable, 3),
        (429, "insufficient_quota", EndpointRefused, 1),
        (401, "invalid_api_key", EndpointRefused, 1),
        (403, "training_not_available", EndpointRefused, 1),
        (404, "model_not_found", EndpointRefused, 1),
        (400, None, EndpointRefused, 1),
    ],
)
def test_outages_are_tried_again_and_refusals_are_not(
    status: int, code: str | None, kind: type[Exception], asked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda seconds: None)
    server = Scripted("queued", fail={"GET /models": [refusal(status, code, "because of this")] * 3})
    with pytest.raises(kind, match="because of this") as caught:
        endpoints.patiently(lambda: server.client.models.list(), attempts=3)
    assert len(server.seen) == asked
    if isinstance(caught.value, EndpointRefused):
        assert (caught.value.status, caught.value.code) == (status, code)


@pytest.mark.parametrize(
    "boom",
    [
        lambda r: (_ for _ in ()).throw(httpx2.ConnectError("x", request=r)),
        lambda r: (_ for _ in ()).throw(httpx2.ReadTimeout("x", request=r)),
    ],
)
def test_a_server_that_is_away_is_one_sentence(boom: Callable[[httpx2.Request], httpx2.Response]) -> None:
    http = httpx2.Client(transport=httpx2.MockTransport(boom))
    client = openai.OpenAI(base_url="http://test/v1", api_key="k", max_retries=0, http_client=http)
    with pytest.raises(EndpointUnavailable, match=r"Start it|Try again"):
        endpoints.translated(lambda: client.models.list())


def test_an_outage_while_following_leaves_the_job_running(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda seconds: None)
    server = Scripted("running")
    job = begin(server)
    server.fail["GET /fine_tuning/jobs/ftjob-1"] = [refusal(503, None)] * 9
    with pytest.raises(EndpointUnavailable):
        fine_tuning.follow(server.client, job, lambda job: None, every=0)
    assert not any(path.endswith("/cancel") for _, path, _ in server.seen)
