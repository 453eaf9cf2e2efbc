"""Having a model write the examples: where, how many, in whose tone, what it costs; and what was left out, and why."""

from __future__ import annotations

from typing import Any

import streamlit as st

from drone_ft import asking, endpoints, ledger, pacing, pipeline, prices, work
from drone_ft.catalog import Call, Catalog
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
        kept: dict[str, Any] = {"persist_state": "session"}
        which = st.selectbox(
            "For", list(WHICH), key="composing.which", format_func=WHICH.__getitem__, width=250, **kept
        )
        commands = st.number_input("Commands for each call", 1, 20, 2, key="composing.commands", width=170, **kept)
        impossible = st.number_input(
            "Impossible ones for each function", 0, 50, 3, key="composing.impossible", width=210, **kept
        )
        at_once = st.number_input(
            "At once",
            1,
            pacing.MOST_AT_ONCE,
            pacing.AT_ONCE,
            key="composing.at_once",
            width=110,
            help="Requests on their way together, at most. Where the server asks for patience, they are fewer.",
            **kept,
        )
    tone = st.text_input(
        "Tone",
        key="composing.tone",
        placeholder="Curt, like radio traffic. Or: friendly, a customer who never flew before.",
        help="How your people speak. Leave it empty for a mix.",
        **kept,
    )
    prompts = _prompts(tone)
    has_price = prices.cost(model, input=1, where=asking.where(endpoint)) is not None
    batch = not endpoint.is_local and st.toggle(
        f"Send them as a batch{': half the price' if has_price else ''}, within a day",
        key="composing.batch",
        help="For large amounts. Not every server can do it. You may close the app; start again to collect.",
        **kept,
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
        "seed": _seed(),
    }
    runs.start_button(
        "Write with this model",
        KIND,
        lambda: chosen,
        "composing.start",
        environment=lambda: session.environment(endpoint),
        type="secondary" if goes_on() else "primary",
        icon=":material/edit_note:",
        disabled=locked or not plan.templates or not (model or endpoint.is_local),
    )


def _seed() -> int:
    """A number that asks anew, each time a model has written to the end: kept answers would bring nothing then.

    Where requests went unanswered it stays, as what was paid for must not be asked again unless the user says so.
    """
    runs = [run for run in session.store().runs() if run.kind == KIND]
    if runs and st.toggle(
        "Ask anew what was answered before",
        key="composing.anew",
        help="Otherwise answers that are there already are used again, and only what is missing is asked.",
    ):
        return len(runs)
    return sum(run.status == "done" and not run.result.get("unanswered") for run in runs)


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


def _last() -> work.Run | None:
    """The last writing by a model that is over, unless all was written anew since."""
    run = runs.latest(KIND)
    anew = session.store().latest_run("write")
    return None if run is None or run.is_under_way or (anew and anew.created > run.created) else run


def goes_on() -> bool:
    """Whether the last writing has something left to ask, for which it has a button of its own."""
    run = _last()
    return run is not None and bool(run.status != "done" or run.result.get("unanswered"))


def outcome() -> None:
    """What the last writing by a model brought, and the ledger of what was left out."""
    run = _last()
    if run is None:
        return
    if run.status == "failed":
        runs.stopped(run, lambda: _keys(run))
    elif run.status == "cancelled":
        _stopped(run)
    elif "written" in run.result:
        _brought(run)
        missing = run.result.get("unanswered", 0)
        if missing:
            _go_on(run, f"Ask the {missing:,} that are missing" if missing > 1 else "Ask the one that is missing")
    if run.result.get("left_out_count"):
        with st.expander(f"{_shares(run)}: the reason for each", icon=":material/rule:"):
            _ledger(run, run.result["left_out_count"])


def _stopped(run: work.Run) -> None:
    written, rest = run.result.get("written", 0), run.result.get("not_asked", 0)
    saved = f"{words.count(written, 'example')} {words.form(written, 'is', 'are')} saved{_paid(run)}"
    still = f"; {words.count(rest, 'request')} {words.form(rest, 'is', 'are')} still to ask" if rest else ""
    with st.container(border=True):
        st.markdown(f":material/pause_circle: **Writing has stopped.** {saved}{still}.")
        _go_on(run, "Go on")


