"""The stages joined: what is finished is not done again."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from drone_ft import dataset, endpoints, evaluation, fine_tuning, pipeline, work
from drone_ft.catalog import Call, Catalog, Function, default_catalog
from drone_ft.dataset import Example, make_example
from drone_ft.errors import DatasetError, EndpointRefused, EndpointUnavailable, WorkCancelled
from drone_ft.evaluation import Answer, Case
from drone_ft.fine_tuning import Job
from drone_ft.pipeline import Asked
from drone_ft.store import Store
from drone_ft.work import Progress, Run
from tests.scripted import Script, Server, running

CASES = [Case("up", Call("takeoff_drone", {"altitude": 5})), Case("sing", Call("reject_request", {}))]

ROOT = Path(__file__).parents[1]
HERE = endpoints.Endpoint(endpoints.LOCAL, "http://x/v1")
CLIENTS: Any = {"base": "the base's client", "tuned": "the tuned one's"}
ASKED = {role: Asked(HERE, client, role) for role, client in CLIENTS.items()}


def test_an_evaluation_broken_off_goes_on_with_the_model_it_had_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def ask_all(client: Any, model: str, *given: Any, memory: Any) -> tuple[list[Answer], float]:
        assert client == CLIENTS[model]
        asked.append(model)
        if model == "tuned" and asked.count("tuned") == 1:
            raise WorkCancelled("cancelled")
        return [Answer(prompt, Call("reject_request", {}), seconds=0.5) for prompt in given[1]], 1.0

    monkeypatch.setattr(evaluation, "ask_all", ask_all)
    store = Store()
    progress = Progress(Run("r", "evaluate"), store.save_run, lambda: False)
    progress.plan(("base", "Base"), ("tuned", "Tuned"))
    arguments = (store, progress, default_catalog(), "cases", CASES, ASKED)
    with pytest.raises(WorkCancelled):
        pipeline._evaluate(*arguments)
    report = pipeline._evaluate(*arguments)
    assert asked == ["base", "tuned", "tuned"]
    assert store.report(report.id) == report and report.impossible("base") == (1, 1)
    assert progress.run.result["report_id"] == report.id and not progress.run.result["answered"]
    assert report.endpoints == {"base": endpoints.LOCAL, "tuned": endpoints.LOCAL}


@pytest.mark.parametrize("changed", ["nothing", "catalog", "cases"])
def test_kept_answers_serve_only_the_catalog_and_cases_they_were_given_for(
    changed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def ask_all(client: Any, model: str, *given: Any, memory: Any) -> tuple[list[Answer], float]:
        assert client == CLIENTS[model]
        asked.append(model)
        if asked == ["base", "tuned"]:
            raise WorkCancelled("cancelled")
        return [Answer(prompt, Call("reject_request", {}), seconds=0.5) for prompt in given[1]], 1.0

    monkeypatch.setattr(evaluation, "ask_all", ask_all)
    store, catalog = Store(), default_catalog()
    progress = Progress(Run("r", "evaluate"), store.save_run, lambda: False)
    progress.plan(("base", "Base"), ("tuned", "Tuned"))
    with pytest.raises(WorkCancelled):
        pipeline._evaluate(store, progress, catalog, "cases", CASES, ASKED)
    if changed == "catalog":
        catalog = dataclasses.replace(catalog, functions=catalog.functions[1:])
    cases = CASES[:1] if changed == "cases" else CASES
    pipeline._evaluate(store, progress, catalog, "cases", cases, ASKED)
    assert asked == ["base", "tuned", *(["tuned"] if changed == "nothing" else ["base", "tuned"])]


def test_one_name_at_two_endpoints_is_two_models_each_asked_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[str, list[Any]] = {"OpenAI": [], "Mine": []}
    store, name, up = Store(), "gpt-4.1-mini", Call("takeoff_drone", {"altitude": 5})
    store.replace_examples(examples(12, 3))

    def answer(place: str, call: Call) -> Any:
        return lambda body: told[place].append(body["tools"]) or call.to_json()

    refusing, rising = Script(answer=answer("OpenAI", CASES[1].call)), Script(answer=answer("Mine", up))
    with running(refusing) as openai_server, running(rising) as own:
        monkeypatch.setenv("OPENAI_BASE_URL", openai_server.base_url)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-of-a-test")
        store.save_endpoint(endpoints.Endpoint("Mine", own.base_url, "custom"))
        progress = Progress(Run("r", "evaluate"), store.save_run, lambda: False)
        pipeline.evaluate(store, progress, [name, name], pipeline.TEST_SPLIT, ["OpenAI", "Mine"])
    assert [step.status for step in progress.run.steps] == ["done"] * 3
    report = store.report(progress.run.result["report_id"])
    assert report and report.endpoints == {f"{name} (OpenAI)": "OpenAI", f"{name} (Mine)": "Mine"}
    assert [report.called(model) for model in report.models] == [name, name]
    assert [report.possible(model) for model in report.models] == [(0, 3), (3, 3)]
    learnt = pipeline.approved(store.examples())
    for place, target in (("OpenAI", "openai"), ("Mine", "custom")):
        row = json.loads(pipeline.training_files(learnt, default_catalog(), target)[0].split("\n")[0])
        assert told[place] == [row["tools"]] * 3, "sent the functions that a training there sends"
    assert '"if":' not in json.dumps(told["OpenAI"]) and '"if":' in json.dumps(told["Mine"])


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
    job = pipeline._begun(store, CLIENTS["base"], where, (model, epochs, suffix, seed), data, before)
    assert (job is not None) == goes_on


@pytest.mark.parametrize("seen", [EndpointRefused("no such job", 404), dataclasses.replace(JOB, status="cancelled")])
def test_a_job_that_is_gone_or_over_at_its_endpoint_is_not_gone_on_with(
    seen: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refresh(client: Any, job: Job) -> Job:
        if isinstance(seen, Exception):
            raise seen
        return seen  # type: ignore[no-any-return]

    monkeypatch.setattr(fine_tuning, "refresh", refresh)
    store = Store()
    store.save_job(JOB, "train", "aside")
    arguments = ("OpenAI", ("base", 3, "s", None), ("train", "aside"), "j1")
    assert pipeline._begun(store, CLIENTS["base"], *arguments) is None


def test_the_demo_hands_its_seed_and_catalog_to_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    handed: list[Any] = []

    def train(*given: Any) -> Job:
        handed.append(given[-3:-1])
        raise WorkCancelled("cancelled")

    store = Store()

    def start() -> endpoints.Endpoint:
        store.set_catalog(Catalog("coffee", "", (Function("brew", ""),)))  # loaded in another tab meanwhile
        return endpoints.Endpoint(endpoints.LOCAL, "http://x/v1")

    monkeypatch.setattr(endpoints, "local_endpoint", start)
    monkeypatch.setattr(pipeline, "base_model", lambda client: "base")
    monkeypatch.setattr(pipeline, "train", train)
    with pytest.raises(WorkCancelled):
        pipeline.demo(store, Progress(Run("r", "demo"), store.save_run, lambda: False), seed=7)
    assert handed == [(7, "drone")]


UP = Call("takeoff_drone", {"altitude": 5})


def examples(learn: int, aside: int, status: str = "approved", call: Call = UP) -> list[Example]:
    """Examples without twins: some to learn from, not yet dealt out; some kept aside."""
    names = [f"{chr(97 + n // 26)}{chr(97 + n % 26)}" for n in range(learn + aside)]
    return [
        make_example(f"up {x}", call, status=status, split=None if n < learn else "test") for n, x in enumerate(names)
    ]


def test_examples_to_learn_from_are_those_approved_and_not_kept_aside() -> None:
    good = pipeline.approved([*examples(10, 4), *examples(3, 0, "draft")])
    assert [e.split for e in good] == ["train"] * 10 + ["test"] * 4
    assert pipeline.is_enough(good) and not pipeline.is_enough(good[1:])


@pytest.mark.parametrize(("learn", "aside"), [(0, 0), (9, 0), (9, 5)])
def test_too_few_examples_to_learn_from_are_named_with_what_to_do(learn: int, aside: int) -> None:
    words = f"learn from: {learn}, and {aside} kept aside.*at least 10.*write more, or approve drafts"
    with pytest.raises(DatasetError, match=words):
        pipeline.approved(examples(learn, aside))


def test_a_training_on_too_few_examples_never_reaches_the_server() -> None:
    store = Store()
    store.replace_examples(examples(9, 5))
    with pytest.raises(DatasetError, match="at least 10"):
        pipeline.tune(store, Progress(Run("r", "tune"), store.save_run, lambda: False))


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
    pipeline.catch_up(store, reach)
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
        pipeline.catch_up(Store(), lambda name: server.client())
    [now] = Store().jobs()
    assert now.status == status and words in now.message and bool(now.endpoint_job_id) == created


def test_a_place_that_is_away_proves_nothing_about_a_creation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda seconds: None)
    with running(Script(creations=("failed",) * 3)) as server:
        job = creating(server, 60)
    pipeline.catch_up(Store(), lambda name: server.client())
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
        assert pipeline.find_again(store, "Mine", client) == (2, 1)
        assert pipeline.find_again(store, "Mine", client) == (2, 0)
    back = store.job(saved[0].id)
    assert store.job(mine.id) == mine and store.job_data(mine.id) == ("data", "")
    assert back and back.tuned_model == saved[0].tuned_model and store.job_data(back.id) == ("", "")
    assert fine_tuning.loss_curve(back.events) == fine_tuning.loss_curve(saved[0].events) != []
