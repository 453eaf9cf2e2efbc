"""What a job's folder gains while it trains: events, checkpoints, results; each written whole or not at all."""

from __future__ import annotations

import csv
import json
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

FOLLOWER = "DRONE_FT_FOLLOWER"  # variable: the process that follows the training, which ends when that is gone
UNDER_WAY = "under-way"  # the checkpoint within an epoch; the API tells of whole epochs only
COLUMNS = ("step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy")


class Journal:
    """Appends events to events.jsonl, one flushed line each, from the main process only."""

    def __init__(self, path: Path, main: bool) -> None:
        self.path, self.main = path, main

    def write(self, message: str, data: dict[str, Any] | None = None, level: str = "info") -> None:
        """One event: a metrics event when it has data, else a message."""
        if not self.main:
            return
        event = {
            "created_at": int(time.time()),
            "level": level,
            "type": "message" if data is None else "metrics",
            "message": message,
            "data": data or {},
        }
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(event, ensure_ascii=False) + "\n")


def write_folder(folder: Path, fill: Any) -> None:
    """Make `folder` complete or not at all: filled under another name, synced, renamed."""
    temporary = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    fill(temporary)
    for path in sorted(temporary.rglob("*")):
        if path.is_file():
            _sync(path)
    _sync(temporary)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)
    _sync(folder.parent)


def _sync(path: Path) -> None:
    if path.is_dir() and os.name == "nt":
        return
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Replace a file at once."""
    temporary = path.with_name(f".{path.name}.unfinished")
    temporary.write_text(text, "utf-8")
    _sync(temporary)
    temporary.replace(path)


def last_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint of a job: of a whole epoch, or of the epoch under way."""
    found = [path.parent for path in (folder / "checkpoints").glob("[!.]*/progress.json")]
    return max(
        found, key=lambda path: int(json.loads((path / "progress.json").read_text("utf-8"))["step"]), default=None
    )


def write_results(folder: Path, table: Sequence[dict[str, Any]]) -> None:
    """result.csv: one line a step, as the hosted API has it."""
    path = folder / ".result.csv.unfinished"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="")
        writer.writeheader()
        writer.writerows(table)
    path.replace(folder / "result.csv")
