"""The settings page's parts: where models live, the key for each place, and a test that says what works there."""

from __future__ import annotations

import urllib.parse

import streamlit as st

from drone_ft import abilities, endpoints, probing, trainings
from drone_ft.endpoints import Endpoint
from drone_ft.errors import DroneFTError
from drone_ft.probing import Probe
from drone_ft.ui import frame, session, words

_ABOUT = {
    "local": "A small model that learns and answers here. It needs no key, and nothing leaves this computer.",
    "openai": "OpenAI's own service. Requests are paid for.",
    "azure": "Models deployed in your Azure resource. Requests are paid for.",
    "custom": "A server of your own, such as vLLM, Ollama or LM Studio.",
}
_TROUBLE = "connections.trouble"
_ICONS = {"local": ":material/computer:", "openai": ":material/cloud:", "azure": ":material/cloud:"}


def missing_one() -> None:
    """Says how more base models come into a list, where a place was not asked for its own in this tab."""
    places = [place for place in session.endpoints() if place.kind == "custom" or session.key(place)]
    if any(not place.is_local and place.name not in session.probes() for place in places):
        st.caption("A base model is missing? Test its connection in the settings.")


def cards() -> None:
    """A card for each endpoint: what it is, its key, and the test."""
    for endpoint in session.endpoints():
        with st.container(border=True):
            _card(endpoint)


