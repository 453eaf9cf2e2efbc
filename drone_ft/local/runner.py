"""Runs fine-tuning jobs: checks their files, then trains one at a time in a child process; picks up after a crash."""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import psutil

from drone_ft.errors import DroneFTError
from drone_ft.local import api
from drone_ft.local.files import FileStore, write_atomically, write_json
from drone_ft.local.job_checks import check_examples
from drone_ft.local.job_folder import FOLLOWER, last_checkpoint
from drone_ft.local.jobs import PAUSED, Job, JobStore, trained_settings

log = logging.getLogger(__name__)
TRAINING = (sys.executable, "-m", "drone_ft.local.training")
CANCELLED = 3
"""The exit code of a training process that was asked to stop."""
NICENESS = 15
PARAMS = {
    "invalid_training_file": "training_file",
    "invalid_n_examples": "training_file",
    "invalid_validation_file": "validation_file",
}
"""The field of a job that a training process's refusal is about."""
ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": "30000000", "MALLOC_TRIM_THRESHOLD_": "4000000000"}
"""Has the C library of Linux keep freed memory for the next step instead of fetching it anew: a twentieth less time."""
GRACE = 15.0
"""Seconds a training process has to stop by itself before it is killed."""


class Runner:
    """Two threads: one checks the files of new jobs, one trains. Both live until `stop`."""

    def __init__(
        self,
        jobs: JobStore,
        files: FileStore,
        models: Path,
        *,
        command: Sequence[str] = TRAINING,
        fewest_examples: int = 10,
        grace: float = GRACE,
    ) -> None:
        self._jobs, self._files, self._models = jobs, files, models
        self._command, self._fewest, self._grace = command, fewest_examples, grace
        self._stopping = False
        self._threads = [
            threading.Thread(
                target=self._work, args=(["validating_files"], self._check), name="jobs-check", daemon=True
            ),
            threading.Thread(
                target=self._work, args=(["running", "queued"], self._train), name="jobs-train", daemon=True
            ),
        ]

    def start(self) -> None:
        """Ends training processes left over from a killed server, then starts working through the jobs."""
        _end_leftovers({str(self._jobs.folder(job)) for job in self._jobs.all()}, self._grace)
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stops training; the job stays `running` on disk and goes on from its checkpoint after the next start."""
        with self._jobs.changed:
            self._stopping = True
            self._jobs.changed.notify_all()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(self._grace + 5)

    def cancel(self, id: str) -> Job:
        """The job, cancelled; its training process ends within seconds. ApiError 400 when it is over already."""
        with self._jobs.changed:
            job = self._jobs.get(id)
            if not job.under_way and job.status != PAUSED:
                raise api.bad(
                    f"Job {id} has already {job.status}; there is nothing to cancel.", None, "job_not_under_way"
                )
            if job.status == PAUSED:  # it may have ended well just as it was paused
                shutil.rmtree(self._trained(job), ignore_errors=True)
            job = self._jobs.change(id, status="cancelled", finished_at=int(time.time()))
        self._jobs.tell(job, "The job was cancelled.")
        return job

    def pause(self, id: str) -> Job:
        """The job, paused; its training process keeps a checkpoint and ends. ApiError 400 unless it is under way."""
        with self._jobs.changed:
            job = self._jobs.get(id)
            if not job.under_way:
                message = f"Job {id} is {job.status}; only a job that waits or runs can be paused."
                raise api.bad(message, None, "job_not_under_way")
            job = self._jobs.change(id, status=PAUSED)
        self._jobs.tell(job, "The job was paused.")
        return job

    def resume(self, id: str) -> Job:
        """The job, waiting again to go on from its checkpoint. ApiError 400 unless it is paused."""
        with self._jobs.changed:
            job = self._jobs.get(id)
            if job.status != PAUSED:
                raise api.bad(f"Job {id} is {job.status}; only a paused job can be resumed.", None, "job_not_paused")
            wanted = ["train.jsonl", *(["validation.jsonl"] if job.validation_file else [])]
            ready = all((self._jobs.folder(job) / name).exists() for name in wanted)  # copied once found good
            job = self._jobs.change(id, status="queued" if ready else "validating_files")
        self._jobs.tell(job, "The job was resumed.")
        return job

    def _work(self, statuses: Sequence[str], task: Callable[[Job], None]) -> None:
        while not self._stopping:
            with self._jobs.changed:
                job = next((found for status in statuses if (found := self._jobs.oldest(status))), None)
                if job is None:
                    self._jobs.changed.wait(5)
                    continue
            try:
                task(job)
            except OSError as error:
                self._fail(job, "disk_error", str(api.disk_error(error)))
            except Exception as error:
                log.exception("Job %s", job.id)
                self._fail(job, "server_error", f"The server failed while working on the job: {error}")

    def _check(self, job: Job) -> None:
        self._jobs.tell(job, f"Created fine-tuning job: {job.id}")
        self._jobs.tell(job, f"Validating training file: {job.training_file}")
        given = [(job.training_file, "training_file", "train.jsonl", self._fewest)]
        if job.validation_file:
            given.append((job.validation_file, "validation_file", "validation.jsonl", 1))
        for id, param, name, fewest in given:
            try:
                source = self._files.path(id)
            except DroneFTError:
                self._fail(job, f"invalid_{param}", f"The file {id} was deleted before the job began.", param)
                return
            if error := check_examples(source, param, fewest):
                self._fail(job, str(error["code"]), str(error["message"]), param)
                return
            with source.open("rb") as data:
                write_atomically(self._jobs.folder(job) / name, partial(shutil.copyfileobj, data))
        if self._move(job, "validating_files", status="queued"):
            self._jobs.tell(job, "Files validated, the job waits in the queue.")

    def _train(self, job: Job) -> None:
        folder = self._jobs.folder(job)
        resumed = last_checkpoint(folder) is not None
        write_json(folder / "job.json", self._order(job))
        (folder / "error.json").unlink(missing_ok=True)
        if not self._move(job, job.status, status="running"):
            return
        self._jobs.tell(job, "Training goes on from its last checkpoint." if resumed else "Fine-tuning job started.")
        with (folder / "training.log").open("ab") as output:
            child = subprocess.Popen(
                [*self._command, str(folder)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**ALLOCATOR, **os.environ, FOLLOWER: str(os.getpid())},
                # Ctrl-C in the server's terminal must reach the server alone: it then stops the child in order.
                start_new_session=True,
            )
        _lower_priority(child.pid)
        self._follow(job.id, child)
        self._conclude(self._jobs.get(job.id), child.returncode)

    def _order(self, job: Job) -> dict[str, Any]:
        return {
            "id": job.id,
            "model": job.model,
            "suffix": job.suffix,
            "seed": job.seed,
            "hyperparameters": job.hyperparameters,
            "output_model": job.output_model,
            "output_dir": str(self._trained(job)),
        }

    def _trained(self, job: Job) -> Path:
        return self._models / job.output_model.rsplit(":", 1)[-1]

    def _follow(self, id: str, child: subprocess.Popen[bytes]) -> None:
        asked: float | None = None
        while child.poll() is None:
            unwanted = self._stopping or self._jobs.get(id).status != "running"
            if unwanted and asked is None:
                child.terminate()
                asked = time.monotonic()
            elif asked is not None and time.monotonic() - asked > self._grace:
                child.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(0.2)

    def _conclude(self, job: Job, code: int) -> None:
        trained = self._trained(job)
        if job.status == "cancelled":
            shutil.rmtree(trained, ignore_errors=True)
        if job.status != "running":  # paused, and perhaps resumed since
            return
        if code != 0 and (self._stopping or (code == CANCELLED and self._stops_soon())):
            return
        if code == 0 and trained.is_dir():
            self._succeed(job)
        else:
            reason, message = _why(self._jobs.folder(job), code)
            self._fail(job, reason, message, PARAMS.get(reason))

    def _succeed(self, job: Job) -> None:
        settings = trained_settings(self._trained(job))
        changes = {
            "status": "succeeded",
            "fine_tuned_model": job.output_model,
            "finished_at": int(time.time()),
            "result_files": self._results(job),
            # What "auto" came to.
            "hyperparameters": job.hyperparameters | _known(settings.get("hyperparameters"), job.hyperparameters),
            "trained_tokens": (settings.get("metrics") or {}).get("trained_tokens"),
        }
        if self._move(job, "running", **changes):
            self._jobs.tell(job, f"New fine-tuned model created: {job.output_model}")
            self._jobs.tell(job, "The job has successfully completed.")

    def _results(self, job: Job) -> list[str]:
        try:
            # The API hands this file out in base64, and clients decode it.
            table = BytesIO(base64.b64encode((self._jobs.folder(job) / "result.csv").read_bytes()))
            return [self._files.create(table, "step_metrics.csv", "fine-tune-results").id]
        except OSError as error:
            # The model is there; it is worth more than its table.
            self._jobs.tell(job, f"The result file could not be kept: {error.strerror or error}", "warn")
            return []

    def _fail(self, job: Job, code: str, message: str, param: str | None = None) -> None:
        error = {"code": code, "message": message, "param": param}
        with self._jobs.changed:
            if not self._jobs.get(job.id).under_way:
                return
            job = self._jobs.change(job.id, status="failed", error=error, finished_at=int(time.time()))
        self._jobs.tell(job, f"The job failed: {message}", "error")

    def _move(self, job: Job, before: str, **changes: Any) -> bool:
        """Changes a job unless somebody cancelled it meanwhile."""
        with self._jobs.changed:
            if self._jobs.get(job.id).status != before:
                return False
            self._jobs.change(job.id, **changes)
            return True

    def _stops_soon(self) -> bool:
        # A computer that shuts down signals the child and the server in any order.
        deadline = time.monotonic() + 2
        while not self._stopping and time.monotonic() < deadline:
            time.sleep(0.05)
        return self._stopping


def _lower_priority(pid: int) -> None:
    """Lets answers go before training."""
    with contextlib.suppress(psutil.Error):
        psutil.Process(pid).nice(psutil.BELOW_NORMAL_PRIORITY_CLASS if os.name == "nt" else NICENESS)


def _end_leftovers(folders: set[str], grace: float) -> None:
    """Ends training processes that outlived a killed server: two must never train the same job."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if (process.info["cmdline"] or [""])[-1] in folders:
            with contextlib.suppress(psutil.Error):
                process.terminate()
                found.append(process)
    _, alive = psutil.wait_procs(found, grace)
    for process in alive:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(alive, grace)


def _known(given: Any, names: Iterable[str]) -> dict[str, Any]:
    return {name: given[name] for name in names if name in given} if isinstance(given, dict) else {}


def _why(folder: Path, code: int) -> tuple[str, str]:
    """The code and the sentence of a failed training process."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        error = json.loads((folder / "error.json").read_bytes())
        return str(error["code"]), str(error["message"])
    log_hint = f"What it wrote last is in {folder / 'training.log'}."
    if code == -signal.SIGTERM or code == CANCELLED:
        return "training_stopped", "The training process was stopped from outside. Start the job again."
    if code < 0:
        name = signal.Signals(-code).name if -code in signal.valid_signals() else f"signal {-code}"
        message = f"The training process was killed ({name}), most likely because memory ran out."
        return (
            "training_killed",
            f"{message} Close other programs or choose a smaller batch_size, then start the job again.",
        )
    if code == 0:
        return "server_error", f"Training ended without a model. {log_hint}"
    return "server_error", f"The training process ended with exit code {code} and no reason. {log_hint}"
