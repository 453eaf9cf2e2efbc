"""The stages joined: what is finished is not done again."""

from __future__ import annotations

from typing import Any

import pytest

from drone_ft import evaluation, pipeline
from drone_ft.catalog import Call, default_catalog
from drone_ft.errors import DatasetError, WorkCancelled
from drone_ft.evaluation import Answer, Case
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
