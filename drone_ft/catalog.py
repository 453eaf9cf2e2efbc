"""What the model may call: functions, catalogs and single calls."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Function:
    """One function the model may call; `parameters` is its JSON Schema, verbatim."""

    name: str
    description: str
    parameters: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Call:
    """One call: a function's name and its arguments."""

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Canonical JSON: equal calls have equal keys."""
        return json.dumps([self.name, self.arguments], sort_keys=True, ensure_ascii=False)

    def to_json(self) -> dict[str, Any]:
        """The call as plain data."""
        return {"name": self.name, "arguments": self.arguments}

    def __hash__(self) -> int:
        return hash(self.key)
