"""Spoken numbers: what is said must be the value."""

from __future__ import annotations

import random
import re

import pytest

from drone_ft.synthesis import spoken

WORDS = [
    (7, {"seven"}),
    (45, {"forty-five", "forty five"}),
    (100, {"one hundred", "a hundred"}),
    (120, {"one hundred and twenty", "one hundred twenty", "a hundred and twenty"}),
    (250, {"two hundred and fifty", "two hundred fifty"}),
    (1500, {"one thousand five hundred", "a thousand five hundred"}),
]

MEASURES = [
    (50, "m", {"50 m", "50m", "50 metres", "50 meters", "fifty metres", "fifty meters"}),
    (1, "m", {"1 metre", "one meter"}),
    (1500, "m", {"1.5 km", "1500 m", "one thousand five hundred metres"}),
    (500, "m", {"half a kilometre", "500 metres"}),
    (3000, "m", {"3 km", "three kilometres"}),
    (30, "s", {"30 seconds", "30s", "half a minute", "thirty seconds"}),
    (60, "s", {"a minute", "1 minute", "60 seconds"}),
    (90, "s", {"a minute and a half", "90 sec", "1.5 minutes"}),
    (120, "s", {"two minutes", "2 min", "120 s"}),
    (150, "s", {"two and a half minutes"}),
    (80, "s", {"1 minute 20 seconds", "1 min 20 s"}),
    (3600, "s", {"an hour", "one hour"}),
    (25, "kmh", {"25 km/h", "25 kph", "25 kilometers per hour", "twenty-five klicks an hour"}),
    (1, "kmh", {"1 km/h", "1 kilometre per hour"}),
    (45, "deg", {"45°", "45 deg", "45 degrees", "forty-five degrees"}),
]


@pytest.mark.parametrize(("value", "expected"), WORDS)
def test_numbers_in_words(value: int, expected: set[str]) -> None:
    assert expected == set(spoken.number_words(value))


@pytest.mark.parametrize(("value", "unit", "expected"), MEASURES)
def test_measures_are_spelled_several_ways(value: int, unit: str, expected: set[str]) -> None:
    ways = [way for kind in spoken.measures(value, unit).values() for way in kind]
    assert expected <= set(ways)
    assert len(ways) == len(set(ways))


def test_minutes_in_digits_are_the_seconds_of_the_call() -> None:
    for seconds in range(1, 3601):
        for way in spoken.measures(seconds, "s").get("idiom", []):
            if found := re.fullmatch(r"(\d+) min(?:utes?)?(?: (?:and )?(\d+) s(?:econds?)?)?", way):
                assert int(found[1]) * 60 + int(found[2] or 0) == seconds


def test_a_measure_before_a_noun_has_no_plural() -> None:
    said = {spoken.say_number(120, random.Random(n), "s", "adjective") for n in range(40)}
    assert {"2-minute", "two minute"} <= said
    assert not [text for text in said if text.endswith("s")]


@pytest.mark.parametrize(
    ("value", "allowed"),
    [(-20, {"-20", "minus twenty"}), (20, {"20", "+20", "twenty"}), (0, {"0", "zero"})],
)
def test_signed_numbers_keep_their_sign(value: int, allowed: set[str]) -> None:
    assert {spoken.say_number(value, random.Random(n), "deg", "signed") for n in range(60)} == allowed


def test_places_say_south_and_west_or_a_minus() -> None:
    said = {spoken.say_place(-33.8688, -70.5, random.Random(n)) for n in range(300)}
    assert {"-33.8688, -70.5", "lat -33.8688 lon -70.5", "33.8688 south, 70.5 west", "33.8688°S 70.5°W"} <= said
    for text in said:
        assert len(re.findall(r"-(?=\d)", text)) == 2 or re.search(r"S|south", text)


def test_values_vary_and_stay_in_range() -> None:
    rng = random.Random(4)
    values = [spoken.some_number(3, 150, rng, "kmh") for _ in range(400)]
    assert min(values) >= 3
    assert max(values) <= 150
    assert len(set(values)) > 80
    assert sum(value % 10 != 0 for value in values) > 200
    durations = [spoken.some_number(2, 3600, rng, "s") for _ in range(600)]
    long = [value for value in durations if value > 120]
    assert 0.8 < sum(value % 60 == 0 for value in long) / len(long) < 1, "mostly whole minutes"
    assert {spoken.some_number(130, 170, rng, "s") for _ in range(300)} > {150, 140}, (
        "whole minutes may be out of reach"
    )
    latitudes, longitudes = zip(*(spoken.some_place(rng) for _ in range(300)), strict=True)
    assert all(-90 <= value <= 90 and value for value in latitudes)
    assert all(-180 <= value <= 180 and value for value in longitudes)
