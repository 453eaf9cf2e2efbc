"""One fine-tuning job in detail: what it was trained on, what it cost, what was measured with it; pause and go on."""

from __future__ import annotations

import dataclasses

import streamlit as st

from drone_ft import endpoints, fine_tuning, prices
from drone_ft.evaluation import Report
from drone_ft.fine_tuning import Job
from drone_ft.ui import frame, reports, runs, session, words


def show(job: Job) -> None:
    """Everything that is known of a job, and what can be done with it."""
    runs.job_buttons(job)
    _deployment(job)
    with st.expander("Its examples, cost and evaluations", icon=":material/receipt_long:"):
        st.markdown("  \n".join(_facts(job)))
        kept = _kept(str(session.store().folder), job.id)
        if not any(kept):
            st.caption("What it was trained on is not known here: the training was found again at its service.")
        with st.container(horizontal=True):
            for place, is_there in enumerate(kept):
                if is_there:
                    _download(job, place)
        _checkpoints(job)


def needs_deployment(job: Job) -> bool:
    """Whether its model is one of Azure's, of which nobody has named a deployment yet."""
    return _is_deployed(job) and not job.deployment


def _is_deployed(job: Job) -> bool:
    """Whether its model answers under a deployment's name alone, as Azure's do."""
    return ".ft-" in (job.tuned_model or "")


def _deployment(job: Job) -> None:
    """A field for the name under which a model answers, where it has another one there than the training gave it."""
    if not _is_deployed(job):
        return
    if not job.deployment:
        st.info(
            f"Azure lets this model answer once it is deployed: deploy {words.escape(str(job.tuned_model))} in the "
            "Azure portal, then type the deployment's name here.",
            icon=":material/rocket_launch:",
        )
    typed = st.text_input("Name of its deployment", job.deployment, key=f"job_details.deployment.{job.id}", width=340)
    name = (typed or "").strip()
    if name != job.deployment:
        store = session.store()
        store.save_job(dataclasses.replace(store.job(job.id) or job, deployment=name))
        st.rerun()


def _facts(job: Job) -> list[str]:
    catalog = f" of the catalog {words.title(job.catalog)}" if job.catalog else ""
    count = words.count(job.examples, "example") if job.examples else "an unknown number of examples"
    told = [f"{'Learnt' if job.status == 'succeeded' else 'To learn'} from {count}{catalog}"]
    if job.trained_tokens:
        told.append(f"Tokens read in training: {words.big(job.trained_tokens)}")
    if job.endpoint != endpoints.LOCAL:
        unknown = job.cost is None and job.status != "succeeded"
        told.append(f"Cost: {f'{job.endpoint} has not said yet' if unknown else prices.words(job.cost)}")
    chosen = job.hyperparameters | ({"seed": job.seed} if job.seed is not None else {})
    if chosen:
        told.append("Settings: " + ", ".join(f"{_setting(name)} {value}" for name, value in chosen.items()))
    used = [report for report in session.store().reports() if _is_in(report, job)]
    told += [f"Evaluated: {reports.label(report, [job])}" for report in used] or ["Not evaluated yet"]
    if job.endpoint_job_id:
        told.append(f"Its number at {job.endpoint}: {job.endpoint_job_id}")
    return [words.escape(fact) for fact in told]


def _is_in(report: Report, job: Job) -> bool:
    """Whether a report has answers of a job's model, and not those of its namesake at another endpoint."""
    asked = [(report.endpoints.get(key, job.endpoint), report.called(key)) for key in report.models]
    return (job.endpoint, job.answers_as) in asked


def _setting(name: str) -> str:
    return name.removeprefix("n_").replace("_", " ")


def _download(job: Job, place: int) -> None:
    """The button for the training (0) or validation file (1); up to 100 MB, so read when it is pressed."""
    name = ("training", "validation")[place]
    st.download_button(
        f"{name.capitalize()} file",
        lambda: session.store().job_data(job.id)[place],
        f"{job.suffix or job.id}-{name.replace('training', 'train')}.jsonl",
        "application/jsonl",
        icon=":material/download:",
        key=f"job_details.{name.replace('training', 'train')}.{job.id}",
        on_click="ignore",
        help="The very file the job was given, as it was then.",
    )


def _kept_files(folder: str, job_id: str) -> tuple[bool, bool]:
    """Whether a job has a training and a validation file; they never change."""
    train, validation = session.store().job_data(job_id)
    return bool(train), bool(validation)


_kept = st.cache_data(_kept_files, show_spinner=False, max_entries=100)


def _checkpoints(job: Job) -> None:
    """The models kept on the way, each under a name of its own; asked for when somebody wants them."""
    key = f"job_details.checkpoints.{job.id}"
    is_known = job.is_over and job.endpoint_job_id  # what was never created left none
    if not (is_known and st.button("List the checkpoints", key=key, icon=":material/flag:")):
        return
    with frame.boundary():
        found = fine_tuning.checkpoints(session.reach(job.endpoint), job)
        st.caption(
            "The model as it was on the way; an OpenAI client can ask for it under these names."
            if found
            else "No checkpoints are kept of this training."
        )
        for one in found:
            st.caption(f"After step {one.step:,}")
            st.code(one.model, language=None)
