"""Fine-tune, Evaluate and Playground: guidance where something is missing, figures where it is there."""

from __future__ import annotations

import dataclasses

import pytest
import seed
from seen import labels, primary, said
from streamlit.testing.v1 import AppTest

from drone_ft import dataset, endpoints, evaluation, trainings
from drone_ft.catalog import Call, default_catalog
from drone_ft.errors import EndpointRefused
from drone_ft.evaluation import Answer, Outcome
from drone_ft.store import Store
from drone_ft.ui import models, reports, words
from drone_ft.ui.models import Choice


def test_training_needs_examples_first(open_page, store):
    assert primary(open_page("fine_tune")) == ["Go to examples"]
    store.replace_examples([dataclasses.replace(e, split="train") for e in seed.examples(store, 9)])
    at = open_page("fine_tune")
    assert "Only 9 approved examples to learn from" in said(at) and "tuning.start" not in [b.key for b in at.button]


def test_examples_kept_aside_are_none_to_learn_from(open_page, store):
    written = seed.examples(store, 12)
    store.replace_examples([dataclasses.replace(e, split="test" if i < 3 else "train") for i, e in enumerate(written)])
    at = open_page("fine_tune")
    assert "Only 9 approved examples to learn from, and 3 kept aside" in said(at) and "approve drafts" not in said(at)
    assert "tuning.start" not in [b.key for b in at.button]
    store.add_examples([dataset.make_example("a draft", Call("reject_request"), status="draft")])
    assert "approve drafts" in said(open_page("fine_tune"))


@pytest.mark.parametrize(
    "field, value, sentence",
    [
        ("epochs", 50, "50 is not from 1 to 20"),
        ("epochs", 0, "0 is not from 1 to 20"),
        ("suffix", "n" * 65, "has 65 letters"),
    ],
)
def test_settings_out_of_range_are_said_and_nothing_is_started(field, value, sentence, open_page, store, started):
    seed.examples(store)
    at = open_page("fine_tune")
    widget = at.number_input(key="tuning.epochs") if field == "epochs" else at.text_input(key="tuning.suffix")
    widget.set_value(value)
    at.button(key="tuning.start").click().run()
    assert started == [] and "Nothing was started" in said(at) and at.button(key="tuning.start").disabled
    assert len([e for e in at.error if sentence in e.value]) == 2, "said at the press, and beside the fields"


def test_the_name_offered_is_the_catalogs(open_page, store):
    store.set_catalog(dataclasses.replace(default_catalog(), name="coffee_shop"))
    seed.examples(store)
    assert open_page("fine_tune").text_input(key="tuning.suffix").value == "my-coffee-shop"


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
    seed.run(store, "tune", "done", job_id="job1", model=seed.TUNED)
    assert primary(open_page("fine_tune")) == ["Compare it with the base"]


def test_the_time_estimate_learns_from_the_last_training(store):
    seed.job(store)  # 446 examples, 3 epochs, 340 seconds
    assert models.training_time(446, 3, []) != models.training_time(446, 3, store.jobs()) == "6 minutes"


def test_evaluation_needs_a_tuned_model(open_page, store):
    at = open_page("evaluate")
    assert "No tuned model yet" in said(at) and primary(at) == ["Write examples first"]
    seed.examples(store)
    assert primary(open_page("evaluate")) == ["Fine-tune a model"]


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
    kind.set_value(["Tuned is wrong"]).run()
    assert len(at.dataframe[0].value) == wrong


def test_a_report_of_one_model_names_no_tuned_models_mistakes(open_page, store):
    seed.full(store)
    report = store.report("report1")
    one = {seed.BASE: report.answers[seed.BASE]}
    store.save_report(dataclasses.replace(report, id="alone", answers=one, created=seed.NOW + 1))
    at = open_page("evaluate")
    assert not at.exception and "tuned model got" not in said(at) and "no better" not in said(at)
    rows = at.dataframe[0].value
    assert len(rows) == len(report.cases) and list(rows) == ["Request", "Answer", "Right answer", "Result"]
    kinds = at.pills(key="reports.kinds.alone")
    kinds.set_value([Outcome.CORRECT]).run()
    assert set(at.dataframe[0].value["Result"]) == {"Correct"}


