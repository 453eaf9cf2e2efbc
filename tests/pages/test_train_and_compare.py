"""Fine-tune, Evaluate and Playground: guidance where something is missing, figures where it is there."""

from __future__ import annotations

import dataclasses

import pytest
import seed
from seen import labels, primary, said

from drone_ft import endpoints, evaluation
from drone_ft.catalog import Call
from drone_ft.errors import EndpointRefused
from drone_ft.evaluation import Answer, Outcome
from drone_ft.ui import models


def test_training_needs_examples_first(open_page, store):
    assert primary(open_page("fine_tune")) == ["Go to examples"]
    store.replace_examples([dataclasses.replace(e, split="train") for e in seed.examples(store, 9)])
    at = open_page("fine_tune")
    assert "Only 9 approved examples to learn from" in said(at) and "tuning.start" not in [b.key for b in at.button]


def test_examples_kept_aside_are_none_to_learn_from(open_page, store):
    written = seed.examples(store, 12)
    store.replace_examples([dataclasses.replace(e, split="test" if i < 3 else "train") for i, e in enumerate(written)])
    at = open_page("fine_tune")
    assert "Only 9 approved examples to learn from, and 3 kept aside" in said(at) and "approve drafts" in said(at)
    assert "tuning.start" not in [b.key for b in at.button]


def test_training_is_started_as_chosen(open_page, store, started):
    seed.examples(store)
    at = open_page("fine_tune")
    assert "About" in said(at) and "kept aside" in said(at)
    at.number_input(key="tuning.epochs").set_value(5).run()
    at.text_input(key="tuning.suffix").set_value("night flights").run()
    at.button(key="tuning.start").click().run()
    assert started == [("tune", {"model": models.ITS_OWN, "epochs": 5, "suffix": "night-flights"})]


def test_a_training_under_way_is_watched_and_no_second_one_offered(open_page, store):
    seed.examples(store)
    seed.job(store, "running")
    seed.run(store, "tune", "running", job_id="job1")
    at = open_page("fine_tune")
    assert "Fine-tuning is running" in said(at) and "tuning.start" not in [b.key for b in at.button]
    assert len(at.get("plotly_chart")) == 1


def test_past_trainings_are_listed_and_a_failed_one_says_why(open_page, store):
    seed.examples(store)
    seed.job(store, "succeeded", "morning", "a")
    seed.job(store, "failed", "evening", "b")
    at = open_page("fine_tune")
    assert sorted(at.dataframe[0].value["State"]) == ["Failed", "Finished"]
    assert "ran out of memory" in said(at) or "morning" in said(at)


def test_a_finished_training_leads_to_the_comparison(open_page, store):
    seed.examples(store)
    seed.job(store)
    seed.run(store, "tune", "done", model=seed.TUNED)
    assert primary(open_page("fine_tune")) == ["Compare it with the base"]


def test_the_time_estimate_learns_from_the_last_training(store):
    before = models.training_time(446, 3)
    seed.job(store)  # 446 examples, 3 epochs, 340 seconds
    assert models.training_time(446, 3) == "6 minutes" and before


def test_evaluation_needs_a_tuned_model(open_page):
    at = open_page("evaluate")
    assert "No tuned model yet" in said(at) and primary(at) == ["Fine-tune a model"]


def test_an_evaluation_is_started_as_chosen(open_page, store, started):
    seed.examples(store)
    seed.job(store)
    at = open_page("evaluate")
    assert at.selectbox(key="evaluating.cases").value == "drone"
    at.selectbox(key="evaluating.cases").select("test split").run()
    at.button(key="evaluating.start").click().run()
    assert started == [("evaluate", {"models": [models.ITS_OWN, seed.TUNED], "cases": "test split"})]


def test_a_report_shows_verdict_figures_bars_functions_and_every_answer(open_page, store):
    seed.full(store)
    report = store.report("report1")
    at = open_page("evaluate")
    assert at.success[0].value.startswith("The tuned model is better")
    correct, of = report.possible(seed.TUNED)
    assert at.metric[0].value == f"{round(100 * correct / of)}%"
    assert len(at.get("plotly_chart")) == 2
    wrong = len(report.cases) - report.outcomes(seed.TUNED)[Outcome.CORRECT]
    assert f"The tuned model got {wrong} requests wrong" in said(at)
    assert len(at.dataframe[0].value) == len(report.cases)
    at.toggle(key="reports.apart.report1").set_value(True).run()
    assert len(at.dataframe[0].value) == len(report.differences(seed.BASE, seed.TUNED)) < len(report.cases)
    kind = at.pills(key="reports.kinds.report1")
    kind.set_value(["Both wrong", "Only tuned is right"]).run()
    both = len(at.dataframe[0].value)
    at.toggle(key="reports.apart.report1").set_value(False).run()
    assert len(at.dataframe[0].value) > both
    assert set(at.dataframe[0].value["Result"]) == {"Both wrong", "Only tuned is right"}


