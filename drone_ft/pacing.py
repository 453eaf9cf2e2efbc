"""Who may be on the wire: as many as the user allows, fewer while the server asks for patience."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

from drone_ft import endpoints
from drone_ft.errors import EndpointUnavailable

AT_ONCE = 8
MOST_AT_ONCE = 64
LONGEST_PAUSE = 60.0  # seconds; a server that wants longer is tried again, and says so again
HALVE_AGAIN = 1.0  # seconds; a burst of refusals is one piece of news
NEWEST = 20  # answers that the mean of tokens follows


class Stopped(Exception):
    """Nobody is let in any more."""


class Gate:
    """Lets requests out, and learns from what comes back how many and when.

    A 429 halves their number, every answer lets it creep up, and a server that asks for a wait keeps everybody
    waiting. `tokens` is about what a request takes. `clock` and `wait` are there for tests.
    """

    def __init__(
        self,
        limit: int = AT_ONCE,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[threading.Condition, float], object] = threading.Condition.wait,
    ) -> None:
        self.limit = max(1, min(limit, MOST_AT_ONCE))
        self.allowed = float(self.limit)
        self.inside = 0
        self.tokens = 1.0
        self.is_closed = False
        self.trouble: int | None = None  # the HTTP status of the last reply, where it was no answer
        self._clock, self._wait = clock, wait
        self._changed = threading.Condition()
        self._open_at = self._halve_at = clock()
        self._answers = 0

    def __enter__(self) -> Gate:
        with self._changed:
            while not self.is_closed:
                pause = self._open_at - self._clock()
                if pause <= 0 and self.inside < int(self.allowed):
                    self.inside += 1
                    return self
                self._wait(self._changed, min(pause, 1.0) if pause > 0 else 1.0)
        raise Stopped

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        with self._changed:
            self.inside -= 1
            now = self._clock()
            if isinstance(error, EndpointUnavailable):
                self.trouble = error.status
                if error.status == 429 and now >= self._halve_at:
                    self.allowed = max(1.0, self.allowed / 2)
                    self._halve_at = now + HALVE_AGAIN
                self._open_at = max(self._open_at, now + min(error.wait or 0.0, LONGEST_PAUSE))
            elif error is None:
                self.trouble = None
                self.allowed = min(float(self.limit), self.allowed + 1 / self.allowed)
            self._changed.notify_all()

    def hear(self, headers: Mapping[str, str]) -> None:
        """Learn from the headers of a response how much more the server takes; for `endpoints.client(listen=…)`."""
        with self._changed:
            pause = max(_pause(headers, "requests", 1.0), _pause(headers, "tokens", self.tokens))
            self._open_at = max(self._open_at, self._clock() + min(pause, LONGEST_PAUSE))

    def took(self, tokens: int) -> None:
        """Learn from an answer how many tokens a request takes, read and written, as a running mean."""
        with self._changed:
            self._answers += 1
            self.tokens += (max(tokens, 1) - self.tokens) / min(self._answers, NEWEST)

    def nap(self, seconds: float) -> None:
        """Sleep, unless the gate closes."""
        with self._changed:
            until = self._clock() + seconds
            while not self.is_closed and self._clock() < until:
                self._wait(self._changed, until - self._clock())
        if self.is_closed:
            raise Stopped

    def open(self) -> None:
        """Let people in again."""
        self.is_closed = False

    def close(self) -> None:
        """Let nobody in any more."""
        with self._changed:
            self.is_closed = True
            self._changed.notify_all()


def _pause(headers: Mapping[str, str], what: str, need: float) -> float:
    """Seconds until an allowance has enough for one more request; 0 where it has, or where that is not told.

    Allowances refill little by little: of the time until all of it is back, the share that is missing is enough.
    """
    left = _amount(headers.get(f"x-ratelimit-remaining-{what}", ""))
    if left is None or left >= need:
        return 0.0
    full = max(_amount(headers.get(f"x-ratelimit-limit-{what}", "")) or 0.0, need)
    return (endpoints.seconds(headers.get(f"x-ratelimit-reset-{what}", "")) or 0.0) * (need - left) / (full - left)


def _amount(told: str) -> float | None:
    """A number of requests or tokens; None for anything else, such as Azure's -1 where it counts none."""
    try:
        amount = float(told)
    except ValueError:
        return None
    return amount if amount >= 0 else None