def test_older_reports_can_be_chosen(open_page, store):
    seed.full(store)
    seed.report(store, "report2")
    at = open_page("evaluate")
    at.selectbox(key="evaluating.report").select("report1").run()
    assert not at.exception and at.success


def test_a_better_model_that_is_still_poor_is_no_success(open_page, store):
    seed.full(store)
    report = store.report("report1")
    poor = [a if i % 2 else dataclasses.replace(a, call=None) for i, a in enumerate(report.answers[seed.TUNED])]
    store.save_report(dataclasses.replace(report, answers={**report.answers, seed.TUNED: poor}))
    at = open_page("evaluate")
    assert not at.success and "better, but not yet good" in at.warning[0].value
    assert "Write more examples, or train for more epochs" in at.warning[0].value


def test_the_verdict_says_which_requests_were_asked_and_how_sure_it_is_in_plain_words(open_page, store):
    seed.full(store)
    at = open_page("evaluate")
    assert "hardly chance" in at.success[0].value and "p <" not in at.success[0].value
    assert f"same {len(store.report('report1').cases)} requests, written apart from the examples" in said(at)
    assert "p = " in next(c.help for c in at.caption if "were asked the same" in c.value)


def test_from_a_weakness_to_examples_for_it(open_page, store):
    seed.full(store)
    report = store.report("report1")
    weakest = reports.weakest(report, seed.TUNED)
    at = open_page("evaluate")
    at.button(key="reports.more.report1").click().run()
    assert at.title[0].value == "Examples" and "New example" in said(at)
    assert at.selectbox(key="examples.edit.new.function").value == weakest
    if weakest == "reject_request":
        assert set(at.dataframe[0].value["Call"]) == {"Impossible request"}
    else:
        assert at.selectbox(key="examples.function").value == weakest


def test_the_playground_shows_both_answers_in_words(open_page, store, monkeypatch):
    seed.full(store)
    calls = {seed.BASE: Call("reject_request"), seed.TUNED: Call("control_camera", {"mode": "video", "duration": 120})}
    monkeypatch.setattr(
        endpoints, "local_endpoint", lambda start=True: endpoints.Endpoint("this computer", "http://127.0.0.1:1/v1")
    )
    monkeypatch.setattr(
        evaluation, "ask", lambda client, model, catalog, prompt, memory: Answer(prompt, calls[model], seconds=0.3)
    )
    at = open_page("playground")
    at.text_input(key="playing.text").set_value("film two minutes")
    at.button(key="FormSubmitter:playing.form-Ask").click().run()
    assert [s.value for s in at.subheader] == ["Says no", "Control camera"]
    assert "Answered in 0.3 s" in said(at)
    mode, duration = at.table[0].value.index
    assert mode == "Mode" and "seconds" in duration
    assert "120" in at.table[0].value.to_string()
    at.button(key="playing.add").click().run()
    assert at.title[0].value == "Examples" and at.text_area(key="examples.edit.new.prompt").value == "film two minutes"
    assert at.number_input(key="examples.edit.new.control_camera.duration").value == 120
    at.switch_page("pages/examples.py").run()  # AppTest forgets where a page went by itself
    at.button(key="examples.edit.new.save").click().run()
    assert store.examples()[-1].call == calls[seed.TUNED]


def test_a_pasted_book_is_not_asked(open_page, store, monkeypatch):
    seed.full(store)
    monkeypatch.setattr(endpoints, "local_endpoint", lambda start=True: pytest.fail("asked") if start else None)
    at = open_page("playground")
    at.text_input(key="playing.text").set_value("Call me Ishmael. " * 100)
    at.button(key="FormSubmitter:playing.form-Ask").click().run()
    assert "has 1,699 letters, and one may have up to 1,000" in at.error[0].value and not at.subheader


