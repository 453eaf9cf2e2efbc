"""Long work on a page: start it, watch its steps, stop it. The state is the store's; this only looks."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import openai
import streamlit as st

from drone_ft import charts, fine_tuning, work
from drone_ft.ui import frame, session, words

CAUGHT_UP = "runs.caught_up"  # when trainings nobody follows were last looked at
TELLING = 0.02  # of a step's work, before which nobody knows how long it takes
_ICONS = {
    "done": ":green[:material/check_circle:]",
    "running": ":blue[:material/pending:]",
    "failed": ":red[:material/cancel:]",
    "waiting": ":gray[:material/radio_button_unchecked:]",
}
_NAMES = {
    "demo": "The demo",
    "write": "Writing examples",
    "compose": "Writing with a model",
    "tune": "Fine-tuning",
    "evaluate": "The evaluation",
    "export": "The export",
}
_PLACES = {
    "demo": "pages/home.py",
    "write": "pages/examples.py",
    "compose": "pages/examples.py",
    "tune": "pages/fine_tune.py",
    "evaluate": "pages/evaluate.py",
    "export": "pages/fine_tune.py",
}


OPEN = ("validating_files", "pending", "queued", "running")  # states in which a job can be paused
_SAID = {"Pause": "The training is paused.", "Go on": "The training goes on.", "Cancel": "The training is cancelled."}
Environment = Callable[[], dict[str, str]]
Act = Callable[[openai.OpenAI, fine_tuning.Job], fine_tuning.Job]


def start_button(
    label: str,
    kind: str,
    settings: Callable[[], dict[str, Any]],
    key: str,
    environment: Environment = dict,
    **look: Any,
) -> None:
    """A button that starts work of a kind; `settings` is asked when it is pressed, and so are keys for `environment`.

    The start is a callback: a rerun that begins elsewhere on the page would swallow `if st.button(…)`.
    """
    st.button(label, key=key, on_click=_begin, args=(kind, settings, environment), **look)


def under_way(*kinds: str) -> work.Run | None:
    """The newest run of these kinds that is under way."""
    for kind in kinds:
        run = session.store().latest_run(kind)
        if run and run.is_under_way:
            return run
    return None


def latest(kind: str) -> work.Run | None:
    """The newest run of a kind, if it was about the loaded catalog: another one's must not be tried again for this."""
    run = session.store().latest_run(kind)
    here = session.store().catalog().name
    return run if run and run.result.get("catalog", here) == here else None


def watch(run: work.Run) -> None:
    """The steps of a run under way, kept up to date every two seconds; shows the page anew after each step."""
    st.fragment(_watch, run_every="2s")(run.id, _done(run))


def stopped(
    run: work.Run, environment: Environment = dict, first: bool = True, title: str = "", go_on: str = ""
) -> None:
    """A run that failed or was cancelled: what happened, how far it came, and the button that goes on.

    `first`: whether that button is what the page wants to be pressed; `title` and `go_on` in place of the usual words.
    """
    failed = run.status == "failed"
    with st.container(border=True):
        st.subheader(title or f"{_NAMES[run.kind]} {'has stopped' if failed else 'was cancelled'}", anchor=False)
        if failed:
            st.error(words.escape(run.error or "It left no word why."), icon=":material/error:")
        steps(run)
        anew = " A cancelled training starts from its beginning." if not failed and run.kind == "demo" else ""
        st.caption(f"What was finished is kept and not done again.{anew}")
        label = go_on or ("Try again" if failed else "Start again")
        look = {"type": "primary" if first else "secondary", "icon": ":material/refresh:"}
        start_button(label, run.kind, lambda: run.settings, f"runs.again.{run.kind}", environment, **look)


def steps(run: work.Run) -> None:
    """Every step with its state, and a bar with the time left for the one that runs."""
    for step in run.steps:
        note = f" :gray[·  {words.escape(step.note)}]" if step.note else ""
        title = f"**{step.title}**" if step.status == "running" else step.title
        st.markdown(f"{_ICONS.get(step.status, _ICONS['waiting'])} {title}{note}")
        if run.is_under_way and step.status == "running" and step.total:
            st.progress(min(1.0, step.done / step.total), text=_pace(step))


def sidebar_status() -> None:
    """What is under way, in the sidebar of every page."""
    run = under_way("demo", "tune", "evaluate", "write", "compose", "export")
    if run:
        with st.sidebar:
            st.fragment(_status, run_every="3s")(run.id)


@frame.guarded
def _watch(run_id: str, done: int) -> None:
    store = session.store()
    run = store.run(run_id)
    if run is None or not run.is_under_way or _done(run) != done or frame.has_news():
        st.rerun()
        return
    stopping, job = store.is_cancel_requested(run_id), _job(run)
    with st.container(border=True):
        with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
            st.subheader(f"{_name(run)} is {_going(job, stopping)}", anchor=False, width="content")
            with st.container(horizontal=True, width="content"):
                if job is not None and not stopping:
                    _pausing(job)
                st.button(
                    "Stopping …" if stopping else "Stop" if run.kind == "compose" else "Cancel",
                    key=f"runs.cancel.{run.kind}",
                    icon=":material/stop_circle:",
                    disabled=stopping,
                    on_click=_cancel,
                    args=(run_id,),
                )
        st.caption(
            f"Started {words.duration(time.time() - run.created)} ago. You may close this tab: the work goes on."
        )
        steps(run)
        if not run.steps:
            st.caption("Getting ready …")
        if job is not None:
            _learning(run, job)


