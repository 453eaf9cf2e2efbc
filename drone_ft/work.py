"""Long work in a process of its own: its steps, progress, cancelling, and going on after a crash.

`start` writes a Run into the store and spawns `python -m drone_ft.work RUN_ID`; that process writes its progress
back. Whoever looks (a page, a terminal) only reads the store, so closing a tab changes nothing.
"""

from __future__ import annotations

import dataclasses
import logging
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any

import psutil
from filelock import FileLock

from drone_ft.endpoints import spawn
from drone_ft.errors import DroneFTError, WorkCancelled

if TYPE_CHECKING:
    from drone_ft.store import Store

SURE = 0.05  # share of a step after which its pace tells how long it will take
log = logging.getLogger(__name__)
UNDER_WAY = ("waiting", "running")
# A run that has not said which process it lives in after this long never got one.
SPAWN_SECONDS = 60.0


@dataclass(frozen=True)
class Step:
    """One step of a run; `done` of `total` counts whatever the step counts, `seconds_left` is an estimate or None."""

    name: str
    title: str
    status: str = "waiting"  # waiting, running, done, failed
    done: int = 0
    total: int = 0
    seconds_left: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Run:
    """One piece of long work: what was asked, how far it is, how it ended."""

    id: str
    kind: str
    status: str = "waiting"  # waiting, running, done, failed, cancelled
    settings: dict[str, Any] = field(default_factory=dict)
    steps: tuple[Step, ...] = ()
    error: str | None = None
    result: dict[str, Any] = field(default_factory=dict)
    created: float = 0.0
    finished: float | None = None
    pid: int | None = None
    pid_started: float | None = None

    @property
    def is_under_way(self) -> bool:
        """Whether it waits or runs."""
        return self.status in UNDER_WAY


def settle(run: Run) -> Run:
    """The run as it truly stands: one whose process is gone has failed, whatever it last wrote."""
    if not run.is_under_way or _is_alive(run):
        return run
    steps = tuple(dataclasses.replace(s, status="failed") if s.status == "running" else s for s in run.steps)
    error = "The work stopped in the middle: its process ended. Start it again; it goes on from the last finished step."
    return dataclasses.replace(run, status="failed", error=error, steps=steps)


def _is_alive(run: Run) -> bool:
    if run.pid is None:
        return time.time() - run.created < SPAWN_SECONDS
    try:
        process = psutil.Process(run.pid)
        same = run.pid_started is None or abs(process.create_time() - run.pid_started) < 2.0
        return same and bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def start(
    store: Store, kind: str, settings: dict[str, Any] | None = None, environment: Mapping[str, str] | None = None
) -> Run:
    """Start work of a kind in its own process, or give the run of that kind that is already under way.

    `environment` is handed to that process alone, for what must not be written down, such as a key.
    """
    store.folder.mkdir(parents=True, exist_ok=True)
    with FileLock(store.folder / "work.lock", timeout=30):
        last = store.latest_run(kind)
        if last and last.is_under_way:
            return last
        run = _new_run(store, kind, settings or {}, last)
    command = [sys.executable, "-m", "drone_ft.work", run.id]
    _children.append(spawn(command, store.folder / "work.log", store.folder, environment))
    return store.run(run.id) or run


# Held so that finished children are reaped when the next one starts, instead of lingering as zombies.
_children: list[subprocess.Popen[bytes]] = []


def _new_run(store: Store, kind: str, settings: dict[str, Any], last: Run | None) -> Run:
    _children[:] = [child for child in _children if child.poll() is None]
    # What a broken-off run had finished is handed on, so that starting again goes on where it stopped.
    goes_on = last is not None and last.status in ("failed", "cancelled") and last.settings == settings
    result = dict(last.result) if last and goes_on else {}
    run = Run(uuid.uuid4().hex[:12], kind, settings=settings, result=result, created=time.time())
    store.save_run(run)
    return run


def cancel(store: Store, run_id: str) -> None:
    """Ask a run to stop; its process notices within a second or two."""
    store.request_cancel(run_id)


