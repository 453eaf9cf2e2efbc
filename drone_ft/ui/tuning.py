"""The fine-tune page's parts: settings, the training under way, past jobs and their curves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import streamlit as st

from drone_ft import dataset, fine_tuning, pipeline, work
from drone_ft.dataset import Example
from drone_ft.fine_tuning import Job
from drone_ft.ui import frame, models, runs, session, words


def empty(ready: list[Example]) -> None:
    """Too few examples to train on: what to do about it."""
    said = (
        "There are no approved examples yet"
        if not ready
        else f"Only {words.count(_learning(ready), 'approved example')} to learn from, "
        f"and {len(ready) - _learning(ready):,} kept aside for testing"
    )
    box = frame.empty(
        f"**Too few examples to learn from**  \n{said}; training needs at least {pipeline.LEAST_EXAMPLES}. "
        "Write more, or approve drafts.",
        ":material/model_training:",
    )
    with box, st.container(horizontal=True, horizontal_alignment="center"):
        if st.button("Go to examples", type="primary", icon=":material/forum:", key="tuning.examples"):
            st.switch_page("pages/examples.py")


def settings(ready: list[Example], first: bool) -> None:
    """Model, epochs and name, how long it will take, and the button that starts."""
    learning = _learning(ready)
    with st.container(border=True):
        with st.container(horizontal=True, vertical_alignment="bottom"):
            st.selectbox(
                "Model",
                models.bases(),
                format_func=models.name,
                key="tuning.model",
                width=300,
                help="To train another one, start the app with DRONE_FT_MODEL set to its folder or hub id.",
            )
            epochs = st.number_input(
                "Epochs",
                1,
                20,
                dataset.auto_epochs(learning),
                key="tuning.epochs",
                width=140,
                help="How many times the model reads all examples. More is slower, and may teach it by heart.",
            )
            st.text_input(
                "Name",
                "my-drone",
                max_chars=64,
                key="tuning.suffix",
                width=240,
                help="Part of the tuned model's name, so that you find it again.",
            )
        st.markdown(
            f":material/forum: {words.count(learning, 'example')} to learn, "
            f"{len(ready) - learning:,} kept aside for testing  \n"
            f":material/schedule: About {models.training_time(learning, int(epochs))} on this computer  \n"
            ":material/lock: Nothing leaves this computer, and nothing is paid for"
        )
        look = {"type": "primary" if first else "secondary", "icon": ":material/play_arrow:"}
        runs.start_button("Start training", "tune", _chosen, "tuning.start", **look)


def _learning(ready: list[Example]) -> int:
    return sum(example.split != "test" for example in ready)


def _chosen() -> dict[str, Any]:
    now = st.session_state
    suffix = "-".join((now["tuning.suffix"] or "").split())
    return {"model": now["tuning.model"], "epochs": int(now["tuning.epochs"]), "suffix": suffix}


def outcome() -> bool:
    """How the newest training ended: a way on, or why it stopped. Whether the page shows what to do next."""
    last = runs.latest("tune")
    if last is None:
        return False
    if last.status == "cancelled":
        st.caption("The last training was cancelled.")
        return False
    if last.status == "failed":
        runs.stopped(last)
        return True
    if last.status == "done" and last.result.get("model") in models.tuned():
        with st.container(border=True, horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
            name = words.escape(models.name(last.result.get("model", "")))
            st.markdown(f":green[:material/check_circle:] **{name}** is trained and ready.", width="content")
            if st.button("Compare it with the base", type="primary", icon=":material/balance:", key="tuning.compare"):
                st.switch_page("pages/evaluate.py")
        return True
    return False


def past(watched: work.Run | None) -> None:
    """All jobs but the watched one as a table; the curve of the ticked one, or of the newest that made a model."""
    shown = watched.result.get("job_id") if watched else None
    jobs = [job for job in models.jobs() if job.id != shown]
    others = len(session.store().jobs()) - len(models.jobs())
    elsewhere = f"{words.count(others, 'training')} of other catalogs {words.form(others, 'is', 'are')} not shown here."
    if not jobs:
        if others:
            st.caption(elsewhere)
        return
    st.subheader("Trainings so far", anchor=False)
    if others:
        st.caption(elsewhere)
    event = st.dataframe(
        [_row(job) for job in jobs],
        hide_index=True,
        on_select="rerun",
        selection_mode="single-row",
        height="content" if len(jobs) < 8 else 320,
        alt="Fine-tuning jobs, the newest first",
        placeholder="",
        column_config={
            "Last loss": st.column_config.NumberColumn(
                format="%.3f", help="Loss on the examples kept aside, or on the training ones where none were measured."
            )
        },
    )
    picked = event.selection.rows
    if watched and not picked:
        return  # its own curve is above; another one below it would pass for its
    newest = next((job for job in jobs if job.tuned_model), jobs[0])
    job = jobs[picked[0]] if picked and picked[0] < len(jobs) else newest
    whole = session.store().job(job.id)
    points = fine_tuning.loss_curve(whole.events if whole else [])
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        title = models.name(job.tuned_model) if job.tuned_model else job.suffix or job.id
        st.markdown(f"**{words.escape(title)}**", width="content")
        if job.tuned_model:
            runs.start_button(
                "Export",
                "export",
                lambda: {"model": job.tuned_model},
                f"tuning.export.{job.id}",
                icon=":material/drive_file_move:",
                disabled=runs.under_way("export") is not None,
                help="Write the whole model into a folder, for transformers and (the default model) Ollama: 0.8 GB.",
            )
    if job.tuned_model:
        st.caption("The model's name for an OpenAI client:")
        st.code(job.tuned_model, language=None)
    _exported(job)
    if job.status == "failed":
        st.error(words.escape(job.message or "This training failed and left no word why."), icon=":material/error:")
    if points:
        runs.loss(points, f"tuning.loss.{job.id}")
    else:
        st.caption("It ended before anything was measured." if job.is_over else "Nothing was measured yet.")


def _exported(job: Job) -> None:
    """The export of a job's model: under way, done, or why not."""
    run = session.store().latest_run("export")
    if run is None or run.settings.get("model") != job.tuned_model or not job.tuned_model:
        return
    if run.is_under_way:
        runs.watch(run)
    elif run.status == "done":
        folder = run.result["folder"]
        st.success("Exported to this folder:", icon=":material/folder:")
        st.code(folder, language=None)
        if (Path(folder) / "Modelfile").exists():
            st.caption("For Ollama, run `ollama create my-model -f Modelfile` in that folder.")
    elif run.status == "failed":
        st.error(words.escape(run.error or "The export failed and left no word why."), icon=":material/error:")


def _row(job: Job) -> dict[str, Any]:
    return {
        "Name": job.suffix or job.id,
        "State": models.status(job),
        "Base model": job.model,
        "Epochs": str(job.epochs),
        "Last loss": job.last_loss,
        "Started": models.moment(job.created),
        "Took": words.duration(job.finished - job.created) if job.finished else "",
    }
