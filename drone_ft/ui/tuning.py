"""The fine-tune page's parts: settings, the training under way, past jobs and their curves."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import streamlit as st

from drone_ft import checks, dataset, endpoints, fine_tuning, trainings, work
from drone_ft.dataset import Example
from drone_ft.endpoints import Endpoint
from drone_ft.errors import DroneFTError
from drone_ft.fine_tuning import Job
from drone_ft.ui import frame, job_details, models, preflight, runs, session, words
from drone_ft.ui.models import Choice

MOST_EPOCHS = 20
HOSTED_EPOCHS = 3  # what OpenAI takes for a hundred examples; large models need fewer readings, and each is paid for
LONGEST_NAME = 64  # letters, as the API allows
MOST_SEED = 2_147_483_647
CATCH_UP_EVERY = 20.0  # seconds
_EPOCHS = "tuning.epochs"


def empty(ready: list[Example]) -> None:
    """Too few examples to train on: what to do about it."""
    said = (
        "There are no approved examples yet"
        if not ready
        else f"Only {words.count(_learning(ready), 'approved example')} to learn from, "
        f"and {len(ready) - _learning(ready):,} kept aside for testing"
    )
    drafts = any(example.status == "draft" for example in session.store().examples())
    box = frame.empty(
        f"**Too few examples to learn from**  \n{said}; training needs at least {checks.LEAST_EXAMPLES}. "
        f"Write {'more, or approve drafts' if drafts else 'more' if ready else 'some first'}.",
        ":material/model_training:",
    )
    with box, st.container(horizontal=True, horizontal_alignment="center"):
        if st.button("Go to examples", type="primary", icon=":material/forum:", key="tuning.examples"):
            st.switch_page("pages/examples.py")


def settings(ready: list[Example], jobs: list[Job], first: bool) -> None:
    """Where, which model, epochs and name, what it will take, and the button that starts."""
    learning = _learning(ready)
    with st.container(border=True):
        with st.container(horizontal=True, vertical_alignment="bottom"):
            endpoint = models.where("tuning.endpoint", on_change=_forget_epochs)
            model = models.choice(endpoint, "tuning.model")
        locked = models.is_locked(endpoint)
        _cannot(endpoint)
        with st.container(horizontal=True, vertical_alignment="bottom"):
            # The other place has another number that is good.
            st.session_state.setdefault(_EPOCHS, dataset.auto_epochs(learning) if endpoint.is_local else HOSTED_EPOCHS)
            # Without bounds: a widget that knows them keeps a wrong number to itself and hands over the one before.
            epochs = st.number_input(
                "Epochs",
                step=1,
                key=_EPOCHS,
                width=220,
                help="How many times the model reads all examples. More is slower, and may teach it by heart.",
            )
            st.text_input(
                "Name",
                _own_name(),
                key="tuning.suffix",
                width=300,
                help="Part of the tuned model's name, so that you find it again.",
            )
        _more()
        sent, aside = (learning, len(ready) - learning) if endpoint.is_local else preflight.sizes(endpoint, ready)
        st.markdown(
            f":material/forum: {words.count(sent, 'example')} to learn, {aside:,} kept aside for "
            f"testing  \n{_price(endpoint, model, ready, max(1, int(epochs)), jobs)}"
        )
        is_stopped = not endpoint.is_local and preflight.panel(endpoint, ready)
        wrong = _wrong()
        if wrong:
            st.error(wrong, icon=":material/error:")
        runs.start_button(
            "Start training",
            "tune",
            lambda: _chosen(endpoint, model),
            "tuning.start",
            lambda: session.environment(endpoint),
            disabled=locked or is_stopped or bool(wrong) or not (model or endpoint.is_local),
            type="primary" if first else "secondary",
            icon=":material/play_arrow:",
        )


def _forget_epochs() -> None:
    st.session_state.pop(_EPOCHS, None)


def _cannot(endpoint: Endpoint) -> None:
    """Says where a test found that a place does not fine-tune."""
    probe = session.probes().get(endpoint.name)
    if not endpoint.is_local and probe and probe.reachable and probe.can_tune is False:
        name = words.escape(endpoint.name)
        st.warning(
            f"{name} takes no fine-tuning. Train on this computer, or at another place.", icon=":material/block:"
        )


def _more() -> None:
    """Settings that few people need."""
    with st.expander("More settings", icon=":material/tune:"):
        st.toggle(
            "Measure on the examples kept aside while it trains",
            True,
            key="tuning.validate",
            help="They are sent along as the validation file; nothing is learnt from them.",
        )
        st.number_input(
            "Seed",
            min_value=0,
            max_value=MOST_SEED,
            value=None,
            step=1,
            key="tuning.seed",
            width=200,
            placeholder="Any",
            help="The same seed, examples and settings give the same model again, or nearly so at hosted services.",
        )


def _price(endpoint: Endpoint, model: str, ready: list[Example], epochs: int, jobs: list[Job]) -> str:
    """How long or how dear the training will be, and where the examples go."""
    if endpoint.is_local:
        time = models.training_time(_learning(ready), epochs, jobs)
        return (
            f":material/schedule: About {time} on this computer  \n"
            ":material/lock: Nothing leaves this computer, and nothing is paid for"
        )
    return (
        f":material/payments: {preflight.costs(endpoint, model, ready, epochs)}  \n"
        f":material/cloud_upload: The examples are sent to {words.escape(endpoint.name)}"
    )


def _own_name() -> str:
    """A name for a model of the loaded catalog: my-drone."""
    return f"my-{'-'.join(session.store().catalog().name.replace('_', ' ').split())}"[:LONGEST_NAME]


def _wrong() -> str:
    """What is wrong with the settings, in a sentence; empty if nothing is."""
    epochs, name = st.session_state[_EPOCHS], st.session_state["tuning.suffix"] or ""
    if not 1 <= epochs <= MOST_EPOCHS:
        return f"Epochs: {epochs:,} is not from 1 to {MOST_EPOCHS}. Choose fewer, or one at least."
    if len(name) > LONGEST_NAME:
        return f"The name has {len(name):,} letters, and one may have up to {LONGEST_NAME}. Shorten it."
    return ""


def _learning(ready: list[Example]) -> int:
    return sum(example.split != "test" for example in ready)


def _chosen(endpoint: Endpoint, model: str) -> dict[str, Any]:
    if _wrong():  # typed and started in one go, before the page could say so
        raise DroneFTError(f"Nothing was started. {_wrong()}")
    now = st.session_state
    suffix = "-".join((now["tuning.suffix"] or "").split())
    chosen = {"model": model, "epochs": int(now[_EPOCHS]), "suffix": suffix}
    if not now["tuning.validate"]:
        chosen["validate"] = False
    if now["tuning.seed"] is not None:
        chosen["seed"] = int(now["tuning.seed"])
    if endpoint.is_local:
        return chosen
    return chosen | {"endpoint": endpoint.name, "fixes": preflight.fixes()}


def outcome(jobs: list[Job]) -> bool:
    """How the newest training ended: a way on, or why it stopped. Whether the page shows what to do next."""
    last = runs.latest("tune")
    if last is None:
        return False
    job = next((job for job in jobs if job.id == last.result.get("job_id")), None)
    if last.status == "cancelled":
        _cancelled(job)
        return False
    if last.status == "failed":
        _failed(last, job)
        return True
    tuned = models.tuned(jobs)
    made = Choice(job.endpoint, job.answers_as or "") if job else None
    if last.status == "done" and made in tuned:
        if job and job_details.needs_deployment(job):
            st.success(f"{words.escape(tuned[made])} is trained. Below it takes the name of its deployment.")
            return True
        with st.container(border=True, horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
            name = words.escape(tuned[made])
            st.markdown(f":green[:material/check_circle:] **{name}** is trained and ready.", width="content")
            if st.button("Compare it with the base", type="primary", icon=":material/balance:", key="tuning.compare"):
                st.switch_page("pages/evaluate.py")
        return True
    return False


def _cancelled(job: Job | None) -> None:
    """What came of a cancel: where nobody knows, the training may still be paid for."""
    if job is None or job.is_over:
        st.caption("The last training was cancelled.")
        return
    why = job.message or "It has not ended there yet."
    st.warning(
        f"**The training may still be running at {words.escape(job.endpoint)}.** {words.escape(why)} Press *Cancel* "
        "below again when it answers.",
        icon=":material/warning:",
    )


def _failed(last: work.Run, job: Job | None) -> None:
    """Why the training stopped, the way to try again, and where a service takes no more, the way to train here."""
    place = last.settings.get("endpoint", endpoints.LOCAL)
    if last.result.get("closed"):
        _closed(last, place)
    elif job and job.endpoint_job_id and not job.is_over:
        where = "on this computer" if job.endpoint == endpoints.LOCAL else f"at {words.escape(job.endpoint)}"
        title = f"This app stopped watching; the training goes on {where}"
        runs.stopped(last, lambda: session.environment_of(place), title=title, go_on="Watch it again")
    else:
        runs.stopped(last, lambda: session.environment_of(place))


def _closed(last: work.Run, place: str) -> None:
    """A service that takes no new trainings: the way to train here, with everything carried over."""
    kept = {k: v for k, v in last.settings.items() if k not in ("endpoint", "model", "fixes")}
    with st.container(border=True):
        st.subheader(f"{words.escape(place)} takes no new trainings from your organisation", anchor=False)
        st.markdown(words.escape(last.error or ""))
        st.caption("Your examples and settings are kept, and nothing was paid for.")
        with st.container(horizontal=True):
            runs.start_button(
                "Train on this computer instead",
                "tune",
                lambda: kept | {"model": models.ITS_OWN},
                "tuning.here",
                type="primary",
                icon=":material/computer:",
            )
            runs.start_button(
                "Try again", "tune", lambda: last.settings, "runs.again.tune", lambda: session.environment_of(place)
            )


def catch_up() -> None:
    """Bring trainings nobody follows up to date, now and then: a place that is away must not hold up every click."""
    if time.monotonic() - st.session_state.get(runs.CAUGHT_UP, -CATCH_UP_EVERY) >= CATCH_UP_EVERY:
        trainings.catch_up(session.store(), session.reach)
        st.session_state[runs.CAUGHT_UP] = time.monotonic()


def past(watched: work.Run | None, everything: list[Job]) -> None:
    """All jobs but the watched one as a table; the curve of the ticked one, or of the newest that made a model."""
    shown = watched.result.get("job_id") if watched else None
    ours = models.ours(everything, session.store().catalog().name)
    jobs, others = [job for job in ours if job.id != shown], len(everything) - len(ours)
    elsewhere = f"{words.count(others, 'training')} of other catalogs {words.form(others, 'is', 'are')} not shown here."
    if not jobs:
        if others:
            st.caption(elsewhere)
        return
    st.subheader("Trainings so far", anchor=False)
    if others:
        st.caption(elsewhere)
    event = st.dataframe(
        [_row(job, any(one.endpoint != endpoints.LOCAL for one in jobs)) for job in jobs],
        hide_index=True,
        on_select="rerun",
        selection_mode="single-row",
        height="content" if len(jobs) < 8 else 320,
        alt="Fine-tuning jobs, the newest first",
        placeholder="",
        column_config={
            "Error left": st.column_config.NumberColumn(
                format="%.3f",
                help="How surprised the model is by the right answer (its loss), at the end of the training: on the "
                "examples kept aside, or on the training ones where those were not measured. Lower is better.",
            )
        },
    )
    picked = event.selection.rows
    if watched and not picked:
        return  # its own curve is above; another one below it would pass for its
    is_open = [job for job in jobs if not job.is_over and job.endpoint_job_id]
    newest = next((job for job in (*is_open, *jobs) if job in is_open or job.tuned_model), jobs[0])
    job = jobs[picked[0]] if picked and picked[0] < len(jobs) else newest
    whole = session.store().job(job.id)
    points = fine_tuning.loss_curve(whole.events if whole else [])
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        made = Choice(job.endpoint, job.answers_as or "")
        title = models.name(made, jobs) if job.tuned_model else job.suffix or job.id
        st.markdown(f"**{words.escape(title)}**", width="content")
        if job.tuned_model and job.endpoint == endpoints.LOCAL:
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
        st.code(job.answers_as, language=None)
    _exported(job)
    job_details.show(job)
    if job.status == "failed" and not _is_told(job):
        st.error(words.escape(job.message or "This training failed and left no word why."), icon=":material/error:")
    if len(points) > 1:
        runs.loss(points, f"tuning.loss.{job.id}")
    else:
        st.caption("It ended before anything was measured." if job.is_over else "Nothing was measured yet.")


def _is_told(job: Job) -> bool:
    """Whether the page says already, above, why a training failed."""
    last = runs.latest("tune")
    return bool(last and last.status == "failed" and last.result.get("job_id") == job.id)


def _exported(job: Job) -> None:
    """The export of a job's model: under way, done, or why not."""
    run = session.store().latest_run("export")
    if run is None or run.settings.get("model") != job.tuned_model or not job.tuned_model:
        return
    if run.is_under_way:
        runs.watch(run)
    elif run.status == "done":
        folder = Path(run.result["folder"])
        st.success("Exported to this folder:", icon=":material/folder:")
        st.code(str(folder), language=None)
        exported_files(folder)
    elif run.status == "failed":
        st.error(words.escape(run.error or "The export failed and left no word why."), icon=":material/error:")


