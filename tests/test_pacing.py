"""How many may be on the wire, and how long all of them wait: learned from refusals, answers and headers."""

from __future__ import annotations

import pytest

from drone_ft import pacing
from drone_ft.errors import EndpointUnavailable
from drone_ft.pacing import Gate
from tests.clock import Clock


def enter(gate: Gate, error: BaseException | None = None) -> None:
    gate.__enter__()
    gate.__exit__(type(error), error, None)


def waited(gate: Gate, clock: Clock) -> float:
    """How long the next one stands at the gate."""
    before = clock.now
    enter(gate)
    return clock.now - before


def test_a_burst_of_429_halves_once_and_answers_let_it_creep_up_to_the_limit() -> None:
    clock = Clock()
    gate, busy = Gate(16, clock, clock.wait), EndpointUnavailable("Busy.", 429)
    for _ in range(5):
        enter(gate, busy)
    assert gate.allowed == 8
    clock.now += 2
    enter(gate, busy)
    assert gate.allowed == 4
    before = gate.allowed
    enter(gate)
    assert before < gate.allowed < before + 1
    for _ in range(500):
        enter(gate)
    assert gate.allowed == 16


@pytest.mark.parametrize(("status", "wait", "until"), [(429, 7.0, 7.0), (503, 3.0, 3.0), (429, 900.0, 60.0)])
def test_everybody_waits_for_retry_after(status: int, wait: float, until: float) -> None:
    clock = Clock()
    gate = Gate(4, clock, clock.wait)
    enter(gate, EndpointUnavailable("Later.", status, wait))
    assert waited(gate, clock) == pytest.approx(until)


def told(what: str, remaining: str, limit: str = "", reset: str = "") -> dict[str, str]:
    given = {"remaining": remaining, "limit": limit, "reset": reset}
    return {f"x-ratelimit-{name}-{what}": value for name, value in given.items() if value}


@pytest.mark.parametrize(
    ("headers", "pause"),
    [
        (told("requests", "0", "", "6s"), 6.0),
        (told("requests", "0", "60", "1m0s"), 1.0),
        (told("requests", "0", "60"), 0.0),
        (told("requests", "5", "60", "6s"), 0.0),
        (told("requests", "many", "60", "6s"), 0.0),
        (told("requests", "0", "60", "Fri, 27 Nov 2020 12:00:00 GMT"), 0.0),
        (told("requests", "0", "60", "soon"), 0.0),
        ({}, 0.0),
        # A request takes 1,000 tokens. Of 10,000 a minute, those that are missing are waited for, and no more.
        (told("tokens", "5000", "10000", "30s"), 0.0),
        (told("tokens", "1000", "10000", "54s"), 0.0),
        (told("tokens", "400", "10000", "57.6s"), 3.6),
        (told("tokens", "0", "10000", "1m0s"), 6.0),
        (told("tokens", "0", "10000", "60"), 6.0),
        (told("tokens", "400", "", "57.6s"), 57.6),
        (told("tokens", "400", "500", "3s"), 3.0),  # never enough: as much as there can be
        (told("tokens", "0", "1000", "3h"), pacing.LONGEST_PAUSE),
        # As Azure writes where it counts none.
        (told("tokens", "-1", "-1", "59"), 0.0),
        (told("tokens", "0", "-1", "9s"), 9.0),
        (told("tokens", "nan", "10000", "9s"), 0.0),
        (told("tokens", "0", "inf", "9s"), 0.0),
        # Both: whichever takes longer.
        (told("requests", "0", "60", "1m0s") | told("tokens", "0", "10000", "1m0s"), 6.0),
        (told("requests", "0", "6", "1m0s") | told("tokens", "0", "10000", "1m0s"), 10.0),
    ],
)
def test_an_exhausted_allowance_is_waited_for_as_long_as_one_request_needs(
    headers: dict[str, str], pause: float
) -> None:
    clock = Clock()
    gate = Gate(4, clock, clock.wait)
    gate.took(1000)
    gate.hear(headers)
    assert waited(gate, clock) == pytest.approx(pause)
    assert waited(gate, clock) == 0


@pytest.mark.parametrize(
    ("answers", "about"),
    [([], 1), ([700], 700), ([600, 800], 700), ([600, 800] * 50, 710), ([100] * 50 + [900] * 100, 895), ([0, 0], 1)],
)
def test_what_a_request_takes_is_the_mean_of_the_newest_answers(answers: list[int], about: float) -> None:
    gate = Gate(4)
    for tokens in answers:
        gate.took(tokens)
    assert gate.tokens == pytest.approx(about, rel=0.02)


def test_nobody_allows_more_than_there_is_room_for() -> None:
    assert (Gate(1000).limit, Gate(0).limit) == (pacing.MOST_AT_ONCE, 1)
