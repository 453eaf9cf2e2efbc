"""The evaluate page's parts: which models to ask which requests, and the reports."""

from __future__ import annotations

import json
from typing import Any

import streamlit as st

from drone_ft import endpoints, evaluation, pipeline, prices
from drone_ft.catalog import Catalog
from drone_ft.errors import DatasetError
from drone_ft.evaluation import Report
from drone_ft.ui import frame, models, reports, runs, session, words

_REPORT = "evaluating.report"
TOKENS_PER_REQUEST, TOKENS_PER_CALL = 20, 40  # about; for an estimate


def empty() -> None:
    """No tuned model yet: what to do about it."""
    box = frame.empty(
        "**No tuned model yet**  \nTrain one, and this page shows what it does better or worse than the base model.",
        ":material/balance:",
    )
    with box, st.container(horizontal=True, horizontal_alignment="center"):
        models.first_step("evaluating.tune", type="primary")
        if st.button("Run the demo instead", key="evaluating.demo"):
            st.switch_page("pages/home.py")


def settings(catalog: Catalog, first: bool) -> None:
    """Base, tuned and the requests to ask, and the button that asks them; folded away under a report."""
    tuned, bases, sets = models.tuned(), models.bases(), cases(catalog)
    again, best = "Compare other models or requests", next(iter(sets), "")
    with st.container(border=True) if first else st.expander(again, icon=":material/refresh:"):
        with st.container(horizontal=True, vertical_alignment="bottom"):
            models.start_from(
                st.session_state.get("evaluating.tuned") or next(iter(tuned), None), bases, "evaluating.base"
            )
            st.selectbox(
                "Base model",
                bases,
                format_func=models.name,
                key="evaluating.base",
                width=260,
                help=models.identities(bases),
            )
            model = st.selectbox("Tuned model", list(tuned), format_func=models.name, key="evaluating.tuned", width=340)
            st.selectbox(
                "Requests",
                list(sets),
                key="evaluating.cases",
                width=500,
                format_func=lambda n: (
                    f"{reports.requests_title(n)} ({sets[n]:,}{', recommended' if n == best and len(sets) > 1 else ''})"
                ),
            )
        if not sets:
            st.info(
                "There are no requests for this catalog. Write examples first; some are kept aside for this.",
                icon=":material/info:",
            )
        st.caption("Both models are sent the same instructions, functions and requests." + _price(catalog, sets))
        look = {"type": "primary" if first else "secondary", "icon": ":material/play_arrow:"}
        runs.start_button(
            "Ask both models", "evaluate", _chosen, "evaluating.start", _keys, disabled=not sets or not model, **look
        )


def _price(catalog: Catalog, sets: dict[str, int]) -> str:
    """What asking hosted models will cost, about, as a sentence; "" where all are on this computer."""
    now = st.session_state
    count = sets.get(now["evaluating.cases"] or "", 0)
    sent = (prices.tokens(json.dumps(catalog.to_json())) + TOKENS_PER_REQUEST) * count
    hosted = [
        (model, prices.cost(model, input=sent, output=TOKENS_PER_CALL * count))
        for model in (now["evaluating.base"], now["evaluating.tuned"])
        if model and models.place_of(model) != endpoints.LOCAL
    ]
    said = [f"{prices.words(cost, estimate=True)} for {models.name(model)}" for model, cost in hosted]
    return f"  \nWhat it costs: {words.escape(words.listed(said, 'and'))}." if said and count else ""


def _chosen() -> dict[str, Any]:
    now = st.session_state
    asked = [now["evaluating.base"], now["evaluating.tuned"]]
    places = [models.place_of(model) for model in asked]
    hosted = {"places": places} if set(places) != {endpoints.LOCAL} else {}
    return {"models": asked, "cases": now["evaluating.cases"], **hosted}


def _keys() -> dict[str, str]:
    return models.environment(st.session_state["evaluating.base"], st.session_state["evaluating.tuned"])


def cases(catalog: Catalog) -> dict[str, int]:
    """Sets of requests that fit the catalog, with their sizes."""
    found: dict[str, int] = {}
    for path in sorted(pipeline.CASES.glob("*.jsonl"), key=lambda p: (p.stem != "drone", p.stem)):
        try:
            found[path.stem] = len(evaluation.read_cases(path, catalog))
        except DatasetError:
            continue
    own = sum(example.split == "test" for example in session.store().examples())
    return found | ({pipeline.TEST_SPLIT: own} if own else {})


def choose(found: list[Report]) -> Report:
    """The report to show: the newest, or another one chosen."""
    if len(found) == 1:
        return found[0]
    by_id = {report.id: report for report in found}
    if st.session_state.get(_REPORT) not in by_id:
        st.session_state[_REPORT] = found[0].id
    chosen = st.selectbox("Report", list(by_id), format_func=lambda id: reports.label(by_id[id]), key=_REPORT)
    return by_id[chosen]


def go_to(report: Report) -> None:
    """Go to the evaluate page and show this report there, the tuned model's mistakes first."""
    st.session_state[_REPORT] = report.id
    if reports.is_ever_wrong(report):
        st.session_state[reports.kinds_key(report)] = [reports.TUNED_WRONG]
    st.switch_page("pages/evaluate.py")


def show(report: Report, catalog: Catalog) -> None:
    """A whole report, the verdict first."""
    reports.verdict(report)
    reports.figures(report)
    reports.bars(report)
    reports.mistakes(report)
    reports.more_examples(report, catalog)
    reports.by_function(report)
    reports.every_answer(report)
    reports.download(report)


def outcome() -> None:
    """Why the newest evaluation stopped, if it did."""
    last = runs.latest("evaluate")
    if last and last.status in ("failed", "cancelled"):
        runs.stopped(last, lambda: session.environment_of(*last.settings.get("places", ())))
