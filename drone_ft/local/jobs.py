"""Fine-tuning jobs as records on disk: written whole, read back at start-up, told in the API's shape.

A job's folder holds `record.json` (the server's), `job.json`, `train.jsonl`, `validation.jsonl` (for the training
process), and what that process writes: `events.jsonl`, `checkpoints/`, `result.csv`, `error.json`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import IO, Any

from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent
from openai.types.fine_tuning.jobs import FineTuningJobCheckpoint

from drone_ft.local import api
from drone_ft.local.api import Json
from drone_ft.local.files import write_json

log = logging.getLogger(__name__)
UNDER_WAY = ("validating_files", "queued", "running")
PAUSED = "paused"
CHECKPOINT = re.compile(r"epoch-([0-9]{1,6})")


@dataclass(frozen=True)
class Job:
    """One fine-tuning job; `number` orders jobs that were created in the same second."""

    id: str
    number: int
    created_at: int
    model: str
    training_file: str
    validation_file: str | None
    suffix: str
    seed: int
    hyperparameters: dict[str, Any]
    metadata: dict[str, str] | None
    output_model: str
    status: str = "validating_files"
    finished_at: int | None = None
    error: dict[str, str | None] | None = None
    fine_tuned_model: str | None = None
    result_files: list[str] = field(default_factory=list)
    trained_tokens: int | None = None

    @property
    def under_way(self) -> bool:
        """Whether something is still to happen to this job."""
        return self.status in UNDER_WAY

    def reply(self, estimated_finish: int | None = None) -> FineTuningJob:
        """The job as the API shows it."""
        return FineTuningJob.construct(
            object="fine_tuning.job",
            id=self.id,
            created_at=self.created_at,
            model=self.model,
            status=self.status,
            training_file=self.training_file,
            validation_file=self.validation_file,
            seed=self.seed,
            organization_id="org-local",
            fine_tuned_model=self.fine_tuned_model,
            finished_at=self.finished_at,
            estimated_finish=estimated_finish,
            result_files=self.result_files,
            trained_tokens=self.trained_tokens,
            error=self.error,
            metadata=self.metadata,
            integrations=[],
            hyperparameters=self.hyperparameters,
            method={"type": "supervised", "supervised": {"hyperparameters": self.hyperparameters}},
        )


class JobStore:
    """All jobs, in memory and on disk; every change is on disk before anybody is told.

    Changes take the lock, and wait for the disk; looking takes none, because `_jobs` is replaced, never altered.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self.changed = threading.Condition(threading.RLock())
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob("*/.*.tmp"):
            leftover.unlink(missing_ok=True)
        read = [_read(path) for path in folder.glob("*/record.json")]
        known = sorted((job for job in read if job), key=lambda job: job.number)
        self._jobs = {job.id: job for job in known}

    def folder(self, job: Job) -> Path:
        """Where a job's files lie."""
        return self._folder / job.id

    def all(self) -> list[Job]:
        """All jobs, newest first."""
        return [*reversed(self._jobs.values())]

    def get(self, id: str) -> Job:
        """One job; ApiError 404 when there is none."""
        job = self._jobs.get(id)
        if job is None:
            message = f"Could not find fine tune: {id[:200]}. List the jobs to see which exist."
            raise api.ApiError(404, message, param="fine_tuning_job_id", code="fine_tune_not_found")
        return job

    def oldest(self, *statuses: str) -> Job | None:
        """The job that has waited longest in one of these statuses."""
        return next((job for job in self._jobs.values() if job.status in statuses), None)

    def add(self, settings: Json) -> Job:
        """A new job from checked settings (see `job_checks.read_settings`). OSError when the disk refuses."""
        with self.changed:
            number = max((job.number for job in self._jobs.values()), default=0) + 1
            job = Job(id=api.new_id("ftjob-"), number=number, created_at=int(time.time()), **settings)
            write_json(self.folder(job) / "record.json", asdict(job))
            self._jobs = {**self._jobs, job.id: job}
            self.changed.notify_all()
        return job

    def change(self, id: str, **changes: Any) -> Job:
        """The job with some fields replaced. A disk that refuses costs the record, not the job: memory stays right."""
        with self.changed:
            job = replace(self.get(id), **changes)
            try:
                write_json(self.folder(job) / "record.json", asdict(job))
            except OSError as error:
                log.warning("The record of job %s could not be saved: %s", id, error)
            self._jobs = {**self._jobs, id: job}
            self.changed.notify_all()
        return job

    def tell(self, job: Job, message: str, level: str = "info") -> None:
        """Adds an event of the server's own. A disk that refuses loses the event, nothing else."""
        event = {"created_at": int(time.time()), "level": level, "type": "message", "message": message, "data": {}}
        path = self.folder(job) / "events.jsonl"
        try:
            with path.open("ab") as file:
                # A process killed while writing leaves half a line; it must not swallow this one.
                start = b"\n" if file.tell() and not _ends_a_line(path) else b""
                file.write(start + json.dumps(event, ensure_ascii=False).encode() + b"\n")
        except OSError as error:
            log.warning("An event of job %s could not be saved: %s", job.id, error)

    def events(self, job: Job) -> list[FineTuningJobEvent]:
        """What happened, newest first."""
        return [
            FineTuningJobEvent.construct(
                object="fine_tuning.job.event",
                id=f"ftevent-{_digest(job.id, line)}",
                created_at=event.get("created_at", job.created_at),
                level=event.get("level", "info"),
                type=event.get("type", "message"),
                message=event.get("message", ""),
                data=event.get("data") or {},
            )
            for line, event in reversed([*_lines(self.folder(job) / "events.jsonl")])
        ]

    def checkpoints(self, job: Job) -> list[FineTuningJobCheckpoint]:
        """One checkpoint an epoch, newest first, with the figures of its last step."""
        folder = self.folder(job) / "checkpoints"
        found = [(CHECKPOINT.fullmatch(path.name), path) for path in folder.iterdir()] if folder.is_dir() else []
        epochs = sorted(((int(match[1]), path) for match, path in found if match), reverse=True)
        return [checkpoint for _, path in epochs if (checkpoint := _checkpoint(job, path))]

    def estimated_finish(self, job: Job) -> int | None:
        """When a running job will end, as far as its last event knows; Unix seconds."""
        if job.status != "running":
            return None
        for _, event in reversed([*_lines(self.folder(job) / "events.jsonl")]):
            data = event.get("data")
            left = data.get("seconds_left") if isinstance(data, dict) else None
            if isinstance(left, (int, float)):
                return int(event.get("created_at", job.created_at) + left)
        return None


