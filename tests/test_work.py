"""Long work: progress, cancelling, and what happens when its process dies."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from drone_ft import pipeline, work
from drone_ft.errors import DroneFTError, JobError
from drone_ft.store import Store
from drone_ft.work import Progress, Run, Step


def do(kind: Callable[..., None], monkeypatch: pytest.MonkeyPatch, **settings: Any) -> tuple[Store, Run, list[Run]]:
    monkeypatch.setitem(pipeline.KINDS, "trial", kind)
    store, seen = Store(), list[Run]()
    return store, work.begin_here(store, "trial", settings, seen.append), seen


def test_steps_progress_and_results_are_in_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    def trial(store: Store, progress: Progress, upto: int) -> None:
        progress.plan(("count", "Count"), ("end", "End"))
        with progress.step("count") as step:
            for n in range(upto + 1):
                step.update(n, upto, note=f"at {n}")
        progress.remember(found=7)
        with progress.step("end"):
            pass

    store, run, seen = do(trial, monkeypatch, upto=3)
    assert run.status == "done" and run.result == {"found": 7} and run.finished
    assert [(s.status, s.done, s.total) for s in run.steps] == [("done", 3, 3), ("done", 0, 0)]
    assert store.run(run.id) == run
    assert [s.status for s in seen[-2].steps] == ["done", "done"] and any(
        r.steps and r.steps[0].status == "running" for r in seen
    )


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (JobError("The job failed: no data."), "failed", "no data"),
        (ValueError("secret detail"), "failed", "details are in"),
    ],
)
def test_a_failure_is_one_sentence_and_marks_its_step(
    error: Exception, status: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trial(store: Store, progress: Progress) -> None:
        progress.plan(("a", "A"), ("b", "B"))
        with progress.step("a"):
            raise error

    _, run, _ = do(trial, monkeypatch)
    assert run.status == status and words in str(run.error) and "secret" not in str(run.error)
    assert [s.status for s in run.steps] == ["failed", "waiting"]


def test_cancel_stops_at_the_next_word_of_progress_and_a_new_start_keeps_what_was_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found: list[dict[str, Any]] = []

    def trial(store: Store, progress: Progress) -> None:
        found.append(dict(progress.run.result))
        progress.plan(("a", "A"))
        progress.remember(job_id="j1")
        with progress.step("a") as step:
            if len(found) == 1:
                store.request_cancel(progress.run.id)
            step.update(1, 2)

    store, run, _ = do(trial, monkeypatch)
    assert run.status == "cancelled" and run.steps[0].status == "failed" and run.steps[0].note == "cancelled"
    again = work.begin_here(store, "trial", {}, lambda run: None)
    assert again.status == "done" and found == [{}, {"job_id": "j1"}]
    work.begin_here(store, "trial", {}, lambda run: None)
    assert found[2] == {}, "after a finished run the next begins afresh"


def test_two_of_a_kind_never_run_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store()
    busy = Run("busy", "demo", "running", created=time.time(), pid=os.getpid())
    store.save_run(busy)
    assert work.start(store, "demo", {}) == busy
    with pytest.raises(DroneFTError, match="already under way"):
        work.begin_here(store, "demo", {}, lambda run: None)


def test_a_process_number_used_again_by_somebody_else_is_not_our_work() -> None:
    run = Run("r", "demo", "running", created=time.time(), pid=os.getpid(), pid_started=time.time() - 9e6)
    assert work.settle(run).status == "failed"
    waiting = Run("w", "demo", "waiting", created=time.time() - 2 * work.SPAWN_SECONDS)
    assert work.settle(waiting).status == "failed"
    assert work.settle(dataclasses.replace(waiting, created=time.time())).status == "waiting"


def wait_for(store: Store, run_id: str, good: Callable[[Run], bool], seconds: float = 60) -> Run:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        run = store.run(run_id)
        if run and good(run):
            return run
        time.sleep(0.05)
    raise AssertionError(f"waited {seconds} s: {store.run(run_id)}")


def test_work_in_a_process_of_its_own_writes_the_examples() -> None:
    store = Store()
    run = work.start(store, "write")
    done = wait_for(store, run.id, lambda r: not r.is_under_way)
    assert done.status == "done" and done.pid != os.getpid()
    examples = store.examples()
    assert len(examples) >= 520 and {e.split for e in examples} == {"train", "test"}


@pytest.mark.skipif(os.name == "nt", reason="kill -9 is a Unix matter")
def test_killed_work_is_seen_as_failed_and_can_be_started_again() -> None:
    store = Store()
    run = work.start(store, "write")
    started = wait_for(store, run.id, lambda r: r.pid is not None)
    os.kill(int(started.pid or 0), signal.SIGKILL)
    seen = wait_for(store, run.id, lambda r: not r.is_under_way)
    if seen.status == "failed":
        assert "Start it again" in str(seen.error)
    again = work.start(store, "write")
    assert again.id != run.id
    assert wait_for(store, again.id, lambda r: not r.is_under_way).status == "done"


def test_time_left_follows_from_the_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(work.time, "monotonic", lambda: clock[0])
    progress = Progress(Run("r", "trial", steps=(Step("a", "A"),)), lambda run: None, lambda: False)
    with progress.step("a") as step:
        clock[0] += 10
        step.update(1, 25)  # too soon to tell
        assert progress.run.steps[0].seconds_left is None
        step.update(2, 6)
        assert progress.run.steps[0].seconds_left == 20.0
        step.update(3, 6, seconds_left=4.0)
        assert progress.run.steps[0].seconds_left == 4.0
