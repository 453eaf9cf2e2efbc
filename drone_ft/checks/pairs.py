"""Lines held against each other: conflicts, duplicates, near duplicates, leaks."""

from __future__ import annotations

import math
from collections.abc import Iterator

from rapidfuzz import fuzz, process

from drone_ft.catalog import Call
from drone_ft.checks.offers import Trouble
from drone_ft.checks.reading import Given, Row
from drone_ft.dataset import wording
from drone_ft.schema.words import show

MOST_PAIRS = 40_000_000  # pairs of texts compared for likeness, a few seconds on one core
NEAR = 95  # per cent of two texts that are alike


def conflicts(given: Given) -> Iterator[Trouble]:
    """The same words with different answers: the model cannot learn both."""
    for file in given.files:
        first: dict[str, Row] = {}
        for row in file.usable:
            before = first.setdefault(_folded(row.before), row)
            if before.after != row.after:
                words = f"the words of line {before.line} again, {show(row.words, 60)}, but with another answer: "
                words += f"{_told(before)}, {_told(row)}; keep the right one"
                yield row.trouble("conflict", row.asked, words)


def _told(row: Row) -> str:
    return f"{show(row.answer.to_json() if isinstance(row.answer, Call) else row.answer)} in line {row.line}"


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())


def duplicates(given: Given) -> Iterator[Trouble]:
    """Lines that say exactly what an earlier line says."""
    for file in given.files:
        first: dict[tuple[str, str], int] = {}
        for row in file.usable:
            line = first.setdefault((row.before, row.after), row.line)
            if line != row.line:
                words = f"the same as line {line}, {show(row.words, 60)}; remove one of them"
                yield row.trouble("duplicate", row.asked, words)


def near_duplicates(given: Given) -> Iterator[Trouble]:
    """Lines whose words are nearly an earlier line's, with the same answer."""
    for file in given.files:
        groups: dict[tuple[str, str], dict[str, Row]] = {}
        for row in file.usable:
            groups.setdefault((row.offer.key, row.after), {}).setdefault(row.words, row)
        budget = MOST_PAIRS
        for rows in (list(group.values()) for group in groups.values() if len(group) > 1):
            size = min(len(rows), math.isqrt(2 * budget))
            budget -= size * (size - 1) // 2
            for row, twin, alike in _twins(rows[:size]):
                words = f"{show(row.words, 60)} is {alike}% line {twin.line}, {show(twin.words, 60)}"
                yield row.trouble("near duplicate", row.asked, f"{words}; say one of them in other words")
            if size < len(rows):
                words = "too many lines to compare the words of all; some that are nearly the same may not be shown"
                yield Trouble("not all compared", "whole file", words, file=file.name)
                break


def _twins(rows: list[Row], chunk: int = 512) -> Iterator[tuple[Row, Row, int]]:
    """Each row that is nearly an earlier one, with the first such row and how alike they are in per cent."""
    texts = [_folded(row.words) for row in rows]
    for start in range(0, len(rows), chunk):
        part = texts[start : start + chunk]
        alike = process.cdist(part, texts[: start + len(part)], scorer=fuzz.ratio, score_cutoff=NEAR, workers=1)
        for index in range(len(part)):
            earlier = alike[index, : start + index]
            if earlier.any():
                at = int(earlier.nonzero()[0][0])
                yield rows[start + index], rows[at], int(earlier[at])


def leaks(given: Given) -> Iterator[Trouble]:
    """Validation lines whose words, but for numbers, are also in training: they would test memory."""
    lines: dict[str, int] = {}
    for row in given.train.rows if given.files[1:] else ():
        lines.setdefault(wording(row.words), row.line)
    for row in (row for file in given.files[1:] for row in file.rows if row.words):
        if line := lines.get(wording(row.words)):
            words = f"the words of training line {line} again, {show(row.words, 60)}; they would show what the model "
            yield row.trouble("leak", row.asked, f"{words}remembers, not what it has learnt: remove this line")