class Progress:
    """What running work is told to tell: its steps, how far each is, what it has found out so far."""

    def __init__(self, run: Run, save: Callable[[Run], None], cancelled: Callable[[], bool]) -> None:
        self.run = run
        self._save = save
        self._cancelled = cancelled
        self._last_saved = 0.0

    def plan(self, *steps: tuple[str, str]) -> None:
        """Name all steps, as (name, title), before the first begins."""
        self._set(steps=tuple(Step(name, title) for name, title in steps))

    def step(self, name: str) -> StepProgress:
        """A step as a context: running inside, done after, failed on an error."""
        return StepProgress(self, name)

    def remember(self, urgent: bool = True, **found: Any) -> None:
        """Keep results, so that a run started again need not find them a second time; unimportant ones as `change`."""
        self._set(urgent, result={**self.run.result, **found})

    def check(self) -> None:
        """Raise WorkCancelled when somebody pressed cancel."""
        if self._cancelled():
            raise WorkCancelled("The work was cancelled.")

    def change(self, name: str, urgent: bool = True, **what: Any) -> None:
        """Change a step; unimportant changes are written at most three times a second."""
        steps = tuple(dataclasses.replace(s, **what) if s.name == name else s for s in self.run.steps)
        self._set(urgent, steps=steps)

    def _set(self, urgent: bool = True, **what: Any) -> None:
        self.run = dataclasses.replace(self.run, **what)
        if urgent or time.monotonic() - self._last_saved > 0.3:
            self._save(self.run)
            self._last_saved = time.monotonic()


class StepProgress(AbstractContextManager["StepProgress"]):
    """What a step is told to tell, while it is under way."""

    def __init__(self, progress: Progress, name: str) -> None:
        self._progress = progress
        self._name = name
        self._started = 0.0

    def __enter__(self) -> StepProgress:
        self._progress.check()
        self._started = time.monotonic()
        self._progress.change(self._name, status="running")
        return self

    def update(self, done: int, total: int, note: str | None = None, seconds_left: float | None = None) -> None:
        """How far the step is; without an estimate of its own, time left follows from the pace so far."""
        self._progress.check()
        # the first few wait for a model to be loaded, and would promise ten minutes in place of one
        if seconds_left is None and total * SURE <= done < total:
            seconds_left = (time.monotonic() - self._started) / done * (total - done)
        what: dict[str, Any] = {"done": done, "total": total, "seconds_left": seconds_left}
        if note is not None:
            what["note"] = note
        self._progress.change(self._name, urgent=done == total, **what)

    def note(self, words: str) -> None:
        """Say something about the step."""
        self._progress.change(self._name, note=words)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stopped = kind is not None and issubclass(kind, WorkCancelled | KeyboardInterrupt)
        said: dict[str, Any] = {"note": "cancelled"} if stopped else {}
        self._progress.change(self._name, status="failed" if kind else "done", seconds_left=None, **said)


def run_here(store: Store, run: Run, on_change: Callable[[Run], None] = lambda run: None) -> Run:
    """Do the work of a run in this process and return how it ended; only a bug raises."""
    from drone_ft import pipeline

    me = psutil.Process()
    run = dataclasses.replace(run, status="running", pid=me.pid, pid_started=me.create_time())

    def save(now: Run) -> None:
        store.save_run(now)
        on_change(now)

    progress = Progress(run, save, lambda: store.is_cancel_requested(run.id))
    save(run)
    try:
        pipeline.KINDS[run.kind](store, progress, **run.settings)
        ended = dataclasses.replace(progress.run, status="done")
    except WorkCancelled:
        ended = dataclasses.replace(progress.run, status="cancelled")
    except KeyboardInterrupt:
        ended = dataclasses.replace(progress.run, status="cancelled")
    except DroneFTError as error:
        ended = dataclasses.replace(progress.run, status="failed", error=str(error))
    except Exception:
        log.exception("work %s failed", run.kind)
        words = f"Something went wrong that should not have; the details are in {store.folder / 'work.log'}. Try again."
        ended = dataclasses.replace(progress.run, status="failed", error=words)
    ended = dataclasses.replace(ended, finished=time.time())
    save(ended)
    return ended


def begin_here(store: Store, kind: str, settings: dict[str, Any], on_change: Callable[[Run], None]) -> Run:
    """The same as `start`, in this process: for the terminal. Raises DroneFTError when such work is under way."""
    store.folder.mkdir(parents=True, exist_ok=True)
    with FileLock(store.folder / "work.lock", timeout=30):
        last = store.latest_run(kind)
        if last and last.is_under_way:
            raise DroneFTError(
                f"A {kind} is already under way (process {last.pid}). Wait for it, or cancel it in the app."
            )
        run = _new_run(store, kind, settings, last)
    return run_here(store, run, on_change)


def main() -> int:
    """The process of one run."""
    from drone_ft.store import Store

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    for name in ("httpx2", "httpcore2", "openai"):  # they tell of every request
        logging.getLogger(name).setLevel(logging.WARNING)
    store = Store()
    run = store.run(sys.argv[1])
    if run is None:
        log.error("There is no run %s.", sys.argv[1])
        return 2
    return 0 if run_here(store, run).status == "done" else 1


if __name__ == "__main__":
    sys.exit(main())
