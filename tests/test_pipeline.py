"""The stages joined: what is finished is not done again."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from drone_ft import endpoints, evaluation, fine_tuning, pipeline
from drone_ft.catalog import Call, default_catalog
from drone_ft.errors import DatasetError, EndpointRefused, EndpointUnavailable, WorkCancelled
from drone_ft.evaluation import Answer, Case
from drone_ft.fine_tuning import Job
from drone_ft.store import Store
from drone_ft.work import Progress, Run

CASES = [Case("up", Call("takeoff_drone", {"altitude": 5})), Case("sing", Call("reject_request", {}))]


def test_an_evaluation_broken_off_goes_on_with_the_model_it_had_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def ask_all(client: Any, model: str, catalog: Any, prompts: list[str], tell: Any) -> tuple[list[Answer], float]:
        asked.append(model)
        if model == "tuned" and asked.count("tuned") == 1:
            raise WorkCancelled("cancelled")
        return [Answer(prompt, Call("reject_request", {}), seconds=0.5) for prompt in prompts], 1.0

    monkeypatch.setattr(evaluation, "ask_all", ask_all)
    store, models = Store(), {"base": "base", "tuned": "tuned"}
    progress = Progress(Run("r", "evaluate"), store.save_run, lambda: False)
    progress.plan(("base", "Base"), ("tuned", "Tuned"))
    arguments = (store, progress, None, default_catalog(), "cases", CASES, models)
    with pytest.raises(WorkCancelled):
        pipeline._evaluate(*arguments)  # type: ignore[arg-type]
    report = pipeline._evaluate(*arguments)  # type: ignore[arg-type]
    assert asked == ["base", "tuned", "tuned"]
    assert store.report(report.id) == report and report.impossible("base") == (1, 1)
    assert progress.run.result["report_id"] == report.id and not progress.run.result["answered"]


def test_too_few_approved_examples_are_named() -> None:
    with pytest.raises(DatasetError, match="at least 10"):
        pipeline.approved([])


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
        if isinstance(server, Exception):
            raise server
        return server(job)  # type: ignore[no-any-return]

    monkeypatch.setattr(endpoints, "local_endpoint", lambda start: endpoints.Endpoint(endpoints.LOCAL, "http://x/v1"))
    monkeypatch.setattr(fine_tuning, "refresh", refresh)
    store = Store()
    store.save_job(Job("j1", endpoints.LOCAL, "ftjob-1", "m", "s", 3, "running", 1.0), "train", "")
    pipeline.catch_up(store)
    job = store.job("j1")
    assert job and job.status == status and message in job.message