def _read(path: Path) -> Job | None:
    known = {entry.name for entry in fields(Job)}
    try:
        stored = json.loads(path.read_bytes())
        job = Job(**{key: value for key, value in stored.items() if key in known})
    except (OSError, ValueError, TypeError, AttributeError, LookupError):
        log.warning("The record %s is damaged; the job it describes is left out.", path)
        return None
    return job if job.id == path.parent.name else None


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read(1) == b"\n"


def _lines(path: Path) -> Iterator[tuple[int, Json]]:
    try:
        file: IO[bytes] = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        for number, raw in enumerate(file):
            try:
                value = json.loads(raw)
            except ValueError:
                continue  # half a line: the process was killed, or is writing it at this moment
            if isinstance(value, dict):
                yield number, value


def _checkpoint(job: Job, path: Path) -> FineTuningJobCheckpoint | None:
    settings = trained_settings(path)
    if not settings:
        return None
    figures = settings.get("metrics") or {}
    names = {"step": "step", "train_loss": "train_loss", "train_mean_token_accuracy": "train_accuracy"}
    names |= {name: name for name in ("valid_loss", "valid_mean_token_accuracy")}
    return FineTuningJobCheckpoint.construct(
        object="fine_tuning.job.checkpoint",
        id=f"ftckpt-{_digest(job.id, path.name)}",
        created_at=int(path.stat().st_mtime),
        fine_tuned_model_checkpoint=settings["id"],
        fine_tuning_job_id=job.id,
        metrics={name: figures[key] for name, key in names.items() if figures.get(key) is not None},
        step_number=int(figures.get("step", 0)),
    )


def trained_settings(folder: Path) -> Json:
    """What training noted beside a tuned model or a checkpoint; {} where there is none."""
    try:
        settings = json.loads((folder / "settings.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return settings if isinstance(settings, dict) and "id" in settings else {}


def _digest(*parts: object) -> str:
    return hashlib.sha256(":".join(map(str, parts)).encode()).hexdigest()[:24]
