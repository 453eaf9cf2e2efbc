"""Examples by a model: where, what it costs, how it is started; what came of it and what was left out."""

from __future__ import annotations

import dataclasses

import pytest
import seed
import streamlit as st
from seen import primary, said

from drone_ft import dataset, ledger, pipeline, work
from drone_ft.catalog import Catalog, Function
from drone_ft.synthesis import by_model


@pytest.fixture
def at(open_page, hosted, monkeypatch):
    """The examples page with the settings open, OpenAI chosen."""
    monkeypatch.setenv("OPENAI_API_KEY", seed.KEY)
    return opened(open_page("examples"))


def opened(at):
    at.toggle(key="composing.open").set_value(True).run()
    at.selectbox(key="composing.endpoint").select("OpenAI").run()
    assert not at.exception
    return at


def model(at):
    return next(box for box in at.selectbox if box.label == "Model")


def start(at):
    at.button(key="composing.start").click().run()
    assert not at.exception


def test_what_is_written_and_what_it_costs_is_said_before(at):
    assert model(at).options[0] == "gpt-4.1-mini" and "text-embedding-3-small" not in model(at).options
    text = said(at)
    assert "About 98 commands for 49 kinds of call, and 45 impossible requests" in text
    assert "about $0.0" in text and primary(at) == ["Write with this model"]
    at.toggle(key="composing.batch").set_value(True).run()
    assert "about $0.0" in said(at) and said(at) != text, "half the price"
    model(at).select("gpt-reasoning").run()
    assert "price unknown" in said(at)
    batch = at.toggle(key="composing.batch")
    assert batch.label == "Send them as a batch, within a day" and batch.value, "half of what is not promised"


def test_it_is_started_as_chosen_and_the_key_goes_apart(at, started, environments):
    at.number_input(key="composing.commands").set_value(3)
    at.number_input(key="composing.impossible").set_value(0)
    at.text_input(key="composing.tone").set_value("curt")
    at.text_area(key="composing.prompt.commands").set_value("Write in Swiss German.").run()
    at.text_area(key="composing.prompt.values").set_value("").run()
    start(at)
    assert started == [
        (
            "compose",
            {
                "endpoint": "OpenAI",
                "model": "gpt-4.1-mini",
                "which": "all",
                "commands": 3,
                "impossible": 0,
                "at_once": 8,
                "batch": False,
                "seed": 0,
                "prompts": {"tone": "curt", "commands": "Write in Swiss German."},
            },
        )
    ]
    assert environments == [{"OPENAI_API_KEY": seed.KEY}] and seed.KEY not in str(started)


def test_without_a_key_the_way_to_the_settings_is_shown(open_page, hosted):
    at = opened(open_page("examples"))
    assert "OpenAI needs a key" in at.warning[0].value and at.button(key="composing.start").disabled
    assert "Open the settings" in [link.label for link in at.get("page_link")]


def test_what_was_chosen_is_there_after_a_visit_to_the_settings(at, started):
    at.text_input(key="composing.tone").set_value("curt").run()
    at.number_input(key="composing.commands").set_value(5)
    at.number_input(key="composing.impossible").set_value(1)
    at.number_input(key="composing.at_once").set_value(2)
    at.selectbox(key="composing.which").select("uncovered")
    at.toggle(key="composing.batch").set_value(True).run()
    model(at).select("gpt-4o-mini").run()
    at.switch_page("pages/settings.py").run()
    at.switch_page("pages/examples.py").run()
    start(at)
    asked = started[0][1]
    assert (asked["endpoint"], asked["model"], asked["prompts"]) == ("OpenAI", "gpt-4o-mini", {"tone": "curt"})
    fields = [asked[name] for name in ("commands", "impossible", "at_once", "which", "batch")]
    assert fields == [5, 1, 2, "uncovered", True]


def test_this_computer_writes_without_a_key_and_its_limits_are_said(open_page, started, environments):
    at = open_page("examples")
    at.toggle(key="composing.open").set_value(True).run()
    assert "A model this small writes little" in said(at) and "tokens, free" in said(at)
    start(at)
    assert started[0][1]["endpoint"] == "this computer" and started[0][1]["model"] is None and environments == [{}]


