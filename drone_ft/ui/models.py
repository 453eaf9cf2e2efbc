"""Which models there are to choose from, under names people can tell apart."""

from __future__ import annotations

import os
import time
from typing import Any

import openai
import streamlit as st

from drone_ft import endpoints, fine_tuning, pipeline, probing
from drone_ft.endpoints import Endpoint
from drone_ft.errors import EndpointError
from drone_ft.ui import session, words

# Stands for the local server's own model while the server sleeps and cannot tell its name.
ITS_OWN = ""
DEFAULT = "smollm2-135m-instruct"
PLAIN_NAMES = {DEFAULT: "SmolLM2 135M (this computer)"}
# Measured with the default data on 2 cores; used until a training on this computer tells better.
SECONDS_PER_EXAMPLE_AND_EPOCH = 0.07


def bases() -> list[str]:
    """All base models: those the running server lists, or ITS_OWN until it runs."""
    try:
        client = endpoints.client(endpoints.local_endpoint(start=False), timeout=5)
        listed = [model.id for model in endpoints.translated(client.models.list).data]
    except EndpointError:
        listed = []
    here = [model for model in listed if not model.startswith("ft:")] or [ITS_OWN]
    return list(dict.fromkeys([*here, *(job.model for job in jobs() if job.endpoint != endpoints.LOCAL), *_tested()]))


def _tested() -> list[str]:
    """Models of the endpoints that were tested in this tab."""
    return [model for name, probe in session.probes().items() if name != endpoints.LOCAL for model in _untuned(probe)]


def _untuned(probe: probing.Probe | None) -> list[str]:
    return [model for model in probe.chat if not model.startswith("ft:")] if probe else []


def place_of(model: str) -> str:
    """The name of the endpoint where a model is."""
    jobs_ = session.store().jobs()
    for job in jobs_:
        if model == job.tuned_model:
            return job.endpoint
    if identity(model) == identity(ITS_OWN):
        return endpoints.LOCAL
    for job in jobs_:
        if job.endpoint != endpoints.LOCAL and model == job.model:
            return job.endpoint
    found = [n for n, probe in session.probes().items() if n != endpoints.LOCAL and model in probe.chat]
    return found[0] if found else endpoints.LOCAL


def client(model: str) -> openai.OpenAI:
    """A client of the endpoint where a model is; this computer's server is started if need be."""
    place = place_of(model)
    return session.client(endpoints.local_endpoint() if place == endpoints.LOCAL else session.endpoint(place))


def environment(*asked: str) -> dict[str, str]:
    """The keys that a process of ours needs to ask these models."""
    return session.environment_of(*(place_of(model) for model in asked))


def before(tuned: str | None, bases: list[str]) -> str | None:
    """The one of `bases` that a tuned model was made from; None where it is not among them."""
    made_from = next((job.model for job in jobs() if tuned and job.tuned_model == tuned), None)
    return next((base for base in bases if identity(base) == made_from), None)


def start_from(tuned: str | None, bases: list[str], key: str) -> None:
    """Have a choice of base models begin with what the chosen tuned model was made from, whenever that one changes."""
    seen = f"{key}.for"
    base = before(tuned, bases)
    if base is not None and (st.session_state.get(seen) != tuned or key not in st.session_state):
        st.session_state[key] = base
    st.session_state[seen] = tuned


def where(key: str, **look: Any) -> Endpoint:
    """A field to choose an endpoint; it is as it was left when one comes back to the page."""
    names = [place.name for place in session.endpoints()]
    if st.session_state.get(key) not in names:
        st.session_state.pop(key, None)
    chosen = st.selectbox(
        "Where",
        names,
        format_func=words.first_up,
        key=key,
        width=220,
        help="On this computer, or at a service; the settings page has their connections and keys.",
        persist_state="session",
        **look,
    )
    return session.endpoint(chosen)


def is_locked(endpoint: Endpoint) -> bool:
    """Whether a service cannot be asked at all, for want of a key; says so, or what its last test found wrong."""
    locked = endpoint.kind in ("openai", "azure") and not session.key(endpoint)
    probe = session.probes().get(endpoint.name)
    if locked:
        st.warning(f"{words.escape(endpoint.name)} needs a key, and there is none yet.", icon=":material/key:")
    elif probe and not (probe.reachable and probe.key_accepted is not False):
        st.warning(words.escape(probe.sentence), icon=":material/error:")
    else:
        return False
    st.page_link("pages/settings.py", label="Open the settings", icon=":material/settings:")
    return locked


