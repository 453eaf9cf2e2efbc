"""A job from upload to the end, against scripted servers; and what their refusals become."""

from __future__ import annotations

import base64
import dataclasses
import json
from collections.abc import Callable
from typing import Any

import httpx2
import openai
import pytest

from drone_ft import endpoints, fine_tuning
from drone_ft.errors import EndpointError, EndpointRefused, EndpointUnavailable, JobError, TrainingClosed, WorkCancelled
from drone_ft.fine_tuning import Job
from tests.scripted import Script, Server, running


class Scripted:
    """A server with one job that goes through the statuses given, one a look."""

    def __init__(self, *statuses: str, fail: dict[str, list[httpx2.Response]] | None = None) -> None:
        self.statuses, self.fail, self.seen = list(statuses), fail or {}, list[tuple[str, str, bytes]]()
        self.listing: Callable[[str | None], list[dict[str, Any]]] = lambda after: []
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
        if key == "GET /fine_tuning/jobs":
            found = self.listing(request.url.params.get("after"))
            return httpx2.Response(200, json={"object": "list", "data": found, "has_more": bool(found)})
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


def begin(server: Scripted, **more: Any) -> Job:
    more = {"sleep": lambda seconds: None, **more}
    return fine_tuning.start(server.client, "test", "{}\n", "{}\n", "base", 3, "s", **more)


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
    assert created["validation_file"] != created["training_file"] and created["metadata"]["drone_ft_job"] == job.id


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


UP = {"id": "1", "type": "function", "function": {"name": "up", "arguments": "{}"}}
LINE = json.dumps({"messages": [{"role": "user", "content": "up"}, {"role": "assistant", "tool_calls": [UP]}]})


LOST = Job("abc123", "test", "", "base", "", 1, "creating", 1.0, training_file="file-1")


def launch(server: Server, **more: Any) -> Job:
    more = {"sleep": lambda seconds: None, **more}
    return fine_tuning.start(server.client(timeout=2.0), "test", f"{LINE}\n{LINE}", None, "gpt-4o-mini", 2, **more)


@pytest.mark.parametrize("fates", [("made",), ("lost",), ("failed", "made"), ("failed", "lost"), ("late",)])
def test_one_start_makes_one_job_whatever_happens_to_the_answer(fates: tuple[str, ...]) -> None:
    with running(Script(creations=fates)) as server:
        client = server.client(timeout=0.4 if "late" in fates else 5.0)
        job = fine_tuning.start(client, "test", LINE, None, "gpt-4o-mini", sleep=lambda seconds: None)
        assert list(server.state.jobs) == [job.endpoint_job_id]
        assert server.state.requests["POST /v1/fine_tuning/jobs"] == fates.count("failed") + 1


def test_a_creation_that_always_fails_is_given_up() -> None:
    with running(Script(creations=("failed",) * 9)) as server, pytest.raises(EndpointUnavailable, match="status 500"):
        launch(server)
    assert server.state.requests["POST /v1/fine_tuning/jobs"] == fine_tuning.CREATIONS and not server.state.jobs


def test_where_jobs_cannot_be_listed_nothing_is_created_twice() -> None:
    lists = "GET /fine_tuning/jobs"
    server = Scripted("queued", fail={"POST /fine_tuning/jobs": [refusal(500, None)], lists: [refusal(404, None)]})
    saved: list[Job] = []
    with pytest.raises(EndpointRefused, match="drone_ft_job = "):
        begin(server, save=saved.append)
    assert [job.status for job in saved] == ["creating", "failed"], "who looked there may start another one"
    assert sum((method, path) == ("POST", "/v1/fine_tuning/jobs") for method, path, _ in server.seen) == 1


def test_a_server_that_keeps_no_metadata_is_known_by_our_own_upload() -> None:
    server = Scripted("queued", fail={"POST /fine_tuning/jobs": [refusal(500, None)]})
    server.listing = lambda after: [{**server.job(), "training_file": "file-1"}]
    assert begin(server).endpoint_job_id == "ftjob-1"
    assert begin(server, lost=LOST).endpoint_job_id == "ftjob-1", "another process knows it, too"
    assert sum((method, path) == ("POST", "/v1/fine_tuning/jobs") for method, path, _ in server.seen) == 1


def test_an_earlier_attempt_whose_end_nobody_saw_is_taken_over() -> None:
    with running() as server:
        first = launch(server)
        again = launch(server, lost=dataclasses.replace(first, endpoint_job_id=""))
        assert again.endpoint_job_id == first.endpoint_job_id and len(server.state.files) == 1


