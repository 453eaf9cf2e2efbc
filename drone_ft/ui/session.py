"""The UI's way to the store and to the endpoints, and the names of what a browser tab remembers."""

from __future__ import annotations

import os

import openai
import streamlit as st

from drone_ft import endpoints as places
from drone_ft import pipeline
from drone_ft.endpoints import Endpoint
from drone_ft.probing import Probe
from drone_ft.store import Store

_KEYS = "session.keys"
_PROBES = "session.probes"


def _open(folder: str) -> Store:
    return Store()


_opened = st.cache_resource(_open, show_spinner=False)


def store() -> Store:
    """The one store of this process; another workspace folder means another store."""
    opened: Store = _opened(os.environ.get("DRONE_FT_WORKSPACE", ""))
    return opened


def endpoints() -> list[Endpoint]:
    """Every endpoint there is: this computer, those of the environment, those the user added."""
    return pipeline.places(store())


def endpoint(name: str) -> Endpoint:
    """The endpoint of a name; raises EndpointError where it is gone."""
    return pipeline.known_place(store(), name)


def key(endpoint: Endpoint) -> str | None:
    """The key for an endpoint: the one typed in this tab, else Streamlit's secrets, else the environment."""
    return _typed(endpoint) or _secret(endpoint) or os.environ.get(places.key_variable(endpoint))


def key_origin(endpoint: Endpoint) -> str:
    """Where the key in use comes from, in words; "" without one."""
    if _typed(endpoint):
        return "this tab"
    if _secret(endpoint):
        return "Streamlit's secrets"
    variable = places.key_variable(endpoint)
    return f"the environment variable {variable}" if os.environ.get(variable) else ""


def set_key(endpoint: Endpoint, typed: str) -> None:
    """Keep a key in this tab's memory, and nowhere else; an empty one is forgotten."""
    st.session_state.setdefault(_KEYS, {})[endpoint.name] = typed.strip()
    probes().pop(endpoint.name, None)  # another key, another answer


def probes() -> dict[str, Probe]:
    """What tests of endpoints found in this tab, by the endpoint's name."""
    found: dict[str, Probe] = st.session_state.setdefault(_PROBES, {})
    return found


def environment(endpoint: Endpoint) -> dict[str, str]:
    """What a process of ours must be told to use the endpoint: its key, through its environment."""
    found = key(endpoint)
    return {places.key_variable(endpoint): found} if found else {}


def environment_of(*names: str) -> dict[str, str]:
    """The same for several endpoints, by name."""
    return {variable: key for name in names for variable, key in environment(endpoint(name)).items()}


def client(endpoint: Endpoint, timeout: float = 120.0) -> openai.OpenAI:
    """A client for an endpoint with the key this tab knows."""
    return places.client(endpoint, timeout, key(endpoint))


def reach(name: str) -> openai.OpenAI:
    """A client for an endpoint's name that waits only briefly; this computer's server is not started for it."""
    found = places.local_endpoint(start=False) if name == places.LOCAL else endpoint(name)
    return client(found, timeout=5.0)


def is_typed(endpoint: Endpoint) -> bool:
    """Whether the key in use was typed in this tab."""
    return bool(_typed(endpoint))


def _typed(endpoint: Endpoint) -> str | None:
    found: str | None = st.session_state.get(_KEYS, {}).get(endpoint.name)
    return found or None


def _secret(endpoint: Endpoint) -> str | None:
    if not st.secrets.load_if_toml_exists():
        return None
    found = st.secrets.get(places.key_variable(endpoint))
    return str(found) if found else None