def exported_files(folder: Path) -> None:
    """What each kind of file in an export is, how big, and for whom."""
    whole, small = folder / "model.safetensors", folder / "model.gguf"
    said = []
    if whole.exists():
        said.append(
            f"**model.safetensors** ({_size(whole)}) is the whole model, the small files beside it how to read it: "
            "give the folder to developers who work with Python and transformers."
        )
    if small.exists():
        said.append(
            f"**model.gguf** ({_size(small)}) is the same model in one file, for Ollama, LM Studio or llama.cpp: "
            "give it to people who want it on their own computer."
        )
    if (folder / "Modelfile").exists():
        said.append(
            f"**Modelfile** ({_size(folder / 'Modelfile')}) tells Ollama how to ask it: keep it beside model.gguf, and "
            "run `ollama create my-model -f Modelfile` in the folder."
        )
    st.markdown("\n".join(f"- {sentence}" for sentence in said))


def _size(path: Path) -> str:
    size = path.stat().st_size
    return f"{size / 1e6:,.0f} MB" if size >= 1e6 else f"{max(1, round(size / 1e3))} KB"


def _row(job: Job, somewhere_else: bool) -> dict[str, Any]:
    return {
        "Name": job.suffix or job.id,
        "State": models.status(job),
        **({"Where": words.first_up(job.endpoint)} if somewhere_else else {}),
        "Base model": models.name(Choice(job.endpoint, job.model)),
        "Epochs": str(job.epochs),
        "Error left": job.last_loss,
        "Started": models.moment(job.created),
        "Took": words.duration(job.finished - job.created) if job.finished else "",
    }