def test_a_report_of_one_model_names_no_tuned_models_mistakes(open_page, store):
    seed.full(store)
    report = store.report("report1")
    one = {seed.BASE: report.answers[seed.BASE]}
    store.save_report(dataclasses.replace(report, id="alone", answers=one, created=seed.NOW + 1))
    at = open_page("evaluate")
    assert not at.exception and "tuned model got" not in said(at) and "no better" not in said(at)
    rows = at.dataframe[0].value
    assert len(rows) == len(report.cases) and list(rows) == ["Request", "Right answer", "Answer", "Result"]
    kinds = at.pills(key="reports.kinds.alone")
    kinds.set_value([Outcome.CORRECT]).run()
    assert set(at.dataframe[0].value["Result"]) == {"Correct"}


def test_older_reports_can_be_chosen(open_page, store):
    seed.full(store)
    seed.report(store, "report2")
    at = open_page("evaluate")
    at.selectbox(key="evaluating.report").select(1).run()
    assert not at.exception and at.success


def test_the_playground_shows_both_answers_in_words(open_page, store, monkeypatch):
    seed.full(store)
    calls = {seed.BASE: Call("reject_request"), seed.TUNED: Call("control_camera", {"mode": "video", "duration": 120})}
    monkeypatch.setattr(
        endpoints, "local_endpoint", lambda start=True: endpoints.Endpoint("this computer", "http://127.0.0.1:1/v1")
    )
    monkeypatch.setattr(
        evaluation, "ask", lambda client, model, catalog, prompt: Answer(prompt, calls[model], seconds=0.3)
    )
    at = open_page("playground")
    at.text_input(key="playing.text").set_value("film two minutes")
    at.button(key="FormSubmitter:playing.form-Ask").click().run()
    assert [s.value for s in at.subheader] == ["Says no", "Control camera"]
    assert "Answered in 0.3 s" in said(at)
    mode, duration = at.table[0].value.index
    assert mode == "Mode" and "seconds" in duration
    assert "120" in at.table[0].value.to_string()


def test_a_suggestion_is_asked_at_once(open_page, store, monkeypatch):
    seed.full(store)
    asked = []
    monkeypatch.setattr(
        endpoints, "local_endpoint", lambda start=True: endpoints.Endpoint("this computer", "http://127.0.0.1:1/v1")
    )
    monkeypatch.setattr(
        evaluation, "ask", lambda client, model, catalog, prompt: asked.append(prompt) or Answer(prompt, None, "Hm.")
    )
    at = open_page("playground")
    suggestion = at.pills(key="playing.suggestion").options[0]
    at.pills(key="playing.suggestion").set_value(suggestion).run()
    assert asked == [suggestion, suggestion] and "No call" in said(at)


@pytest.mark.parametrize("where", ["starting", "asking"])
def test_a_server_that_does_not_answer_is_a_sentence(where, open_page, store, monkeypatch):
    seed.full(store)

    def refuse(*args):
        raise EndpointRefused("The server refused (status 404): no such model. Check the name.", 404)

    if where == "asking":
        here = endpoints.Endpoint("this computer", "http://127.0.0.1:1/v1")
        monkeypatch.setattr(endpoints, "local_endpoint", lambda start=True: here)
        monkeypatch.setattr(evaluation, "ask", refuse)
    at = open_page("playground")
    at.text_input(key="playing.text").set_value("film two minutes")
    at.button(key="FormSubmitter:playing.form-Ask").click().run()
    assert at.error and not at.exception
    assert ("Check the name" if where == "asking" else "run make run again") in said(at)


def test_the_playground_works_before_training_and_asks_for_words(open_page):
    at = open_page("playground")
    assert "Nothing to compare yet" in said(at) and "Fine-tune a model" in labels(at)
    at.button(key="FormSubmitter:playing.form-Ask").click().run()
    assert "Write a request first" in said(at)
