"""The committed cases: enough, valid, covering everything, and with no near twin among the words trained on."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from rapidfuzz import fuzz, process

from drone_ft import dataset, permutations, synthesis
from drone_ft.catalog import default_catalog
from drone_ft.evaluation import read_cases

CASES = Path(__file__).parents[1] / "data" / "cases"
CATALOG = default_catalog()
# Of 100: "land the drone at home base" and "land the drone at the base, home" reach 91; two people asking for the
# same thing in their own words stay well below.
NEAR = 90


def test_there_are_enough_cases_of_every_function_and_choice() -> None:
    cases = read_cases(CASES / "drone.jsonl", CATALOG)
    names = Counter(case.call.name for case in cases)
    assert names["reject_request"] >= 60 and sum(names.values()) - names["reject_request"] >= 90
    assert len({case.prompt.casefold() for case in cases}) == len(cases)
    choices = Counter((c.call.name, k, str(v)) for c in cases for k, v in c.call.arguments.items())
    for template in permutations.iterate_catalog(CATALOG):
        assert names[template.function]
        for argument, value in template.fixed.items():
            if not isinstance(value, dict):
                assert choices[template.function, argument, str(value)], f"{template.function} {argument}={value}"


def test_the_cookbooks_prompts_are_all_there() -> None:
    cases = read_cases(CASES / "cookbook.jsonl", CATALOG)
    rejected = [case for case in cases if case.call.name == "reject_request"]
    assert (len(cases), len(rejected)) == (9, 6)


@pytest.mark.parametrize("name", ["drone", "drone_fresh", "cookbook"])
def test_no_case_has_a_near_twin_among_the_words_trained_on(name: str) -> None:
    trained = [dataset.wording(e.prompt) for seed in range(4) for e in synthesis.write_examples(CATALOG, seed).examples]
    twins = []
    for case in read_cases(CASES / f"{name}.jsonl", CATALOG):
        found = process.extractOne(dataset.wording(case.prompt), trained, scorer=fuzz.ratio, score_cutoff=NEAR)
        if found:
            twins.append((case.prompt, found[0], round(found[1])))
    assert not twins
