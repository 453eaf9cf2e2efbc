"""Training at a service: its cost and what is wrong with the examples, before; the job and its model, after."""

from __future__ import annotations

import dataclasses
import time

import pytest
import seed
from seen import labels, primary, said

from drone_ft import checks, endpoints, fine_tuning, trainings
from drone_ft.catalog import default_catalog
from drone_ft.endpoints import Endpoint
from drone_ft.ui import models, words
from drone_ft.ui.models import Choice
from tests.scripted import Script, running

OWN = Choice(endpoints.LOCAL, models.ITS_OWN)
CLOSED = "Fine-tuning is closed to this organisation (no longer available). It ends on 6 January 2027."


@pytest.fixture
def _key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", seed.KEY)


@pytest.fixture
def at(open_page, store, hosted, _key):
    """The fine-tune page on some examples, with OpenAI chosen."""
    seed.examples(store, 60)
    return at_openai(open_page("fine_tune"))


def at_openai(at):
    at.selectbox(key="tuning.endpoint").select("OpenAI").run()
    assert not at.exception
    return at


def model(at):
    return next(box for box in at.selectbox if box.label == "Model")


def start(at):
    at.button(key="tuning.start").click().run()
    assert not at.exception


def test_the_cost_is_said_and_less_is_read_than_on_this_computer(at):
    assert model(at).value == "gpt-4.1-mini" and at.number_input(key="tuning.epochs").value == 3
    assert "tokens to train on, about $" in said(at) and "The examples are sent to OpenAI" in said(at)
    model(at).select("gpt-reasoning").run()
    assert "tokens to train on, price unknown" in said(at)
    at.selectbox(key="tuning.endpoint").select("this computer").run()
    assert at.number_input(key="tuning.epochs").value == 10 and "nothing is paid for" in said(at)


def test_it_is_started_as_chosen_and_the_key_goes_apart(at, started, environments):
    at.number_input(key="tuning.epochs").set_value(2)
    at.text_input(key="tuning.suffix").set_value("night flights")
    at.toggle(key="tuning.validate").set_value(False)
    at.number_input(key="tuning.seed").set_value(11).run()
    start(at)
    chosen = {"model": "gpt-4.1-mini", "epochs": 2, "suffix": "night-flights", "validate": False, "seed": 11}
    assert started == [("tune", {**chosen, "endpoint": "OpenAI", "fixes": []})]
    assert environments == [{"OPENAI_API_KEY": seed.KEY}]


def test_what_openai_does_not_take_is_left_out_by_itself_and_said(at, started, store):
    left_out = "OpenAI takes no rules such as “this value only with that one”: they are left out of Land drone, "
    assert left_out + "Control camera and Configure LED display" in said(at).replace("\\", "")
    at.button(key="preflight.check").click().run()
    assert "Ready to upload" in said(at) and "preflight.fix.unknown to target" not in [b.key for b in at.button]
    start(at)
    assert started[0][1]["fixes"] == []
    at.selectbox(key="tuning.endpoint").select("this computer").run()
    assert "left out" not in said(at)


@pytest.fixture
def own(open_page, store, hosted):
    """The fine-tune page with a server of one's own chosen, which may take everything."""
    seed.examples(store, 60)
    store.save_endpoint(Endpoint("Team [GPU]", hosted.base_url, "custom"))
    hosted.script.key = None
    at = open_page("fine_tune")
    at.selectbox(key="tuning.endpoint").select("Team [GPU]").run()
    at.button(key="preflight.check").click().run()
    assert not at.exception and "to be corrected before the upload" in said(at)
    return at


def test_what_a_server_of_ones_own_may_not_take_is_put_right_by_a_button_that_names_it(own, started):
    button = own.button(key="preflight.fix.unknown to target")
    assert button.label.replace("\\", "") == "Leave out what Team [GPU] does not know"
    button.click().run()
    assert "Ready to upload" in said(own)
    assert "the upload: leave out what Team [GPU] does not know." in said(own).replace("\\", "")
    start(own)
    assert started[0][1]["fixes"] == ["Leave out what the target does not know"]
    own.button(key="preflight.undo").click().run()
    assert "to be corrected before the upload" in said(own)


