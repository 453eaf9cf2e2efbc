"""The ledger: kept whole, its reasons counted so that somebody can act on them, as a table for a spreadsheet."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from drone_ft import ledger
from drone_ft.synthesis.by_model import LeftOut


def entry(reason: str, words: str = "up", name: str = "takeoff") -> LeftOut:
    return LeftOut({"name": name, "arguments": {"altitude": 9}}, words, reason)


def test_a_large_ledger_is_read_as_it_was_kept_and_a_lost_or_damaged_one_is_empty(tmp_path: Path) -> None:
    entries = [entry(f"reason {n}", "two\nlines, “ünï”\u2028") for n in range(3000)]
    path = tmp_path / ledger.keep(tmp_path, "run1", entries)
    rows = ledger.read(path)
    assert len(rows) == 3000 and [LeftOut(**row) for row in rows] == entries
    path.write_text('{"half', encoding="utf-8")
    assert ledger.read(path) == [] == ledger.read(tmp_path / "none.jsonl") == ledger.read(tmp_path)


@pytest.mark.parametrize(
    ("reasons", "counted"),
    [
        ([], []),
        (["the model refused"] * 3 + ["there are no words"], [(3, "the model refused"), (1, "there are no words")]),
        (["rare", "often", "often"], [(2, "often"), (1, "rare")]),
        (
            ["altitude is 900, more than the maximum 500", "altitude is 501, more than the maximum 500"],
            [(2, "altitude is …, more than the maximum 500")],
        ),
        (["the words never say speed 5"] * 2, [(2, "the words never say speed 5")]),
        (["it is nearly the same as “up”", "it is nearly the same as “go up”"], [(2, "it is nearly the same as …")]),
        (["near land: it is there already", "near fly: it is there already"], [(2, "it is there already")]),
        (
            ["2 were asked for, the model wrote 1", "2 were asked for, the model wrote 0"],
            [(2, "2 were asked for, the model wrote …")],
        ),
    ],
)
def test_reasons_of_one_kind_are_counted_together(reasons: list[str], counted: list[tuple[int, str]]) -> None:
    assert ledger.reasons([{"reason": reason} for reason in reasons]) == counted


def test_why_nothing_was_answered_is_said_by_the_most_frequent_reason_in_plain_words() -> None:
    failed = "near land: The server could not answer now (status {}): out of order. Try again later."
    rows = [{"reason": ledger.HAVE}] * 3 + [{"reason": failed.format(500)}] * 2 + [{"words": "x", "reason": "odd"}] * 9
    assert ledger.why_unanswered(rows) == "the server had an error (status 500)."
    assert ledger.why_unanswered([{"reason": failed.format(429)}]) == "the server asked for patience (status 429)."
    assert ledger.why_unanswered([{"reason": "The batch expired."}]) == "the batch expired."
    assert [ledger.near(row) for row in (rows[3], rows[-1])] == ["land", ""]


def test_as_a_table_it_opens_in_a_spreadsheet() -> None:
    text = ledger.to_csv([{"call": {"name": "f", "arguments": {"a": "é"}}, "words": 'say "hi",\nnow', "reason": "r"}])
    assert text.startswith("\ufeff"), "or accents are misread"
    rows = list(csv.reader(io.StringIO(text.removeprefix("\ufeff"))))
    assert rows == [list(ledger.COLUMNS), ["f", '{"a": "é"}', 'say "hi",\nnow', "r"]]


@pytest.mark.parametrize("begin", ["=", "+", "-", "@", " =", "\t="])
def test_what_a_model_wrote_is_no_formula_in_a_spreadsheet(begin: str) -> None:
    words = f'{begin}HYPERLINK("http://x")'
    row = {"call": {"name": words}, "words": words, "reason": words}
    table = list(csv.reader(io.StringIO(ledger.to_csv([row, {"words": "up - now"}]))))
    assert table[1] == [f"'{words}", "{}", f"'{words}", f"'{words}"] and table[2] == ["", "{}", "up - now", ""]