@frame.action
def _begin(kind: str, settings: Callable[[], dict[str, Any]], environment: Environment) -> None:
    keys = environment()
    work.start(session.store(), kind, settings(), **({"environment": keys} if keys else {}))


@frame.action
def _cancel(run_id: str) -> None:
    work.cancel(session.store(), run_id)


def _pausing(job: fine_tuning.Job) -> None:
    """Pause, or go on: for a job that waits or runs."""
    if job.status in OPEN:
        _button(job, "Pause", ":material/pause_circle:", fine_tuning.pause)
    elif job.status == "paused":
        _button(job, "Go on", ":material/play_circle:", fine_tuning.resume)


def job_buttons(job: fine_tuning.Job) -> None:
    """Pause, go on, cancel: for a job that nobody follows."""
    if job.status in (*OPEN, "paused"):
        with st.container(horizontal=True):
            _pausing(job)
            _button(job, "Cancel", ":material/stop_circle:", fine_tuning.cancel)


def _button(job: fine_tuning.Job, label: str, icon: str, act: Act) -> None:
    st.button(label, key=f"runs.{label}.{job.id}", icon=icon, on_click=_act, args=(act, job, label))


@frame.action
def _act(act: Act, job: fine_tuning.Job, label: str) -> None:
    whole = session.store().job(job.id) or job
    session.store().save_job(act(session.reach(job.endpoint), whole))
    st.session_state.pop(CAUGHT_UP, None)  # what came of it is looked at now
    frame.notify(_SAID[label])


def _name(run: work.Run) -> str:
    model = run.result.get("model")
    return f"Writing by {words.escape(model)}" if run.kind == "compose" and model else _NAMES[run.kind]


def _going(job: fine_tuning.Job | None, stopping: bool = False) -> str:
    return "stopping" if stopping else "paused" if job is not None and job.status == "paused" else "running"


def _done(run: work.Run) -> int:
    return sum(step.status == "done" for step in run.steps)


def _job(run: work.Run) -> fine_tuning.Job | None:
    """The job a run trains just now."""
    tunes = any(step.name == "tune" and step.status == "running" for step in run.steps)
    return session.store().job(run.result.get("job_id", "")) if tunes else None


def _learning(run: work.Run, job: fine_tuning.Job) -> None:
    """How the job stands, and its loss curve once there is something to see."""
    if job.status == "paused":
        st.info("The training is paused. Press “Go on” when it should continue.", icon=":material/pause_circle:")
    points = fine_tuning.loss_curve(job.events)
    if len(points) > 1:
        st.markdown("**How the training goes**")
        loss(points, f"runs.loss.{run.id}")


def loss(points: list[dict[str, float | None]], key: str) -> None:
    """A loss curve with a sentence that says how to read it."""
    st.plotly_chart(charts.loss_curve(points), key=key, config={"displayModeBar": False}, alt=_said(points))
    st.caption(
        "The error says how surprised the model is by the right answer; training is drawn smoothed. Both should fall; "
        "if validation rises while training falls, the model learns by heart: use fewer epochs."
    )


def _said(points: list[dict[str, float | None]]) -> str:
    losses = [point["train_loss"] for point in points if point["train_loss"] is not None]
    return (
        f"Training error from {losses[0]:.2f} to {losses[-1]:.2f}"
        if losses
        else "Error of the training, not measured yet"
    )


def _status(run_id: str) -> None:
    with frame.boundary():
        run = session.store().run(run_id)
        if run is None:
            return
        ends = {"done": "has finished", "failed": "has stopped", "cancelled": "was stopped"}
        said = ends.get(run.status) or f"is {_going(_job(run))}"
        st.page_link(
            _PLACES[run.kind],
            label=f"{_name(run)} {said}",
            icon=":material/progress_activity:" if run.is_under_way else ":material/flag:",
        )
        if run.is_under_way and run.steps:
            now = next((step for step in run.steps if step.status == "running"), run.steps[-1])
            left = _left(now)
            left = f"{left} in this step" if left else ""
            place = f"Step {min(_done(run) + 1, len(run.steps))} of {len(run.steps)}{left}"
            st.progress(min(1.0, now.done / now.total) if now.total else 0.0, text=place)


def _pace(step: work.Step) -> str:
    return f"{step.done:,} of {step.total:,}{_left(step)}"


def _left(step: work.Step) -> str:
    if not step.seconds_left or step.done < step.total * TELLING:
        return ""
    about = "" if step.seconds_left < 10 else "about "
    return f", {about}{words.duration(step.seconds_left)} left"
