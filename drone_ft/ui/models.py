"""Which models there are to choose from, under names people can tell apart."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import streamlit as st

from drone_ft import endpoints, pipeline, probing
from drone_ft.endpoints import Endpoint
from drone_ft.errors import EndpointError
from drone_ft.fine_tuning import Job
from drone_ft.ui import session, words

# Stands for the local server's own model while the server sleeps and cannot tell its name.
ITS_OWN = ""
DEFAULT = "smollm2-135m-instruct"
PLAIN_NAMES = {DEFAULT: "SmolLM2 135M (this computer)"}
# Measured with the default data on 2 cores; used until a training on this computer tells better.
SECONDS_PER_EXAMPLE_AND_EPOCH = 0.07


@dataclass(frozen=True)
class Choice:
    """A model where it is: an endpoint's name, and the model's there, which another endpoint may use as well."""

    endpoint: str
    model: str


def bases(jobs: Sequence[Job]) -> dict[Choice, str]:
    """All base models with their names: this computer's, what `jobs` began with elsewhere, what tests found."""
    trained = [Choice(job.endpoint, job.model) for job in jobs if job.endpoint != endpoints.LOCAL]
    return _there_first({one: name(one) for one in (*_own(), *trained, *_tested())})


def _there_first(names: dict[Choice, str]) -> dict[Choice, str]:
    """Models whose connection was removed come last, and say so."""
    there = {place.name for place in session.endpoints()}
    gone = {one: f"{name}, connection removed" for one, name in names.items() if one.endpoint not in there}
    return {one: name for one, name in names.items() if one not in gone} | gone


def _own() -> list[Choice]:
    """The base models that this computer's server lists, or ITS_OWN until it runs."""
    try:
        client = endpoints.client(endpoints.local_endpoint(start=False), timeout=5)
        listed = [model.id for model in probing.listed(client, attempts=1)]
    except EndpointError:
        listed = []
    here = [model for model in listed if not endpoints.is_tuned(model)] or [ITS_OWN]
    return [Choice(endpoints.LOCAL, model) for model in here]


def _tested() -> list[Choice]:
    """Models of the endpoints that were tested in this tab."""
    elsewhere = [(name, probe) for name, probe in session.probes().items() if name != endpoints.LOCAL]
    return [Choice(name, model) for name, probe in elsewhere for model in _untuned(probe)]


def _untuned(probe: probing.Probe | None) -> list[str]:
    return [model for model in probe.chat if not endpoints.is_tuned(model)] if probe else []


def endpoint(chosen: Choice) -> Endpoint:
    """The endpoint where a model is; this computer's server is started if need be."""
    here = chosen.endpoint == endpoints.LOCAL
    return endpoints.local_endpoint() if here else session.endpoint(chosen.endpoint)


def environment(*asked: Choice) -> dict[str, str]:
    """The keys that a process of ours needs to ask these models."""
    return session.environment_of(*(one.endpoint for one in asked))


def before(tuned: Choice | None, bases: Iterable[Choice], jobs: Sequence[Job]) -> Choice | None:
    """The one of `bases` that a tuned model was made from; None where it is not among them."""
    made = (job for job in jobs if tuned and (job.endpoint, job.answers_as) == (tuned.endpoint, tuned.model))
    return next((base for job in made for base in bases if _same(base, Choice(job.endpoint, job.model))), None)


def _same(one: Choice, other: Choice) -> bool:
    return (one.endpoint, identity(one.model)) == (other.endpoint, identity(other.model))


def start_from(base: Choice | None, tuned: Choice | None, key: str) -> None:
    """Have a choice of base models begin with `base`, which the chosen tuned model was made from, when that changes."""
    seen = f"{key}.for"
    if base is not None and (st.session_state.get(seen) != tuned or key not in st.session_state):
        st.session_state[key] = base
    st.session_state[seen] = tuned


def pick(label: str, found: dict[Choice, str], key: str, **look: Any) -> Choice | None:
    """A field to choose one of some models, shown under their names."""
    chosen: Choice | None = st.selectbox(
        label, list(found), format_func=lambda one: found.get(one, one.model), key=key, **look
    )
    return chosen


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
        own = {one: name(one) for one in _own()}
        about = f"{identities(own)} To use another one, start the app with DRONE_FT_MODEL set to its folder or hub id."
        picked = pick("Model", own, f"{key}.local", width=300, help=about)
        return picked.model if picked else ITS_OWN
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


def ours(jobs: Iterable[Job], catalog: str) -> list[Job]:
    """The trainings for a catalog, and those that name none, in their order."""
    return [job for job in jobs if job.catalog in ("", catalog)]


def tuned(jobs: Iterable[Job]) -> dict[Choice, str]:
    """Tuned models in the order of their trainings, each with its name: drone-demo, 23 Nov 14:05."""
    names: dict[Choice, str] = {}
    for job in jobs:
        if job.status == "succeeded" and job.answers_as:
            names.setdefault(Choice(job.endpoint, job.answers_as), _trained(job))  # a deployment may get a newer model
    names = _there_first(names)
    often = Counter(names.values())
    # two that were done in the same minute are told apart by the ends of their ids
    return {one: name if often[name] == 1 else f"{name}, {one.model.rsplit(':', 1)[-1]}" for one, name in names.items()}


def _trained(job: Job) -> str:
    place = "" if job.endpoint == endpoints.LOCAL else f" ({job.endpoint})"
    return f"{job.suffix or 'tuned'}, {moment(job.finished or job.created)}{place}"


def name(one: Choice, jobs: Iterable[Job] = ()) -> str:
    """A model's name for people, the same one whether its server runs or sleeps; a tuned one's is in its training.

    An empty endpoint is one that nobody wrote down.
    """
    for known, title in tuned(jobs).items():
        if known.model == one.model and one.endpoint in ("", known.endpoint):
            return title
    model = identity(one.model)
    parts, here = model.split(":"), one.endpoint in ("", endpoints.LOCAL)
    if len(parts) > 4:
        title, end = parts[3] or "tuned", parts[-1]
        return f"{title} ({end})" if here else f"{title}, {end} ({one.endpoint})"
    return PLAIN_NAMES.get(model, model) if here else f"{model} ({one.endpoint})"


def identity(model: str) -> str:
    """A model's id, as an OpenAI client names it; that of this computer's own model even while its server sleeps."""
    if model != ITS_OWN:
        return model
    chosen = os.environ.get("DRONE_FT_MODEL", "").rstrip("/").rsplit("/", 1)[-1]
    return chosen.lower().removesuffix(".gguf") or DEFAULT


def identities(found: Iterable[Choice]) -> str:
    """A hint beside a choice of models: their ids."""
    ids = dict.fromkeys(identity(one.model) for one in found)
    return f"For an OpenAI client: {words.listed(list(ids), 'and')}."


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


def training_time(examples: int, epochs: int, jobs: Iterable[Job]) -> str:
    """How long a training will take, from the newest on this computer among `jobs`, or from our own measurement."""
    return words.duration(examples * epochs * _pace(jobs))


def _pace(jobs: Iterable[Job]) -> float:
    """Seconds an example and epoch took in the first finished training."""
    for job in jobs:
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
    "creating": "Being created",
    "pending": "Waiting its turn",
}


def status(job: Job) -> str:
    """A job's state in words; an unknown word of the endpoint is shown as it is."""
    return STATUS.get(job.status, words.title(job.status))
