"""One fine-tuning job in detail: what it was trained on, what it cost, what was measured with it; pause and go on."""

from __future__ import annotations

from collections.abc import Callable

import openai
import streamlit as st

from drone_ft import endpoints, fine_tuning, prices
from drone_ft.fine_tuning import Job
from drone_ft.ui import frame, reports, session, words

UNDER_WAY = ("validating_files", "queued", "running")
Act = Callable[[openai.OpenAI, Job], Job]


def show(job: Job) -> None:
    """Everything that is known of a job, and what can be done with it."""
    _buttons(job)
    with st.expander("What it was trained on", icon=":material/receipt_long:"):
        st.markdown("  \n".join(_facts(job)))
        train, validation = session.store().job_data(job.id)
        with st.container(horizontal=True):
            _download(job, "Training file", train, "train")
            _download(job, "Validation file", validation, "validation")
        _checkpoints(job)


def _facts(job: Job) -> list[str]:
    catalog = f" of the catalog {words.title(job.catalog)}" if job.catalog else ""
    told = [f"{words.count(job.examples, 'example')}{catalog}"]
    if job.trained_tokens:
        told.append(f"{words.big(job.trained_tokens)} tokens trained on")
    if job.endpoint != endpoints.LOCAL:
        told.append(f"Cost: {prices.words(job.cost)}")
    chosen = job.hyperparameters | ({"seed": job.seed} if job.seed is not None else {})
    if chosen:
        told.append("Settings: " + ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in chosen.items()))
    told.append(f"Job {job.endpoint_job_id} ({job.endpoint})")
    used = [r for r in session.store().reports() if job.tuned_model and job.tuned_model in r.models]
    told += [f"Evaluated: {reports.label(report)}" for report in used] or ["Not evaluated yet"]
    return [words.escape(fact) for fact in told]


def _download(job: Job, label: str, text: str, name: str) -> None:
    if text:
        st.download_button(
            label,
            text,
            f"{job.suffix or job.id}-{name}.jsonl",
            "application/jsonl",
            icon=":material/download:",
            key=f"job_details.{name}.{job.id}",
            on_click="ignore",
            help="The very file the job was given, as it was then.",
        )


def _checkpoints(job: Job) -> None:
    """The models kept on the way, each under a name of its own; asked for when somebody wants them."""
    pressed = job.is_over and st.button(
        "List the checkpoints", key=f"job_details.checkpoints.{job.id}", icon=":material/flag:"
    )
    if not pressed:
        return
    found = fine_tuning.checkpoints(session.reach(job.endpoint), job)
    for one in found:
        st.caption(f"After step {one.step:,}")
        st.code(one.model, language=None)
    if not found:
        st.caption("No checkpoints are kept of this job.")


def _buttons(job: Job) -> None:
    """Pause, go on, cancel: for a job that waits or runs."""
    stop: tuple[str, str, Act] = ("Cancel", ":material/stop_circle:", fine_tuning.cancel)
    offered: list[tuple[str, str, Act]] = []
    if job.status in UNDER_WAY:
        offered = [("Pause", ":material/pause_circle:", fine_tuning.pause), stop]
    elif job.status == "paused":
        offered = [("Go on", ":material/play_circle:", fine_tuning.resume), stop]
    with st.container(horizontal=True):
        for label, icon, act in offered:
            st.button(label, key=f"job_details.{label}.{job.id}", icon=icon, on_click=_act, args=(act, job, label))


@frame.action
def _act(act: Act, job: Job, label: str) -> None:
    whole = session.store().job(job.id) or job
    session.store().save_job(act(session.reach(job.endpoint), whole))
    frame.notify(f"{label}: {job.suffix or job.id}.")
