"""Every test has a workspace of its own and no key."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _own_workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRONE_FT_WORKSPACE", str(tmp_path / "workspace"))
    for name in (
        "OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_ORG_ID", "AZURE_OPENAI_ENDPOINT", "AZURE_OPENAI_API_KEY",
        "DRONE_FT_DATABASE", "DRONE_FT_MODEL", "DRONE_FT_TOKEN",
    ):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
