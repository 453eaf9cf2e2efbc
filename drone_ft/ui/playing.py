"""The playground's parts: one request, and what base and tuned model make of it."""

from __future__ import annotations

import re
from collections import Counter

import openai
import streamlit as st

from drone_ft import endpoints, evaluation, pipeline
from drone_ft.catalog import Catalog, problems
from drone_ft.dataset import Example
from drone_ft.errors import DroneFTError
from drone_ft.evaluation import Answer
from drone_ft.ui import frame, models, session, words

_ASKED = "playing.asked"
_TEXT = "playing.text"
SUGGESTIONS = 4
TIDY_LETTERS = 45  # four of them fit a row
_TIDY = re.compile(r"[A-Z][a-z']+( ([a-z']{2,}|a|I)){3,}[.?]?")  # a plain sentence, without figures


def empty() -> None:
    """No tuned model yet: what is missing, and how to get it."""
    box = frame.empty(
        "**Nothing to compare yet**  \nYou can ask the base model now. Once you have trained one, both answer.",
        ":material/play_circle:",
    )
    with box, st.container(horizontal=True, horizontal_alignment="center"):
        if st.button("Fine-tune a model", icon=":material/model_training:", key="playing.tune"):
            st.switch_page("pages/fine_tune.py")


def request(catalog: Catalog) -> str | None:
    """The request to ask, typed or suggested; None until somebody asks."""
    with st.form("playing.form", border=False), st.container(horizontal=True, vertical_alignment="bottom"):
        text = st.text_input(
            "Your request", key=_TEXT, placeholder="What should be done? Write it as you would say it."
        )
        asked = st.form_submit_button("Ask", type="primary", icon=":material/send:")
    offered = suggestions(catalog)
    if offered:
        st.pills("Or try one of these", offered, key="playing.suggestion", on_change=_take)
    if asked and not (text or "").strip():
        st.error("Write a request first, then ask.", icon=":material/error:")
    pressed = asked or st.session_state.pop("playing.now", False)
    return text.strip() if pressed and text and text.strip() else None


def suggestions(catalog: Catalog) -> list[str]:
    """A few requests of different functions from the examples kept aside, one of them impossible."""
    examples = session.store().examples()
    said = Counter(word for e in examples for word in e.prompt.lower().split())

    def oddity(example: Example) -> tuple[bool, float]:
        tidy = _TIDY.fullmatch(example.prompt) and len(example.prompt) < TIDY_LETTERS
        return not tidy, -min(said[word] for word in example.prompt.lower().split())

    # A suggestion is read before it is asked: the tidy ones first, and those with no rare word, such as a misspelt one.
    kept = sorted((e for e in examples if e.split == "test" and e.prompt.strip()), key=oddity)
    by_function: dict[str, str] = {}
    for example in kept:
        by_function.setdefault(example.call.name, example.prompt)
    impossible = [by_function.pop(catalog.reject)] if catalog.reject in by_function else []
    possible = list(by_function.values())
    step = max(1, len(possible) // (SUGGESTIONS - 1))
    return possible[::step][: SUGGESTIONS - 1] + impossible


def _take() -> None:
    """A suggestion was pressed: put it into the field and ask it."""
    chosen = st.session_state.get("playing.suggestion")
    if chosen:
        st.session_state[_TEXT] = chosen
        st.session_state["playing.now"] = True


def answers(catalog: Catalog, prompt: str | None) -> None:
    """The models beside each other, each with its answer to the last request; asks them when there is one."""
    tuned = models.tuned()
    slot = st.container()
    left, right = st.columns(2)
    asked = [left.selectbox("Base model", models.bases(), format_func=models.name, key="playing.base")]
    if tuned:
        asked.append(right.selectbox("Tuned model", list(tuned), format_func=models.name, key="playing.tuned"))
    boxes = [place.empty() for place, _ in zip((left, right), asked, strict=False)]
    if prompt:
        for box in boxes:
            box.caption("Its answer appears here.")  # or the last one would stay until this one comes
        with slot, st.spinner("Asking. A model that was not asked for a while takes some seconds longer …"):
            client = endpoints.client(endpoints.local_endpoint())
            asked = [model or pipeline.base_model(client) for model in asked]
            st.session_state[_ASKED] = {model: _ask(client, model, catalog, prompt) for model in asked}
    last: dict[str, Answer] = st.session_state.get(_ASKED, {})
    for box, model, role in zip(boxes, asked, ("base", "tuned"), strict=False):
        with box.container(border=True, height="stretch"):
            if model in last:
                _answer(catalog, last[model], role)
            else:
                st.caption("Its answer appears here.")


def _ask(client: openai.OpenAI, model: str, catalog: Catalog, prompt: str) -> Answer:
    try:
        return evaluation.ask(client, model, catalog, prompt)
    except DroneFTError as error:
        return Answer(prompt, None, error=str(error))


def _answer(catalog: Catalog, given: Answer, role: str) -> None:
    """One answer: what was asked, what the model would do, and how long it took."""
    st.caption(f"“{words.escape(given.prompt)}”")
    if given.error:
        st.error(words.escape(given.error), icon=":material/error:")
        return
    if given.call is None:
        st.markdown("**No call**")
        st.markdown(words.escape(given.text) or "The model said nothing.")
    elif given.call.name == catalog.reject:
        st.subheader("Says no", anchor=False, icon=":material/block:")
        st.markdown("The model takes this for an impossible or unclear request.")
    else:
        st.subheader(words.title(given.call.name), anchor=False, icon=":material/bolt:")
        known = {function.name: function.parameters for function in catalog.functions}
        meanings = known.get(given.call.name, {}).get("properties", {})
        fields = {
            _named(name, value, meanings.get(name)): words.escape(words.value(value))
            for name, value in given.call.arguments.items()
        }
        if fields:
            st.table(fields, border="horizontal", alt=f"Values of the call by the {role} model")
        wrong = problems(catalog, given.call)
        if wrong:
            st.warning(
                f"This call breaks the catalog's rules: {words.escape('; '.join(wrong))}.", icon=":material/warning:"
            )
    st.space("stretch")
    st.caption(f"Answered in {given.seconds:.1f} s")
    if given.call is not None:
        with st.expander("As JSON", icon=":material/data_object:"):
            st.json(given.call.to_json())


def _named(name: str, value: object, schema: object) -> str:
    """An argument's name; a number's with its description, which tells the unit."""
    meaning = schema.get("description", "") if isinstance(schema, dict) and type(value) in (int, float) else ""
    return words.title(name) + (f"  \n:small[:gray[{words.escape(meaning)}]]" if meaning else "")
