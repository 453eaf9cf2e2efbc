"""Having a model write the examples: where, how many, in whose tone, what it costs; and what was left out, and why."""

from __future__ import annotations

from typing import Any

import streamlit as st

from drone_ft import asking, endpoints, ledger, pacing, pipeline, prices, work
from drone_ft.catalog import Catalog
from drone_ft.endpoints import Endpoint
from drone_ft.synthesis import by_model
from drone_ft.synthesis.by_model import Prompts
from drone_ft.ui import models, runs, session, words

KIND = "compose"
_OPEN = "composing.open"
MOST_REASONS = 8  # told apart above the table
WHICH = {by_model.ALL: "Every call", by_model.UNCOVERED: "Calls without any example yet"}
_PROMPTS = {
    "values": ("Filling in values", "What the model is told when it chooses values for what a call leaves open."),
    "commands": ("Writing commands", "What it is told when it writes people's words for a call."),
    "impossible": ("Writing impossible requests", "What it is told when it writes what must be refused."),
}


def is_open() -> bool:
    """Whether the settings are shown."""
    return bool(st.session_state.get(_OPEN))


def offer(catalog: Catalog) -> None:
    """The settings behind a switch that says what they are for; nothing is worked out until it is opened."""
    if st.toggle(
        "Have a model write examples",
        key=_OPEN,
        help="A hosted one, or this computer's.",
        persist_state="session",
    ):
        with st.container(border=True):
            settings(catalog)


