"""Numbers are heard as people say them: digits or words, in their own unit or in a larger one."""

from __future__ import annotations

import pytest

from drone_ft import numbers


@pytest.mark.parametrize(
    ("words", "number"),
    [
        ("climb 20 m", 20), ("climb twenty metres", 20), ("minus twenty degrees", -20), ("tilt down 20", -20),
        ("one hundred twenty", 120), ("a hundred and twenty metres up", 120), ("twenty-five metres", 25),
        ("1,200 metres", 1200), ("1.2 km away", 1200), ("twelve hundred metres", 1200), ("1.", 1),
        ("one thousand two hundred", 1200), ("a kilometre", 1000), ("half a kilometre", 500),
        ("two and a half kilometres", 2500), ("two and a half metres", 2.5), ("two point five", 2.5),
        ("for two minutes", 120), ("two and a half minutes", 150), ("2 min 30 s", 150), ("a minute and a half", 90),
        ("half an hour", 1800), ("a quarter of an hour", 900), ("1 hour 20 minutes", 4800), ("three days", 72),
        ("at 12.5 south", -12.5), ("8,5 Grad", 8.5), ("47.1,8.5 is home", 8.5), ("use 6.4,154.0", 154.0),
        ("fly twice round", 2), ("a dozen metres", 12), ("two dozen eggs", 24), ("a coffee", 1), ("zero tilt", 0),
        ("at fifty percent", 0.5), ("50%", 0.5), ("80 percent", 0.8), ("1" + "0" * 400, 10**400),
    ],
)  # fmt: skip
def test_a_number_that_is_said(words: str, number: float) -> None:
    assert numbers.says(words, number)


@pytest.mark.parametrize(
    ("words", "number"),
    [
        ("climb a bit", 20), ("twenty metres", 25), ("12 metres", 120), ("120", 12), ("three times", 30), ("25", 2.5),
        ("5 on the dial", 300), ("film for 2", 120), ("ninety", 19), ("no number", 7), ("2 minutes", 60),
        ("hover at 25 metres", 1000), ("", 0), ("so many", float("nan")), ("so far", 10**400),
    ],
)  # fmt: skip
def test_a_number_that_nobody_said(words: str, number: float) -> None:
    assert not numbers.says(words, number)