def _go_on(run: work.Run, label: str) -> None:
    """The button that asks what was not answered; answers that are there are not asked, or paid for, again."""
    look = {"type": "primary", "icon": ":material/play_circle:"}
    runs.start_button(label, KIND, lambda: run.settings, "runs.again.compose", lambda: _keys(run), **look)


def _keys(run: work.Run) -> dict[str, str]:
    return session.environment_of(run.settings.get("endpoint", endpoints.LOCAL))


def _brought(run: work.Run) -> None:
    """What a writing brought that came to its end: examples, nothing new, or not a single answer."""
    name, new = words.escape(run.result.get("model") or "The model"), run.result["written"]
    missing, answered = run.result.get("unanswered", 0), run.result.get("answered", 1)
    if new and missing:
        without = f"{words.count(missing, 'request')} went without an answer"
        st.warning(f"{name} wrote {words.count(new, 'example')}{_paid(run)}; {without}.", icon=":material/warning:")
    elif new:
        st.success(f"{name} wrote {words.count(new, 'example')}{_paid(run)}.", icon=":material/check_circle:")
    elif missing and not answered:
        reason = words.escape(ledger.why_unanswered(_rows(run)))
        st.error(f"{name} answered none of {words.count(missing, 'request')}: {reason}", icon=":material/error:")
    else:
        shares = f": {_shares(run)}" if run.result.get("left_out_count") else ""
        st.warning(f"{name} wrote nothing new{_paid(run)}{shares}.", icon=":material/warning:")


def _paid(run: work.Run) -> str:
    """What was paid, in brackets; nothing where nothing was answered now."""
    return f" ({words.escape(prices.words(run.result.get('cost')))})" if run.result.get("answered", 1) else ""


def _shares(run: work.Run) -> str:
    """What the ledger is made of: 34 not asked yet, 1 left out."""
    named = {"had": "you already have", "not_asked": "not asked yet", "unanswered": "without an answer"}
    parts = {label: run.result.get(key, 0) for key, label in named.items()}
    parts["left out"] = run.result.get("left_out_count", 0) - sum(parts.values())
    return ", ".join(f"{number:,} {label}" for label, number in parts.items() if number > 0)


# Written once, when the writing ends.
_kept = st.cache_data(ledger.read, show_spinner=False, max_entries=4)


def _rows(run: work.Run) -> list[ledger.Row]:
    """The whole ledger, or its first entries where its file is gone."""
    rows: list[ledger.Row] = run.result.get("left_out", [])
    return _kept(session.store().folder / run.result.get("ledger", "")) or rows


def _ledger(run: work.Run, left: int) -> None:
    """The reasons counted, the first entries, and all of them to download."""
    rows, first = _rows(run), run.result.get("left_out", [])
    counted = ledger.reasons(rows)
    said = [f"- **{times:,} ×** {words.escape(reason)}" for times, reason in counted[:MOST_REASONS]]
    rarer = sum(times for times, _ in counted[MOST_REASONS:])
    st.markdown("\n".join([*said, f"- **{rarer:,} ×** something else"] if rarer else said))
    st.dataframe(
        [_entry(row, session.store().catalog().reject) for row in rows[: pipeline.MOST_LEFT_OUT]],
        hide_index=True,
        alt="What the model wrote or was asked for that is not among the examples, and why",
        column_config={
            "Words": st.column_config.TextColumn(width=150) if any(row.get("words") for row in rows) else None,
            "Why": st.column_config.TextColumn(width=330),
            "Call": st.column_config.TextColumn(width=300),
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


def _entry(one: ledger.Row, reject: str | None) -> dict[str, str]:
    """An entry as a row; the words, where there are any, and the reason first: a telephone shows no more."""
    made, near = one.get("call") or {}, ledger.near(one)
    call = words.call(Call(str(made.get("name", "")), made.get("arguments") or {}), reject)
    return {
        "Words": one.get("words") or "",
        "Why": ledger.reason(one),
        "Call": f"{call}, near {words.title(near)}" if near else call,
    }