def choice(endpoint: Endpoint, key: str) -> str:
    """A field to choose one of an endpoint's models, or to type its name; "" until there is one."""
    if endpoint.is_local:
        found = [model for model in bases() if place_of(model) == endpoints.LOCAL]
        about = (
            f"{identities(found)} To use another one, start the app with DRONE_FT_MODEL set to its folder or hub id."
        )
        return str(st.selectbox("Model", found, format_func=name, key=f"{key}.local", width=300, help=about))
    if endpoint.name not in session.probes() and (session.key(endpoint) or endpoint.kind == "custom"):
        with st.spinner(f"Asking {words.escape(endpoint.name)} for its models …"):
            session.probes()[endpoint.name] = probing.probe(endpoint, session.key(endpoint))
    known = session.probes().get(endpoint.name)
    found = _untuned(known)
    chosen = st.selectbox(
        "Model",
        found,
        index=0 if found else None,
        key=f"{key}.{endpoint.name}.{bool(found)}",
        persist_state="session",
        accept_new_options=True,
        placeholder="Choose one, or type its name",
        width=300,
        help="The models this place lists. Another one it has can be typed.",
    )
    return str(chosen or "")


def jobs() -> list[fine_tuning.Job]:
    """Trainings for the loaded catalog, and those that name none; the newest first."""
    return session.store().jobs(session.store().catalog().name)


def tuned() -> dict[str, str]:
    """Tuned models, the newest first, each with its name: drone-demo, 23 Nov 14:05."""
    done = [job for job in jobs() if job.status == "succeeded" and job.tuned_model]
    return {
        str(job.tuned_model): f"{job.suffix or 'tuned'}, {moment(job.finished or job.created)}"
        + ("" if job.endpoint == endpoints.LOCAL else f" ({job.endpoint})")
        for job in done
    }


def name(model: str) -> str:
    """A model's name for people, wherever it comes from; the same one whether the server runs or sleeps."""
    model = identity(model)
    parts = model.split(":")
    if len(parts) > 4:
        return tuned().get(model) or f"{parts[3] or 'tuned'} ({parts[-1]})"
    place = place_of(model)
    return PLAIN_NAMES.get(model, model) if place == endpoints.LOCAL else f"{model} ({place})"


def identity(model: str) -> str:
    """A model's id, as an OpenAI client names it; that of this computer's own model even while its server sleeps."""
    if model != ITS_OWN:
        return model
    chosen = os.environ.get("DRONE_FT_MODEL", "").rstrip("/").rsplit("/", 1)[-1]
    return chosen.lower().removesuffix(".gguf") or DEFAULT


def identities(found: list[str]) -> str:
    """A hint beside a choice of models: their ids."""
    return f"For an OpenAI client: {words.listed([identity(model) for model in found], 'and')}."


def first_step(key: str, **look: Any) -> None:
    """The button that leads to a tuned model: to the training, or to the examples where they are too few for one."""
    if pipeline.is_enough(pipeline.ready(session.store().examples())):
        if st.button("Fine-tune a model", icon=":material/model_training:", key=key, **look):
            st.switch_page("pages/fine_tune.py")
    elif st.button("Write examples first", icon=":material/forum:", key=key, **look):
        st.switch_page("pages/examples.py")


def moment(seconds: float) -> str:
    """A time as people read it: 23 Nov 14:05."""
    then = time.localtime(seconds)
    return f"{then.tm_mday} {time.strftime('%b %H:%M', then)}"


def training_time(examples: int, epochs: int) -> str:
    """How long a training will take, from the last one on this computer or from our own measurement."""
    return words.duration(examples * epochs * _pace())


def _pace() -> float:
    """Seconds an example and epoch took in the newest finished training."""
    for job in session.store().jobs():
        here = job.endpoint == endpoints.LOCAL and job.status == "succeeded"
        if here and job.finished and job.examples and isinstance(job.epochs, int):
            return max(0.001, (job.finished - job.created) / (job.examples * job.epochs))
    return SECONDS_PER_EXAMPLE_AND_EPOCH


STATUS = {
    "succeeded": "Finished",
    "failed": "Failed",
    "cancelled": "Cancelled",
    "running": "Training",
    "queued": "Waiting its turn",
    "validating_files": "Checking the data",
    "paused": "Paused",
}


def status(job: fine_tuning.Job) -> str:
    """A job's state in words; an unknown word of the endpoint is shown as it is."""
    return STATUS.get(job.status, words.title(job.status))
