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
# What differs between reasons of one kind: what was said, the numbers, the function an impossible request is near to.
_OWN = re.compile(r"(“[^”]*”|'[^']*'|\d+(?:\.\d+)?|(?<=^near )[^:]+(?=: ))")


def keep(folder: Path, run_id: str, left_out: Sequence[LeftOut]) -> str:
    """Write the ledger of a run into a workspace; returns its file's name there. Raises DatasetError.

    Not in the run's row, which is written several times a second: a ledger may have thousands of entries.
    """
    name = f"ledgers/{run_id}.jsonl"
    lines = [json.dumps(dataclasses.asdict(one), ensure_ascii=False) + "\n" for one in left_out]
    dataset.write_jsonl(folder / name, "".join(lines))
    return name


def read(path: Path) -> list[Row]:
    """All entries of a ledger; none where its file is gone or damaged."""
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    except (OSError, ValueError):
        return []


def reasons(rows: Sequence[Row]) -> list[tuple[int, str]]:
    """How often each kind of reason occurs, the most frequent first; where the entries differ it says “…”."""
    kinds: dict[tuple[str, ...], list[list[str]]] = {}
    for row in rows:
        parts = _OWN.split(str(row.get("reason") or ""))
        kinds.setdefault(tuple(parts[::2]), []).append(parts)
    counted = [
        (len(kind), "".join(part[0] if len({*part}) == 1 else "…" for part in zip(*kind, strict=True)))
        for kind in kinds.values()
    ]
    return sorted(counted, key=lambda one: -one[0])


def to_csv(rows: Sequence[Row]) -> str:
    """The entries as a table for a spreadsheet."""
    text = io.StringIO()
    table = csv.writer(text)
    table.writerow(COLUMNS)
    for row in rows:
        call = row.get("call") or {}
        values = json.dumps(call.get("arguments") or {}, ensure_ascii=False)
        table.writerow([call.get("name"), values, row.get("words"), row.get("reason")])
    return "\ufeff" + text.getvalue()  # the mark without which spreadsheets misread quotation marks and accents
