"""Charts show the numbers they are given, and survive having few or none."""

import itertools

import pytest

from drone_ft import charts
from drone_ft.catalog import Call
from drone_ft.evaluation import Answer, Case, Outcome, Report

LAND, FLY, REJECT = Call("land", {}), Call("fly", {"height": 3}), Call("reject_request", {})


def report(cases: list[Call], **answers: list[Call | None]) -> Report:
    asked = [Case(f"request {i}", call) for i, call in enumerate(cases)]
    given = {
        model: [Answer(case.prompt, call) for case, call in zip(asked, calls, strict=True)]
        for model, calls in answers.items()
    }
    return Report("r1", "cases", "reject_request", asked, given, dict.fromkeys(given, 1.0))


FULL = report(
    [LAND, FLY, FLY, REJECT],
    base=[FLY, Call("fly", {"height": 4}), None, LAND],
    tuned=[LAND, FLY, REJECT, REJECT],
)


def bars(figure) -> dict[tuple[str, str], list[int]]:
    """Counts in the figure by kind of request and outcome, base first."""
    return {(trace.yaxis, trace.name): list(trace.customdata) for trace in figure.data}


def test_outcome_bars_keep_possible_and_impossible_requests_apart():
    assert bars(charts.outcome_bars(FULL)) == {
        ("y", "Correct"): [0, 2],
        ("y", "Wrong arguments"): [1, 0],
        ("y", "Wrong function"): [1, 0],
        ("y", "Wrongly rejected"): [0, 1],
        ("y", "No call"): [1, 0],
        ("y2", "Correct"): [0, 1],
        ("y2", "Should have rejected"): [1, 0],
    }


def test_each_outcome_is_in_the_legend_once_and_every_outcome_has_a_colour():
    figure = charts.outcome_bars(FULL)
    in_legend = [trace.name for trace in figure.data if trace.showlegend]
    assert len(in_legend) == len(set(in_legend)) == 6
    fills = [charts.OUTCOME_COLOURS[outcome][0] for outcome in Outcome]
    assert len(set(fills)) == len(Outcome)


def test_shares_of_one_bar_add_up_to_the_whole():
    figure = charts.outcome_bars(FULL)
    for axis in ("y", "y2"):
        for model in (0, 1):
            assert sum(trace.x[model] for trace in figure.data if trace.yaxis == axis) == pytest.approx(100)


@pytest.mark.parametrize("cases", [[LAND], [REJECT], []])
def test_reports_with_one_kind_of_request_or_none_are_drawn(cases):
    some = report(cases, base=[LAND] * len(cases))
    charts.outcome_bars(some)
    charts.accuracy_by_function(some)


def test_accuracy_by_function_names_functions_in_words_and_counts_impossible_requests():
    figure = charts.accuracy_by_function(FULL, str.capitalize)
    base, tuned = (next(t for t in figure.data if t.name == name) for name in ("Base", "Tuned"))
    assert list(tuned.y) == ["Fly", "Land", "Impossible requests"]  # the weakest first
    assert list(base.x) == [0, 0, 0] and list(tuned.x) == [50, 100, 100]
    assert base.marker.symbol != tuned.marker.symbol


def test_loss_curve_leaves_out_what_was_not_measured():
    points = [
        {"step": 1.0, "train_loss": 2.0, "valid_loss": None},
        {"step": 2.0, "train_loss": 1.0, "valid_loss": 1.5},
    ]
    training, validation = charts.loss_curve(points).data
    assert list(training.x) == [1, 2] and list(training.y) == [2, 1]
    assert list(validation.x) == [2]
    assert not charts.loss_curve([]).data


def test_a_long_training_loss_is_drawn_smoothed_and_ends_where_the_last_ones_are():
    points = [{"step": float(n), "train_loss": 2 - n / 100 + n % 2, "valid_loss": None} for n in range(100)]
    drawn = charts.loss_curve(points).data[0].y
    assert len(drawn) == 100 and all(abs(one - other) < 0.3 for one, other in itertools.pairwise(drawn[4:]))
    assert drawn[-1] == pytest.approx(sum(point["train_loss"] for point in points[-4:]) / 4)


def test_counts_that_differ_a_lot_are_drawn_on_a_logarithmic_axis():
    assert charts.calls_per_function({"a": 3, "b": 4}).layout.xaxis.type == "linear"
    assert charts.calls_per_function({"a": 1, "b": 10**12}).layout.xaxis.type == "log"


def test_a_model_asked_alone_goes_by_its_own_name():
    alone = report([LAND, REJECT], tuned=[LAND, REJECT])
    assert {y for trace in charts.outcome_bars(alone, str.upper).data for y in trace.y} == {"TUNED"}
    named = [trace.name for trace in charts.accuracy_by_function(alone, model_name=str.upper).data if trace.name]
    assert named == ["TUNED"]
