"""Trainings kept in the store: one start makes one job, whoever is killed, waits or comes with another key."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest
from filelock import FileLock

from drone_ft import dataset, endpoints, fine_tuning, trainings, work
from drone_ft.catalog import Call, Catalog, Function
from drone_ft.errors import EndpointRefused, EndpointUnavailable, WorkCancelled
from drone_ft.fine_tuning import Job
from drone_ft.store import Store
from tests.scripted import Script, Server, running
from tests.test_pipeline import examples

ROOT = Path(__file__).parents[1]
CLIENT: Any = "a client"
JOB = Job("j1", "OpenAI", "ftjob-1", "base", "s", 3, "running", 1.0, seed=7)


@pytest.mark.parametrize(
    ("kept", "wanted", "before", "goes_on"),
    [
        ({}, {}, "", True),
        ({}, {"seed": 7}, "", True),
        ({"status": "paused"}, {}, "", True),
        ({"status": "creating", "seed": None}, {}, "", True),
        ({"status": "creating"}, {}, "", False),
        ({}, {"seed": 8}, "", False),
        ({}, {"model": "another"}, "", False),
        ({}, {"epochs": 4}, "", False),
        ({}, {"suffix": "other"}, "", False),
        ({}, {"where": endpoints.LOCAL}, "", False),
        ({}, {"data": ("other", "aside")}, "", False),
        ({}, {"data": ("train", "")}, "", False),
        ({"status": "succeeded"}, {}, "", False),
        ({"status": "succeeded"}, {}, "j1", True),
        ({"status": "succeeded"}, {"data": ("other", "aside")}, "j1", False),
        ({"status": "failed"}, {}, "j1", False),
        ({"status": "cancelled"}, {}, "j1", False),
    ],
)
def test_the_same_training_started_again_goes_on_with_its_job_and_another_one_does_not(
    kept: dict[str, Any], wanted: dict[str, Any], before: str, goes_on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fine_tuning, "refresh", lambda client, job: job)
    store = Store()
    store.save_job(dataclasses.replace(JOB, **kept), "train", "aside")
    settings = {
        "model": "base",
        "epochs": 3,
        "suffix": "s",
        "seed": None,
        "where": "OpenAI",
        "data": ("train", "aside"),
    }
    model, epochs, suffix, seed, where, data = {**settings, **wanted}.values()
    job = trainings._begun(store, CLIENT, where, (model, epochs, suffix, seed), data, before)
    assert (job is not None) == goes_on


GONE = EndpointRefused("no such job", 404)


@pytest.mark.parametrize(
    ("kept", "seen", "words"),
    [
        ({"endpoint": endpoints.LOCAL}, GONE, None),
        ({}, dataclasses.replace(JOB, status="cancelled"), None),
        ({"status": "succeeded"}, GONE, None),
        ({}, GONE, "under way at OpenAI, but the key set now does not see it. Use the key .* or another name"),
        ({}, EndpointRefused("Incorrect API key", 401), "Incorrect API key"),
        ({"status": "succeeded"}, EndpointRefused("Incorrect API key", 401), "Incorrect API key"),
    ],
    ids=["gone here", "over there", "over here", "not seen there", "another key", "over here, another key"],
)
def test_a_job_that_is_gone_or_over_is_not_gone_on_with_and_one_not_seen_is_not_bought_twice(
    kept: dict[str, Any], seen: Any, words: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refresh(client: Any, job: Job) -> Job:
        if isinstance(seen, Exception):
            raise seen
        return seen  # type: ignore[no-any-return]

    monkeypatch.setattr(fine_tuning, "refresh", refresh)
    store, job = Store(), dataclasses.replace(JOB, **kept)
    store.save_job(job, "train", "aside")
    said = pytest.raises(EndpointRefused, match=words) if words else contextlib.nullcontext()
    with said:
        arguments = (job.endpoint, ("base", 3, "s", None), ("train", "aside"), "j1")
        assert trainings._begun(store, CLIENT, *arguments) is None


@pytest.mark.parametrize(
    ("server", "status", "message"),
    [
        (lambda job: dataclasses.replace(job, status="succeeded", tuned_model="ft:x"), "succeeded", ""),
        (EndpointRefused("no such job", 404, None), "failed", "no longer knows"),
        (EndpointUnavailable("asleep"), "running", ""),
    ],
)
def test_a_job_nobody_follows_any_more_is_brought_up_to_date(
    server: Any, status: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refresh(client: Any, job: Job) -> Job:
        assert client == "its client" and job.events == told, "with those it has, only the new ones are fetched"
        if isinstance(server, Exception):
            raise server
        return server(job)  # type: ignore[no-any-return]

    def reach(name: str) -> Any:
        if name != endpoints.LOCAL:
            raise EndpointRefused("no key for it", 401)
        return "its client"

    monkeypatch.setattr(fine_tuning, "refresh", refresh)
    store, told = Store(), [{"id": "e1", "data": None}]
    store.save_job(Job("j1", endpoints.LOCAL, "ftjob-1", "m", "s", 3, "running", 1.0, events=told), "train", "")
    store.save_job(Job("j2", "OpenAI", "ftjob-2", "m", "s", 3, "running", 1.0), "train", "")
    trainings.catch_up(store, reach)
    job, hosted = store.job("j1"), store.job("j2")
    assert job and job.status == status and message in job.message
    assert hosted and hosted.status == "running", "what cannot be reached now is left for another time"


FLYING = Catalog("flying", "You fly.", (Function("up", "Go up."), Function("no", "Turn down.")), "no")
KEY = "sk-of-a-test-0123456789"


def wait_until(good: Callable[[], Any]) -> None:
    until = time.monotonic() + 60
    while not good():
        assert time.monotonic() < until, "waited for a minute"
        time.sleep(0.02)


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Callable[[str, Server], int]]:
    """Starts the same training on the page or in the terminal, in a process of its own; gives that one's number."""
    store, rows, started = Store(), examples(12, 0, call=Call("up", {})), list[int]()
    store.set_catalog(FLYING)
    store.replace_examples([dataclasses.replace(example, split="train") for example in rows])
    (tmp_path / "train.jsonl").write_text(dataset.to_jsonl(rows, FLYING))

    def started_at(where: str, server: Server) -> int:
        if where == "page":
            settings = {"model": "gpt-4o-mini", "epochs": 2, "suffix": "s", "endpoint": "OpenAI"}
            run = work.start(store, "tune", settings, {"OPENAI_API_KEY": KEY})
            wait_until(lambda: getattr(store.run(run.id), "pid", None))
            started.append(int(getattr(store.run(run.id), "pid", 0)))
        else:
            command = [sys.executable, "-m", "drone_ft", "tune", str(tmp_path / "train.jsonl"), "--epochs", "2"]
            command += ["--model", "gpt-4o-mini", "--base-url", server.base_url]
            environment = {**os.environ, "OPENAI_API_KEY": KEY}
            quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
            started.append(subprocess.Popen(command, cwd=ROOT, env=environment, **quiet).pid)
        return started[-1]

    yield started_at
    for pid in started:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.skipif(os.name == "nt", reason="kill -9 is a Unix matter")