@pytest.mark.parametrize("model", [models.ITS_OWN, seed.BASE])
def test_the_base_model_has_one_name_whether_its_server_runs_or_sleeps(model):
    named = models.name(Choice(endpoints.LOCAL, model))
    assert named == "SmolLM2 135M (this computer)" and models.identity(model) == seed.BASE


@pytest.mark.parametrize(
    ("model", "place", "named"),
    [
        ("gpt-4.1-mini", "OpenAI", "gpt-4.1-mini (OpenAI)"),
        ("gpt-4.1-mini", "", "gpt-4.1-mini"),
        (seed.TUNED, endpoints.LOCAL, "drone-demo (a1b2c3)"),
        (seed.HOSTED, "OpenAI", "my-drone, 7 (OpenAI)"),
        (seed.HOSTED, "Azure", "my-drone, 7 (Azure)"),
    ],
)
def test_a_model_whose_training_is_not_known_is_named_by_its_id_and_place(model, place, named):
    assert models.name(Choice(place, model)) == named


def test_two_models_tuned_in_the_same_minute_under_one_name_are_told_apart(store):
    one = seed.job(store)
    store.save_job(dataclasses.replace(one, id="job2", tuned_model=seed.TUNED.replace("a1b2c3", "d4e5f6")))
    names = list(models.tuned(store.jobs()).values())
    assert sorted(name.rsplit(", ", 1)[-1] for name in names) == ["a1b2c3", "d4e5f6"] and len(set(names)) == 2


@pytest.mark.parametrize("page", ["home", "evaluate", "playground", "fine_tune"])
def test_trainings_are_read_once_a_page(page, open_page, store, monkeypatch):
    seed.examples(store)
    if page != "fine_tune":
        seed.report(store)
        seed.report(store, "report2")
    for number in range(6):
        seed.job(store, "succeeded", f"model {number}", f"more{number}")
    read, jobs = [], Store.jobs
    monkeypatch.setattr(Store, "jobs", lambda self, catalog=None: read.append(catalog) or jobs(self, catalog))
    monkeypatch.setattr(trainings, "catch_up", lambda store, reach: None)  # it looks by itself, every 20 seconds
    open_page(page)
    assert len(read) == 1


def test_a_suggestion_is_asked_at_once(open_page, store, monkeypatch):
    seed.full(store)
    asked = []
    monkeypatch.setattr(
        endpoints, "local_endpoint", lambda start=True: endpoints.Endpoint("this computer", "http://127.0.0.1:1/v1")
    )
    monkeypatch.setattr(
        evaluation,
        "ask",
        lambda client, model, catalog, prompt, memory: asked.append(prompt) or Answer(prompt, None, "Hm."),
    )
    at = open_page("playground")
    offered = at.pills(key="playing.suggestion").options
    assert [option.endswith("(should be refused)") for option in offered] == [False, False, False, True]
    suggestion = offered[0]
    at.pills(key="playing.suggestion").set_value(suggestion).run()
    assert asked == [suggestion, suggestion] and "No call" in said(at)
    known = next(e for e in store.examples() if e.prompt == suggestion)
    assert f"**Expected:** {words.escape(words.call(known.call))}" in said(at)


@pytest.mark.parametrize("where", ["starting", "asking"])
def test_a_server_that_does_not_answer_is_a_sentence(where, open_page, store, monkeypatch):
    seed.full(store)

    def refuse(*args, **more):
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
    assert "Nothing to compare yet" in said(at) and "Write examples first" in labels(at)
    at.button(key="FormSubmitter:playing.form-Ask").click().run()
    assert "Write a request first" in said(at)


def test_an_export_says_what_each_file_is_for(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"x" * 2_000_000)
    (tmp_path / "model.gguf").write_bytes(b"x" * 1_000_000)
    (tmp_path / "Modelfile").write_text("FROM ./model.gguf")

    def script(folder):
        from pathlib import Path

        from drone_ft.ui import tuning

        tuning.exported_files(Path(folder))

    at = AppTest.from_function(script, args=(str(tmp_path),), default_timeout=30).run()
    text = said(at)
    assert "**model.safetensors** (2 MB)" in text and "**model.gguf** (1 MB)" in text and "ollama create" in text