def _card(endpoint: Endpoint) -> None:
    with st.container(horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"):
        icon = _ICONS.get(endpoint.kind, ":material/dns:")
        st.subheader(f"{icon} {words.escape(words.first_up(endpoint.name))}", anchor=False, width="content")
        with st.container(horizontal=True, width="content"):
            saved = any(one.name == endpoint.name for one in session.store().endpoints())
            if saved:
                st.button(
                    "Remove",
                    key=f"connections.remove.{endpoint.name}",
                    icon=":material/delete:",
                    on_click=_remove,
                    args=(endpoint,),
                )
            trains = _may_tune(endpoint) and st.button(
                "Find my trainings",
                key=f"connections.trainings.{endpoint.name}",
                icon=":material/history:",
                help="Looks there for trainings that this app began, and takes back those it lost.",
            )
            asked = st.button("Test", key=f"connections.test.{endpoint.name}", icon=":material/network_check:")
    elsewhere = endpoint.kind == "openai" and endpoint.base_url != endpoints.OPENAI_URL
    about = "The service that OPENAI_BASE_URL names, in place of OpenAI's own." if elsewhere else _ABOUT[endpoint.kind]
    st.caption(about + (f"  \n`{endpoint.base_url}`" if endpoint.base_url else ""))
    if not endpoint.is_local:
        _key(endpoint)
    if asked:
        with st.spinner("Asking …"):
            session.probes()[endpoint.name] = probe(endpoint)
    said = session.probes().get(endpoint.name)
    if said:
        _found(said, bool(session.key(endpoint)))
    if trains:
        _find_trainings(endpoint)
    _accepted(endpoint)


def _found(said: Probe, has_key: bool) -> None:
    """What a test found, a line for each thing; what ends soon stands out."""
    if not said.facts:
        where = " Paste it above." if said.key_accepted is False and not has_key else ""
        st.warning(f"{words.escape(said.sentence)}{where}", icon=":material/error:")
        return
    marks = {True: ":material/check:", False: ":material/block:", None: ":material/question_mark:"}
    first, *others = (words.escape(words.first_up(fact)) for fact in said.facts)
    lines = [
        f"{mark} {fact}" for mark, fact in zip((marks[bool(said.chat)], marks[said.can_tune]), others, strict=True)
    ]
    st.success("  \n".join([first, *lines]), icon=":material/check_circle:")
    if said.closing:
        ends = [f":orange[:material/event_busy: {words.escape(sentence)}]" for sentence in said.closing]
        st.markdown("  \n".join(ends))


def _may_tune(endpoint: Endpoint) -> bool:
    """Whether a place may have trainings of ours: none that is known to take none, or that wants a key."""
    said = session.probes().get(endpoint.name)
    if endpoint.is_local or (said and said.can_tune is False and endpoint.kind == "custom"):
        return False
    return endpoint.kind == "custom" or session.key(endpoint) is not None


def _find_trainings(endpoint: Endpoint) -> None:
    """Look for our trainings there, and say how many there are."""
    name = words.escape(words.first_up(endpoint.name))
    with frame.boundary(), st.spinner("Looking …"):
        known, new = trainings.find_again(session.store(), endpoint.name, session.client(endpoint, timeout=10.0))
        came = f"{words.count(new, 'was', 'were')} missing here and came back" if new else "none was missing here"
        told = f"{words.count(known, 'training')} of yours; {came}" if known else "no training of yours"
        st.info(f"{name} knows {told}.", icon=":material/history:")


def _accepted(endpoint: Endpoint) -> None:
    """What each model turned out to accept, and the button that has it learned anew."""
    learned = session.store().learned(endpoint.base_url)
    if not learned:
        return
    title, key = "What its models turned out to accept", f"connections.learned.{endpoint.name}"
    with st.expander(title, icon=":material/rule_settings:", key=key):
        for model, lessons in learned.items():
            with st.container(horizontal=True, wrap=False, vertical_alignment="center"):
                st.markdown(f"**{words.escape(model)}**  \n{words.escape(abilities.told(lessons))}", width="stretch")
                st.button(
                    "Forget",
                    key=f"connections.unlearn.{endpoint.name}.{model}",
                    icon=":material/delete:",
                    on_click=_unlearn,
                    args=(endpoint, model),
                    help="For when the server was changed: it is found out anew with the next request.",
                )


@frame.action
def _unlearn(endpoint: Endpoint, model: str) -> None:
    session.store().forget(endpoint.base_url, model)
    frame.notify(f"What {model} accepts is found out anew.")


def probe(endpoint: Endpoint) -> Probe:
    """What works at an endpoint, asked now."""
    try:
        # the local server is started if it sleeps: a test of something that is off says nothing
        there = endpoints.local_endpoint() if endpoint.is_local else endpoint
    except DroneFTError as error:
        return Probe(str(error), reachable=False)
    return probing.probe(there, session.key(endpoint))


def _key(endpoint: Endpoint) -> None:
    """The field for a key, and where the one in use comes from."""
    variable, origin = endpoints.key_variable(endpoint), session.key_origin(endpoint)
    empty = "Leave empty if it needs none" if endpoint.kind == "custom" else f"Paste it here, or set {variable}"
    st.text_input(
        "Key",
        type="password",
        key=f"connections.key.{endpoint.name}",
        placeholder="A key is in use; paste another to replace it" if origin else empty,
        on_change=_take_key,
        args=(endpoint,),
        width=420,
        help="Kept in this tab's memory only: never in a file, the database or a log. It is gone after a reload; "
        f"to keep it, set the environment variable {variable} or put it into Streamlit's secrets.",
    )
    if origin:
        with st.container(horizontal=True, vertical_alignment="center"):
            st.caption(f":material/key: A key is in use, from {origin}.", width="content")
            if session.is_typed(endpoint):
                st.button(
                    "Forget it",
                    key=f"connections.forget.{endpoint.name}",
                    type="tertiary",
                    on_click=_forget,
                    args=(endpoint,),
                )


def _take_key(endpoint: Endpoint) -> None:
    session.set_key(endpoint, st.session_state[f"connections.key.{endpoint.name}"])


def _forget(endpoint: Endpoint) -> None:
    st.session_state[f"connections.key.{endpoint.name}"] = ""
    session.set_key(endpoint, "")


def adder() -> None:
    """Add an endpoint by its base URL."""
    trouble = st.session_state.pop(_TROUBLE, "")
    with (
        st.expander("Add a connection", icon=":material/add:", expanded=bool(trouble), key="connections.adder"),
        st.form("connections.form", border=False),
        st.container(horizontal=True, vertical_alignment="bottom"),
    ):
        st.text_input("Name", key="connections.name", placeholder="vLLM in the office", max_chars=40, width=240)
        st.text_input(
            "Base URL",
            key="connections.url",
            placeholder="http://localhost:11434/v1",
            width=420,
            help="Where its OpenAI-compatible API begins; most end in /v1. Ollama: http://localhost:11434/v1. "
            "LM Studio: http://localhost:1234/v1. Azure: https://….openai.azure.com/openai/v1/",
        )
        st.selectbox(
            "Kind",
            ["custom", "azure"],
            key="connections.kind",
            format_func=lambda kind: {"custom": "Own server", "azure": "Azure OpenAI"}[kind],
            width=180,
        )
        st.form_submit_button("Add", icon=":material/add:", on_click=_try_to_add)
        if trouble:
            st.error(words.escape(trouble), icon=":material/error:")


@frame.action
def _try_to_add() -> None:
    """Add what the form says; what is wrong with it is said in the form, which stays open."""
    try:
        _add()
    except DroneFTError as error:
        st.session_state[_TROUBLE] = str(error)


def _add() -> None:
    now = st.session_state
    name, url, kind = now["connections.name"].strip(), now["connections.url"].strip(), now["connections.kind"]
    if not name or any(one.name.casefold() == name.casefold() for one in session.endpoints()):
        raise DroneFTError(
            f"There is a connection named {name} already. Choose another name." if name else "Give it a name first."
        )
    session.store().save_endpoint(Endpoint(name, _checked(url, kind), kind))
    now["connections.name"] = now["connections.url"] = ""
    frame.notify(f"{name} was added. Test it to see what works there.")


def _checked(url: str, kind: endpoints.Kind) -> str:
    """The base URL as it is stored; raises DroneFTError for what is none."""
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:
        parts = urllib.parse.SplitResult("", "", "", "", "")
    if parts.username or parts.password or parts.query:  # said without repeating it
        raise DroneFTError("A base URL is stored, so it must not hold a password or a key. Put the key into its field.")
    if parts.scheme not in ("http", "https") or not parts.hostname or len(url.split()) > 1:
        raise DroneFTError(
            "A base URL begins with http:// or https://, for example http://localhost:11434/v1. Correct it."
        )
    url = url.rstrip("/")
    return f"{url.removesuffix('/openai/v1')}/openai/v1/" if kind == "azure" else url


@frame.action
def _remove(endpoint: Endpoint) -> None:
    session.store().remove_endpoint(endpoint.name)
    session.set_key(endpoint, "")
    frame.notify(f"{endpoint.name} was removed; its trainings and answers stay. Add it again at any time.")
