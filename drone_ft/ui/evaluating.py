"""The evaluate page's parts: which models to ask which requests, and the reports."""

from __future__ import annotations

import json
from typing import Any

import streamlit as st

from drone_ft import asking, endpoints, evaluation, pipeline, prices
from drone_ft.catalog import Catalog
from drone_ft.errors import DatasetError
from drone_ft.evaluation import Report
from drone_ft.fine_tuning import Job
from drone_ft.ui import connections, frame, models, preflight, reports, runs, session, words
from drone_ft.ui.models import Choice

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


def settings(catalog: Catalog, jobs: list[Job], first: bool) -> None:
    """Base, tuned and the requests to ask, and the button that asks them; folded away under a report."""
    tuned, bases, sets = models.tuned(jobs), models.bases(jobs), cases(catalog)
    again, best = "Compare other models or requests", next(iter(sets), "")
    with st.container(border=True) if first else st.expander(again, icon=":material/refresh:"):
        with st.container(horizontal=True, vertical_alignment="bottom"):
            shown = st.session_state.get("evaluating.tuned") or next(iter(tuned), None)
            models.start_from(models.before(shown, bases, jobs), shown, "evaluating.base")
            base = models.pick("Base model", bases, "evaluating.base", width=260, help=models.identities(bases))
            model = models.pick("Tuned model", tuned, "evaluating.tuned", width=340)
            st.selectbox(
                "Requests",
                list(sets),
                key="evaluating.cases",
                width=500,
                format_func=lambda n: (
                    f"{reports.requests_title(n)} ({sets[n]:,}{', recommended' if n == best and len(sets) > 1 else ''})"
                ),
            )
        connections.missing_one()
        if not sets:
            st.info(
                "There are no requests for this catalog. Write examples first; some are kept aside for this.",
                icon=":material/info:",
            )
        asked = {one: found[one] for one, found in ((base, bases), (model, tuned)) if one}
        price = _price(catalog, sets.get(st.session_state["evaluating.cases"] or "", 0), asked)
        st.caption(
            "Both models are sent the same instructions, functions and requests."
            + _left_out(catalog, asked)
            + (f"  \n{price}" if price else "")
        )
        names = [one.endpoint for one in asked]
        locked = [
            models.is_locked(place) for place in session.endpoints() if not place.is_local and place.name in names
        ]
        look = {"type": "primary" if first else "secondary", "icon": ":material/play_arrow:"}
        off = not sets or not model or any(locked)
        runs.start_button("Ask both models", "evaluate", _chosen, "evaluating.start", _keys, disabled=off, **look)


def _left_out(catalog: Catalog, asked: dict[Choice, str]) -> str:
    """What the services among the models' places are not sent, as they were not in training; "" for nothing."""
    names = [one.endpoint for one in asked]
    said = [preflight.left_out(place, catalog) for place in session.endpoints() if place.name in names]
    return "".join(f"  \n{words.escape(sentence)}" for sentence in said if sentence)


def _price(catalog: Catalog, count: int, asked: dict[Choice, str]) -> str:
    """What asking hosted models so many requests costs, about, as a sentence; "" where all are on this computer."""
    sent = (prices.tokens(json.dumps(catalog.to_json())) + TOKENS_PER_REQUEST) * count
    where = {place.name: asking.where(place) for place in session.endpoints()}
    hosted = [
        (name, prices.cost(one.model, input=sent, output=TOKENS_PER_CALL * count, where=where.get(one.endpoint, "")))
        for one, name in asked.items()
        if one.endpoint != endpoints.LOCAL
    ]
    known = [cost for _, cost in hosted if cost is not None]
    if not hosted or not count:
        return ""
    if not known:
        return "Price unknown."
    if len(hosted) == len(known) == 2:
        said = [f"{prices.words(sum(known), estimate=True)} for both"]
    else:
        said = [f"{prices.words(cost, estimate=True)} for {name}" for name, cost in hosted]
    return words.escape(f"{words.first_up(words.listed(said, 'and'))}.")


def _chosen() -> dict[str, Any]:
    now = st.session_state
    asked: list[Choice] = [now["evaluating.base"], now["evaluating.tuned"]]
    places = [one.endpoint for one in asked]
    hosted = {"places": places} if set(places) != {endpoints.LOCAL} else {}
    return {"models": [one.model for one in asked], "cases": now["evaluating.cases"], **hosted}


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


def choose(found: list[Report], jobs: list[Job]) -> Report:
    """The report to show: the newest, or another one chosen."""
    if len(found) == 1:
        return found[0]
    by_id = {report.id: report for report in found}
    if st.session_state.get(_REPORT) not in by_id:
        st.session_state[_REPORT] = found[0].id
    chosen = st.selectbox("Report", list(by_id), format_func=lambda id: reports.label(by_id[id], jobs), key=_REPORT)
    return by_id[chosen]


def go_to(report: Report) -> None:
    """Go to the evaluate page and show this report there, the tuned model's mistakes first."""
    st.session_state[_REPORT] = report.id
    if reports.is_ever_wrong(report):
        st.session_state[reports.kinds_key(report)] = [reports.TUNED_WRONG]
    st.switch_page("pages/evaluate.py")


def show(report: Report, catalog: Catalog, jobs: list[Job]) -> None:
    """A whole report, the verdict first."""
    reports.verdict(report, jobs)
    reports.figures(report)
    asked = {
        Choice(report.endpoints.get(model, ""), report.called(model)): reports.named(report, model, jobs)
        for model in report.models
    }
    cost = _price(catalog, len(report.cases), asked)
    if cost and cost != "Price unknown.":
        st.caption(f"What asking cost, an estimate: {cost[0].lower()}{cost[1:]}")
    reports.bars(report, jobs)
    reports.mistakes(report)
    reports.more_examples(report, catalog)
    reports.by_function(report, jobs)
    reports.every_answer(report)
    reports.download(report)


def outcome() -> None:
    """Why the newest evaluation stopped, if it did."""
    last = runs.latest("evaluate")
    if last and last.status in ("failed", "cancelled"):
        runs.stopped(last, lambda: session.environment_of(*last.settings.get("places", ())))