def test_what_is_wrong_is_told_in_the_words_of_the_examples_and_left_out_of_upload_and_price(at, store):
    keep = [e for e in seed.examples(store)[::6] if e.call.name != "set_home_location"]
    learnt = [e for e in keep if e.split == "train"]
    one, other = learnt[0], next(e for e in learnt if e.call.name != learnt[0].call.name)
    made = {
        "twice": dataclasses.replace(other, id="twice", prompt=one.prompt),
        "empty": dataclasses.replace(other, id="empty", prompt=""),
        "long": dataclasses.replace(other, id="long", prompt="go on " * 60_000),
        "leak": dataclasses.replace(one, id="leak", prompt=learnt[1].prompt, call=learnt[1].call, split="test"),
    }
    store.replace_examples([*keep, *made.values()])
    at.button(key="preflight.check").click().run()
    told = said(at).replace("\\", "")
    answers = f"{words.call(one.call)}, and {words.call(other.call)}"
    assert f"“{one.prompt}” has two answers: {answers}." in told
    assert "One example has no words." in told and "cut off unnoticed" in told and "No example for Set home lo" in told
    assert "Line " not in told and "{" not in told and "found" not in told
    before = next(m.value for m in at.markdown if "tokens to train on" in m.value)
    for rule in ("content", "too long", "leak"):
        at.button(key=f"preflight.fix.{rule}").click().run()
    assert "Left out of the upload: 2 examples to learn and 1 example kept aside." in said(at).replace("\\", "")
    assert next(m.value for m in at.markdown if "tokens to train on" in m.value) != before


def test_when_a_model_stops_answering_is_said_beside_its_price(at):
    sentence = "gpt-4.1-mini and whatever is trained from it stop answering on 14 January 2027."
    assert sentence in said(at).replace("\\", "")
    model(at).select("gpt-reasoning").run()
    assert "stop answering" not in said(at)


def test_evaluate_and_playground_ask_for_the_key_before_anything_is_sent(open_page, store, hosted):
    seed.hosted_job(store)
    for page, button in (("evaluate", "evaluating.start"), ("playground", "FormSubmitter:playing.form-Ask")):
        at = open_page(page)
        if page == "playground":
            at.text_input(key="playing.text").set_value("up")
            at.button(key=button).click().run()
        else:
            assert at.button(key=button).disabled
        assert "OpenAI needs a key" in at.warning[0].value and not at.error


