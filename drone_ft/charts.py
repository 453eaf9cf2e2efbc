"""Values in, plotly figures out. Colours are readable on light and dark, and apart for colour-blind people."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from drone_ft.evaluation import Outcome, Report

BLUE, ORANGE, GREY = "#2a8fc4", "#e69f00", "#8a979f"

# After Okabe and Ito; fill and text colour of each outcome.
OUTCOME_COLOURS: dict[Outcome, tuple[str, str]] = {
    Outcome.CORRECT: ("#0072b2", "#ffffff"),
    Outcome.WRONG_ARGUMENTS: ("#e69f00", "#1a1a1a"),
    Outcome.WRONG_FUNCTION: ("#d55e00", "#ffffff"),
    Outcome.WRONGLY_REJECTED: ("#cc79a7", "#1a1a1a"),
    Outcome.SHOULD_HAVE_REJECTED: ("#8f63b8", "#ffffff"),
    Outcome.NO_CALL: ("#8a979f", "#1a1a1a"),
    Outcome.UNSCORED: ("#c9d2d7", "#1a1a1a"),
}
_MARGIN = {"l": 8, "r": 24, "t": 36, "b": 8}


def labels(models: Sequence[str], name: Callable[[str], str] = str) -> dict[str, str]:
    """Short names of the models of a report: the first is the base; a model alone goes by its own `name`."""
    if len(models) == 1:
        return {models[0]: name(models[0])}
    names = {models[0]: "Base"} if models else {}
    rest = list(models[1:])
    return names | {model: "Tuned" if len(rest) == 1 else f"Tuned {i}" for i, model in enumerate(rest, 1)}


def outcome_bars(report: Report, name: Callable[[str], str] = str) -> Any:
    """How the requests were answered: one bar a model, possible requests above impossible ones, in per cent.

    `name` makes a model's id readable.
    """
    kinds = [(title, rows) for title, rows in _by_kind(report) if rows]
    titles = [f"{title} ({len(rows)})" for title, rows in kinds]
    figure = make_subplots(rows=max(1, len(kinds)), cols=1, subplot_titles=titles or None, vertical_spacing=0.24)
    names, scores = labels(report.models, name), {model: report.scores(model) for model in report.models}
    shown: list[Outcome] = []
    for row, (_, cases) in enumerate(kinds, 1):
        for outcome in Outcome:
            counts = [sum(scores[model][i] is outcome for i in cases) for model in report.models]
            if any(counts):
                bar = _outcome_bar(outcome, counts, len(cases), [names[m] for m in report.models], outcome not in shown)
                figure.add_trace(bar, row=row, col=1)
                shown.append(outcome)
    figure.update_layout(
        barmode="stack",
        bargap=0.25,
        height=110 * len(kinds) + 110,
        margin=_MARGIN,
        legend={"orientation": "h", "y": -0.18, "yanchor": "top", "x": 0, "traceorder": "normal", "title": None},
    )
    figure.update_xaxes(
        range=[0, 100.5],
        tickvals=[0, 25, 50, 75, 100],
        ticktext=["0%", "25%", "50%", "75%", "100%"],
        fixedrange=True,
        showgrid=False,
    )
    for row in range(1, len(kinds)):
        figure.update_xaxes(visible=False, row=row, col=1)
    figure.update_yaxes(autorange="reversed", fixedrange=True, title=None)
    figure.update_annotations(x=0, xanchor="left", font={"size": 14})
    return figure


def _by_kind(report: Report) -> list[tuple[str, list[int]]]:
    """Indices of the possible and of the impossible cases, under their names."""
    impossible = [i for i, case in enumerate(report.cases) if case.call.name == report.reject]
    possible = [i for i, case in enumerate(report.cases) if case.call.name != report.reject]
    return [("Possible requests", possible), ("Impossible requests", impossible)]


def _outcome_bar(outcome: Outcome, counts: list[int], of: int, names: list[str], legend: bool) -> Any:
    fill, ink = OUTCOME_COLOURS[outcome]
    shares = [100 * count / of for count in counts]
    return go.Bar(
        name=outcome.words.capitalize(),
        y=names,
        x=shares,
        orientation="h",
        showlegend=legend,
        legendgroup=outcome.value,
        marker={"color": fill, "line": {"width": 0}, "pattern": {"shape": "/" if outcome is Outcome.UNSCORED else ""}},
        text=[str(count) if share >= 2.5 else "" for count, share in zip(counts, shares, strict=True)],
        textposition="inside",
        insidetextanchor="middle",
        textangle=0,
        textfont={"color": ink},
        customdata=counts,
        hovertemplate=f"%{{y}}: %{{customdata}} of {of} {outcome.words}<extra></extra>",
    )


def loss_curve(points: Sequence[dict[str, float | None]]) -> Any:
    """Training and validation loss over the steps of a job; points as `fine_tuning.loss_curve` gives them.

    Each training loss is of a few examples only, so what is drawn is the mean with those just before it.
    """
    figure = go.Figure()
    for name, key, colour, line, mode in (
        ("Training", "train_loss", BLUE, "solid", "lines"),
        ("Validation", "valid_loss", ORANGE, "dot", "lines+markers"),
    ):
        known = [(point["step"], point[key]) for point in points if point.get(key) is not None]
        if known:
            steps, losses = zip(*known, strict=True)
            drawn = _smooth(losses) if key == "train_loss" else losses
            figure.add_trace(
                go.Scatter(
                    x=steps,
                    y=drawn,
                    name=name,
                    mode=mode if len(known) > 1 else "markers",
                    line={"color": colour, "width": 2.5, "dash": line},
                    marker={"size": 8, "color": colour},
                    hovertemplate=f"Step %{{x}}: {name.lower()} error %{{y:.3f}}<extra></extra>",
                )
            )
    figure.update_layout(
        height=300, margin=_MARGIN, showlegend=True, legend={"orientation": "h", "y": 1.15, "x": 0, "title": None}
    )
    figure.update_xaxes(title="Training step", fixedrange=True)
    figure.update_yaxes(title="Error (lower is better)", rangemode="tozero", fixedrange=True)
    return figure


def _smooth(losses: Sequence[float]) -> list[float]:
    """The running mean over a twenty-fifth of all values."""
    means: list[float] = pd.Series(losses).rolling(max(1, len(losses) // 25), min_periods=1).mean().tolist()
    return means


def accuracy_by_function(
    report: Report, title: Callable[[str], str] = str, model_name: Callable[[str], str] = str
) -> Any:
    """How often each function was called exactly right, the weakest first; `title` makes a function's name readable.

    An open dot is the base, a full one the tuned model, or one that was asked alone.
    """
    names = labels(report.models, model_name)
    by_model = {model: report.by_function(model) for model in report.models}
    functions = report.weakest_first()

    def said(name: str) -> str:
        return "Impossible requests" if name == report.reject else title(name)

    figure = go.Figure()
    for name in functions:
        shares = [_percent(by_model[model][name]) for model in report.models]
        known = [share for share in shares if share is not None]
        figure.add_trace(_track(said(name), known))
    for index, model in enumerate(report.models):
        rows = [(said(name), by_model[model][name]) for name in functions if by_model[model][name][1]]
        figure.add_trace(_dots(names[model], rows, index == 0 and len(report.models) > 1))
    figure.update_layout(
        height=30 * len(functions) + 100,
        margin=_MARGIN,
        legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0},
    )
    figure.update_xaxes(range=[-3, 103], ticksuffix="%", fixedrange=True, title="Exactly right")
    figure.update_yaxes(autorange="reversed", fixedrange=True, title=None, showgrid=False)
    return figure


def _track(label: str, shares: list[float]) -> Any:
    ends = [min(shares), max(shares)] if shares else []
    line = {"color": GREY, "width": 2}
    return go.Scatter(x=ends, y=[label] * len(ends), mode="lines", line=line, showlegend=False, hoverinfo="skip")


def _dots(name: str, rows: list[tuple[str, tuple[int, int]]], is_base: bool) -> Any:
    # the ring is wider than the dot, or an equal dot would hide it
    marker = {"size": 16, "symbol": "circle-open"} if is_base else {"size": 10, "symbol": "circle"}
    marker["color"] = GREY if is_base else BLUE
    if is_base:
        marker["line"] = {"width": 2.5, "color": GREY}
    return go.Scatter(
        name=name,
        mode="markers",
        cliponaxis=False,
        marker=marker,
        x=[_percent(share) for _, share in rows],
        y=[function for function, _ in rows],
        customdata=[share for _, share in rows],
        hovertemplate=f"{name}, %{{y}}: %{{customdata[0]}} of %{{customdata[1]}} exactly right<extra></extra>",
    )


def _percent(share: tuple[int, int]) -> float | None:
    correct, of = share
    return 100 * correct / of if of else None


def calls_per_function(counts: dict[str, int], title: Callable[[str], str] = str) -> Any:
    """How many calls each function allows; a logarithmic axis where a few would dwarf the rest."""
    names, values = [title(name) for name in counts], list(counts.values())
    bar = go.Bar(
        x=values,
        y=names,
        orientation="h",
        marker={"color": BLUE},
        text=[f"{value:,}" for value in values],
        textposition="outside",
        cliponaxis=False,
        hovertemplate="%{y}: %{x:,} kinds of call<extra></extra>",
    )
    figure = go.Figure(bar)
    figure.update_layout(height=26 * len(names) + 60, margin=_MARGIN | {"t": 8, "r": 60}, showlegend=False, bargap=0.35)
    wide = bool(values) and max(values) > 200 * max(1, min(values))
    figure.update_xaxes(type="log" if wide else "linear", visible=False, fixedrange=True)
    figure.update_yaxes(autorange="reversed", fixedrange=True, title=None)
    return figure
