"""What a model's writing left out, and why: kept whole beside the database, counted by reason, as a table."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from drone_ft import dataset
from drone_ft.synthesis.by_model import LeftOut

Row = dict[str, Any]  # call, words and reason, as a LeftOut has them
COLUMNS = ("Function", "Values", "Words", "Left out because")
HAVE = "You already have this example."
# What differs between reasons of one kind: what was said, the numbers.
_OWN = re.compile(r"(“[^”]*”|'[^']*'|\d+(?:\.\d+)?)")
_NEAR = re.compile(r"^near ([^:]+): ")  # before the reason why an impossible request is left out


def keep(folder: Path, run_id: str, left_out: Sequence[LeftOut]) -> str:
    """Write the ledger of a run into a workspace; returns its file's name there. Raises DatasetError.

    Not in the run's row, which is written several times a second: a ledger may have thousands of entries.
    """
    name = f"ledgers/{run_id}.jsonl"
    write(folder / name, left_out)
    return name


def write(path: Path, left_out: Sequence[LeftOut]) -> None:
    """Write a ledger as JSONL, whole or not at all. Raises DatasetError."""
    lines = [json.dumps(dataclasses.asdict(one), ensure_ascii=False) + "\n" for one in left_out]
    dataset.write_jsonl(path, "".join(lines))


def read(path: Path) -> list[Row]:
    """All entries of a ledger; none where its file is gone or damaged."""
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    except (OSError, ValueError):
        return []


def reason(row: Row) -> str:
    """The reason of an entry, without the function that an impossible request is near to."""
    return _NEAR.sub("", str(row.get("reason") or ""))


def near(row: Row) -> str:
    """The name of the function that an impossible request had to come close to; "" for other entries."""
    found = _NEAR.match(str(row.get("reason") or ""))
    return found.group(1) if found else ""


def reasons(rows: Sequence[Row]) -> list[tuple[int, str]]:
    """How often each kind of reason occurs, the most frequent first; where the entries differ it says “…”."""
    kinds: dict[tuple[str, ...], list[list[str]]] = {}
    for row in rows:
        parts = _OWN.split(reason(row))
        kinds.setdefault(tuple(parts[::2]), []).append(parts)
    counted = [
        (len(kind), "".join(part[0] if len({*part}) == 1 else "…" for part in zip(*kind, strict=True)))
        for kind in kinds.values()
    ]
    return sorted(counted, key=lambda one: -one[0])


def why_unanswered(rows: Sequence[Row]) -> str:
    """The most frequent reason why requests have no answer, to follow a colon."""
    counted = reasons([row for row in rows if not row.get("words") and row.get("reason") != HAVE])
    said = counted[0][1] if counted else "no reason is known."
    status = re.match(r"The server could not answer now \(status (\d+)\)", said)
    if status is None:
        return said[:1].lower() + said[1:]
    what = "asked for patience" if status[1] == "429" else "had an error"
    return f"the server {what} (status {status[1]})."


def to_csv(rows: Sequence[Row]) -> str:
    """The entries as a table for a spreadsheet."""
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(COLUMNS)
    for row in rows:
        call = row.get("call") or {}
        values = json.dumps(call.get("arguments") or {}, ensure_ascii=False)
        table.writerow(map(_harmless, (call.get("name"), values, row.get("words"), row.get("reason"))))
    return "\ufeff" + text.getvalue()  # the mark without which spreadsheets misread quotation marks and accents


def _harmless(value: Any) -> str:
    """Text that a spreadsheet does not take for a formula, whatever a model wrote."""
    text = str(value or "")
    return f"'{text}" if text.lstrip().startswith(("=", "+", "-", "@")) else text