def test_a_job_is_saved_before_it_is_created() -> None:
    with running() as server:
        saved: list[tuple[Job, int]] = []
        job = launch(server, suffix="mine", save=lambda now: saved.append((now, len(server.state.jobs))))
        [(before, there)] = saved
    assert (before.status, before.endpoint_job_id, there) == ("creating", "", 0) and not before.is_over
    assert before == dataclasses.replace(job, status="creating", endpoint_job_id="") and job.training_file == "file-1"


@pytest.mark.parametrize(
    ("script", "more", "words"),
    [
        (Script(may_tune=False), {}, "no longer available"),
        (Script(models=()), {}, "does not exist"),
        (Script(may_tune=False), {"lost": LOST}, "no longer available"),
        (Script(tunes=False), {"lost": LOST}, "Whether the job was created is not known: the app ended"),
    ],
)
def test_a_creation_refused_is_saved_as_failed_with_its_reason(
    script: Script, more: dict[str, Any], words: str
) -> None:
    saved: list[Job] = []
    with running(script) as server, pytest.raises(EndpointRefused):
        launch(server, save=saved.append, **more)
    assert saved[-1].status == "failed" and words in saved[-1].message and len({job.id for job in saved}) == 1


@pytest.mark.parametrize("trouble", [refusal(401, "invalid_api_key"), refusal(503, None)], ids=["other key", "away"])
def test_an_earlier_attempt_that_cannot_be_looked_for_is_left_as_it_is(trouble: httpx2.Response) -> None:
    saved: list[Job] = []
    server = Scripted("queued", fail={"GET /fine_tuning/jobs": [trouble] * 4})
    with pytest.raises(EndpointUnavailable, match="is not known"):
        begin(server, lost=LOST, save=saved.append)
    assert saved == [] and all(method == "GET" for method, _, _ in server.seen)


@pytest.mark.parametrize("careless", ["the same page again and again", "a new page for ever"])
def test_endless_pages_end(careless: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fine_tuning, "MOST_JOBS", 300)
    server = Scripted("queued")
    server.listing = lambda after: [
        {**server.job(), "id": f"ftjob-{n + (len(server.seen) if careless.startswith('a new') else 0) * 100}"}
        for n in range(100)
    ]
    assert fine_tuning.find(server.client, "nobody") is None
    assert len(server.seen) <= 4


def test_our_jobs_are_found_again_on_the_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    with running() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        job = launch(server, suffix="mine", catalog="drone", seed=5)
        stranger = server.client().fine_tuning.jobs.create(model="gpt-4o-mini", training_file="file-1")
        for _ in range(9 + 3):
            job = fine_tuning.refresh(server.client(), job)
        found = fine_tuning.found_again(server.client(), "test")
    assert stranger.id not in [one.endpoint_job_id for one in found] and len(found) == 1
    kept = (
        "id",
        "endpoint_job_id",
        "model",
        "suffix",
        "epochs",
        "examples",
        "catalog",
        "seed",
        "status",
        "tuned_model",
    )
    for name in kept:
        assert getattr(found[0], name) == getattr(job, name), name
    assert job.tuned_model and job.cost == pytest.approx(job.trained_tokens * 3.0 / 1e6), "dollars for a million"


def test_an_organisation_that_may_not_train_is_told_the_dates_and_the_way_on() -> None:
    with running(Script(may_tune=False)) as server, pytest.raises(TrainingClosed) as caught:
        launch(server)
    assert (caught.value.status, caught.value.code) == (403, "training_not_available")
    for words in ("7 May 2026", "6 January 2027", "14 January 2027", "train on this computer instead", "no longer"):
        assert words in str(caught.value)
    assert server.state.requests["POST /v1/fine_tuning/jobs"] == 1


def test_a_job_is_paused_resumed_and_leaves_checkpoints() -> None:
    with running(Script(steps=4)) as server:
        client = server.client()
        job = launch(server)
        assert fine_tuning.checkpoints(client, job) == []
        job = fine_tuning.pause(client, job)
        assert job.status == "paused" and not job.is_over
        job = fine_tuning.resume(client, job)
        assert job.status == "queued"
        job = fine_tuning.follow(client, job, lambda now: None, every=0)
        kept = fine_tuning.checkpoints(client, job)
    assert [one.step for one in kept] == [2, 3, 4] and all(one.model.startswith(str(job.tuned_model)) for one in kept)
    assert kept[-1].train_loss == 0.5


@pytest.mark.parametrize("form", ["base64", "plain"])
def test_the_result_file_gives_the_curve_the_events_gave(form: str) -> None:
    with running(Script(steps=4, result=form)) as server:
        job = launch(server)
        assert fine_tuning.result_points(server.client(), job) == [], "there is none before the end"
        job = fine_tuning.follow(server.client(), job, lambda now: None, every=0)
        points = fine_tuning.result_points(server.client(), job)
    told = fine_tuning.loss_curve(job.events)
    assert [(p["step"], p["train_loss"]) for p in points] == [(p["step"], p["train_loss"]) for p in told]
    assert [p["valid_loss"] for p in points] == [None, 1.1, None, 0.55]