def test_where_nothing_is_uncovered_there_is_nothing_to_write(open_page, store):
    brew = Function("brew", "Brew.", {"type": "object", "properties": {}})
    store.set_catalog(Catalog("one", "", (brew,)))
    store.replace_examples([dataset.make_example("make some", dataset.Call("brew", {}))])
    at = open_page("examples")
    at.toggle(key="composing.open").set_value(True).run()
    at.selectbox(key="composing.which").select("uncovered").run()
    assert "Every call has an example already" in said(at) and at.button(key="composing.start").disabled


LEDGER = [
    {"call": {"name": "takeoff_drone", "arguments": {"altitude": 9}}, "words": "go 900", "reason": "it does not say 9"},
    {"call": {"name": "reject_request", "arguments": {}}, "words": "", "reason": "near land_drone: the model refused"},
]


def ended(store, status="done", error=None, **more):
    run = seed.run(store, "compose", status, error, model="gpt-4.1-mini", catalog="drone", **more)
    store.save_run(dataclasses.replace(run, steps=(), settings={"endpoint": "OpenAI", "model": "gpt-4.1-mini"}))


def test_what_came_of_it_and_what_was_left_out_is_shown(open_page, store):
    seed.examples(store, 20)
    ended(store, written=141, left_out=LEDGER, left_out_count=2, cost=0.046)
    at = open_page("examples")
    assert "gpt-4.1-mini wrote 141 examples ($0.05)." in at.success[0].value.replace("\\", "")
    assert [e.label for e in at.expander] == ["2 left out: the reason for each"]
    rows = at.dataframe[0].value
    assert list(rows.columns) == ["Words", "Why", "Call"], "why is in sight on a telephone, too"
    assert list(rows["Why"]) == ["it does not say 9", "the model refused"]
    assert list(rows["Call"]) == ["Takeoff drone: altitude 9", "Impossible request, near Land drone"]


def test_of_a_large_ledger_the_reasons_are_counted_the_first_shown_and_all_can_be_had(open_page, store, monkeypatch):
    seed.examples(store, 20)
    left = [by_model.LeftOut(LEDGER[0]["call"], f"go {n}", f"altitude is {n}, more than 500") for n in range(501, 1001)]
    left += [by_model.LeftOut(LEDGER[1]["call"], "", reason) for reason in (*"abcdefgh", "the model refused")]
    first = [dataclasses.asdict(one) for one in left[: pipeline.MOST_LEFT_OUT]]
    kept = ledger.keep(store.folder, "compose1", left)
    ended(store, written=141, left_out=first, ledger=kept, left_out_count=len(left), cost=0.046)
    offered = {}
    monkeypatch.setattr(st, "download_button", lambda label, data, *given, **look: offered.update({label: data}))
    at = open_page("examples")
    assert [e.label for e in at.expander] == ["509 left out: the reason for each"]
    reasons = at.expander[0].markdown[0].value.replace("\\", "").split("\n")
    assert reasons[0] == "- **500 ×** altitude is …, more than 500" and reasons[-1] == "- **2 ×** something else"
    assert len(at.dataframe[0].value) == 300
    assert "The first 300 of 509 are shown; all of them are in the download." in said(at)
    table = offered["Download 509 entries"]()
    assert table.count("\n") == 1 + 509 and "go 1000" in table


def test_a_ledger_whose_file_is_gone_still_shows_its_first_entries(open_page, store):
    seed.examples(store, 20)
    ended(store, written=141, left_out=LEDGER, ledger="ledgers/gone.jsonl", left_out_count=500, cost=0.046)
    at = open_page("examples")
    assert "The first 2 of 500 are shown; the file with all of them is gone." in said(at)
    assert len(at.dataframe[0].value) == 2 and at.get("download_button")[0].label == "Download 2 entries"


def test_news_of_what_is_no_longer_there_is_not_shown(open_page, store):
    seed.examples(store, 20)
    ended(store, written=141, cost=0.046)
    store.save_run(work.Run("write1", "write", "done", created=seed.NOW))
    assert not open_page("examples").success


