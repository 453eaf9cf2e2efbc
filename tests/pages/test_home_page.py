"""Home: where the work stands, what comes next, the demo in all its states."""

from __future__ import annotations

import dataclasses

import seed
from seen import labels, primary, said

from drone_ft import evaluation
from drone_ft.catalog import Catalog, Function


def test_a_first_visit_offers_the_demo_and_says_what_it_does(open_page, started):
    at = open_page("home")
    assert primary(at) == ["Run the demo"]
    assert "nothing leaves this computer" in said(at) and "No key is needed" in said(at)
    assert "None written yet" in said(at) and "15 functions" in said(at)
    at.button(key="home.demo").click().run()
    assert started == [("demo", {"epochs": None, "seed": 0})]


def test_a_running_demo_shows_its_steps_the_time_left_and_can_be_cancelled(store, open_page):
    seed.examples(store, 40)
    seed.job(store, "running")
    run = seed.run(store, "demo", "running", job_id="job1")
    at = open_page("home")
    assert "The demo is running" in said(at) and "**Fine-tune the model**" in said(at)
    assert [bar.text for bar in at.main.progress] == ["36 of 60, about 2 minutes left"]
    assert [bar.text for bar in at.sidebar.progress] == ["Step 5 of 7, about 2 minutes left in this step"]
    assert len(at.get("plotly_chart")) == 1
    assert primary(at) == []  # nothing else should be started now
    at.button(key="runs.cancel.demo").click().run()
    assert store.is_cancel_requested(run.id)
    assert at.button(key="runs.cancel.demo").disabled and "The demo is stopping" in said(at)


def test_no_time_is_guessed_at_the_very_start_of_a_step(store, open_page):
    begun = [dataclasses.replace(s, done=1, seconds_left=9000.0) if s.name == "tune" else s for s in seed.STEPS]
    run = seed.run(store, "demo", "running", job_id="job1")
    store.save_run(dataclasses.replace(run, steps=tuple(dataclasses.replace(s, total=s.total * 2) for s in begun)))
    at = open_page("home")
    assert [bar.text for bar in at.main.progress] == ["1 of 120"]
    assert [bar.text for bar in at.sidebar.progress] == ["Step 5 of 7"]


def test_a_failed_demo_says_why_and_goes_on_with_the_same_settings(store, open_page, started):
    seed.run(store, "demo", "failed", "The model's file is missing. Run make run again.")
    at = open_page("home")
    assert "The demo has stopped" in said(at) and "file is missing" in said(at)
    assert primary(at) == ["Try again"]
    at.button(key="runs.again.demo").click().run()
    assert started == [("demo", {})]


def test_a_finished_demo_ends_on_its_verdict(store, open_page):
    seed.full(store)
    at = open_page("home")
    assert "The tuned model is better" in at.success[0].value
    assert [m.label for m in at.metric][:2] == ["Possible: right", "Impossible: rejected"]
    assert "base" in at.metric[0].delta
    assert primary(at) == ["Try both models"]
    assert "Run the demo again" in labels(at)


def test_another_catalog_is_not_shown_the_drones_models_and_verdict(store, open_page):
    seed.full(store)
    store.save_job(dataclasses.replace(store.jobs()[0], catalog="drone"))
    store.save_report(dataclasses.replace(store.report("report1"), catalog="drone"))
    assert "1 tuned model" in said(open_page("home")) and open_page("home").success
    store.set_catalog(Catalog("coffee", "", (Function("brew", "Brew a coffee.", {"type": "object"}),)))
    at = open_page("home")
    assert "1 tuned model" not in said(at) and "Not trained yet" in said(at) and "Not measured yet" in said(at)
    assert not at.success and not at.metric
    assert "No tuned model yet" in said(open_page("evaluate"))
    assert "Nothing to compare yet" in said(open_page("playground"))


def test_the_demo_says_that_it_leaves_another_catalog_alone(store, open_page):
    store.set_catalog(Catalog("house", "", (Function("open_door", "Open a door."),)))
    assert "Yours stays saved" in said(open_page("home"))


def test_the_next_step_follows_the_work(store, open_page):
    seed.examples(store, 40)
    assert primary(open_page("home")) == ["Fine-tune a model"]
    seed.job(store)
    assert primary(open_page("home")) == ["Compare the models"]
    seed.report(store)
    assert primary(open_page("home")) == ["Try both models"]


def test_a_model_asked_alone_is_no_verdict(store, open_page):
    seed.full(store)
    report = store.report("report1")
    alone = dataclasses.replace(
        report, id="alone", answers={seed.TUNED: report.answers[seed.TUNED]}, created=report.created + 1
    )
    store.save_report(alone)
    at = open_page("home")
    assert "The tuned model is better" in at.success[0].value and "The demo's verdict" in said(at)
    assert f"{at.metric[0].value} done right, {at.metric[1].value} rightly refused" in said(at)


def test_the_step_and_the_verdict_tell_of_the_same_report(store, open_page):
    seed.full(store)
    report = store.report("report1")
    right = [evaluation.Answer(c.prompt, c.call) for c in report.cases]
    newer = {**report.answers, seed.TUNED: right}
    store.save_report(dataclasses.replace(report, id="newer", answers=newer, created=report.created + 1))
    at = open_page("home")
    assert "The last verdict" in said(at) and at.metric[0].value == "100%"
    assert "100% done right, 100% rightly refused" in said(at)


def test_every_answer_opens_the_report_of_the_verdict_at_the_mistakes(store, open_page):
    seed.full(store)
    report = store.report("report1")
    alone = {seed.TUNED: report.answers[seed.TUNED]}
    store.save_report(dataclasses.replace(report, id="alone", answers=alone, created=report.created + 1))
    at = open_page("evaluate")  # its choice of a report stands at the newest
    assert at.selectbox(key="evaluating.report").value == "alone"
    at.switch_page("pages/home.py").run()
    at.button(key="home.evaluate").click().run()
    assert at.title[0].value == "Evaluate" and at.selectbox(key="evaluating.report").value == "report1"
    shown = at.dataframe[0].value
    assert "Both wrong" in set(shown["Result"]) <= {"Both wrong", "Only base is right"}
    assert len(shown) == len(report.cases) - report.outcomes(seed.TUNED)[evaluation.Outcome.CORRECT]


def test_nothing_impossible_is_not_counted(store, open_page):
    store.replace_examples([e for e in seed.examples(store) if e.call.name != "reject_request"][:58])
    assert "58 written" in said(open_page("home")) and ", 0 imp" not in said(open_page("home"))