def settings(catalog: Catalog) -> None:
    """Who writes what, the estimate, and the button that starts."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        endpoint = models.where("composing.endpoint")
        model = models.choice(endpoint, "composing.model")
    locked = models.is_locked(endpoint)
    if endpoint.is_local and models.identity(model) == models.DEFAULT:
        st.caption(
            "A model this small writes little that can be used. All of it is checked, and what does not fit is left "
            "out, with the reason; a larger model does better."
        )
    with st.container(horizontal=True, vertical_alignment="bottom"):
        which = st.selectbox("For", list(WHICH), key="composing.which", format_func=WHICH.__getitem__, width=250)
        commands = st.number_input("Commands for each call", 1, 20, 2, key="composing.commands", width=170)
        impossible = st.number_input(
            "Impossible ones for each function", 0, 50, 3, key="composing.impossible", width=210
        )
        at_once = st.number_input(
            "At once",
            1,
            pacing.MOST_AT_ONCE,
            pacing.AT_ONCE,
            key="composing.at_once",
            width=110,
            help="Requests on their way together, at most. Where the server asks for patience, they are fewer.",
        )
    tone = st.text_input(
        "Tone",
        key="composing.tone",
        placeholder="Curt, like radio traffic. Or: friendly, a customer who never flew before.",
        help="How your people speak. Leave it empty for a mix.",
        persist_state="session",
    )
    prompts = _prompts(tone)
    batch = not endpoint.is_local and st.toggle(
        "Send them as a batch: half the price, within a day",
        key="composing.batch",
        help="For large amounts. Not every server can do it. You may close the app; start again to collect.",
    )
    plan = _plan(catalog, which, int(commands), int(impossible), prompts)
    _estimate(endpoint, model, plan, batch)
    chosen: dict[str, Any] = {
        "endpoint": endpoint.name,
        "model": model or None,
        "which": which,
        "commands": int(commands),
        "impossible": int(impossible),
        "at_once": int(at_once),
        "batch": batch,
        "prompts": prompts,
        "seed": _written_before(),
    }
    runs.start_button(
        "Write with this model",
        KIND,
        lambda: chosen,
        "composing.start",
        environment=lambda: session.environment(endpoint),
        type="primary",
        icon=":material/edit_note:",
        disabled=locked or not plan.templates or not (model or endpoint.is_local),
    )


def _written_before() -> int:
    """How often a model has written to the end: the next time it is asked anew, as kept answers would bring nothing."""
    return sum(run.kind == KIND and run.status == "done" for run in session.store().runs())


def _prompts(tone: str) -> dict[str, str]:
    """The instructions, with what the user changed of them; only what differs is kept."""
    own = {"tone": tone.strip()} if tone.strip() else {}
    with st.expander("What the model is told", icon=":material/tune:"):
        st.caption("Instructions in plain English. An empty field stands for the original.")
        for name, (label, about) in _PROMPTS.items():
            original = getattr(Prompts(), name)
            text = st.text_area(
                label, original, key=f"composing.prompt.{name}", height=160, help=about, persist_state="session"
            )
            if text.strip() and text != original:
                own[name] = text
    return own


def _plan(catalog: Catalog, which: str, commands: int, impossible: int, prompts: dict[str, str]) -> by_model.Plan:
    among = tuple(session.store().examples())
    templates = tuple(by_model.choose(catalog, which, among))
    return by_model.Plan(catalog, templates, commands, impossible, Prompts(**prompts), among)


def _estimate(endpoint: Endpoint, model: str, plan: by_model.Plan, batch: bool) -> None:
    if not plan.templates:
        st.info("Every call has an example already. Choose “Every call” to write more.", icon=":material/info:")
        return
    expected = by_model.estimate(plan, model, batch, asking.where(endpoint))
    tokens = expected.input_tokens + expected.output_tokens
    st.markdown(
        f":material/forum: About {words.count(len(plan.templates) * plan.commands, 'command')} for "
        f"{words.count(len(plan.templates), 'kind of call', 'kinds of call')}, "
        f"and {words.count(len(plan.functions) * plan.impossible, 'impossible request')}  \n"
        f":material/payments: {words.first_up(prices.expected(expected.requests, tokens, expected.cost))}"
    )


def outcome() -> None:
    """What the last writing by a model brought, and the ledger of what was left out."""
    run = runs.latest(KIND)
    anew = session.store().latest_run("write")
    if run is None or run.is_under_way or (anew and anew.created > run.created):
        return
    if run.status in ("failed", "cancelled"):
        runs.stopped(run, lambda: session.environment_of(run.settings.get("endpoint", endpoints.LOCAL)))
    written, left = run.result.get("written"), run.result.get("left_out_count", 0)
    if written is None:
        return
    cost = prices.words(run.result.get("cost"))
    st.success(
        f"{words.escape(run.result.get('model') or 'The model')} wrote {words.count(written, 'example')} ({cost}).",
        icon=":material/check_circle:",
    )
    if left:
        with st.expander(f"Left out: {left:,}, with the reason for each", icon=":material/rule:"):
            _ledger(run, left)


# Written once, when the writing ends.
_kept = st.cache_data(ledger.read, show_spinner=False, max_entries=4)


def _ledger(run: work.Run, left: int) -> None:
    """The reasons counted, the first entries, and all of them to download."""
    first = run.result.get("left_out", [])
    rows = _kept(session.store().folder / run.result.get("ledger", "")) or first
    counted = ledger.reasons(rows)
    said = [f"- **{times:,} ×** {words.escape(reason)}" for times, reason in counted[:MOST_REASONS]]
    rarer = sum(times for times, _ in counted[MOST_REASONS:])
    st.markdown("\n".join([*said, f"- **{rarer:,} ×** something else"] if rarer else said))
    st.dataframe(
        [_entry(row) for row in rows[: pipeline.MOST_LEFT_OUT]],
        hide_index=True,
        alt="What the model wrote or was asked for that is not among the examples, and why",
        column_config={
            "Words": st.column_config.TextColumn(width=300),
            "Left out because": st.column_config.TextColumn(width=380),
        },
    )
    if left > len(first):
        where = "all of them are in the download" if len(rows) == left else "the file with all of them is gone"
        st.caption(f"The first {len(first):,} of {left:,} are shown; {where}.")
    st.download_button(
        f"Download {words.count(len(rows), 'entry', 'entries')}",
        lambda: ledger.to_csv(rows),
        "left-out.csv",
        "text/csv",
        icon=":material/download:",
        key="composing.ledger",
        on_click="ignore",
        help="As a table for a spreadsheet.",
    )


def _entry(one: dict[str, Any]) -> dict[str, str]:
    call = one.get("call") or {}
    return {
        "Function": words.title(str(call.get("name", ""))),
        "Words": one.get("words") or "",
        "Left out because": one.get("reason") or "",
    }
