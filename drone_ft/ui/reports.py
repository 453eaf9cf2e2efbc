"""An evaluation report on a page: the verdict, the figures, the bars, and every case where two models differ."""

from __future__ import annotations

import json
from typing import Any

import streamlit as st

from drone_ft import charts
from drone_ft.evaluation import Answer, Outcome, Report
from drone_ft.ui import models, words

_CHART = {"displayModeBar": False}


def verdict(report: Report) -> None:
    """One sentence: is the tuned model better, and how sure is that."""
    base, tuned = pair(report)
    found = report.verdict(base, tuned)
    sure = found.p is not None and found.p < 0.05
    if sure and found.better > found.worse:
        st.success(words.escape(found.sentence), icon=":material/verified:")
    elif sure:
        st.error(words.escape(found.sentence), icon=":material/trending_down:")
    else:
        st.info(words.escape(found.sentence), icon=":material/balance:")


def figures(report: Report) -> None:
    """The tuned model's figures, each with the base model's beside it."""
    base, tuned = pair(report)
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
        each = {model: report.seconds[model] / max(1, len(report.cases)) for model in (base, tuned)}
        st.metric(
            "Time for an answer",
            f"{each[tuned]:.2f} s",
            f"base {each[base]:.2f} s",
            border=True,
            delta_color="off",
            delta_arrow="off",
            height="stretch",
            help="Average over all requests, asked many at once.",
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
            help="Neither model was trained on these. Answers that never came count neither as right nor as wrong.",
        )


def bars(report: Report) -> None:
    """What became of every request, base and tuned one above the other."""
    base, tuned = pair(report)
    st.subheader("What became of every request", anchor=False)
    st.plotly_chart(
        charts.outcome_bars(report),
        key=f"reports.bars.{report.id}",
        config=_CHART,
        alt=f"Of {len(report.cases)} requests, {report.outcomes(base)[Outcome.CORRECT]} correct by the base model "
        f"and {report.outcomes(tuned)[Outcome.CORRECT]} by the tuned model",
    )


def by_function(report: Report) -> None:
    """How often each function was called exactly right."""
    st.subheader("Each function", anchor=False)
    st.caption("How often the right call was made, with the right values; the weakest first.")
    st.plotly_chart(
        charts.accuracy_by_function(report, words.title),
        key=f"reports.functions.{report.id}",
        config=_CHART,
        alt="Share of requests answered exactly right, per function, base and tuned",
    )


def differences(report: Report) -> None:
    """Every case where the two models answered differently, as a table with a filter."""
    base, tuned = pair(report)
    results = list(zip(report.scores(base), report.scores(tuned), strict=True))
    rows = [_row(report, index, _result(*results[index])) for index in report.differences(base, tuned)]
    st.subheader("Where they differ", anchor=False)
    if not rows:
        st.caption("Both models gave the same answer to every request.")
        return
    kinds = list(dict.fromkeys(row["Result"] for row in rows))
    chosen = st.pills(
        "Show only",
        kinds,
        key=f"reports.kinds.{report.id}",
        selection_mode="multi",
        format_func=lambda kind: f"{kind} ({sum(row['Result'] == kind for row in rows)})",
    )
    shown = [row for row in rows if not chosen or row["Result"] in chosen]
    st.dataframe(
        shown,
        hide_index=True,
        alt="Requests to which base and tuned model gave different answers",
        column_config={
            "Request": st.column_config.TextColumn(width=240, pinned=True),
            **dict.fromkeys(("Right answer", "Tuned"), st.column_config.TextColumn(width=310)),
            "Base": st.column_config.TextColumn(width=200),
            "Result": None if len(kinds) == 1 or len(chosen) == 1 else st.column_config.TextColumn(width=130),
        },
    )


def download(report: Report) -> None:
    """The figures and every answer, as JSON."""
    base, tuned = pair(report)
    answers = [
        {
            "prompt": case.prompt,
            "expected": case.call.to_json(),
            **{m: _plain(report.answers[m][i]) for m in (base, tuned)},
        }
        for i, case in enumerate(report.cases)
    ]
    body = json.dumps({**report.to_json(), "answers": answers}, ensure_ascii=False, indent=1)
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
    asked = report.models
    return asked[0], asked[-1]


def label(report: Report) -> str:
    """A report in a list: what was compared, when."""
    base, tuned = pair(report)
    return f"{models.name(tuned)} against {models.name(base)}, asked {models.moment(report.created)}"


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
        "Right answer": words.call(case.call, report.reject),
        "Tuned": answer(report.answers[tuned][index], report.reject),
        "Base": answer(report.answers[base][index], report.reject),
        "Result": result,
    }


def _result(was: Outcome, now: Outcome) -> str:
    if Outcome.UNSCORED in (was, now):
        return "An answer never came"
    if was != Outcome.CORRECT and now == Outcome.CORRECT:
        return "Only tuned is right"
    if was == Outcome.CORRECT and now != Outcome.CORRECT:
        return "Only base is right"
    return "Both right" if now == Outcome.CORRECT else "Both wrong"


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
