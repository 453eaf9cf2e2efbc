"""Uploaded files: a record and its bytes, each written whole or not at all; and that way of writing."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from openai.types import FileObject

from drone_ft.local.api import dump, new_id, not_found

log = logging.getLogger(__name__)
PURPOSES = ("fine-tune", "assistants", "batch", "vision", "user_data")
LONGEST_NAME = 200
BLOCK = 1 << 20


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Writes beside `path`, flushes to the disk, then renames: a reader sees all of it or nothing. OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(new_id(f".{path.name}.", 8) + ".tmp")
    try:
        with beside.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """A JSON value, written atomically. OSError."""
    text = json.dumps(value, indent=1, ensure_ascii=False)
    write_atomically(path, lambda file: file.write(text.encode()))


class FileStore:
    """The files of `/v1/files`: found by id in memory, so no name a client sends ever becomes a path."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(".*.tmp"):
            leftover.unlink(missing_ok=True)
        read = [_read(path) for path in folder.glob("*.json")]
        known = sorted((file for file in read if file), key=lambda file: (file.created_at, file.id))
        self._files = {file.id: file for file in known}

    def create(self, source: IO[bytes], name: str, purpose: str) -> FileObject:
        """Keeps a copy of `source` (bytes from its position on). OSError when the disk refuses."""
        id = new_id("file-")
        data = self._folder / f"{id}.bin"
        write_atomically(data, lambda out: _copy(source, out))
        file = FileObject.model_validate(
            {
                "id": id,
                "object": "file",
                "bytes": data.stat().st_size,
                "created_at": int(time.time()),
                "filename": _plain_name(name),
                "purpose": purpose,
                "status": "processed",
            }
        )
        try:
            write_json(self._folder / f"{id}.json", dump(file))
        except OSError:
            data.unlink(missing_ok=True)
            raise
        with self._lock:
            self._files[id] = file
        return file

    def all(self) -> list[FileObject]:
        """All files, oldest first."""
        with self._lock:
            return [*self._files.values()]

    def get(self, id: str) -> FileObject:
        """The record of a file; ApiError 404 when there is none."""
        with self._lock:
            file = self._files.get(id)
        if file is None:
            raise not_found("File object", id)
        return file

    def path(self, id: str) -> Path:
        """Where the bytes of a file lie; ApiError 404 when there is none."""
        return self._folder / f"{self.get(id).id}.bin"

    def delete(self, id: str) -> None:
        """Removes a file; jobs keep their own copies. ApiError 404 when there is none."""
        path = self.path(id)
        path.with_suffix(".json").unlink(missing_ok=True)
        with self._lock:
            self._files.pop(id, None)
        path.unlink(missing_ok=True)


def _read(path: Path) -> FileObject | None:
    try:
        file = FileObject.model_validate_json(path.read_bytes())
    except ValueError:
        log.warning("The record %s is damaged; the file it describes is left out.", path)
        return None
    return file if file.id == path.stem else None


def _copy(source: IO[bytes], out: IO[bytes]) -> None:
    while block := source.read(BLOCK):
        out.write(block)


def _plain_name(name: str) -> str:
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    printable = "".join(char for char in last if char.isprintable())
    return printable[:LONGEST_NAME] or "file"
