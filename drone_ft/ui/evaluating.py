"""The evaluate page's parts: which models to ask which requests, and the reports."""

from __future__ import annotations

from typing import Any

import streamlit as st

from drone_ft import evaluation, pipeline
from drone_ft.catalog import Catalog
from drone_ft.errors import DatasetError
from drone_ft.evaluation import Report
from drone_ft.ui import frame, models, reports, runs, session


def empty() -> None:
    """No tuned model yet: what to do about it."""
    box = frame.empty(
        "**No tuned model yet**  \nTrain one, and this page shows what it does better or worse than the base model.",
        ":material/balance:",
    )
    with box, st.container(horizontal=True, horizontal_alignment="center"):
        if st.button("Fine-tune a model", type="primary", icon=":material/model_training:", key="evaluating.tune"):
            st.switch_page("pages/fine_tune.py")
        if st.button("Run the demo instead", key="evaluating.demo"):
            st.switch_page("pages/home.py")


def settings(catalog: Catalog, first: bool) -> None:
    """Base, tuned and the requests to ask, and the button that asks them; folded away under a report."""
    tuned, sets = models.tuned(), cases(catalog)
    again = "Ask again, other models or other requests"
    with st.container(border=True) if first else st.expander(again, icon=":material/refresh:"):
        with st.container(horizontal=True, vertical_alignment="bottom"):
            st.selectbox("Base model", models.bases(), format_func=models.name, key="evaluating.base", width=260)
            model = st.selectbox("Tuned model", list(tuned), format_func=models.name, key="evaluating.tuned", width=260)
            st.selectbox(
                "Requests",
                list(sets),
                key="evaluating.cases",
                width=360,
                format_func=lambda n: f"{reports.requests_title(n)} ({sets[n]})",
            )
        if not sets:
            st.info(
                "There are no requests for this catalog. Write examples first; some are kept aside for this.",
                icon=":material/info:",
            )
        st.caption("Both models are sent the same instructions, functions and requests.")
        look = {"type": "primary" if first else "secondary", "icon": ":material/play_arrow:"}
        runs.start_button(
            "Ask both models", "evaluate", _chosen, "evaluating.start", disabled=not sets or not model, **look
        )


def _chosen() -> dict[str, Any]:
    now = st.session_state
    return {"models": [now["evaluating.base"], now["evaluating.tuned"]], "cases": now["evaluating.cases"]}


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
    number = st.selectbox(
        "Report", range(len(found)), format_func=lambda i: reports.label(found[i]), key="evaluating.report"
    )
    return found[number or 0]


def show(report: Report) -> None:
    """A whole report, the verdict first."""
    reports.verdict(report)
    reports.figures(report)
    reports.bars(report)
    reports.mistakes(report)
    reports.by_function(report)
    reports.every_answer(report)
    reports.download(report)


def outcome() -> None:
    """Why the newest evaluation stopped, if it did."""
    last = runs.latest("evaluate")
    if last and last.status in ("failed", "cancelled"):
        runs.stopped(last)