TABLE = "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy\n2,0.5,,nan,\nx,1,1,1,1\n1,1.0,0.2,,\n"


@pytest.mark.parametrize(
    "raw",
    [
        TABLE.encode(),
        ("\ufeff" + TABLE).encode(),
        TABLE.replace("\n", "\r\n").encode(),
        base64.b64encode(TABLE.encode()),
        base64.encodebytes(TABLE.encode()),
    ],
)
def test_result_files_are_read_in_every_form_servers_send(raw: bytes) -> None:
    job = Job("j", "test", "ftjob-1", "base", "", 1, "succeeded", 1.0, result_files=["file-9"])
    server = Scripted("succeeded", fail={"GET /files/file-9/content": [httpx2.Response(200, content=raw)]})
    assert fine_tuning.result_points(server.client, job) == [
        {"step": 1.0, "train_loss": 1.0, "valid_loss": None},
        {"step": 2.0, "train_loss": 0.5, "valid_loss": None},
    ]


def test_a_result_file_that_is_no_table_is_said_to_be_none() -> None:
    job = Job("j", "test", "ftjob-1", "base", "", 1, "succeeded", 1.0, result_files=["file-9"])
    answer = httpx2.Response(200, content=b"<html>sorry</html>")
    server = Scripted("succeeded", fail={"GET /files/file-9/content": [answer]})
    with pytest.raises(EndpointError, match="no table"):
        fine_tuning.result_points(server.client, job)


def test_jobs_of_earlier_versions_still_load() -> None:
    new = ("seed", "hyperparameters", "trained_tokens", "cost", "result_files", "catalog", "events", "training_file")
    new = (*new, "deployment")
    body = dataclasses.asdict(Job("j", "test", "ftjob-1", "base", "", 1, "running", 1.0, examples=3))
    older = {name: value for name, value in body.items() if name not in new}
    assert Job(**older) == Job(**body)


@pytest.mark.parametrize(
    "statuses", [("queued", "pondering", "succeeded"), ("queued", "pausing", "paused", "pondering", "succeeded")]
)
def test_a_paused_job_and_one_of_unknown_status_are_followed_on(statuses: tuple[str, ...]) -> None:
    server, saved, told = Scripted(*statuses), list[str](), list[str]()
    follow = (lambda job: saved.append(job.status), lambda job: told.append(job.status))
    done = fine_tuning.follow(server.client, begin(server), *follow, every=0)
    assert saved == [*statuses[1:]] and [*dict.fromkeys(told)] == [*statuses] and done.tuned_model
    assert all(method == "GET" for method, path, _ in server.seen if "ftjob-1" in path), "only looked at"


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
    job = dataclasses.replace(begin(server), endpoint=endpoints.LOCAL)
    server.fail["GET /fine_tuning/jobs/ftjob-1"] = [refusal(503, None)] * 9
    with pytest.raises(EndpointUnavailable):
        fine_tuning.follow(server.client, job, lambda job: None, every=0)
    assert not any(path.endswith("/cancel") for _, path, _ in server.seen)


def test_a_service_that_is_away_for_a_while_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda seconds: None)
    server, told, slept = Scripted("running", "succeeded"), [], []
    job = begin(server)
    server.fail["GET /fine_tuning/jobs/ftjob-1"] = [refusal(503, None)] * 13  # three looks, each tried again
    done = fine_tuning.follow(server.client, job, lambda job: None, told.append, every=2.0, sleep=slept.append)
    assert done.status == "succeeded" and any("is away" in now.message for now in told)
    assert max(slept) <= 2.0 and sum(slept) > 10 + 20 + 40, "asked ever more seldom, heard at once when cancelled"


@pytest.mark.parametrize(
    ("answers", "status"),
    [
        ([refusal(429, None)], "cancelled"),
        ([refusal(400, "job_over")], "running"),
        ([refusal(503, None)] * 9, "running"),
    ],
    ids=["busy for a moment", "over already", "away"],
)
def test_a_cancelled_job_is_saved_as_its_endpoint_sees_it(
    answers: list[Any], status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda seconds: None)
    server = Scripted("running")
    server.fail["POST /fine_tuning/jobs/ftjob-1/cancel"] = list(answers)
    saved: list[fine_tuning.Job] = []

    def stop(job: fine_tuning.Job) -> None:
        raise WorkCancelled("stop")

    with pytest.raises(WorkCancelled):
        fine_tuning.follow(server.client, begin(server), saved.append, stop, every=0, sleep=lambda seconds: None)
    assert saved[-1].status == status
