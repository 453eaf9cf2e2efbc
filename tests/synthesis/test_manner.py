"""Manners change how a request sounds, never what it says."""

from __future__ import annotations

import random
import re

import pytest

from drone_ft.catalog import default_catalog
from drone_ft.synthesis import manner, write_examples

MANY = range(300)


def bare(text: str) -> str:
    return " ".join(re.findall(r"[\w'.-]*\w", text.casefold()))


@pytest.mark.parametrize(
    "prompt", ["go up 5.5 metres", "Could you land here?", "RTH", "I'm lost, come back!", "7 m up."]
)
def test_the_request_itself_survives_and_nothing_is_said_twice(prompt: str) -> None:
    said = {manner.type_out(manner.say(prompt, rng), rng) for rng in map(random.Random, MANY)}
    assert len(said) > 200
    for text in said:
        assert bare(prompt) in bare(text), text
        assert not re.search(r"[.?,!] ?[.?,]|  |^\W", text), text
        assert prompt[-1] != "?" or "?" in text, text


@pytest.mark.parametrize(("prompt", "kept"), [("RTH", "RTH"), ("I'm lost", "I'm"), ("Max, land", "Max")])
def test_names_and_abbreviations_keep_their_capitals(prompt: str, kept: str) -> None:
    assert all(kept in manner.type_out(prompt, random.Random(seed)) for seed in MANY)


def test_a_slip_is_inside_one_word_and_never_in_a_number() -> None:
    prompt = "Rise three hundred metres, fifteen LEDs yellow 120"
    said = {manner.slip(prompt, random.Random(seed)) for seed in MANY}
    assert {"yelow", "yellwo", "yelloow", "mettres"} <= {word.strip(",") for text in said for word in text.split()}
    for text in said:
        changed = [old for old, new in zip(prompt.split(), text.split(), strict=True) if old != new]
        assert set(changed) <= {"metres,", "yellow"} and len(changed) <= 1, text
        assert text[0] == "R" and abs(len(text) - len(prompt)) <= 1, text
    assert not any("three" in manner.slip("up there", random.Random(seed)) for seed in MANY)
    assert manner.slip("go up 7 m", random.Random(1)) == "go up 7 m"


def test_please_is_not_said_twice() -> None:
    said = [manner.say("please land", random.Random(seed)) for seed in MANY]
    assert not any(text.count("please") > 1 for text in said)


def test_manners_do_not_give_away_whether_a_request_is_possible() -> None:
    written = write_examples(default_catalog()).examples
    for found, where in ((manner.manners().openers, "^"), (manner.manners().reasons, "")):
        words = re.compile(rf"{where}({'|'.join(re.escape(text) for text in found)})\b", re.IGNORECASE)
        shares = []
        for impossible in (True, False):
            prompts = [e.prompt for e in written if (e.call.name == "reject_request") is impossible]
            shares.append(sum(bool(words.search(prompt)) for prompt in prompts) / len(prompts))
        assert abs(shares[0] - shares[1]) < 0.06, shares
