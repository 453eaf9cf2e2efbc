"""Before an upload: what is wrong with the examples for a target, what can be put right by a button, what it costs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import streamlit as st

from drone_ft import asking, checks, pipeline, prices
from drone_ft.catalog import Catalog
from drone_ft.checks import Finding
from drone_ft.dataset import Example
from drone_ft.endpoints import Endpoint
from drone_ft.ui import session, words

_CHECKED = "preflight.checked"
_FIXES = "preflight.fixes"
_MARKS = {"error": ":red[:material/error:]", "warning": ":orange[:material/warning:]", "note": ":gray[:material/info:]"}
MOST_LISTED = 8  # findings of one kind on the page
MOST_NAMED = 4  # functions in a sentence


def fixes() -> list[str]:
    """What the user chose to have put right, in the order it is done."""
    return [name for name in checks.FIXES if name in st.session_state.get(_FIXES, ())]


def costs(endpoint: Endpoint, model: str, ready: Sequence[Example], epochs: int) -> str:
    """How many tokens are trained on and what that costs, as a line of text; an estimate."""
    counted = _counted(_digest(ready), ready, session.store().catalog(), pipeline.target(endpoint), epochs)
    price = prices.cost(model, training=counted.trained, where=asking.where(endpoint))
    return f"{words.first_up(words.about(counted.trained))} tokens to train on, {prices.words(price, estimate=True)}"


def left_out(endpoint: Endpoint, catalog: Catalog) -> str:
    """What an endpoint is not sent of the functions, as a sentence; "" where it is sent all of them."""
    pairs = zip(catalog.functions, pipeline.sent(catalog, endpoint).functions, strict=True)
    names = [words.title(function.name) for function, sent in pairs if function != sent]
    if not names:
        return ""
    where = words.listed(names, "and") if len(names) <= MOST_NAMED else words.count(len(names), "function")
    return (
        f"{endpoint.name} takes no rules such as “this value only with that one”: they are left out of {where}, "
        "in training and when its models are asked."
    )


def panel(endpoint: Endpoint, ready: Sequence[Example]) -> None:
    """What is changed for where the examples go, a button that checks them for it, and what it found."""
    changed = left_out(endpoint, session.store().catalog())
    if changed:
        st.caption(f"{words.escape(changed)} The examples still show when to use what.")
    digest = f"{_digest(ready)} {pipeline.target(endpoint)}"
    if st.button("Check the examples first", icon=":material/fact_check:", key="preflight.check"):
        st.session_state[_CHECKED] = digest
        st.session_state[_FIXES] = ()
    if st.session_state.get(_CHECKED) != digest:
        st.session_state[_FIXES] = ()  # they were chosen for other examples, or another place
        return
    with st.spinner("Reading every example …"):
        found = _found(digest, ready, session.store().catalog(), pipeline.target(endpoint), fixes())
    with st.container(border=True):
        st.markdown(f"**{words.escape(checks.summary(found))}**")
        for rule in dict.fromkeys(finding.rule for finding in found):
            _rule([finding for finding in found if finding.rule == rule], endpoint)
        if fixes():
            done = words.listed([_label(name, endpoint) for name in fixes()], "and")
            st.caption(f"Put right before the upload: {words.escape(done[:1].lower() + done[1:])}.")
            st.button("Undo these changes", icon=":material/undo:", key="preflight.undo", on_click=_undo)


def _label(fix: str, endpoint: Endpoint) -> str:
    """A fix as its button says it; a run's settings keep the name it has in `checks.FIXES`."""
    return fix.replace("the target", endpoint.name)


def _rule(found: list[Finding], endpoint: Endpoint) -> None:
    """The findings of one rule, the button that puts them right, and the list of them."""
    first = found[0]
    more = f" And {len(found) - 1:,} more like it." if len(found) > 1 else ""
    # which field it is helps those who know the file; the others read past it
    said = str(first).replace(f", {first.field}: ", ": ", 1)
    st.markdown(
        f"{_MARKS[first.severity]} {words.escape(said)}{more}", help=f"In the file: {words.escape(first.field)}"
    )
    if not first.fix and not more:
        return
    with st.container(horizontal=True):
        if first.fix:
            st.button(
                words.escape(_label(first.fix, endpoint)),
                key=f"preflight.fix.{first.rule}",
                icon=":material/build:",
                on_click=_fix,
                args=(first.fix,),
            )
        if more:
            with st.popover(f"Show {'them' if len(found) <= MOST_LISTED else f'{MOST_LISTED} of them'}"):
                st.markdown("\n".join(f"- {words.escape(str(finding))}" for finding in found[:MOST_LISTED]))


def _fix(name: str) -> None:
    st.session_state[_FIXES] = (*st.session_state.get(_FIXES, ()), name)


def _undo() -> None:
    st.session_state[_FIXES] = ()


def _digest(ready: Sequence[Example]) -> str:
    """The same for the same files: an example's id follows from its words and call."""
    text = json.dumps([session.store().catalog().to_json(), [(example.id, example.split) for example in ready]])
    return hashlib.sha256(text.encode()).hexdigest()


def _find(digest: str, _ready: Sequence[Example], _catalog: Catalog, target: str, fixes: list[str]) -> list[Finding]:
    train, test = pipeline.training_files(_ready, _catalog, target, fixes)
    return checks.check(train, test or None, target, _catalog)


def _count(digest: str, _ready: Sequence[Example], _catalog: Catalog, target: str, epochs: int) -> Any:
    return checks.tokens(pipeline.training_files(_ready, _catalog, target)[0], epochs)


_found = st.cache_data(_find, show_spinner=False, max_entries=8)
_counted = st.cache_data(_count, show_spinner=False, max_entries=8)
