"""Above the table of examples: edit one through typed fields, add one, approve or remove several."""

from __future__ import annotations

import dataclasses

import streamlit as st

from drone_ft import dataset
from drone_ft.catalog import Call, Catalog, problems
from drone_ft.dataset import Example
from drone_ft.ui import call_form, frame, session, words
from drone_ft.ui import examples as page
from drone_ft.ui.examples import ADDING, EDITING, ORIGINS, SETS, START

DRAFT = "A draft stays in the list, but no model is trained on it until you approve it."


def panel(selected: list[Example], examples: list[Example], catalog: Catalog) -> None:
    """What can be done with the selection: edit one, approve or remove several, or add a new one.

    An editor stays open until it is saved or closed, whatever is ticked meanwhile.
    """
    edited = page.edited(examples)
    if st.session_state.get(ADDING):
        with st.container(border=True):
            st.subheader("New example", anchor=False)
            _editor(None, examples, catalog)
    elif edited is not None:
        with st.container(border=True):
            st.subheader("Edit this example", anchor=False)
            _editor(edited, examples, catalog)
    else:
        _bar(selected)


def _bar(selected: list[Example]) -> None:
    """One line, whatever is ticked: the table below it must not move under the hand that ticks."""
    with st.container(border=True, horizontal=True, vertical_alignment="center", height=74):
        if not selected:
            st.caption("Tick a row, then press Edit. Tick several to approve them, mark them as drafts or remove them.")
            return
        st.markdown(f"**{words.count(len(selected), 'example')} ticked**", width="content")
        if len(selected) == 1 and st.button("Edit", type="primary", icon=":material/edit:", key="examples.edit"):
            st.session_state[EDITING] = selected[0].id
            st.rerun()
        drafts = [e for e in selected if e.status == "draft"]
        ready = [e for e in selected if e.status != "draft"]
        if drafts and st.button(
            "Approve" if len(selected) == 1 else f"Approve {words.count(len(drafts), 'draft')}",
            icon=":material/check:",
            key="examples.approve_all",
        ):
            _mark(drafts, "approved")
        if ready and st.button(
            "Mark as draft" if len(selected) == 1 else f"Mark {len(ready):,} as {'drafts' if ready[1:] else 'a draft'}",
            icon=":material/draft:",
            key="examples.draft_all",
            help=DRAFT,
        ):
            _mark(ready, "draft")
        _remove(selected)


def _mark(examples: list[Example], status: str) -> None:
    """Approve examples, or make them drafts again."""
    session.store().change_examples([dataclasses.replace(example, status=status) for example in examples])
    done = "approved" if status == "approved" else "left out of training until approved"
    frame.notify(f"{words.count(len(examples), 'example')} {done}.")
    st.rerun()


def _remove(selected: list[Example]) -> None:
    if st.button(
        "Remove" if len(selected) == 1 else f"Remove all {len(selected)}",
        icon=":material/delete:",
        key="examples.remove",
    ):
        session.store().remove_examples([e.id for e in selected])
        frame.notify(f"{words.count(len(selected), 'example')} removed. You can undo this.", ":material/delete:")
        st.rerun()


def _editor(example: Example | None, examples: list[Example], catalog: Catalog) -> None:
    """Fields for one example, and the buttons to save, approve, remove or close."""
    key = f"examples.edit.{example.id if example else 'new'}"
    begun: tuple[str, Call | None] = st.session_state.get(START) or ("", None)
    start = (example.prompt, example.call) if example else begun
    left, right = st.columns(2)
    with left:
        prompt = st.text_area(
            "A person says", start[0], key=f"{key}.prompt", placeholder="Write it as a person would say it."
        )
        if example:
            st.caption(
                f"Used for: {SETS.get(example.split, example.split)}. "
                f"Written by: {ORIGINS.get(example.origin, example.origin)}."
            )
    with right:
        call = call_form.edit(catalog, start[1], key)
    with st.container(horizontal=True):
        saving = st.button("Save", type="primary", icon=":material/save:", key=f"{key}.save")
        if example and example.status == "draft":
            if st.button("Approve as it is", icon=":material/check:", key=f"{key}.approve"):
                _mark([example], "approved")
        elif example and st.button("Mark as draft", icon=":material/draft:", key=f"{key}.draft", help=DRAFT):
            _mark([example], "draft")
        if example:
            _remove([example])
        if st.button("Close", key=f"{key}.close"):
            _close()
            st.rerun()
    if saving:
        _save(example, prompt or "", call, examples, catalog)
    if call is not None:
        with st.expander("As JSON", icon=":material/data_object:"):
            st.json(call.to_json())


def _save(example: Example | None, prompt: str, call: Call | None, examples: list[Example], catalog: Catalog) -> None:
    """Save what was entered, or say in a sentence what is missing."""
    words_given = " ".join(prompt.split())
    if not words_given:
        st.error("The words are missing. Write what a person would say.", icon=":material/error:")
        return
    if call is None:
        st.error("Choose what the model should do with these words.", icon=":material/error:")
        return
    wrong = problems(catalog, call)
    if wrong:
        st.error(f"Not saved: {words.escape('; '.join(wrong))}. Correct it, then save.", icon=":material/error:")
        return
    new = _changed(example, words_given, call, examples)
    if new.id != (example.id if example else None) and any(e.id == new.id for e in examples):
        st.error(
            "These words with this call are in the list already. Change the words, or close this.",
            icon=":material/error:",
        )
        return
    session.store().save_example(new, example.id if example else None)
    _close()
    if example is None:
        page.added(new.id)
    used = f" for {SETS[new.split].lower()}" if new.split in ("train", "test") else ""
    frame.notify(f"Saved{used}." + ("" if example else " It stands first in the table."))
    st.rerun()


def _close() -> None:
    st.session_state[ADDING], st.session_state[EDITING], st.session_state[START] = False, None, None


def _changed(example: Example | None, prompt: str, call: Call, examples: list[Example]) -> Example:
    if example is None:
        return dataset.complete_split([*examples, dataset.make_example(prompt, call)])[-1]
    same_call = example.call == call
    if same_call and prompt == example.prompt:
        return dataclasses.replace(example, status="approved")
    accept = example.accept if same_call else {}
    edited = dataset.make_example(prompt, call, template=example.template, accept=accept)
    return dataset.place([edited], [e for e in examples if e.id != example.id])[0]
