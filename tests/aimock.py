"""aimock, a stateful server of the same API that others wrote, as a process; never installed here, only used."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

VERSION = "1.43.0"
WHY = (
    f"aimock is not installed. With node: npm install --prefix FOLDER @copilotkit/aimock@{VERSION}, "
    "and set DRONE_FT_AIMOCK to that folder."
)


def command() -> str:
    """Where its program is: in the folder that DRONE_FT_AIMOCK names, or on the path; skips the test without it."""
    folder = os.environ.get("DRONE_FT_AIMOCK")
    found = shutil.which("llmock", path=str(Path(folder, "node_modules", ".bin")) if folder else None)
    if folder and not found:
        pytest.fail(f"DRONE_FT_AIMOCK is {folder}, and there is no aimock in it. {WHY}")
    return found or pytest.skip(WHY)


@contextlib.contextmanager
def running(fixtures: list[dict[str, Any]], folder: Path) -> Iterator[str]:
    """Its base URL; it answers chat requests as the fixtures say, and refuses those they do not know."""
    script = folder / "fixtures.json"
    script.write_text(json.dumps({"fixtures": fixtures}), "utf-8")
    log = folder / "aimock.log"
    with log.open("wb") as out:
        child = subprocess.Popen(
            [command(), "--port", "0", "--fixtures", str(script), "--strict", "--validate-on-load"],
            stdout=out,
            stderr=out,
        )
    try:
        yield f"{_address(child, log)}/v1"
    finally:
        child.terminate()
        child.wait(10)


def _address(child: subprocess.Popen[bytes], log: Path) -> str:
    until = time.monotonic() + 20
    while time.monotonic() < until and child.poll() is None:
        told = re.search(r"listening on (http://\S+)", log.read_text("utf-8"))
        if told:
            return told.group(1)
        time.sleep(0.02)
    raise AssertionError(f"aimock did not start: {log.read_text('utf-8')}")


def asked(base_url: str) -> int:
    """How many chat requests it has got."""
    with httpx2.Client(trust_env=False) as http:
        journal = http.get(f"{base_url.removesuffix('/v1')}/__aimock/journal").raise_for_status().json()
    return sum(entry["path"] == "/v1/chat/completions" for entry in journal)
