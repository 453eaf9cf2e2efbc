"""Long work on a page: what is news shows by itself, as nobody clicks while they wait."""

from __future__ import annotations

import dataclasses

import pytest
import seed
from seen import labels, said
from streamlit.runtime.scriptrunner_utils.script_requests import ScriptRequests
from streamlit.testing.v1.local_script_runner import LocalScriptRunner


@pytest.fixture
def tick(monkeypatch):
    """Runs the parts of a page that run by themselves, and only those, as a browser has it done every few seconds."""
    ask = LocalScriptRunner.request_rerun

    def ring(at):
        fragments = list(at._fragment_storage._fragments)
        assert fragments

        def only_parts(runner, data):
            runner._requests = ScriptRequests()  # in the old one waits a run of the whole page
            runner._pages_manager.set_pages_and_resolve(at._registered_pages)
            return ask(runner, dataclasses.replace(data, fragment_id_queue=fragments))

        with monkeypatch.context() as patch:
            patch.setattr(LocalScriptRunner, "request_rerun", only_parts)
            at.run()
        assert not at.exception and "Something went wrong" not in said(at)

    return ring


@pytest.fixture
def watched(store, open_page):
    """The fine-tune page with a training under way."""
    seed.examples(store, 60)
    seed.job(store, "running")
    run = seed.run(store, "tune", "running", job_id="job1")
    return run, open_page("fine_tune")


def test_progress_shows_by_itself(watched, store, tick):
    run, at = watched
    assert [bar.text for bar in at.main.progress] == ["36 of 60, about 2 minutes left"]
    steps = tuple(dataclasses.replace(s, done=59, seconds_left=4.0) if s.name == "tune" else s for s in run.steps)
    store.save_run(dataclasses.replace(run, steps=steps))
    tick(at)
    assert [bar.text for bar in at.main.progress] == ["59 of 60, a few seconds left"]


@pytest.mark.parametrize(
    ("ended", "shown"),
    [
        ({"status": "done", "result": {"job_id": "job1", "model": seed.TUNED}}, "is trained and ready"),
        ({"status": "failed", "error": "The disk is full."}, "The disk is full"),
        ({"status": "cancelled"}, "was cancelled"),
    ],
)
def test_the_end_shows_by_itself_with_what_comes_next(ended, shown, watched, store, tick):
    run, at = watched
    seed.job(store, "succeeded" if ended["status"] == "done" else "cancelled")
    store.save_run(dataclasses.replace(run, **ended))
    tick(at)
    assert shown in said(at) and "Fine-tuning is running" not in said(at)
    assert "Start training" in labels(at), "the rest of the page is back, too"


def test_a_step_that_is_done_shows_on_the_whole_page(store, open_page, tick):
    seed.examples(store, 60)
    run = seed.run(store, "write", "running")
    at = open_page("examples")
    assert "**60 examples**" not in said(at)
    store.save_run(dataclasses.replace(run, status="done"))
    tick(at)
    assert "**60 examples**" in said(at)


@pytest.mark.parametrize("refused", [False, True])
def test_what_a_button_of_the_watched_part_did_is_said(refused, store, open_page, hosted, tick, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", seed.KEY)
    seed.examples(store, 60)
    client = hosted.client(key=seed.KEY)
    file = client.files.create(file=("train.jsonl", b"{}\n"), purpose="fine-tune").id
    job = client.fine_tuning.jobs.create(model="gpt-4.1-mini", training_file=file).id
    seed.hosted_job(store, "running", job)
    seed.run(store, "tune", "running", job_id="hosted")
    at = open_page("fine_tune")
    hosted.script.key = "another" if refused else seed.KEY
    at.button(key="runs.Pause.hosted").click()
    tick(at)  # a click in a part of the page runs that part alone
    if refused:
        assert "Incorrect API key" in at.error[0].value
    else:
        assert at.toast[0].value == "The training is paused."
