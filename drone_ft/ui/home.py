"""The home page's parts: the way of the data and where it stands, what comes next, and the demo."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import streamlit as st

from drone_ft import dataset, permutations, pipeline, synthesis, work
from drone_ft.catalog import default_catalog
from drone_ft.dataset import Example
from drone_ft.evaluation import Report
from drone_ft.fine_tuning import Job
from drone_ft.ui import evaluating, models, reports, runs, session, words

DEMO: dict[str, Any] = {"epochs": None, "seed": 0}


@dataclass(frozen=True)
class Stop:
    """One of the six steps: its state in a few words, and whether it is done."""

    title: str
    icon: str
    page: str
    state: str
    done: bool


def way(jobs: list[Job]) -> list[Stop]:
    """The six steps from functions to a model one can talk to, as they stand; named as the pages are."""
    store = session.store()
    catalog, examples = store.catalog(), store.examples()
    tuned = models.tuned(models.ours(jobs, catalog.name))
    calls = sum(permutations.count_catalog(catalog).values())
    covered = f"{words.big(calls)} {words.form(calls, 'kind')} of call"
    report, enough = newest_report(), pipeline.is_enough(pipeline.ready(examples))
    return [
        Stop(
            "Catalog",
            ":material/menu_book:",
            "pages/catalog.py",
            words.count(len(catalog.callable_functions), "function"),
            True,
        ),
        Stop("Permutations", ":material/grid_view:", "pages/permutations.py", covered, True),
        Stop("Examples", ":material/forum:", "pages/examples.py", _words(examples, catalog.reject), enough),
        Stop(
            "Fine-tune",
            ":material/model_training:",
            "pages/fine_tune.py",
            words.count(len(tuned), "tuned model") if tuned else "not trained yet",
            bool(tuned),
        ),
        Stop("Evaluate", ":material/balance:", "pages/evaluate.py", _score(report), report is not None),
        Stop(
            "Playground",
            ":material/play_circle:",
            "pages/playground.py",
            "ask in your own words" if tuned else "waits for a tuned model",
            bool(tuned),
        ),
    ]


def cards(stops: list[Stop]) -> None:
    """The six steps as cards with links."""
    with st.grid(3, min_column_width=160):
        for number, stop in enumerate(stops, 1):
            with st.container(border=True, height="stretch", gap="xsmall"):
                mark = ":green[:material/check_circle:]" if stop.done else ":gray[:material/radio_button_unchecked:]"
                st.page_link(stop.page, label=f"**{number}. {stop.title}**", icon=stop.icon)
                st.markdown(f"{mark} :small[{words.escape(words.first_up(stop.state))}]")


def demo(stops: list[Stop], jobs: list[Job]) -> None:
    """The demo: an offer, its progress, why it stopped, or its verdict."""
    run = session.store().latest_run("demo")
    if run is None:
        _offer("secondary" if stops[2].done else "primary", jobs)
    elif run.is_under_way:
        runs.watch(run)
    elif run.status == "done":
        _done(run)
    else:
        runs.stopped(run)
        report = newest_report()
        if report:
            _verdict("The last verdict", report)
            _see(report)


def next_step(stops: list[Stop]) -> None:
    """The one thing to do next, for a person who goes step by step; nothing while the demo does it."""
    run = session.store().latest_run("demo")
    if run and run.is_under_way:
        return
    said, model, verdict = stops[2].done, stops[3].done, stops[4].done
    look = "primary" if (run.status == "done" if run else said) else "secondary"
    if not said:
        why = "Or go step by step. First come people's words for each call: that is what a model learns from."
        _next("Write examples", "pages/examples.py", why, look)
    elif not model:
        _next("Fine-tune a model", "pages/fine_tune.py", "Your examples are ready. Next, a model learns them.", look)
    elif not verdict:
        _next("Compare the models", "pages/evaluate.py", "A model is trained. Next, see whether it got better.", look)
    else:
        _next("Try both models", "pages/playground.py", "Ask base and tuned model in your own words.", look)


def newest_report() -> Report | None:
    """The newest report of the loaded catalog that compares two models; one of a single model is no verdict."""
    catalog = session.store().catalog().name
    newest = session.store().latest_report(catalog)
    if newest is None or len(newest.models) > 1:
        return newest
    return next((report for report in session.store().reports(catalog) if len(report.models) > 1), None)


def _offer(look: str, jobs: list[Job]) -> None:
    with st.container(border=True):
        st.subheader("See it work first", anchor=False)
        st.markdown(
            "The demo teaches a small language model to control a drone. It lists every command, writes people's words "
            "for each, trains the model on them, and then compares it with the untrained model on unseen requests."
        )
        time = models.training_time(_demo_examples(), dataset.auto_epochs(_demo_examples()), jobs)
        st.markdown(
            f":material/schedule: The training takes about {time}, the rest two or three minutes  \n"
            ":material/computer: The model is real and runs on this computer  \n"
            ":material/lock: No key is needed, and nothing leaves this computer"
        )
        _start("Run the demo", look)


def _demo_examples() -> int:
    """How many examples the demo will learn from: those there, or those it will write; some are kept aside."""
    there = session.store().examples(default_catalog().name)
    return sum(e.split != "test" for e in there) if there else round(0.85 * _written())


@functools.cache
def _written() -> int:
    return len(synthesis.write_examples(default_catalog()).examples)


def _done(run: work.Run) -> None:
    report, own = newest_report(), run.result.get("report_id", "")
    here = session.store().catalog().name == default_catalog().name
    if report:
        _verdict("The demo's verdict" if report.id == own else "The last verdict", report)
    elif here:
        st.info(
            "The demo has finished, but its report was removed. Run it again to get a new one.", icon=":material/info:"
        )
    with st.container(horizontal=True, vertical_alignment="center"):
        if report:
            _see(report)
        _start("Run the demo again" if here else "Run the drone demo again", "secondary")


def _verdict(title: str, report: Report) -> None:
    st.subheader(title, anchor=False)
    reports.verdict(report)
    reports.figures(report)
    reports.bars(report)
    reports.mistakes(report)


def _see(report: Report) -> None:
    if st.button("See every answer", icon=":material/balance:", key="home.evaluate"):
        evaluating.go_to(report)


def _start(label: str, look: str) -> None:
    other = session.store().catalog().name != default_catalog().name
    runs.start_button(label, "demo", DEMO.copy, "home.demo", type=look, icon=":material/play_arrow:")
    if other:
        st.caption(
            "The demo loads the drone catalog. Yours stays saved, with its examples; the catalog page brings it back."
        )


def _next(label: str, page: str, why: str, look: str) -> None:
    with st.container(border=True, horizontal=True, vertical_alignment="center", horizontal_alignment="distribute"):
        st.markdown(why, width="content")
        if st.button(label, type=look, icon=":material/arrow_forward:", key="home.next"):
            st.switch_page(page)


def _words(examples: list[Example], reject: str | None) -> str:
    if not examples:
        return "none written yet"
    impossible = sum(e.call.name == reject for e in examples)
    return f"{len(examples):,} written" + (f", {impossible:,} impossible" if impossible else "")


def _score(report: Report | None) -> str:
    if report is None:
        return "not measured yet"
    _, tuned = reports.pair(report)
    right, rejected = report.possible(tuned), report.impossible(tuned)
    said = [f"{reports.percent(right)} done right"] if right[1] else []
    said += [f"{reports.percent(rejected)} rightly refused"] if rejected[1] else []
    return ", ".join(said)
