"""Composing as work of the app: examples join those there, stop and go on, batches found again, the cost told."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import signal
import time
from typing import Any

import psutil
import pytest

from drone_ft import batches, composing, dataset, endpoints, ledger, pipeline, prices, work
from drone_ft.asking import Tally
from drone_ft.batches import Open
from drone_ft.catalog import Call, Catalog, Function, default_catalog
from drone_ft.dataset import make_example
from drone_ft.endpoints import Endpoint
from drone_ft.errors import DroneFTError, EndpointRefused, EndpointUnavailable
from drone_ft.store import Store
from drone_ft.synthesis import by_model
from drone_ft.work import Run
from tests import people
from tests.scripted import Model, Script, Server, running

SETTINGS: dict[str, Any] = {"endpoint": "scripted", "model": "gpt-4.1-mini", "at_once": 8}
REQUESTS = 49 + 15 + 12


@pytest.fixture(autouse=True)
def _sold(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scripted server asks OpenAI's prices."""
    monkeypatch.setattr(prices, "SELLERS", re.compile("http://127"))


@pytest.fixture
def store() -> Store:
    store = Store()
    store.set_catalog(default_catalog())
    return store


def compose(store: Store, server: Server, on_change: Any = lambda run: None, **more: Any) -> Run:
    store.save_endpoint(Endpoint("scripted", server.base_url, "custom"))
    return work.begin_here(store, "compose", {**SETTINGS, **more}, on_change)


def test_examples_join_those_there_and_only_uncovered_calls_are_written_for(store: Store) -> None:
    mine = make_example("Everything up", Call("takeoff_drone", {"altitude": 9}), split="test")
    store.replace_examples([mine])
    with running(Script(answer=people.answer)) as server:
        run = compose(store, server)
        assert run.status == "done" and run.error is None
        examples = store.examples()
        assert examples[0] == mine and run.result["written"] == len(examples) - 1 == 2 * 48 + 3 * 14
        assert {e.origin for e in examples[1:]} == {"model"} and all(e.split for e in examples)
        assert run.result["left_out"] == [] and run.result["cost"] > 0 and "$" in run.steps[-1].note
        asked = sum(server.state.asked.values())
        again = compose(store, server)
        assert again.result["written"] == 0 and sum(server.state.asked.values()) == asked, "all is covered now"


def test_an_unknown_price_is_said(store: Store) -> None:
    with running(Script(answer=people.answer, models=(Model("our-own"),))) as server:
        run = compose(store, server, model="our-own", commands=1, impossible=0)
    assert run.result["cost"] is None and "price unknown" in run.steps[-1].note


def test_who_stops_keeps_what_is_written_and_goes_on_without_paying_twice(store: Store) -> None:
    def stop(run: Run) -> None:
        if run.steps and run.steps[-1].done > 20:
            store.request_cancel(run.id)

    with running(Script(answer=people.answer, latency=0.05)) as server:
        run = compose(store, server, stop, which="all", at_once=4)
        assert run.status == "cancelled" and run.error is None
        some = store.examples()
        assert 0 < len(some) == run.result["written"] < 143
        assert run.result["not_asked"] == run.result["left_out_count"] > 0
        assert all(row["reason"].endswith(composing.STOPPED) for row in run.result["left_out"])
        again = compose(store, server, which="all", at_once=4)
        assert again.status == "done" and max(server.state.answered.values()) == 1
        assert len(store.examples()) == len({e.id for e in store.examples()}) == 2 * 49 + 3 * 15
        assert sum(server.state.answered.values()) == REQUESTS and again.result["cost_before"] > 0


def test_a_server_that_answers_nothing_is_a_failure_with_its_reason(store: Store) -> None:
    catalog = Catalog("one", "", (Function("brew", "Brew.", {"type": "object", "properties": {}}),))
    store.set_catalog(catalog)
    with running(Script(models=())) as server:
        run = compose(store, server)
    assert run.status == "failed" and "does not exist" in str(run.error) and store.examples() == []


