"""Composing as work of the app: examples join those there, stop and go on, batches found again, the cost told."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from typing import Any

import pytest

from drone_ft import batches, composing, dataset, endpoints, pipeline, work
from drone_ft.catalog import Call, Catalog, Function, default_catalog
from drone_ft.dataset import make_example
from drone_ft.endpoints import Endpoint
from drone_ft.store import Store
from drone_ft.work import Run
from tests import people
from tests.scripted import Model, Script, Server, running

SETTINGS: dict[str, Any] = {"endpoint": "scripted", "model": "gpt-4.1-mini", "at_once": 8}
REQUESTS = 49 + 15 + 12


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
        assert run.status == "cancelled" and "not asked" not in str(run.error)
        some = store.examples()
        assert 0 < len(some) == run.result["written"] < 143
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


def test_the_ledger_is_in_the_result(store: Store) -> None:
    with running(Script(answer=lambda body: "As an AI language model I refuse.")) as server:
        run = compose(store, server, impossible=0)
    assert run.status == "done" and run.result["written"] == 0
    assert run.result["left_out_count"] == len(run.result["left_out"]) == 49
    assert {row["reason"] for row in run.result["left_out"]} > {"the model refused"}
    assert set(run.result["left_out"][0]) == {"call", "words", "reason"}


@pytest.fixture
def _quick_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    follow = batches.follow
    monkeypatch.setattr(batches, "follow", lambda client, id, tell: follow(client, id, tell, lambda seconds: None))


@pytest.mark.usefixtures("_quick_batches")
def test_by_batch_it_costs_half_and_hardly_anything_is_asked_directly(store: Store) -> None:
    with running(Script(answer=people.answer)) as server:
        run = compose(store, server, batch=True)
        assert run.status == "done" and run.result["written"] == 143 and run.result["batches"] == []
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
        assert all("expired" in row["reason"] for row in run.result["left_out"])
        server.script.finishes = 1.0
        again = compose(store, server, which="all")
        assert again.result["left_out"] == [] and len(store.examples()) == 143
        assert max(server.state.answered.values()) == 1


@pytest.mark.usefixtures("_quick_batches")
@pytest.mark.parametrize("confirmed", [True, False])
def test_a_batch_under_way_is_found_again_after_a_kill(
    confirmed: bool, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit, follow = batches.submit, batches.follow

    class Killed(BaseException):
        pass

    def killed(*given: Any) -> Any:
        if not confirmed:
            submit(*given)  # it is made, and nobody lives to note it
        raise Killed

    monkeypatch.setattr(batches, "follow" if confirmed else "submit", killed)
    with running(Script(answer=people.answer)) as server:
        with pytest.raises(Killed):
            compose(store, server, batch=True)
        run = store.latest_run("compose")
        assert run and [bool(entry["id"]) for entry in run.result["batches"]] == [confirmed]
        store.save_run(dataclasses.replace(run, status="failed"))
        monkeypatch.setattr(batches, "follow", follow)
        monkeypatch.setattr(batches, "submit", submit)
        again = compose(store, server, batch=True)
        assert again.result["written"] == 143 and len(server.state.batches) == 1
        assert max(server.state.answered.values()) == 1


@pytest.mark.usefixtures("_quick_batches")
def test_who_stops_a_batch_pays_no_more_and_keeps_what_was_done(store: Store) -> None:
    def stop(run: Run) -> None:
        if any(entry["id"] for entry in run.result.get("batches", [])):
            store.request_cancel(run.id)

    with running(Script(answer=people.answer)) as server:
        run = compose(store, server, stop, batch=True)
        assert run.status == "cancelled" and server.state.batches["batch_1"]["status"] == "cancelling"
        again = compose(store, server, batch=True)
        assert server.state.batches["batch_1"]["status"] == "cancelled"
        assert again.result["written"] + run.result["written"] == 143
        assert max(server.state.answered.values()) == 1


def test_a_key_reaches_the_works_process_and_no_disk(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    key = "sk-secret-of-a-test-123"
    handed: list[Any] = []
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    monkeypatch.setattr(work, "spawn", lambda *given: handed.append(given[-1]) or child)
    store.save_endpoint(Endpoint("scripted", "http://127.0.0.1:9/v1", "custom"))
    work.start(store, "compose", SETTINGS, {"DRONE_FT_KEY_SCRIPTED": key})
    assert handed == [{"DRONE_FT_KEY_SCRIPTED": key}]
    assert not any(key.encode() in path.read_bytes() for path in store.folder.rglob("*") if path.is_file())


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


def test_the_local_server_needs_no_settings(monkeypatch: pytest.MonkeyPatch, store: Store) -> None:
    with running(Script(answer=people.answer)) as server:
        monkeypatch.setattr(endpoints, "local_endpoint", lambda: Endpoint(endpoints.LOCAL, server.base_url))
        run = work.begin_here(store, "compose", {"commands": 1, "impossible": 0}, lambda run: None)
        assert run.status == "done" and run.result["model"] == "gpt-4.1-mini" and run.result["cost"] == 0
    assert pipeline.KINDS["compose"] is pipeline.compose
