"""What is wrong with a training file, or worth knowing, before it is uploaded; and the fixes there are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from drone_ft.catalog import Catalog
from drone_ft.checks import files, fixes, lines, pairs, reading, teaching
from drone_ft.checks.files import LEAST_EXAMPLES
from drone_ft.checks.fixes import FIXES
from drone_ft.checks.lines import TokenCount, tokens
from drone_ft.checks.offers import TRAINING, VALIDATION, Trouble
from drone_ft.checks.reading import Count, Given
from drone_ft.checks.targets import TARGETS, Target, sent, without

__all__ = [
    "FIXES", "LEAST_EXAMPLES", "RULES", "TARGETS", "Finding", "Target", "TokenCount", "check", "sent", "summary",
    "tokens", "without",
]  # fmt: skip

Severity = Literal["error", "warning", "note"]

MOST_SHOWN = 20  # findings of one rule in one file; the others are counted

RULES: dict[str, tuple[Severity, str | None]] = {
    "json": ("error", fixes.UNUSABLE),
    "messages": ("error", fixes.UNUSABLE),
    "roles": ("error", fixes.UNUSABLE),
    "content": ("error", fixes.UNUSABLE),
    "last message": ("error", fixes.UNUSABLE),
    "one answer": ("error", fixes.UNUSABLE),
    "arguments": ("error", fixes.UNUSABLE),
    "call": ("error", fixes.UNUSABLE),
    "call ids": ("error", fixes.IDS),
    "weight": ("error", fixes.WEIGHTS),
    "functions": ("error", None),
    "function names": ("error", None),
    "too many functions": ("error", None),
    "unknown to target": ("error", fixes.SCHEMAS),
    "size": ("error", None),
    "too few": ("error", None),
    "too long": ("error", fixes.LONG),
    "conflict": ("error", None),
    "leak": ("error", fixes.LEAKS),
    "several calls": ("warning", fixes.ONE_CALL),
    "nothing to learn": ("warning", None),
    "different functions": ("warning", None),
    "different instructions": ("warning", None),
    "duplicate": ("warning", fixes.DUPLICATES),
    "near duplicate": ("warning", None),
    "coverage": ("warning", None),
    "grounding": ("warning", None),
    "no impossible requests": ("warning", None),
    "many impossible requests": ("warning", None),
    "older form": ("note", None),
    "not all compared": ("note", None),
}
"""Every rule: how serious it is, and the fix there is for it."""

_CHECKS: tuple[Callable[[Given], Iterator[Trouble]], ...] = (
    files.sizes, files.offered, files.forms, files.sameness, lines.unusable, lines.call_ids, lines.weights,
    lines.too_long, pairs.conflicts, pairs.duplicates, pairs.near_duplicates, pairs.leaks,
    teaching.coverage, teaching.grounding, teaching.impossible,
)  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """One thing about a file: where (line 0: the whole file), what to do, and the name of a fix in `FIXES`, if any."""

    rule: str
    severity: Severity
    line: int
    field: str
    message: str
    fix: str | None = None
    file: str = TRAINING

    def __str__(self) -> str:
        return self.message


def check(
    train: str,
    validation: str | None = None,
    target: str = "local",
    catalog: Catalog | None = None,
    count: Count | None = None,
) -> list[Finding]:
    """Everything wrong with the files for a target, or worth knowing; errors first, the same for the same files.

    `catalog` checks calls more strictly than the file's own tools do and names the function for impossible
    requests; `count` tells a text's tokens (a quarter of its characters otherwise). DatasetError: unknown target.
    """
    given = reading.given(train, validation, target, catalog, count)
    found = [trouble for rule in _CHECKS for trouble in rule(given)]
    order, rules = ("error", "warning", "note"), list(RULES)
    found.sort(key=lambda t: (order.index(RULES[t.rule][0]), t.file != TRAINING, t.line, rules.index(t.rule)))
    return [_finding(trouble) for trouble in _capped(found)]


def summary(findings: Sequence[Finding]) -> str:
    """The findings in one sentence; many of one rule count as one thing."""
    rules = {finding.rule: finding.severity for finding in findings}
    errors, warnings = (list(rules.values()).count(severity) for severity in ("error", "warning"))
    look = [f"{_things(warnings)} worth a look"] if warnings else []
    if errors:
        return ", ".join([f"{_things(errors)} to be corrected before the upload", *look]) + "."
    return "; ".join(["Ready to upload", *look]) + "."


def _things(number: int) -> str:
    return "1 thing" if number == 1 else f"{number} things"


def _capped(found: Iterable[Trouble]) -> Iterator[Trouble]:
    """The troubles, at most so many of one rule in one file; one more counts the others."""
    kinds: dict[tuple[str, str], list[Trouble]] = {}
    for trouble in found:
        kinds.setdefault((trouble.rule, trouble.file), []).append(trouble)
    for same in kinds.values():
        yield from same[:MOST_SHOWN]
        if more := same[MOST_SHOWN:]:
            where = ", ".join(str(trouble.line) for trouble in more[:5])
            words = f"{len(more):,} more of the same kind, in line {where} and so on; correct them as above"
            yield replace(same[0], line=0, words=words)


def _finding(trouble: Trouble) -> Finding:
    rule, place, line, file = trouble.rule, trouble.field, trouble.line, trouble.file
    where = f"{'Validation line' if file == VALIDATION else 'Line'} {line}" if line else f"{file.capitalize()} file"
    severity, fix = RULES[rule]
    return Finding(rule, severity, line, place, f"{where}, {place}: {trouble.words}.", fix, file)