def test_a_refused_key_is_said_in_the_playground_without_status_and_variable(open_page, store, hosted, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-not-the-right-one")
    seed.hosted_job(store)
    at = open_page("playground")
    at.text_input(key="playing.text").set_value("up")
    at.button(key="FormSubmitter:playing.form-Ask").click().run()
    told = at.error[0].value.replace("\\", "")
    assert told.startswith("OpenAI does not accept this key. Paste another one.") and "401" not in told


def test_fixes_for_other_examples_are_forgotten(own, started, store):
    own.button(key="preflight.fix.unknown to target").click().run()
    store.remove_examples([store.examples()[0].id])
    own.run()
    start(own)
    assert started[0][1]["fixes"] == []


def test_without_a_key_nothing_starts_and_the_way_to_the_settings_is_shown(open_page, store, hosted):
    seed.examples(store, 60)
    at = at_openai(open_page("fine_tune"))
    assert "OpenAI needs a key" in at.warning[0].value and at.button(key="tuning.start").disabled


def test_the_place_is_as_it_was_left_after_a_visit_to_the_settings(at):
    model(at).select("gpt-4o-mini").run()
    at.switch_page("pages/settings.py").run()
    at.switch_page("pages/fine_tune.py").run()
    assert at.selectbox(key="tuning.endpoint").value == "OpenAI" and model(at).value == "gpt-4o-mini"


def test_a_place_that_cannot_fine_tune_is_named(open_page, store, hosted, _key):
    seed.examples(store, 60)
    hosted.script.tunes = False
    assert "OpenAI takes no fine-tuning" in at_openai(open_page("fine_tune")).warning[0].value.replace("\\", "")


def failed(store, **more):
    settings = {"model": "gpt-4.1-mini", "epochs": 2, "suffix": "night", "validate": False, "seed": 11}
    run = seed.run(store, "tune", "failed", CLOSED, catalog="drone", **more)
    settings |= {"endpoint": "OpenAI", "fixes": ["Give every call an id"]}
    store.save_run(dataclasses.replace(run, settings=settings, steps=()))
    return settings


def test_where_training_is_closed_this_computer_takes_everything_over(open_page, store, started, environments):
    seed.examples(store, 60)
    failed(store, closed=True)
    at = open_page("fine_tune")
    assert "closed to this organisation" in said(at) and primary(at) == ["Train on this computer instead"]
    at.button(key="tuning.here").click().run()
    assert started == [
        ("tune", {"model": models.ITS_OWN, "epochs": 2, "suffix": "night", "validate": False, "seed": 11})
    ]
    assert environments == [{}]


def test_another_failure_is_tried_again_with_the_key(open_page, store, hosted, _key, started, environments):
    seed.examples(store, 60)
    settings = failed(store)
    at = open_page("fine_tune")
    assert primary(at) == ["Try again"] and "tuning.here" not in [b.key for b in at.button]
    at.button(key="runs.again.tune").click().run()
    assert started == [("tune", settings)] and environments == [{"OPENAI_API_KEY": seed.KEY}]


def test_a_job_tells_what_it_learnt_from_what_it_cost_and_where_it_was_measured(open_page, store, hosted, _key):
    seed.examples(store, 60)
    seed.hosted_job(store)
    report = seed.report(store)
    base, tuned = report.answers.values()
    answers, places = {"gpt-4.1-mini": base, seed.HOSTED: tuned}, {"gpt-4.1-mini": "OpenAI", seed.HOSTED: "OpenAI"}
    store.save_report(dataclasses.replace(report, answers=answers, endpoints=places))
    at = open_page("fine_tune")
    facts = next(m.value for m in at.markdown if "Learnt from" in m.value).replace("\\", "").split("  \n")
    assert facts[:4] == [
        "Learnt from 131 examples of the catalog Drone",
        "Tokens read in training: 562,000",
        "Cost: $2.81",
        "Settings: epochs 3, batch size 1, seed 7",
    ]
    assert facts[4].startswith("Evaluated: my-drone, ") and "against gpt-4.1-mini (OpenAI)" in facts[4]
    assert facts[5:] == ["Its number at OpenAI: ftjob-1"]
    assert [d.label for d in at.get("download_button")] == ["Training file", "Validation file"]
    assert "Pause" not in labels(at) and "Export" not in labels(at), "it is over, and its model is not here"
    assert list(at.dataframe[0].value["Where"]) == ["OpenAI"]


def test_a_model_of_azure_is_asked_under_the_name_of_its_deployment(open_page, store, hosted, _key):
    seed.examples(store, 60)
    made = "gpt-4.1-mini-2025-04-14.ft-0e208c"
    store.save_job(dataclasses.replace(seed.hosted_job(store), tuned_model=made))
    seed.run(store, "tune", "done", job_id="hosted", model=made)
    at = open_page("fine_tune")
    assert f"deploy {made} in the Azure portal" in said(at).replace("\\", "") and "tuning.compare" not in keys(at)
    for typed, kept in ((" our-dron ", "our-dron"), ("our-drone", "our-drone")):  # a slip can be put right
        at.text_input(key="job_details.deployment.hosted").set_value(typed).run()
        job = store.job("hosted")
        assert not at.exception and (job.tuned_model, job.answers_as) == (made, kept)
        assert list(models.tuned(store.jobs())) == [Choice("OpenAI", kept)] and kept in [c.value for c in at.code]
    assert "Azure portal" not in said(at) and "tuning.compare" in keys(at)
    assert open_page("fine_tune").text_input(key="job_details.deployment.hosted").value == "our-drone"
    there = hosted.client(key=seed.KEY)
    hosted.state.jobs[job.endpoint_job_id] = {
        "id": job.endpoint_job_id,
        "fine_tuned_model": made,
        "status": "succeeded",
    }
    hosted.state.events[job.endpoint_job_id] = []
    assert fine_tuning.refresh(there, job).answers_as == "our-drone"


def test_an_evaluation_counts_for_the_model_that_was_asked_and_not_for_its_namesake(open_page, store, hosted, _key):
    seed.examples(store, 60)
    job = seed.hosted_job(store)
    report, key = seed.report(store), f"{seed.HOSTED} (OpenAI)"
    answers = dict(zip((key, f"{seed.HOSTED} (Mine)"), report.answers.values(), strict=True))
    places = dict(zip(answers, ("OpenAI", "Mine"), strict=True))
    store.save_report(dataclasses.replace(report, answers=answers, endpoints=places))
    assert "Evaluated: my-drone" in said(open_page("fine_tune")).replace("\\", "")
    store.save_job(dataclasses.replace(job, endpoint="Theirs"))
    assert "Not evaluated yet" in said(open_page("fine_tune"))


def keys(at):
    return [button.key for button in at.button]


def test_a_job_about_to_be_created_offers_nothing_and_one_that_never_was_says_so(open_page, store, hosted, _key):
    seed.examples(store, 60)
    file = hosted.client(key=seed.KEY).files.create(file=("train.jsonl", b"{}\n"), purpose="fine-tune").id
    job = dataclasses.replace(seed.hosted_job(store, "creating", ""), training_file=file, trained_tokens=None)
    store.save_job(dataclasses.replace(job, created=time.time()))
    at = open_page("fine_tune")
    assert not {"Pause", "Go on", "Cancel", "List the checkpoints"} & {*labels(at)} and "Its number" not in said(at)
    assert store.job("hosted").status == "creating", "somebody may be about to create it"
    store.save_job(dataclasses.replace(job, created=seed.NOW - 3600))
    at = open_page("fine_tune")
    assert "It was never created: the app ended before. Start it again." in said(at).replace("\\", "")
    assert "List the checkpoints" not in labels(at) and len(at.get("download_button")) == 2


def test_checkpoints_are_listed_when_asked_for_and_their_lack_is_said(open_page, store, hosted, _key):
    seed.examples(store, 60)
    seed.hosted_job(store)
    made = {"id": "ftjob-1", "fine_tuned_model": seed.HOSTED, "status": "succeeded", "finished_at": 1}
    hosted.state.jobs["ftjob-1"], hosted.state.events["ftjob-1"] = made, []
    at = open_page("fine_tune")
    at.button(key="job_details.checkpoints.hosted").click().run()
    assert f"{seed.HOSTED}:ckpt-step-50" in [c.value for c in at.code] and "After step 50" in said(at)
    hosted.state.jobs.clear()
    at.button(key="job_details.checkpoints.hosted").click().run()
    assert "No checkpoints are kept" in said(at) and not at.exception


def create(hosted):
    client = hosted.client(key=seed.KEY)
    file = client.files.create(file=("train.jsonl", b"{}\n"), purpose="fine-tune").id
    return client.fine_tuning.jobs.create(model="gpt-4.1-mini", training_file=file).id


def test_a_job_nobody_follows_is_paused_goes_on_and_is_cancelled(open_page, store, hosted, _key):
    seed.examples(store, 60)
    job = create(hosted)
    seed.hosted_job(store, "running", job)
    at = open_page("fine_tune")
    at.button(key="runs.Pause.hosted").click().run()
    assert hosted.state.jobs[job]["status"] == "paused" and "Go on" in labels(at) and "Pause" not in labels(at)
    assert at.toast[0].value == "The training is paused."
    at.button(key="runs.Go on.hosted").click().run()
    assert hosted.state.jobs[job]["status"] == "running" and "Pause" in labels(at)
    at.button(key="runs.Cancel.hosted").click().run()
    assert hosted.state.jobs[job]["status"] == "cancelled" and "Cancel" not in labels(at)
    assert store.job("hosted").status == "cancelled"


def test_a_watched_job_can_be_paused_and_a_refusal_is_said(open_page, store, hosted, _key, monkeypatch):
    seed.examples(store, 60)
    job = create(hosted)
    seed.hosted_job(store, "running", job)
    seed.run(store, "tune", "running", job_id="hosted")
    at = open_page("fine_tune")
    at.button(key="runs.Pause.hosted").click().run()
    assert hosted.state.jobs[job]["status"] == "paused" and "The training is paused. Press" in said(at)
    hosted.script.key = "another"
    at.button(key="runs.Go on.hosted").click().run()
    assert "Incorrect API key" in at.error[0].value and store.job("hosted").status == "paused"


def test_a_model_at_a_service_is_compared_with_its_own_base_there(
    open_page, store, hosted, _key, started, environments
):
    seed.examples(store)
    seed.job(store)
    seed.hosted_job(store)
    at = open_page("evaluate")
    assert at.selectbox(key="evaluating.tuned").value == Choice(endpoints.LOCAL, seed.TUNED)
    assert at.selectbox(key="evaluating.base").value == OWN
    assert "for both" not in said(at) and "left out" not in said(at)
    at.selectbox(key="evaluating.tuned").select(Choice("OpenAI", seed.HOSTED)).run()
    assert at.selectbox(key="evaluating.base").value == Choice("OpenAI", "gpt-4.1-mini")
    costs = next(c.value for c in at.caption if " for both." in c.value).replace("\\", "")
    assert costs.count("About $0.") == 1 and "Test its connection in the settings" in said(at)
    assert costs.count("left out of Land drone") == 1
    at.button(key="evaluating.start").click().run()
    asked = {"models": ["gpt-4.1-mini", seed.HOSTED], "cases": "drone", "places": ["OpenAI", "OpenAI"]}
    assert started == [("evaluate", asked)] and environments == [{"OPENAI_API_KEY": seed.KEY}]


def test_another_base_may_be_chosen_all_the_same(open_page, store, hosted, _key, started):
    seed.examples(store, 60)
    seed.hosted_job(store)
    at = open_page("evaluate")
    at.selectbox(key="evaluating.base").select(OWN).run()
    at.button(key="evaluating.start").click().run()
    assert started[0][1]["models"] == [models.ITS_OWN, seed.HOSTED]
    assert started[0][1]["places"] == ["this computer", "OpenAI"]


def test_the_playground_asks_each_model_where_it_is(open_page, store, hosted, _key):
    seed.hosted_job(store)
    hosted.state.learned[seed.HOSTED] = [({"up"}, {"name": "takeoff_drone", "arguments": {"altitude": 12}})]
    at = open_page("playground")
    assert at.selectbox(key="playing.base").value == Choice("OpenAI", "gpt-4.1-mini")
    told = []
    hosted.script.answer = lambda body: told.append(body["tools"]) or hosted.state._answer(body)
    at.text_input(key="playing.text").set_value("up twelve metres")
    at.button(key="FormSubmitter:playing.form-Ask").click().run()
    assert not at.exception and not at.error
    assert at.subheader[-1].value == "Takeoff drone" and "12" in at.table[-1].value.to_string()
    sent = checks.sent(default_catalog(), "openai").tools()
    assert told == [sent, sent], "both were asked there, none here, with the functions as trained there"


@pytest.fixture
def two_places(store, hosted, _key):
    """OpenAI and a server of one's own, both with a gpt-4.1-mini; the second was trained at."""
    with running(Script()) as other:
        store.save_endpoint(Endpoint("Azure of ours", other.base_url, "custom"))
        seed.examples(store)
        job = seed.hosted_job(store)
        tuned = "ft:gpt-4.1-mini:ours:there:9"
        store.save_job(dataclasses.replace(job, id="there", endpoint="Azure of ours", tuned_model=tuned))
        yield other


def test_one_model_at_two_places_is_two_options_and_each_goes_where_it_is(open_page, two_places, store, started):
    at = open_page("evaluate")
    base = at.selectbox(key="evaluating.base")
    assert sorted(base.options[1:]) == ["gpt-4.1-mini (Azure of ours)", "gpt-4.1-mini (OpenAI)"]
    for place in ("OpenAI", "Azure of ours"):
        at.selectbox(key="evaluating.base").select(Choice(place, "gpt-4.1-mini")).run()
        at.button(key="evaluating.start").click().run()
    assert [settings["models"][0] for _, settings in started] == ["gpt-4.1-mini"] * 2
    assert [settings["places"][0] for _, settings in started] == ["OpenAI", "Azure of ours"]


def test_the_playground_asks_one_model_at_the_place_that_was_chosen(open_page, two_places, hosted):
    at = open_page("playground")
    counts = []
    for place in ("OpenAI", "Azure of ours"):
        at.selectbox(key="playing.base").select(Choice(place, "gpt-4.1-mini")).run()
        at.text_input(key="playing.text").set_value(f"a question for {place}")
        at.button(key="FormSubmitter:playing.form-Ask").click().run()
        asked = [server.state.asked[f"a question for {place}"] for server in (hosted, two_places)]
        counts.append(asked)
    tuned_here = at.selectbox(key="playing.tuned").value.endpoint == "OpenAI"
    assert counts == ([[2, 0], [1, 1]] if tuned_here else [[1, 1], [0, 2]])


def test_a_report_of_one_name_at_two_places_shows_both_and_where_they_were_asked(open_page, store):
    seed.examples(store)
    report = seed.report(store)
    places = {"gpt-4.1-mini (OpenAI)": "OpenAI", "gpt-4.1-mini (Azure of ours)": "Azure of ours"}
    given = dict(zip(places, report.answers.values(), strict=True))
    seconds = dict.fromkeys(places, 1.0)
    store.save_report(dataclasses.replace(report, id="older", created=seed.NOW - 9))
    store.save_report(dataclasses.replace(report, answers=given, seconds=seconds, endpoints=places))
    at = open_page("evaluate")
    words = said(at).replace("\\", "")
    assert not at.exception and at.success[0].value.startswith("The tuned model is better")
    assert "The base model was asked at OpenAI, the tuned one at Azure of ours." in words
    newest, older = at.selectbox(key="evaluating.report").options
    assert newest.startswith("gpt-4.1-mini (Azure of ours) against gpt-4.1-mini (OpenAI), asked ")
    assert older.startswith("drone-demo (a1b2c3) against SmolLM2 135M (this computer), asked "), "by its id alone"
    at.selectbox(key="evaluating.report").select("older").run()
    assert not at.exception and "asked at" not in said(at) and len(at.dataframe[0].value) == len(report.cases)


def test_a_job_that_is_still_being_created_cannot_be_paused(open_page, store, monkeypatch):
    monkeypatch.setattr(trainings, "catch_up", lambda store, reach: None)
    seed.examples(store, 60)
    seed.hosted_job(store, "creating", "")
    at = open_page("fine_tune")
    assert list(at.dataframe[0].value["State"]) == ["Being created"]
    assert not {"Pause", "Go on", "Cancel"} & set(labels(at)) and not at.exception


def test_the_time_here_is_not_learnt_from_a_service(store):
    job = seed.hosted_job(store)
    assert models.training_time(131, 3, [job]) == models.training_time(131, 3, [])