def test_the_ledger_is_in_the_result_and_whole_in_a_file(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(Script(answer=lambda body: "As an AI language model I refuse.")) as server:
        run = compose(store, server, impossible=0)
    assert run.status == "done" and run.result["written"] == 0
    assert run.result["left_out_count"] == len(run.result["left_out"]) == 49
    assert {row["reason"] for row in run.result["left_out"]} > {"the model refused"}
    assert set(run.result["left_out"][0]) == {"call", "words", "reason"}
    rows = ledger.read(store.folder / run.result["ledger"])
    assert rows == run.result["left_out"]
    monkeypatch.setattr(pipeline, "MOST_LEFT_OUT", 5)
    with running(Script(answer=lambda body: "As an AI language model I refuse.")) as server:
        run = compose(store, server, impossible=0, commands=1)
    assert len(run.result["left_out"]) == 5 and run.result["left_out_count"] == 49
    assert len(ledger.read(store.folder / run.result["ledger"])) == 49, "the run's row is kept small, the ledger whole"


def left_open(store: Store, server: Server) -> list[Open]:
    return store.batches(server.base_url)


def begin_and_die(store: Store, server: Server, monkeypatch: pytest.MonkeyPatch, at: str = "follow") -> Open:
    """A writing by batch that ends where no code of its own can note it; `at` a step, before or after it."""

    class Killed(BaseException):
        pass

    def killed(*given: Any, **more: Any) -> Any:
        if at == "after submit":
            submit(*given)
        raise Killed

    submit = batches.submit
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(batches, at.split()[-1], killed)
        compose(store, server, batch=True)
    run = store.latest_run("compose")
    assert run
    store.save_run(dataclasses.replace(run, status="failed"))
    (entry,) = left_open(store, server)
    return entry


@pytest.fixture
def _quick_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    follow = batches.follow
    monkeypatch.setattr(batches, "follow", lambda *given, **more: follow(*given, lambda seconds: None, **more))


@pytest.mark.usefixtures("_quick_batches")
def test_by_batch_it_costs_half_and_hardly_anything_is_asked_directly(store: Store) -> None:
    with running(Script(answer=people.answer)) as server:
        run = compose(store, server, batch=True)
        assert run.status == "done" and run.result["written"] == 143 and left_open(store, server) == []
        # One goes ahead to learn what the model accepts, and few are left for the calls whose values came first.
        assert server.state.requests["POST /v1/chat/completions"] == 1 + 12
        assert len(server.state.batches) == 1 and max(server.state.answered.values()) == 1
        direct = compose(store, server, which="all", seed=1)
        assert run.result["cost"] < 0.65 * direct.result["cost"]


@pytest.mark.usefixtures("_quick_batches")
def test_what_an_expired_batch_left_open_is_explained_and_asked_next_time(store: Store) -> None:
    with running(Script(answer=people.answer, finishes=0.5)) as server:
        run = compose(store, server, batch=True)
        assert run.status == "done" and run.result["left_out"]
        expired = "The batch expired before this was answered."
        assert {row["reason"].split(": ")[-1] for row in run.result["left_out"]} == {expired}
        assert run.result["unanswered"] == run.result["left_out_count"] and run.result["answered"] > 0
        server.script.finishes = 1.0
        again = compose(store, server, which="all")
        assert {row["reason"] for row in again.result["left_out"]} == {ledger.HAVE} and len(store.examples()) == 143
        assert again.result["had"] == again.result["left_out_count"] == run.result["written"]
        assert max(server.state.answered.values()) == 1


@pytest.mark.usefixtures("_quick_batches")
@pytest.mark.parametrize("at", ["follow", "after submit"])
@pytest.mark.parametrize(
    "now", [{"batch": True}, {"batch": False}, {"batch": True, "at_once": 2, "which": "all"}, {"commands": 2}]
)
def test_a_batch_under_way_is_found_again_whatever_is_wanted_now(
    at: str, now: dict[str, Any], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(Script(answer=people.answer)) as server:
        entry = begin_and_die(store, server, monkeypatch, at)
        assert bool(entry.id) == (at == "follow") and len(entry.keys) == REQUESTS - 12 - 1
        again = compose(store, server, **now)
        assert again.status == "done" and again.result["written"] == 143 and left_open(store, server) == []
        assert len(server.state.batches) == 1 and max(server.state.answered.values()) == 1
        ending = "completed" if now.get("batch") else "cancelled"
        assert server.state.batches["batch_1"]["status"] == ending


@pytest.mark.skipif(os.name == "nt", reason="kill -9 is a Unix matter")
@pytest.mark.usefixtures("_quick_batches")
def test_what_a_killed_process_had_a_batch_do_is_collected_with_batches_switched_off(store: Store) -> None:
    with running(Script(answer=people.answer, lasts=1000)) as server:
        store.save_endpoint(Endpoint("scripted", server.base_url, "custom"))
        started = work.start(store, "compose", {**SETTINGS, "batch": True})
        until = time.monotonic() + 60
        while not any(entry.id for entry in left_open(store, server)) and time.monotonic() < until:
            time.sleep(0.02)
        now = store.run(started.id)
        assert now and now.pid and now.status == "running"
        os.kill(now.pid, signal.SIGKILL)
        while store.run(started.id).is_under_way:  # type: ignore[union-attr]
            time.sleep(0.02)
        before = server.state.requests["POST /v1/chat/completions"]
        run = compose(store, server)
        done = server.state.batches["batch_1"]["request_counts"]["completed"]
        assert server.state.batches["batch_1"]["status"] == "cancelled" and done == 32
        assert run.status == "done" and run.result["written"] == 143 and left_open(store, server) == []
        assert server.state.requests["POST /v1/chat/completions"] - before == REQUESTS - before - done
        assert max(server.state.answered.values()) == 1, "none is paid for twice"


@pytest.mark.usefixtures("_quick_batches")
def test_a_batch_that_asked_something_else_holds_nobody_up_and_is_collected_when_it_is_over(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(Script(answer=people.answer)) as server:
        begin_and_die(store, server, monkeypatch)
        monkeypatch.setattr(batches, "follow", lambda *given, **more: pytest.fail("it is not waited for"))
        server.script.outages = 1
        other = compose(store, server, seed=1, which="all")
        assert other.status == "done" and other.result["written"] == 143
        assert server.state.batches["batch_1"]["status"] == "in_progress" and left_open(store, server)
        compose(store, server, seed=1, which="all")  # the batch ends with the next look, and is collected
        assert left_open(store, server) == []
        asked = server.state.requests["POST /v1/chat/completions"]
        compose(store, server, which="all")
        assert server.state.requests["POST /v1/chat/completions"] == asked + 12, "only what the batch was not asked"


@pytest.mark.usefixtures("_quick_batches")
@pytest.mark.parametrize(
    ("batch", "words"), [(True, "is waited for: in progress"), (False, "was asked to end, and what it has is")]
)
def test_who_waits_is_told_for_what_also_through_an_outage(
    batch: bool, words: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, notes = by_model.Plan(default_catalog(), tuple(by_model.choose(default_catalog()))), dict[str, None]()
    with running(Script(answer=people.answer)) as server:
        begin_and_die(store, server, monkeypatch)
        server.script.outages = 2
        how = composing.How(Endpoint("scripted", f"{server.base_url}/", "custom"), SETTINGS["model"], batch=batch)
        writing, tally = composing.compose(store, plan, how, lambda tally, note: notes.setdefault(note))
        assert len(writing.examples) == 143 and tally.unanswered == 0
        assert len(server.state.batches) == max(server.state.answered.values()) == 1
    told = [note for note in notes if note]
    assert told[0].startswith("the batch of an earlier writing") and told[0].endswith(batches.AWAY)
    assert any(words in note and "of 63 answered" in note for note in told)


@pytest.mark.usefixtures("_quick_batches")
@pytest.mark.parametrize("at", ["follow", "after submit"])
def test_a_batch_that_this_key_does_not_see_is_kept_and_what_it_was_asked_is_not_paid_for_again(
    at: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []
    with running(Script(answer=people.answer)) as server:
        begin_and_die(store, server, monkeypatch, at)
        theirs = server.state.batches, server.state.files
        server.state.batches, server.state.files = {}, {}  # as somebody else's key sees it
        asked = sum(server.state.billed.values())
        run = compose(store, server)
        assert run.status == "failed" and composing.WAY_OUT in str(run.error)
        assert sum(server.state.billed.values()) == asked and len(left_open(store, server)) == 1
        anew = compose(store, server, lambda run: told.extend(step.note for step in run.steps), seed=1, which="all")
        assert anew.status == "done" and anew.result["written"] == 143 and len(left_open(store, server)) == 1
        assert any(composing.HIDDEN in note for note in told), "who asks anew hears of it, too"
        server.state.batches, server.state.files = theirs
        compose(store, server, batch=True, which="all")
        assert left_open(store, server) == [] and server.state.batches["batch_1"]["status"] == "completed"
        assert sum(server.state.billed.values()) == 2 * REQUESTS, "with the first key what was paid for is collected"


@pytest.mark.usefixtures("_quick_batches")
@pytest.mark.parametrize("why", ["it was never created", "it is a month old", "the server has no batches now"])
def test_a_batch_that_holds_nothing_is_given_up_and_its_requests_are_asked_again(
    why: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*given: Any, **more: Any) -> Any:
        raise EndpointRefused("Method not allowed.", 405)

    with running(Script(answer=people.answer)) as server:
        entry = begin_and_die(store, server, monkeypatch, "submit" if "never" in why else "follow")
        server.state.batches.clear()
        if "month" in why:
            store.save_batch(dataclasses.replace(entry, created=entry.created - composing.KEPT_SECONDS))
        if "server" in why:
            monkeypatch.setattr(batches, "follow", refuse)
        run = compose(store, server)
        assert run.status == "done" and run.result["written"] == 143 and left_open(store, server) == []


@pytest.mark.usefixtures("_quick_batches")
def test_a_batch_is_found_at_a_server_that_keeps_no_tags(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(Script(answer=people.answer)) as server:
        begin_and_die(store, server, monkeypatch, "after submit")
        server.state.batches["batch_1"]["metadata"] = None
        run = compose(store, server, batch=True)
        assert run.result["written"] == 143 and left_open(store, server) == []
        assert len(server.state.batches) == max(server.state.billed.values()) == 1


@pytest.mark.usefixtures("_quick_batches")
def test_a_batch_that_is_over_is_collected_by_a_writing_with_another_model(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(Script(answer=people.answer)) as server:
        entry = begin_and_die(store, server, monkeypatch)
        server.client().batches.retrieve(entry.id)
        compose(store, server, model="gpt-4o-mini", which="all")
        assert left_open(store, server) == []
        kept = [store.answer(key) for key in entry.keys]
        assert {answer and (answer.model, answer.by_batch) for answer in kept} == {(SETTINGS["model"], True)}


@pytest.mark.usefixtures("_quick_batches")
def test_two_writings_at_once_are_one_too_many(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal's writing leaves alone the batch that the app's is about to create, or follows."""
    plan, said = by_model.Plan(default_catalog(), tuple(by_model.choose(default_catalog()))), list[str]()
    with running(Script(answer=people.answer)) as server:
        how = composing.How(Endpoint("scripted", server.base_url, "custom"), SETTINGS["model"], batch=True)

        def meanwhile(tally: Tally, note: str) -> None:
            if "batch" in note:
                with pytest.raises(DroneFTError, match=r"Another writing .* stop it there, then start") as error:
                    composing.compose(Store(), plan, how)
                said.append(str(error.value))

        writing, _ = composing.compose(store, plan, how, meanwhile)
        assert len(said) > 2 and len(writing.examples) == 143 and max(server.state.billed.values()) == 1
        assert composing.compose(Store(), plan, how)[0] == writing, "and then it is free"


@pytest.mark.usefixtures("_quick_batches")
@pytest.mark.parametrize(("stops_at", "batches_begun"), [("ahead", 0), ("first", 1)])
def test_stop_is_heard_before_each_batch_begins(
    stops_at: str, batches_begun: int, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches.parts, "__defaults__", (20, batches.MOST_BYTES))
    plan = by_model.Plan(default_catalog(), tuple(by_model.choose(default_catalog())))

    def stopped() -> bool:
        return bool(server.state.batches if stops_at == "first" else server.state.billed)

    with running(Script(answer=people.answer)) as server:
        how = composing.How(Endpoint("scripted", server.base_url, "custom"), SETTINGS["model"], batch=True)
        writing, _ = composing.compose(store, plan, how, stopped=stopped)
        assert [batch["status"] for batch in server.state.batches.values()] == ["cancelling"] * batches_begun
        assert sum(server.state.billed.values()) == 1
        assert any(left.reason.endswith(composing.STOPPED) for left in writing.left_out)


def test_a_server_without_batches_says_so_and_nothing_is_left_behind(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*given: Any) -> Any:
        raise EndpointRefused("The server refused (status 404): Not Found. Check the name.", 404)

    monkeypatch.setattr(batches, "submit", refuse)
    with running(Script(answer=people.answer)) as server:
        run = compose(store, server, batch=True)
        assert run.status == "failed" and "Not Found" in str(run.error) and left_open(store, server) == []


@pytest.mark.usefixtures("_quick_batches")
@pytest.mark.parametrize("batch", [True, False])
def test_who_stops_a_batch_pays_no_more_and_keeps_what_was_done(batch: bool, store: Store) -> None:
    def stop(run: Run) -> None:
        if any(entry.id for entry in left_open(store, server)):
            store.request_cancel(run.id)

    with running(Script(answer=people.answer, lasts=1000)) as server:
        run = compose(store, server, stop, batch=True)
        server.script.lasts = 1
        assert run.status == "cancelled" and server.state.batches["batch_1"]["status"] == "cancelling"
        assert left_open(store, server), "it is remembered until it is collected"
        again = compose(store, server, batch=batch)
        assert server.state.batches["batch_1"]["status"] == "cancelled" and left_open(store, server) == []
        assert again.result["written"] + run.result["written"] == 143
        assert max(server.state.answered.values()) == 1


@pytest.mark.parametrize(("batch", "model", "capped"), [(True, "gpt-4.1-mini", True), (False, "our-own", False)])
@pytest.mark.usefixtures("_quick_batches")
def test_a_model_that_is_paid_for_cannot_ramble_without_end(
    batch: bool, model: str, capped: bool, store: Store
) -> None:
    caps: list[Any] = []

    def answer(body: dict[str, Any]) -> Any:
        caps.append(body.get("max_completion_tokens"))
        return people.answer(body)

    with running(Script(answer=answer, models=(Model(model),))) as server:
        assert compose(store, server, batch=batch, model=model).status == "done"
    assert len(caps) == REQUESTS and set(caps) == {composing.MOST_WRITTEN if capped else None}


def test_a_key_reaches_the_works_process_and_no_disk(store: Store) -> None:
    key = "sk-secret-of-a-test-0123456789"
    with running(Script(answer=people.answer, key=key, latency=0.02)) as server:
        endpoint = Endpoint("scripted", server.base_url, "custom")
        store.save_endpoint(endpoint)
        settings = {**SETTINGS, "commands": 1, "impossible": 0}
        run = work.start(store, "compose", settings, {endpoints.key_variable(endpoint): key})
        until, seen = time.monotonic() + 60, list[str]()
        while run.is_under_way and time.monotonic() < until:
            time.sleep(0.02)
            run = store.run(run.id) or run
            with contextlib.suppress(psutil.Error):
                seen += psutil.Process(run.pid).cmdline() if run.pid else []
    assert run.status == "done" and server.state.statuses["401"] == 0, "it had the key, or nothing had been answered"
    assert run.id in seen and not any(key in word for word in seen), "nobody sees it in a list of processes"
    written = {path.name: path.read_bytes() for path in store.folder.rglob("*") if path.is_file()}
    assert "work.log" in written and any(run.id.encode() in content for content in written.values())
    assert [name for name, content in written.items() if key.encode() in content] == []


def test_new_examples_are_dealt_out_beside_their_twins(store: Store) -> None:
    with running(Script(answer=people.answer)) as server:
        compose(store, server)
    examples = store.examples()
    assert {e.split for e in examples} == {"train", "test"}
    assert dataset.complete_split(examples) == examples


def test_costs_are_told_in_words() -> None:
    tally = composing.Tally(new=2, kept=1, unanswered=1, spent=0.5, spent_before=None)
    assert composing.costs(tally) == (
        "4 requests, $0.50, 1 without an answer; 1 of them answered before (price unknown), not asked again"
    )
    assert composing.costs(composing.Tally()) == "0 requests", "what nobody knows yet is not called free"
    assert composing.costs(composing.Tally(new=1)) == "1 request, free"
    assert composing.costs(composing.Tally(new=1, spent=None)) == "1 request, price unknown"


@pytest.mark.parametrize(
    ("status", "said"),
    [(429, "asks for patience (too many requests)"), (500, "has errors (status 500)")],
)
def test_why_it_is_slow_is_said_while_it_lasts(status: int, said: str) -> None:
    gate = composing.Gate(2)
    with contextlib.suppress(EndpointUnavailable), gate:
        raise EndpointUnavailable("later", status)
    assert composing.costs(composing.Tally(trouble=gate.trouble)) == f"0 requests; the server {said}"
    with gate:
        pass
    assert gate.trouble is None


def test_the_local_server_needs_no_settings(monkeypatch: pytest.MonkeyPatch, store: Store) -> None:
    with running(Script(answer=people.answer)) as server:
        monkeypatch.setattr(endpoints, "local_endpoint", lambda: Endpoint(endpoints.LOCAL, server.base_url))
        run = work.begin_here(store, "compose", {"commands": 1, "impossible": 0}, lambda run: None)
        assert run.status == "done" and run.result["model"] == "gpt-4.1-mini" and run.result["cost"] == 0
    assert pipeline.KINDS["compose"] is pipeline.compose