@pytest.mark.parametrize("status, label", [("failed", "Try again"), ("cancelled", "Go on")])
def test_a_stopped_writing_goes_on_with_the_key(
    status, label, open_page, store, hosted, started, environments, monkeypatch
):
    monkeypatch.setenv("OPENAI_API_KEY", seed.KEY)
    seed.examples(store, 20)
    ended(store, status, "Add credit at the provider." if status == "failed" else None)
    at = open_page("examples")
    at.toggle(key="composing.open").set_value(True).run()
    assert primary(at) == [label], "and not to write anew"
    next(button for button in at.button if button.label == label).click().run()
    assert started == [("compose", {"endpoint": "OpenAI", "model": "gpt-4.1-mini"})]
    assert environments == [{"OPENAI_API_KEY": seed.KEY}]


MIXED = {"left_out": LEDGER, "left_out_count": 36, "not_asked": 34, "had": 1, "cost": 0.02}
ERROR = {"call": {}, "words": "", "reason": "The server could not answer now (status 500): out of order. Try again."}


def test_who_stops_is_told_what_is_saved_and_what_is_still_to_ask(open_page, store):
    seed.examples(store, 20)
    ended(store, "cancelled", written=71, answered=40, **MIXED)
    at = open_page("examples")
    told = said(at).replace("\\", "")
    assert "**Writing has stopped.** 71 examples are saved ($0.02); 34 requests are still to ask." in told
    assert at.expander[0].label == "1 you already have, 34 not asked yet, 1 left out: the reason for each"


@pytest.mark.parametrize(
    ("more", "kind", "words", "button"),
    [
        (
            {"written": 0, "had": 125, "left_out_count": 154, "answered": 76, "cost": 0.02},
            "warning",
            "gpt-4.1-mini wrote nothing new ($0.02): 125 you already have, 29 left out.",
            [],
        ),
        (
            {"written": 0, "left_out": [ERROR], "left_out_count": 17, "unanswered": 17, "answered": 0, "cost": 0.0},
            "error",
            "gpt-4.1-mini answered none of 17 requests: the server had an error (status 500).",
            ["Ask the 17 that are missing"],
        ),
        (
            {"written": 116, "left_out_count": 27, "unanswered": 27, "answered": 49, "cost": None},
            "warning",
            "gpt-4.1-mini wrote 116 examples (price unknown); 27 requests went without an answer.",
            ["Ask the 27 that are missing"],
        ),
    ],
)
def test_what_brought_nothing_or_not_all_is_no_success(more, kind, words, button, open_page, store):
    seed.examples(store, 20)
    ended(store, **more)
    at = open_page("examples")
    assert words in [box.value.replace("\\", "") for box in getattr(at, kind)] and not at.success
    assert primary(at) == button


def test_what_went_unanswered_is_asked_without_asking_the_rest_anew(at, open_page, store, started):
    seed.examples(store, 20)
    ended(store, written=116, unanswered=27, answered=49, cost=0.1)
    at = opened(open_page("examples"))
    start(at)
    assert started[0][1]["seed"] == 0 and primary(at) == ["Ask the 27 that are missing"]
    ended(store, written=27, unanswered=0, answered=27, cost=0.1)
    start(opened(open_page("examples")))
    assert started[1][1]["seed"] == 1, "now another time means other examples"


def test_a_connection_that_is_gone_is_said_when_going_on(open_page, store, started):
    seed.examples(store, 20)
    ended(store, "failed", "It is off.")
    run = store.latest_run("compose")
    store.save_run(dataclasses.replace(run, settings={"endpoint": "office"}))
    at = open_page("examples")
    at.button(key="runs.again.compose").click().run()
    assert started == [] and "no connection named office any more" in said(at)


def test_what_a_model_wrote_is_said_to_be_so(open_page, store):
    store.replace_examples([dataset.make_example("up", dataset.Call("takeoff_drone", {"altitude": 5}), origin="model")])
    assert list(open_page("examples").dataframe[0].value["Written by"]) == ["A model"]
