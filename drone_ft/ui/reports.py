"""An evaluation report on a page: the verdict, the figures, the bars, and every answer."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import streamlit as st

from drone_ft import charts, endpoints, evaluation, pipeline
from drone_ft.catalog import Call, Catalog
from drone_ft.evaluation import Answer, Outcome, Report
from drone_ft.fine_tuning import Job
from drone_ft.ui import examples, models, session, words

_CHART = {"displayModeBar": False}
TITLES = {
    "drone": "Drone requests, written apart from the examples",
    "drone_fresh": "More drone requests, by other writers",
    "cookbook": "The cookbook's nine requests",
    pipeline.TEST_SPLIT: "Your own examples kept aside",
}
# Which requests were asked, behind their number.
ASKED = {
    "drone": "written apart from the examples",
    "drone_fresh": "written by others, apart from the examples",
    "cookbook": "of the cookbook",
    pipeline.TEST_SPLIT: "of your own, kept aside",
}
NEVER_CAME = "An answer never came"
TUNED_WRONG = "Tuned is wrong"
TELLING = 4  # requests of a function, at least, before it is called the weakest
MISTAKES = {
    Outcome.WRONG_ARGUMENTS: "{} with wrong values",
    Outcome.WRONG_FUNCTION: "{} with the wrong function",
    Outcome.WRONGLY_REJECTED: "{} refused though possible",
    Outcome.SHOULD_HAVE_REJECTED: "{} done though impossible",
    Outcome.NO_CALL: "{} answered without a call",
}
# by whether base and tuned are right
RESULTS = {
    (False, True): "Only tuned is right",
    (True, False): "Only base is right",
    (False, False): "Both wrong",
    (True, True): "Both right",
}
# Kinds that take in several results.
TOGETHER = {TUNED_WRONG: (RESULTS[False, False], RESULTS[True, False])}


def verdict(report: Report, jobs: Sequence[Job] = ()) -> None:
    """One sentence: is the tuned model better, and how sure is that."""
    base, tuned = pair(report)
    if base == tuned:
        right, rejected = report.possible(base), report.impossible(base)
        st.info(
            f"{words.escape(named(report, base, jobs))} was asked alone: {right[0]} of {right[1]} possible requests "
            f"exactly right, {rejected[0]} of {rejected[1]} impossible ones rejected. Ask two models to compare them.",
            icon=":material/balance:",
        )
        return
    found = report.verdict(base, tuned)
    sure = found.p is not None and found.p < 0.05
    if found.good:
        st.success(words.escape(found.sentence), icon=":material/verified:")
    elif sure and found.better > found.worse:
        st.warning(words.escape(found.sentence), icon=":material/trending_up:")
    elif sure:
        st.error(words.escape(found.sentence), icon=":material/trending_down:")
    else:
        st.info(words.escape(found.sentence), icon=":material/balance:")
    chance = f" Exact McNemar test: p = {found.p:.2g}." if found.p is not None else ""
    st.caption(
        f"Both were asked the same {words.count(len(report.cases), 'request')}"
        f"{f', {ASKED[report.name]}' if report.name in ASKED else ''}. Neither model was trained on any of them."
        f"{words.escape(_asked_at(report))}",
        help=f"Only the tuned model was right {found.better:,} times, only the base {found.worse:,} times.{chance}",
    )


def _asked_at(report: Report) -> str:
    """Where the models were asked, as a sentence; "" where all are on this computer, or nobody wrote it down."""
    base, tuned = ("on this computer" if at == endpoints.LOCAL else f"at {at}" for at in _places(report))
    if not all(_places(report)) or set(_places(report)) == {endpoints.LOCAL}:
        return ""
    if base == tuned:
        return f" Both were asked {base}."
    return f" The base model was asked {base}, the tuned one {tuned}."


def _places(report: Report) -> list[str]:
    return [report.endpoints.get(model, "") for model in pair(report)]


def figures(report: Report) -> None:
    """The tuned model's figures, each with the base model's beside it."""
    base, tuned = pair(report)
    if base == tuned:
        return
    with st.grid(4, min_column_width=190):
        _share(
            "Possible: right",
            report.possible(tuned),
            report.possible(base),
            "Requests a function can do: the right function was called with exactly the right values.",
        )
        _share(
            "Impossible: rejected",
            report.impossible(tuned),
            report.impossible(base),
            "Requests no function can do, or that are unclear: the model said no.",
        )
        st.metric(
            "Time per answer",
            f"{report.pace(tuned):.2f} s",
            f"base {report.pace(base):.2f} s",
            border=True,
            delta_color="off",
            delta_arrow="off",
            height="stretch",
            help=f"Up to {evaluation.AT_ONCE} requests are asked at once. At a service, half of the answers took less "
            "than this; on this computer it is the time of all, divided by their number.",
        )
        unscored = sum(report.outcomes(model)[Outcome.UNSCORED] for model in (base, tuned))
        lost = f"{words.count(unscored, 'answer')} never came" if unscored else "every answer came"
        st.metric(
            "Requests asked",
            f"{len(report.cases)}",
            lost,
            border=True,
            delta_color="off",
            delta_arrow="off",
            height="stretch",
            help=f"{words.escape(requests_title(report.name))}. "
            "Answers that never came count neither as right nor as wrong.",
        )


def bars(report: Report, jobs: Sequence[Job] = ()) -> None:
    """How each request was answered, base and tuned one above the other."""
    base, tuned = pair(report)
    st.subheader("How the requests were answered", anchor=False)
    st.plotly_chart(
        charts.outcome_bars(report, lambda model: named(report, model, jobs)),
        key=f"reports.bars.{report.id}",
        config=_CHART,
        alt=f"Of {len(report.cases)} requests, {report.outcomes(base)[Outcome.CORRECT]} correct by "
        + named(report, base, jobs)
        + (f" and {report.outcomes(tuned)[Outcome.CORRECT]} by the tuned model" if base != tuned else ""),
    )


def mistakes(report: Report) -> None:
    """Where the tuned model still fails, in a sentence or two."""
    base, tuned = pair(report)
    wrong = Counter(o for o in report.scores(tuned) if o not in (Outcome.CORRECT, Outcome.UNSCORED))
    if base == tuned or not wrong:
        return
    kinds = words.listed([MISTAKES[outcome].format(number) for outcome, number in wrong.most_common()], "and")
    st.markdown(
        f"The tuned model got {words.count(wrong.total(), 'request')} wrong: {kinds}. {_weakness(report, tuned)}"
    )


def more_examples(report: Report, catalog: Catalog) -> None:
    """The way from a report to a better model: write examples where the tuned one is weakest."""
    base, tuned = pair(report)
    name = weakest(report, tuned)
    if base == tuned or name not in [function.name for function in catalog.functions]:
        return
    impossible = name == catalog.reject
    label = f"Add examples for {'impossible requests' if impossible else words.title(name)}"
    if st.button(label, icon=":material/add:", key=f"reports.more.{report.id}"):
        examples.narrow(None if impossible else name, "Impossible" if impossible else None)
        examples.begin("", Call(name))


def weakest(report: Report, model: str) -> str:
    """The function a model is worst at, among those asked often enough to tell; empty where it is never wrong."""
    shares = report.by_function(model)
    telling = (name for name in report.weakest_first() if shares[name][1] >= TELLING)
    return next((name for name in telling if shares[name][0] < shares[name][1]), "")


def _weakness(report: Report, model: str) -> str:
    name = weakest(report, model)
    if not name:
        return ""
    right, of = report.by_function(model)[name]
    title = "impossible requests" if name == report.reject else f"“{words.title(name)}”"
    return f"It is weakest at {words.escape(title)}, with {right} of {of} right."


def by_function(report: Report, jobs: Sequence[Job] = ()) -> None:
    """How often each function was called exactly right."""
    st.subheader("Each function", anchor=False)
    st.caption("How often the right call was made, with the right values; the weakest first.")
    st.plotly_chart(
        charts.accuracy_by_function(report, words.title, lambda model: named(report, model, jobs)),
        key=f"reports.functions.{report.id}",
        config=_CHART,
        alt="Share of requests answered exactly right, per function and model",
    )


def every_answer(report: Report) -> None:
    """Every answer of both models as a table, narrowed to where they differ or to how they did."""
    base, tuned = pair(report)
    st.subheader("Every answer", anchor=False)
    if base == tuned:
        _answers_of_one(report)
        return
    results = _results(report)
    apart, wanted = report.differences(base, tuned), list(range(len(results)))
    if not apart:
        st.caption("Both models gave the same answer to every request.")
    elif st.toggle(f"Only where the two models differ ({len(apart)})", key=f"reports.apart.{report.id}"):
        wanted = apart
    kinds = [kind for kind in (*RESULTS.values(), NEVER_CAME) if kind in results]
    groups = [kind for kind, parts in TOGETHER.items() if any(part in results for part in parts)]
    chosen = st.pills(
        "Show only",
        [*groups, *kinds],
        key=kinds_key(report),
        selection_mode="multi",
        format_func=lambda kind: f"{kind} ({sum(results[i] in TOGETHER.get(kind, (kind,)) for i in wanted)})",
    )
    kept = [result for kind in chosen for result in TOGETHER.get(kind, (kind,))]
    shown = [_row(report, i, results[i]) for i in wanted if not chosen or results[i] in kept]
    if not shown:
        st.caption("No answer matches. Choose other ones above.")
        return
    st.dataframe(
        shown,
        hide_index=True,
        height=520,
        row_height=70,  # from 65 on, long cells are wrapped; three lines fit
        alt="Requests, their right answers, and what base and tuned model answered",
        column_config={
            **dict.fromkeys(("Request", "Tuned", "Right answer", "Base"), st.column_config.TextColumn(width=180)),
            "Result": None if len(kinds) == 1 or len(kept) == 1 else st.column_config.TextColumn(width=95),
        },
    )


def _answers_of_one(report: Report) -> None:
    """Every answer of a model that was asked alone."""
    (model,) = report.models
    scores = report.scores(model)
    kinds = list(dict.fromkeys(scores))
    chosen = st.pills(
        "Show only",
        kinds,
        key=kinds_key(report),
        selection_mode="multi",
        format_func=lambda kind: f"{words.first_up(kind.words)} ({scores.count(kind)})",
    )
    rows = [
        {
            "Request": case.prompt,
            "Answer": answer(given, report.reject),
            "Right answer": words.call(case.call, report.reject),
            "Result": words.first_up(kind.words),
        }
        for case, given, kind in zip(report.cases, report.answers[model], scores, strict=True)
        if not chosen or kind in chosen
    ]
    st.dataframe(
        rows,
        hide_index=True,
        height=520,
        row_height=70,
        alt="Requests, right answers, and the model's",
        column_config={
            **dict.fromkeys(("Request", "Answer", "Right answer"), st.column_config.TextColumn(width=215)),
            "Result": st.column_config.TextColumn(width=130),
        },
    )


def download(report: Report) -> None:
    """The figures, the verdict with its probability, and every answer, as JSON."""
    base, tuned = pair(report)
    verdict = {} if base == tuned else {"verdict": dataclasses.asdict(report.verdict(base, tuned))}
    answers = [
        {
            "prompt": case.prompt,
            "expected": case.call.to_json(),
            **{m: _plain(report.answers[m][i]) for m in (base, tuned)},
        }
        for i, case in enumerate(report.cases)
    ]
    body = json.dumps({**report.to_json(), **verdict, "answers": answers}, ensure_ascii=False, indent=1)
    st.download_button(
        "Download all answers",
        body,
        f"evaluation-{report.id}.json",
        "application/json",
        icon=":material/download:",
        on_click="ignore",
    )


def pair(report: Report) -> tuple[str, str]:
    """Base and tuned model of a report; the same one twice where only one was asked."""
    return report.models[0], report.models[-1]


def named(report: Report, model: str, jobs: Sequence[Job] = ()) -> str:
    """The name for people of one of a report's models; a tuned one's is in its training, if that is among `jobs`."""
    return models.name(models.Choice(report.endpoints.get(model, ""), report.called(model)), jobs)


def label(report: Report, jobs: Sequence[Job] | None = None) -> str:
    """A report in a list: what was compared, when; without `jobs` they are read."""
    jobs = session.store().jobs() if jobs is None else jobs
    base, tuned = pair(report)
    against = "alone" if base == tuned else f"against {named(report, base, jobs)}"
    return f"{named(report, tuned, jobs)} {against}, asked {models.moment(report.created)}"


def requests_title(name: str) -> str:
    """A set of requests under a name people understand."""
    return TITLES.get(name, words.title(name))


def percent(share: tuple[int, int]) -> str:
    """A share in whole per cent; a dash where nothing was asked."""
    correct, of = share
    return f"{round(100 * correct / of)}%" if of else "–"


def _share(title: str, tuned: tuple[int, int], base: tuple[int, int], meaning: str) -> None:
    text = f"{tuned[0]} of {tuned[1]}, base {percent(base)}" if tuned[1] else "none were asked"
    st.metric(
        title, percent(tuned), text, border=True, delta_color="off", delta_arrow="off", height="stretch", help=meaning
    )


def _row(report: Report, index: int, result: str) -> dict[str, Any]:
    case, (base, tuned) = report.cases[index], pair(report)
    return {
        "Request": case.prompt,
        "Tuned": answer(report.answers[tuned][index], report.reject),
        "Right answer": words.call(case.call, report.reject),
        "Base": answer(report.answers[base][index], report.reject),
        "Result": result,
    }


def kinds_key(report: Report) -> str:
    """Where a tab remembers which answers of a report it shows."""
    return f"reports.kinds.{report.id}"


def is_ever_wrong(report: Report) -> bool:
    """Whether there is an answer of the tuned model to look into."""
    return len(report.models) > 1 and any(result in TOGETHER[TUNED_WRONG] for result in _results(report))


def _results(report: Report) -> list[str]:
    """How base and tuned did, case by case."""
    base, tuned = pair(report)
    return [_result(*both) for both in zip(report.scores(base), report.scores(tuned), strict=True)]


def _result(was: Outcome, now: Outcome) -> str:
    if Outcome.UNSCORED in (was, now):
        return NEVER_CAME
    return RESULTS[was == Outcome.CORRECT, now == Outcome.CORRECT]


def answer(given: Answer, reject: str | None) -> str:
    """An answer as a sentence."""
    if given.error:
        return f"No answer came: {given.error}"
    if given.call is None:
        return f"No call: {given.text[:120]}" if given.text else "No call"
    return words.call(given.call, reject)


def _plain(given: Answer) -> dict[str, Any]:
    return {
        "call": given.call.to_json() if given.call else None,
        "text": given.text,
        "seconds": round(given.seconds, 3),
        "error": given.error,
    }
