"""The cores of this computer: how many there are, and how many of them others leave to a long computation."""

from __future__ import annotations

import os
import time

import psutil

LOOK = 1.0  # seconds between two looks, at least: a burst of requests, read by their senders, is not a busy computer


def physical() -> int:
    """Cores this process may use, hyper-threads counted once where that can be known."""
    return min(len(_allowed()), psutil.cpu_count(logical=False) or len(_allowed()))


def use(threads: int) -> None:
    """Let torch compute with so many threads."""
    import torch

    torch.set_num_threads(max(1, threads))


class Share:
    """What others leave of the cores, looked at again and again.

    Threads that work on one matrix product wait for the slowest of them. Where somebody else needs a core, two threads
    of low priority end on one core and wait for each other's turns: on two cores a step took 20 s in place of 0.45.
    """

    def __init__(self, most: int) -> None:
        self._most = self._left = max(1, most)
        self._process = psutil.Process()
        self._look()  # what is measured is the time between two looks

    def threads(self) -> int:
        """Threads to compute with until the next look: at least one, no more than there were cores left."""
        if time.monotonic() - self._looked >= LOOK:
            self._left = max(1, min(self._most, self._look()))
        return self._left

    def _look(self) -> int:
        """Cores that others left since the last look."""
        self._looked = time.monotonic()
        allowed, percent = _allowed(), psutil.cpu_percent(percpu=True)
        # some systems number the cores otherwise than they list them; those are taken for free
        busy = sum(percent[core] for core in allowed if core < len(percent))
        others = max(0.0, busy - self._process.cpu_percent()) / 100
        return len(allowed) - int(others + 0.5)


def _allowed() -> list[int]:
    """The numbers of the logical cores this process may use."""
    return list(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
