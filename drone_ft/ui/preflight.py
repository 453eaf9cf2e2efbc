"""Before an upload: what is wrong with the examples for a target, what can be put right by a button, what it costs."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from drone_ft import asking, checks, pipeline, prices, probing
from drone_ft.catalog import Call, Catalog
from drone_ft.checks import Finding, reading
from drone_ft.checks.fixes import DUPLICATES, LEAKS, LONG, UNUSABLE
from drone_ft.checks.reading import Row
from drone_ft.dataset import Example
from drone_ft.endpoints import Endpoint
from drone_ft.ui import session, words

_CHECKED = "preflight.checked"
_FIXES = "preflight.fixes"
_MARKS = {"error": ":red[:material/error:]", "warning": ":orange[:material/warning:]", "note": ":gray[:material/info:]"}
MOST_LISTED = 8  # findings of one kind on the page
MOST_NAMED = 4  # functions in a sentence
_LABELS = {
    UNUSABLE: "Leave out what cannot be used",
    LONG: "Leave out what is too long",
    DUPLICATES: "Keep one of each",
    LEAKS: "Leave it out of the test",
}
Told = tuple[Finding, str]  # a finding, and what the page says of it


def fixes() -> list[str]:
    """What the user chose to have put right, in the order it is done."""
    return [name for name in checks.FIXES if name in st.session_state.get(_FIXES, ())]


def costs(endpoint: Endpoint, model: str, ready: Sequence[Example], epochs: int) -> str:
    """How many tokens are trained on and what that costs, an estimate; below it, when the model stops answering."""
    chosen, catalog = _in_force(endpoint, ready), session.store().catalog()
    counted = _counted(_digest(ready), ready, catalog, pipeline.target(endpoint), epochs, chosen)
    price = prices.cost(model, training=counted.trained, where=asking.where(endpoint))
    said = f"{words.first_up(words.about(counted.trained))} tokens to train on, {prices.words(price, estimate=True)}"
    probe = session.probes().get(endpoint.name)
    day = dict(probe.retires).get(model) if probe else None
    if day is None:
        return said
    sentence = f"{words.escape(model)} and whatever is trained from it stop answering on {probing.date(day)}."
    return f"{said}  \n:orange[:material/event_busy: {sentence}]"


def sizes(endpoint: Endpoint, ready: Sequence[Example]) -> tuple[int, int]:
    """How many examples are uploaded to learn from and kept aside, without those that the chosen fixes leave out."""
    chosen, target = _in_force(endpoint, ready), pipeline.target(endpoint)
    files = _files(_digest(ready), ready, session.store().catalog(), target, chosen)
    return files[0].count("\n"), files[1].count("\n")


def _in_force(endpoint: Endpoint, ready: Sequence[Example]) -> list[str]:
    """The chosen fixes, if they were chosen for these examples and this place."""
    return fixes() if st.session_state.get(_CHECKED) == f"{_digest(ready)} {pipeline.target(endpoint)}" else []


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


def panel(endpoint: Endpoint, ready: Sequence[Example]) -> bool:
    """What is changed for where the examples go, a button that checks them for it, and what it found.

    Whether that would stop the upload.
    """
    changed = left_out(endpoint, session.store().catalog())
    if changed:
        st.caption(f"{words.escape(changed)} The examples still show when to use what.")
    digest = f"{_digest(ready)} {pipeline.target(endpoint)}"
    if st.button("Check the examples first", icon=":material/fact_check:", key="preflight.check"):
        st.session_state[_CHECKED] = digest
        st.session_state[_FIXES] = ()
    if st.session_state.get(_CHECKED) != digest:
        st.session_state[_FIXES] = ()  # they were chosen for other examples, or another place
        return False
    with st.spinner("Reading every example …"):
        found = _found(digest, ready, session.store().catalog(), pipeline.target(endpoint), fixes())
    with st.container(border=True):
        st.markdown(f"**{words.escape(checks.summary([finding for finding, _ in found]))}**")
        for rule in dict.fromkeys(finding.rule for finding, _ in found):
            _rule([told for told in found if told[0].rule == rule], endpoint)
        if fixes():
            st.caption(words.escape(_done(endpoint, ready)))
            st.button("Undo these changes", icon=":material/undo:", key="preflight.undo", on_click=_undo)
    return any(finding.severity == "error" for finding, _ in found)


def _done(endpoint: Endpoint, ready: Sequence[Example]) -> str:
    """What the chosen fixes leave out, and what else they change."""
    learning = sum(example.split == "train" for example in ready)
    kept, aside = sizes(endpoint, ready)
    less, fewer = learning - kept, sum(example.split == "test" for example in ready) - aside
    out = [words.count(less, "example") + " to learn"] if less else []
    out += [words.count(fewer, "example") + " kept aside"] if fewer else []
    said = [f"Left out of the upload: {words.listed(out, 'and')}."] if out else []
    if others := [_label(name, endpoint) for name in fixes() if name not in _LABELS]:
        done = words.listed(others, "and")
        said.append(f"Put right before the upload: {done[:1].lower()}{done[1:]}.")
    return " ".join(said)


def _label(fix: str, endpoint: Endpoint) -> str:
    """A fix as its button says it; a run's settings keep the name it has in `checks.FIXES`."""
    return _LABELS.get(fix) or fix.replace("the target", endpoint.name)


