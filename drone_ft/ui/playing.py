"""The playground's parts: one request, and what base and tuned model make of it."""

from __future__ import annotations

import re
from collections import Counter

import openai
import streamlit as st

from drone_ft import evaluation, pipeline, probing
from drone_ft.catalog import Catalog, problems
from drone_ft.dataset import Example
from drone_ft.endpoints import Endpoint
from drone_ft.errors import DroneFTError
from drone_ft.evaluation import Answer
from drone_ft.fine_tuning import Job
from drone_ft.ui import connections, examples, frame, models, session, words
from drone_ft.ui.models import Choice

_ASKED = "playing.asked"
_TEXT = "playing.text"
SUGGESTIONS = 4
TIDY_LETTERS = 45  # four of them fit a row
LONGEST = 1_000  # letters of a request: a pasted book would keep the models busy for minutes
_TIDY = re.compile(r"[A-Z][a-z']+( ([a-z']{2,}|a|I)){3,}[.?]?")  # a plain sentence, without figures


def empty() -> None:
    """No tuned model yet: what is missing, and how to get it."""
    box = frame.empty(
        "**Nothing to compare yet**  \nYou can ask the base model now. Once you have trained a model, both answer.",
        ":material/play_circle:",
    )
    with box, st.container(horizontal=True, horizontal_alignment="center"):
        models.first_step("playing.tune")


def request(catalog: Catalog) -> str | None:
    """The request to ask, typed or suggested; None until somebody asks."""
    with st.form("playing.form", border=False), st.container(horizontal=True, vertical_alignment="bottom"):
        text = st.text_input(
            "Your request", key=_TEXT, placeholder="What should be done? Write it as you would say it."
        )
        asked = st.form_submit_button("Ask", type="primary", icon=":material/send:")
    offered = suggestions(catalog)
    if offered:
        st.pills(
            "Or try one of these",
            list(offered),
            key="playing.suggestion",
            on_change=_take,
            format_func=lambda prompt: f"{prompt} (should be refused)" if offered.get(prompt) else prompt,
        )
    text = (text or "").strip()
    trouble = st.empty()  # always there: what moves up while the models are asked leaves its old self behind
    if asked and not text:
        trouble.error("Write a request first, then ask.", icon=":material/error:")
    if len(text) > LONGEST:
        trouble.error(
            f"This request has {len(text):,} letters, and one may have up to {LONGEST:,}. Shorten it, then ask.",
            icon=":material/error:",
        )
        return None
    pressed = asked or st.session_state.pop("playing.now", False)
    return text if pressed and text else None


def suggestions(catalog: Catalog) -> dict[str, bool]:
    """A few requests of different functions from the examples kept aside; whether they should be refused, as one is."""
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
    return dict.fromkeys(possible[::step][: SUGGESTIONS - 1], False) | dict.fromkeys(impossible, True)


def _take() -> None:
    """A suggestion was pressed: put it into the field and ask it."""
    chosen = st.session_state.get("playing.suggestion")
    if chosen:
        st.session_state[_TEXT] = chosen
        st.session_state["playing.now"] = True


def answers(catalog: Catalog, jobs: list[Job], prompt: str | None) -> None:
    """The models beside each other, each with its answer to the last request; asks them when there is one."""
    tuned, bases = models.tuned(jobs), models.bases(jobs)
    slot = st.container()
    left, right = st.columns(2)
    shown = st.session_state.get("playing.tuned") or next(iter(tuned), None)
    models.start_from(models.before(shown, bases, jobs), shown, "playing.base")
    with left:
        picked = [models.pick("Base model", bases, "playing.base")]
    if tuned:
        with right:
            picked.append(models.pick("Tuned model", tuned, "playing.tuned"))
    asked = [one for one in picked if one]
    connections.missing_one()
    names = [one.endpoint for one in asked]
    if any(models.is_locked(at) for at in session.endpoints() if not at.is_local and at.name in names):
        prompt = None
    below = st.empty()
    boxes = [place.empty() for place, _ in zip((left, right), asked, strict=False)]
    if prompt:
        for box in boxes:
            box.caption("Its answer appears here.")  # or the last one would stay until this one comes
        with slot, st.spinner("Asking. A model that was not asked for a while takes some seconds longer …"):
            places = [models.endpoint(one) for one in asked]
            clients = [session.client(place) for place in places]
            asked = [
                Choice(one.endpoint, one.model or pipeline.base_model(client))
                for one, client in zip(asked, clients, strict=True)
            ]
            st.session_state[_ASKED] = {
                one: _ask(place, client, one.model, pipeline.sent(catalog, place), prompt)
                for one, place, client in zip(asked, places, clients, strict=True)
            }
    last: dict[Choice, Answer] = st.session_state.get(_ASKED, {})
    for box, one, role in zip(boxes, asked, ("base", "tuned"), strict=False):
        with box.container(border=True, height="stretch"):
            if one in last:
                _answer(catalog, last[one], role)
            else:
                st.caption("Its answer appears here.")
    said = [last[one] for one in asked if one in last]
    if said:
        with below.container():
            _afterwards(catalog, said)


def _afterwards(catalog: Catalog, given: list[Answer]) -> None:
    """Below the answers: what was expected, where that is known, and the way to teach the request."""
    prompt = given[-1].prompt
    known = next((e for e in session.store().examples() if e.prompt == prompt), None)
    if known is not None:
        learnt = " The tuned model may have learnt from this very example." if known.split == "train" else ""
        st.markdown(f"**Expected:** {words.escape(words.call(known.call, catalog.reject))}.{learnt}")
    elif st.button("Add this request as an example", icon=":material/add:", key="playing.add"):
        examples.begin(prompt, given[-1].call)


def _ask(place: Endpoint, client: openai.OpenAI, model: str, catalog: Catalog, prompt: str) -> Answer:
    try:
        return evaluation.ask(client, model, catalog, prompt, memory=session.store())
    except DroneFTError as error:
        bad_key = getattr(error, "status", None) == 401
        told = (
            f"{probing.key_wanted(place, session.key(place))} That is done in the settings." if bad_key else str(error)
        )
        return Answer(prompt, None, error=told)


def _answer(catalog: Catalog, given: Answer, role: str) -> None:
    """One answer: what was asked, what the model would do, and how long it took."""
    st.caption(f"“{words.escape(given.prompt)}”")
    if given.error:
        st.error(words.escape(given.error), icon=":material/error:")
        return
    if given.call is None:
        st.markdown("**No call**")
        st.markdown(words.escape(words.short(given.text, 500)) or "The model said nothing.")
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