@pytest.mark.parametrize("where", ["page", "terminal"])
def test_killed_between_the_creation_of_a_job_and_its_save_it_is_taken_over(
    where: str, begin: Callable[[str, Server], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store()
    with running(Script(creations=("late",), key=KEY)) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        first = begin(where, server)
        wait_until(lambda: server.state.jobs)  # it is made, and the answer never comes
        os.kill(first, signal.SIGKILL)
        psutil.Process(first).wait(10)
        [before] = store.jobs()
        assert (before.status, before.endpoint_job_id) == ("creating", "") and store.job_data(before.id)[0]
        begin(where, server)
        wait_until(lambda: store.jobs()[0].status != "creating")
        [job] = store.jobs()
        assert (job.id, job.endpoint_job_id) == (before.id, "ftjob-1") and len(server.state.jobs) == 1
        assert server.state.requests["POST /v1/fine_tuning/jobs"] == 1 and len(server.state.files) == 1


def test_where_training_is_closed_the_run_says_so_and_its_job_is_no_live_one(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store()
    store.set_catalog(FLYING)
    store.replace_examples([dataclasses.replace(e, split="train") for e in examples(12, 0, call=Call("up", {}))])
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with running(Script(may_tune=False, key=KEY)) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        run = work.begin_here(store, "tune", {"model": "gpt-4o-mini", "endpoint": "OpenAI"}, lambda run: None)
    [job] = store.jobs()
    assert run.status == "failed" and run.result["closed"] is True and "train on this computer" in str(run.error)
    assert (job.status, job.message) == ("failed", run.error)


def creating(server: Server, minutes: float = 0.0) -> Job:
    """A job whose creation nobody saw end, its data uploaded."""
    with contextlib.suppress(EndpointUnavailable):
        fine_tuning.start(
            server.client(), "Mine", "{}", None, "gpt-4o-mini", sleep=lambda seconds: None, save=Store().save_job
        )
    [job] = Store().jobs()
    job = dataclasses.replace(job, created=time.time() - 60 * minutes)
    Store().save_job(job)
    return job


@pytest.mark.parametrize(
    ("created", "minutes", "change", "status", "words"),
    [
        (True, 0, {}, "queued", "Created"),
        (True, 60, {}, "queued", "Created"),
        (False, 0, {}, "creating", ""),
        (False, 60, {}, "failed", "It was never created"),
        (False, 60, {"key": "another"}, "creating", ""),
        (False, 60, {"files": {}}, "creating", "does not know this training, with the key and address set now"),
    ],
    ids=["there", "there for long", "just begun", "never created", "another key", "another account"],
)
def test_a_job_whose_creation_nobody_saw_end_is_adopted_or_given_up_once_that_is_certain(
    created: bool, minutes: float, change: dict[str, Any], status: str, words: str
) -> None:
    with running(Script(creations=("made" if created else "failed",) * 3)) as server:
        job = creating(server, minutes)
        Store().save_job(dataclasses.replace(job, status="creating", endpoint_job_id=""))
        server.script.key = change.get("key")
        server.state.files = change.get("files", server.state.files)
        trainings.catch_up(Store(), lambda name: server.client())
    [now] = Store().jobs()
    assert now.status == status and words in now.message and bool(now.endpoint_job_id) == created


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Job]:
    """Starts the same training at a server, without following it or any wait."""
    monkeypatch.setattr(fine_tuning, "LOOKS", (0.0, 0.0))
    monkeypatch.setattr(fine_tuning, "follow", lambda client, job, *given: job)

    def begin(client: openai.OpenAI, **more: Any) -> Job:
        there = endpoints.Endpoint("Mine", str(client.base_url), "custom")
        return trainings.train(Store(), there, client, "{}", None, "gpt-4o-mini", 1, "", lambda job: None, **more)

    return begin


def test_a_job_whose_answer_was_lost_is_waited_for_before_another_is_paid(
    start: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden: dict[str, Any] = {}
    with running() as server:
        client = server.client()
        create = client.fine_tuning.jobs.create

        def lost(**given: Any) -> Any:
            create(**given)
            hidden.update(server.state.jobs)
            server.state.jobs.clear()  # it is listed a little later
            raise openai.APITimeoutError(request=None)  # type: ignore[arg-type]

        with monkeypatch.context() as once:
            once.setattr(client.fine_tuning.jobs, "create", lost)
            with pytest.raises(EndpointUnavailable):
                start(client)
        with pytest.raises(EndpointUnavailable, match=r"may still appear there.*Try again in 5 minutes"):
            start(client)
        assert not server.state.jobs, "the button pressed again buys nothing"
        server.state.jobs.update(hidden)
        assert start(client).endpoint_job_id == "ftjob-1"
        assert server.state.requests["POST /v1/fine_tuning/jobs"] == 1


def test_what_never_appeared_is_created_anew_once_that_is_certain(
    start: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(Script(creations=("failed",) * 3)) as server:
        monkeypatch.setattr("tenacity.nap.time.sleep", lambda seconds: None)
        with pytest.raises(EndpointUnavailable, match="status 500"):
            start(server.client())
        [before] = Store().jobs()
        before = dataclasses.replace(before, created=before.created - 360)
        Store().save_job(before)
        job = start(server.client())
        assert (job.id, job.endpoint_job_id) == (before.id, "ftjob-1") and job.created > before.created + 300


def test_a_long_upload_does_not_count_as_time_in_which_the_job_should_have_appeared(
    start: Callable[..., Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, real, upload = [0.0], time.time, fine_tuning.upload

    def slow(*given: Any) -> str:
        clock[0] += 301
        return upload(*given)

    monkeypatch.setattr(fine_tuning, "upload", slow)
    monkeypatch.setattr(time, "time", lambda: real() + clock[0])
    with running() as server:
        client, seen = server.client(), list[str]()
        create = client.fine_tuning.jobs.create

        def looked_at(**given: Any) -> Any:
            trainings.catch_up(Store(), lambda name: server.client())  # a page is opened meanwhile
            seen.append(Store().jobs()[0].status)
            return create(**given)

        monkeypatch.setattr(client.fine_tuning.jobs, "create", looked_at)
        start(client)
    assert seen == ["creating"]


def test_whoever_waits_for_another_training_to_be_handed_over_is_heard_when_he_cancels(
    start: Callable[..., Job],
) -> None:
    def cancelled() -> bool:
        raise WorkCancelled("cancelled")

    with running() as server:
        held = FileLock(Store().folder / "creating.lock", thread_local=False)
        with ThreadPoolExecutor(1) as another:
            another.submit(held.acquire).result()
        with pytest.raises(WorkCancelled):
            start(server.client(), waiting=cancelled)
        held.release()
        assert start(server.client(), waiting=cancelled).endpoint_job_id == "ftjob-1", "it is free again"


def test_a_place_that_is_away_proves_nothing_about_a_creation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda seconds: None)
    with running(Script(creations=("failed",) * 3)) as server:
        job = creating(server, 60)
    trainings.catch_up(Store(), lambda name: server.client())
    assert Store().jobs() == [job]


def test_trainings_the_store_lost_come_back_with_what_was_measured_and_none_is_overwritten() -> None:
    store, saved = Store(), list[Job]()
    with running(Script(steps=2)) as server:
        client = server.client()
        for suffix in ("lost", "kept"):
            job = fine_tuning.start(client, "Mine", "{}", None, "gpt-4o-mini", suffix=suffix, catalog="drone")
            saved.append(fine_tuning.follow(client, job, lambda now: None, every=0))
        mine = dataclasses.replace(saved[1], message="as I have it")
        store.save_job(mine, "data")
        assert trainings.find_again(store, "Mine", client) == (2, 1)
        assert trainings.find_again(store, "Mine", client) == (2, 0)
        server.state.jobs["ftjob-9"] = {**server.state.jobs["ftjob-2"], "id": "ftjob-9"}
        server.state.events["ftjob-9"] = []
        assert trainings.find_again(store, "Mine", client) == (3, 1), "a second one with the same tag"
        assert trainings.find_again(store, "Mine", client) == (3, 0)
    back = store.job(saved[0].id)
    assert store.job(mine.id) == mine and store.job_data(mine.id) == ("data", "")
    assert back and back.tuned_model == saved[0].tuned_model and store.job_data(back.id) == ("", "")
    assert fine_tuning.loss_curve(back.events) == fine_tuning.loss_curve(saved[0].events) != []