def _rule(found: list[Told], endpoint: Endpoint) -> None:
    """The findings of one rule, the button that puts them right, and the list of them."""
    first, said = found[0]
    number = sum(_number(finding) for finding, _ in found)
    more = f" And {number - 1:,} more like it." if number > 1 else ""
    # the place helps those who know the file; the others read past it
    place = f"line {first.line}, {first.field}" if first.line else first.field
    st.markdown(f"{_MARKS[first.severity]} {words.escape(said)}{more}", help=f"In the file: {words.escape(place)}")
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
            with st.popover(f"Show {'them' if number <= MOST_LISTED else f'{MOST_LISTED} of them'}"):
                st.markdown("\n".join(f"- {words.escape(told)}" for _, told in found[:MOST_LISTED]))


def _number(finding: Finding) -> int:
    """How many findings one stands for: the last of very many counts the others."""
    counted = re.search(r": ([\d,]+) more of the same kind", str(finding))
    return int(counted[1].replace(",", "")) if counted else 1


def _told(finding: Finding, rows: Mapping[tuple[str, int], Row], reject: str | None) -> str:
    """A finding for people who never saw the file: the example's words in place of its line."""
    found = str(finding).partition(f", {finding.field}: ")[2]
    row, at = rows.get((finding.file, finding.line)), re.search(r"line (\d+)", found)
    other = rows.get((finding.file, int(at[1]))) if at else None
    said = f"“{words.short(row.words, 60)}”" if row else "An example"
    match finding.rule:
        case "conflict" if row and other:
            return f"{said} has two answers: {_answer(other, reject)}, and {_answer(row, reject)}."
        case "content":
            return "One example has no words."
        case "duplicate":
            return f"{said} is there more than once, with the same answer."
        case "near duplicate" if other:
            return f"{said} is nearly the same as “{words.short(other.words, 60)}”. Say one of them in other words."
        case "leak":
            return f"{said} is kept aside for testing, and learnt from as well: it would show only what is remembered."
        case "coverage" if names := re.match(r"no example calls (.+); add", found):
            return f"No example for {words.listed([words.title(name) for name in names[1].split(', ')], 'and')}."
        case "coverage" if values := re.match(r"no example says (.+); add", found):
            function, _, parameter = finding.field.partition(".")
            return f"No example for {words.title(function)} with {words.title(parameter).lower()} {values[1]}."
        case "grounding" if row and (told := re.match(r"(\S+) has (\S+) (\S+), which", found)):
            return f"{said} does not say the {words.title(told[2]).lower()} of {words.title(told[1])}, {told[3]}."
        case "no impossible requests":
            return "No example of an impossible request: the model will not learn to refuse one."
        case "unknown to target":
            function = words.title(found.partition(" uses ")[0])
            return f"{function} has rules that may not be known there. The examples still show when to use what."
    found = found.replace(" more line", " more example")
    return f"{said}: {found}" if row else words.first_up(found)


def _answer(row: Row, reject: str | None) -> str:
    return words.call(row.answer, reject) if isinstance(row.answer, Call) else f"“{words.short(str(row.answer), 60)}”"


def _fix(name: str) -> None:
    st.session_state[_FIXES] = (*st.session_state.get(_FIXES, ()), name)


def _undo() -> None:
    st.session_state[_FIXES] = ()


def _digest(ready: Sequence[Example]) -> str:
    """The same for the same files: an example's id follows from its words and call."""
    text = json.dumps([session.store().catalog().to_json(), [(example.id, example.split) for example in ready]])
    return hashlib.sha256(text.encode()).hexdigest()


def _make(digest: str, _ready: Sequence[Example], _catalog: Catalog, target: str, fixes: list[str]) -> tuple[str, str]:
    return pipeline.training_files(_ready, _catalog, target, fixes)


def _find(digest: str, _ready: Sequence[Example], _catalog: Catalog, target: str, fixes: list[str]) -> list[Told]:
    train, test = _files(digest, _ready, _catalog, target, fixes)
    rows = {(row.file, row.line): row for row in reading.given(train, test or None, target, _catalog).rows}
    found = checks.check(train, test or None, target, _catalog)
    return [(finding, _told(finding, rows, _catalog.reject)) for finding in found]


def _count(
    digest: str, _ready: Sequence[Example], _catalog: Catalog, target: str, epochs: int, fixes: list[str]
) -> Any:
    return checks.tokens(_files(digest, _ready, _catalog, target, fixes)[0], epochs)


_files = st.cache_data(_make, show_spinner=False, max_entries=8)
_found = st.cache_data(_find, show_spinner=False, max_entries=8)
_counted = st.cache_data(_count, show_spinner=False, max_entries=8)
