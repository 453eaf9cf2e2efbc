"""Cases, outcomes and the verdict: every number a page shows."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from drone_ft import evaluation
from drone_ft.catalog import Call, default_catalog
from drone_ft.errors import DatasetError, EndpointRefused, EndpointUnavailable
from drone_ft.evaluation import Answer, Case, Outcome, Report

CATALOG = default_catalog()
REJECT = Call("reject_request", {})
LED = Call("configure_led_display", {"pattern": "solid", "color": "red"})
UP = Call("takeoff_drone", {"altitude": 50})


@pytest.mark.parametrize(
    ("right", "accept", "given", "outcome"),
    [
        (UP, {}, UP, Outcome.CORRECT),
        (UP, {}, Call("takeoff_drone", {"altitude": 50.0}), Outcome.CORRECT),
        (UP, {}, Call("takeoff_drone", {"altitude": 51}), Outcome.WRONG_ARGUMENTS),
        (UP, {"altitude": [51]}, Call("takeoff_drone", {"altitude": 51}), Outcome.CORRECT),
        (UP, {}, Call("takeoff_drone", {}), Outcome.WRONG_ARGUMENTS),
        (UP, {}, Call("takeoff_drone", {"altitude": 50, "speed": 3}), Outcome.WRONG_ARGUMENTS),
        (LED, {"color": [None]}, Call("configure_led_display", {"pattern": "solid"}), Outcome.CORRECT),
        (LED, {}, Call("configure_led_display", {"pattern": "solid"}), Outcome.WRONG_ARGUMENTS),
        (Call("f", {"on": True}), {}, Call("f", {"on": 1}), Outcome.WRONG_ARGUMENTS),
        (Call("f", {"at": {"x": 1, "y": 2}}), {}, Call("f", {"at": {"y": 2, "x": 1.0}}), Outcome.CORRECT),
        (Call("f", {"at": [1, True]}), {}, Call("f", {"at": [1, 1]}), Outcome.WRONG_ARGUMENTS),
        (UP, {}, LED, Outcome.WRONG_FUNCTION),
        (UP, {}, REJECT, Outcome.WRONGLY_REJECTED),
        (REJECT, {}, REJECT, Outcome.CORRECT),
        (REJECT, {}, UP, Outcome.SHOULD_HAVE_REJECTED),
        (UP, {}, None, Outcome.NO_CALL),
        (REJECT, {}, None, Outcome.NO_CALL),
    ],
)
def test_an_answer_becomes_one_outcome(
    right: Call, accept: dict[str, list[Any]], given: Call | None, outcome: Outcome
) -> None:
    assert evaluation.score(Case("x", right, accept), Answer("x", given), "reject_request") == outcome


def test_an_outage_is_unscored_and_never_wrong() -> None:
    report = make_report([(UP, UP, None)], error="the server is down")
    assert report.outcomes("tuned")[Outcome.UNSCORED] == 1
    assert report.possible("tuned") == (0, 0)
    assert "never came" in report.verdict("base", "tuned").sentence


def make_report(rows: list[tuple[Call, Call | None, Call | None]], error: str | None = None) -> Report:
    cases = [Case(f"request {n}", right) for n, (right, _, _) in enumerate(rows)]
    base = [Answer(c.prompt, row[1]) for c, row in zip(cases, rows, strict=True)]
    tuned = [Answer(c.prompt, row[2], error=error) for c, row in zip(cases, rows, strict=True)]
    return Report("r", "cases", "reject_request", cases, {"base": base, "tuned": tuned}, {"base": 2.0, "tuned": 1.0})


@pytest.mark.parametrize(
    ("better", "worse", "same", "words", "p"),
    [
        (20, 0, 5, "is better", 2 / 2**20),
        (0, 20, 5, "is worse", 2 / 2**20),
        (6, 0, 0, "is better", 0.03125),
        (5, 0, 4, "No clear difference", 0.0625),
        (4, 3, 9, "No clear difference", 1.0),
        (0, 0, 7, "no better and no worse", None),
    ],
)
def test_the_verdict_is_the_exact_mcnemar_test(better: int, worse: int, same: int, words: str, p: float | None) -> None:
    rows = [(UP, LED, UP)] * better + [(UP, UP, LED)] * worse + [(UP, UP, UP)] * same
    verdict = make_report(rows).verdict("base", "tuned")
    assert words in verdict.sentence and (verdict.better, verdict.worse) == (better, worse)
    assert verdict.p == pytest.approx(p) if p is not None else verdict.p is None


def test_figures_are_derived_from_the_answers() -> None:
    report = make_report([(UP, LED, UP), (LED, LED, LED), (REJECT, UP, REJECT), (REJECT, REJECT, UP)])
    assert report.possible("base") == (1, 2) and report.possible("tuned") == (2, 2)
    assert report.impossible("base") == (1, 2) and report.impossible("tuned") == (1, 2)
    assert report.by_function("tuned") == {
        "takeoff_drone": (1, 1),
        "configure_led_display": (1, 1),
        "reject_request": (1, 2),
    }
    assert report.differences("base", "tuned") == [0, 2, 3]
    figures = report.to_json()["models"]["tuned"]
    assert figures["n"] == 4 and figures["possible"] == {"correct": 2, "of": 2}
    assert figures["seconds_per_case"] == 0.25 and sum(figures["outcomes"].values()) == 4
    assert figures["seconds_per_answer"] == 0.25, "a report whose answers tell no time is still read"


def test_the_time_of_an_answer_is_its_own_however_many_are_asked_at_once() -> None:
    answers = [Answer("up", UP, seconds=s) for s in (0.3, 0.2, 9.0)] + [Answer("up", None, seconds=60.0, error="away")]
    report = Report("r", "r", None, [Case("up", UP)] * 4, {"m": answers}, {"m": 0.04})
    assert replace(report, endpoints={"m": "OpenAI"}).pace("m") == 0.3
    for here in ({}, {"m": "this computer"}):  # where all share the cores, each waits for all
        assert replace(report, endpoints=here).pace("m") == 0.01


def test_the_weakest_function_comes_first_and_unanswered_ones_last() -> None:
    lost = Answer("x", None, error="the server is down")
    report = make_report([(UP, LED, UP), (LED, LED, LED), (REJECT, UP, REJECT), (REJECT, REJECT, UP)])
    assert report.weakest_first() == ["reject_request", "takeoff_drone", "configure_led_display"]
    answers = {model: [*given[:2], lost, lost] for model, given in report.answers.items()}
    assert dataclasses.replace(report, answers=answers).weakest_first()[-1] == "reject_request"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "line 2, column 2: not JSON"),
        ('{"call": {"name": "f"}}', "line 2, prompt"),
        ('{"prompt": "x"}', "line 2, call"),
        ('{"prompt": "x", "call": {"name": "f", "arguments": [1]}}', "line 2, call.arguments"),
        ('{"prompt": "x", "call": {"name": "reject_request"}, "accept": {"a": 1}}', "line 2, accept"),
        (
            '{"prompt": "x", "call": {"name": "takeoff_drone", "arguments": {"altitude": 900}}}',
            "line 2, call of takeoff_drone",
        ),
    ],
)
def test_a_bad_case_names_line_and_field(tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "cases.jsonl"
    path.write_text('{"prompt": "nope", "call": {"name": "reject_request"}}\n' + line)
    with pytest.raises(DatasetError, match=words):
        evaluation.read_cases(path, CATALOG)


def test_missing_and_empty_case_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    for name in ("empty.jsonl", "missing.jsonl"):
        with pytest.raises(DatasetError, match=name):
            evaluation.read_cases(tmp_path / name)


def client_that_answers(status: int, body: dict[str, Any]) -> openai.OpenAI:
    transport = httpx2.MockTransport(lambda request: httpx2.Response(status, json=body))
    return openai.OpenAI(
        base_url="http://test/v1", api_key="k", max_retries=0, http_client=httpx2.Client(transport=transport)
    )


def reply(message: dict[str, Any]) -> dict[str, Any]:
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": None, **message}}
    return {"id": "c", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}


def called(*calls: tuple[str, str]) -> dict[str, Any]:
    made = [
        {"id": f"c{n}", "type": "function", "function": {"name": a, "arguments": b}} for n, (a, b) in enumerate(calls)
    ]
    return reply({"tool_calls": made})


@pytest.mark.parametrize(
    ("body", "call", "text"),
    [
        (called(("takeoff_drone", '{"altitude": 50}')), UP, ""),
        (called(("reject_request", "")), REJECT, ""),
        (called(("takeoff_drone", '{"altitude"')), None, 'takeoff_drone({"altitude")'),
        (called(("takeoff_drone", "[5]")), None, "takeoff_drone([5])"),
        (called(("a", "{}"), ("b", "{}")), None, "a({}); b({})"),
        (reply({"content": "I would rather not."}), None, "I would rather not."),
    ],
)
def test_any_reply_becomes_a_call_or_text(body: dict[str, Any], call: Call | None, text: str) -> None:
    answer = evaluation.ask(client_that_answers(200, body), "m", CATALOG, "up")
    assert (answer.call, answer.text, answer.error) == (call, text, None)


def test_a_reply_without_choices_is_unscored() -> None:
    assert evaluation.ask(client_that_answers(200, {**reply({}), "choices": []}), "m", CATALOG, "up").error


def test_an_unknown_model_stops_the_evaluation_with_the_servers_words() -> None:
    body = {"error": {"message": "No such model: 'm'", "type": "invalid_request_error", "code": "model_not_found"}}
    with pytest.raises(EndpointRefused, match="No such model"):
        evaluation.ask_all(client_that_answers(404, body), "m", CATALOG, ["up", "down"])


def test_answers_keep_the_order_of_the_prompts_and_progress_is_told() -> None:
    def respond(request: httpx2.Request) -> httpx2.Response:
        words = json.loads(request.content)["messages"][-1]["content"]
        return httpx2.Response(200, json=reply({"content": words}))

    client = openai.OpenAI(
        base_url="http://test/v1",
        api_key="k",
        max_retries=0,
        http_client=httpx2.Client(transport=httpx2.MockTransport(respond)),
    )
    prompts, told = [f"request {n}" for n in range(40)], [0]
    answers, seconds = evaluation.ask_all(client, "m", CATALOG, prompts, told.append, at_once=7)
    assert [a.text for a in answers] == prompts and told[-1] == 40 and told == sorted(told) and seconds > 0


def test_rejecting_everything_is_never_called_better() -> None:
    rows = [(UP, UP, REJECT)] * 10 + [(REJECT, UP, REJECT)] * 30
    verdict = make_report(rows).verdict("base", "tuned")
    assert verdict.better > verdict.worse
    assert "better at impossible ones and worse at possible requests" in verdict.sentence


def test_a_server_that_answers_nothing_is_an_error_and_not_a_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda seconds: None)
    body = {"error": {"message": "the weights are damaged", "type": "server_error", "code": None}}
    with pytest.raises(EndpointUnavailable, match=r"answered none of 2 requests.*the weights are damaged"):
        evaluation.ask_all(client_that_answers(500, body), "m", CATALOG, ["up", "down"])


def test_one_request_too_long_leaves_only_itself_unscored() -> None:
    def respond(request: httpx2.Request) -> httpx2.Response:
        if "endless" in json.loads(request.content)["messages"][-1]["content"]:
            return httpx2.Response(400, json={"error": {"message": "too long", "type": "x", "code": None}})
        return httpx2.Response(200, json=called(("reject_request", "{}")))

    http = httpx2.Client(transport=httpx2.MockTransport(respond))
    client = openai.OpenAI(base_url="http://test/v1", api_key="k", max_retries=0, http_client=http)
    answers, _ = evaluation.ask_all(client, "m", CATALOG, ["up", "endless words"])
    assert [a.error is None for a in answers] == [True, False]


@pytest.mark.parametrize(
    ("right", "good", "words"),
    [(14, True, "is better:"), (13, False, "is better, but not yet good:")],
)
def test_a_better_model_is_good_only_if_right_often_enough(right: int, good: bool, words: str) -> None:
    rows = [(UP, LED, UP)] * right + [(UP, LED, LED)] * (20 - right) + [(REJECT, REJECT, REJECT)] * 4
    verdict = make_report(rows).verdict("base", "tuned")
    assert verdict.good == good and words in verdict.sentence
    assert ("Write more examples, or train for more epochs." in verdict.sentence) != good


def test_a_model_that_got_worse_at_one_kind_is_never_good() -> None:
    rows = [(UP, LED, UP)] * 60 + [(REJECT, REJECT, REJECT)] * 9 + [(REJECT, REJECT, UP)]
    verdict = make_report(rows).verdict("base", "tuned")
    assert not verdict.good and "better at possible requests and worse at impossible ones:" in verdict.sentence


@pytest.mark.parametrize(("better", "words"), [(20, "hardly chance"), (7, "unlikely to be chance"), (5, "could be")])
def test_how_sure_a_verdict_is_is_said_without_figures(better: int, words: str) -> None:
    sentence = make_report([(UP, LED, UP)] * better + [(UP, UP, UP)] * 4).verdict("base", "tuned").sentence
    assert words in sentence and "p =" not in sentence and "p <" not in sentence
