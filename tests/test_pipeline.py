"""The stages joined: what is finished is not done again."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from drone_ft import endpoints, evaluation, fine_tuning, pipeline
from drone_ft.catalog import Call, Catalog, Function, default_catalog
from drone_ft.dataset import Example, make_example
from drone_ft.errors import DatasetError, EndpointRefused, EndpointUnavailable, WorkCancelled
from drone_ft.evaluation import Answer, Case
from drone_ft.fine_tuning import Job
from drone_ft.store import Store
from drone_ft.work import Progress, Run

CASES = [Case("up", Call("takeoff_drone", {"altitude": 5})), Case("sing", Call("reject_request", {}))]

CLIENTS: Any = {"base": "the base's client", "tuned": "the tuned one's"}


def test_an_evaluation_broken_off_goes_on_with_the_model_it_had_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def ask_all(client: Any, model: str, *given: Any, memory: Any) -> tuple[list[Answer], float]:
        assert client == CLIENTS[model]
        asked.append(model)
        if model == "tuned" and asked.count("tuned") == 1:
            raise WorkCancelled("cancelled")
        return [Answer(prompt, Call("reject_request", {}), seconds=0.5) for prompt in given[1]], 1.0

    monkeypatch.setattr(evaluation, "ask_all", ask_all)
    store, models = Store(), {"base": "base", "tuned": "tuned"}
    progress = Progress(Run("r", "evaluate"), store.save_run, lambda: False)
    progress.plan(("base", "Base"), ("tuned", "Tuned"))
    arguments = (store, progress, CLIENTS, default_catalog(), "cases", CASES, models)
    with pytest.raises(WorkCancelled):
        pipeline._evaluate(*arguments)
    report = pipeline._evaluate(*arguments)  # type: ignore[arg-type]
    assert asked == ["base", "tuned", "tuned"]
    assert store.report(report.id) == report and report.impossible("base") == (1, 1)
    assert progress.run.result["report_id"] == report.id and not progress.run.result["answered"]


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
    store, models, catalog = Store(), {"base": "base", "tuned": "tuned"}, default_catalog()
    progress = Progress(Run("r", "evaluate"), store.save_run, lambda: False)
    progress.plan(("base", "Base"), ("tuned", "Tuned"))
    with pytest.raises(WorkCancelled):
        pipeline._evaluate(store, progress, CLIENTS, catalog, "cases", CASES, models)
    if changed == "catalog":
        catalog = dataclasses.replace(catalog, functions=catalog.functions[1:])
    cases = CASES[:1] if changed == "cases" else CASES
    pipeline._evaluate(store, progress, CLIENTS, catalog, "cases", cases, models)
    assert asked == ["base", "tuned", *(["tuned"] if changed == "nothing" else ["base", "tuned"])]


@pytest.mark.parametrize(
    ("model", "data", "where", "status", "goes_on"),
    [
        ("base", "train", endpoints.LOCAL, "running", True),
        ("another", "train", endpoints.LOCAL, "running", False),
        ("base", "other", endpoints.LOCAL, "running", False),
        ("base", "train", "OpenAI", "running", False),
        ("base", "train", endpoints.LOCAL, "failed", False),
    ],
)
def test_a_broken_off_run_goes_on_with_its_job_only_for_the_same_model_and_data(
    model: str, data: str, where: str, status: str, goes_on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fine_tuning, "refresh", lambda client, job: job)
    store = Store()
    store.save_job(Job("j1", endpoints.LOCAL, "ftjob-1", "base", "s", 3, status, 1.0), "train", "")
    progress = Progress(Run("r", "tune", result={"job_id": "j1"}), store.save_run, lambda: False)
    here = endpoints.Endpoint(where, "http://x/v1")
    job = pipeline._job_to_go_on_with(store, progress, here, None, data, model)  # type: ignore[arg-type]
    assert (job is not None) == goes_on


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


def examples(learn: int, aside: int, status: str = "approved") -> list[Example]:
    """Examples without twins: some to learn from, not yet dealt out; some kept aside."""
    call = Call("takeoff_drone", {"altitude": 5})
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


def test_a_run_killed_while_it_created_a_job_looks_for_it_under_the_same_tag() -> None:
    store = Store()
    progress = Progress(Run("r", "tune"), store.save_run, lambda: False)
    hosted = endpoints.Endpoint("OpenAI", "http://x/v1")
    tag = pipeline._tag(store, progress, hosted, "data", "base")
    saved = store.run("r")
    assert saved and saved.result["tag"]["id"] == tag, "written down before anything is created"
    later = Progress(saved, store.save_run, lambda: False)
    assert pipeline._tag(store, later, hosted, "data", "base") == tag
    assert pipeline._tag(store, later, hosted, "other data", "base") != tag
    tag = pipeline._tag(store, later, hosted, "data", "base")
    store.save_job(Job(tag, "OpenAI", "ftjob-1", "base", "s", 3, "failed", 1.0), "data", "")
    assert pipeline._tag(store, later, hosted, "data", "base") != tag, (
        "a job that is known to have failed is no lost one"
    )
