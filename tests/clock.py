"""A clock that runs as fast as somebody waits on it."""

from __future__ import annotations

import threading

from drone_ft.pacing import Gate


class Clock:
    """For `Gate(limit, clock, clock.wait)`."""

    now = 0.0

    def __call__(self) -> float:
        return self.now

    def wait(self, condition: threading.Condition, seconds: float) -> None:
        self.now += seconds
        condition.wait(0.001)


def quick(limit: int = 8) -> Gate:
    """A gate at which nobody really waits."""
    clock = Clock()
    return Gate(limit, clock, clock.wait)
