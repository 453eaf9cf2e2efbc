"""A fine-tuning job at an endpoint: upload, start, follow, cancel."""

from __future__ import annotations

import contextlib
import dataclasses
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import openai

from drone_ft.endpoints import patiently, translated
from drone_ft.errors import EndpointError, JobError, WorkCancelled

OVER = ("succeeded", "failed", "cancelled")
# A careless server can page for ever; no job of ours has more events than this.
MOST_EVENTS = 20_000


@dataclass(frozen=True)
class Job:
    """One fine-tuning job: our id, the endpoint's id of it and the tuned model's id are three different things.

    `examples` is how many it learns from; `status` is the endpoint's own word, an open set; times are Unix seconds;
    `last_loss` is the newest one measured, on validation data where there are any; `events` oldest first, none in a
    list of jobs.
    """

    id: str
    endpoint: str
    endpoint_job_id: str
    model: str
    suffix: str
    epochs: int | str
    status: str
    created: float
    tuned_model: str | None = None
    message: str = ""
    finished: float | None = None
    seconds_left: float | None = None
    last_loss: float | None = None
    examples: int = 0
    events: list[dict[str, Any]] = field(default_factory=list)
    catalog: str = ""  # whose calls it learns; unknown where somebody trained on a file of their own

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.status in OVER


def start(
    client: openai.OpenAI,
    endpoint: str,
    train_jsonl: str,
    validation_jsonl: str | None,
    model: str,
    epochs: int | str = "auto",
    suffix: str = "",
    seed: int | None = None,
) -> Job:
    """Upload the data and create the job; raises EndpointError. The creation is never repeated blindly."""
    train = _upload(client, "train.jsonl", train_jsonl)
    validation = _upload(client, "validation.jsonl", validation_jsonl) if validation_jsonl else None
    own_id = uuid.uuid4().hex[:12]
    more: dict[str, Any] = {"validation_file": validation} if validation else {}
    method: Any = {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": epochs}}}
    if suffix:
        more["suffix"] = suffix
    if seed is not None:
        more["seed"] = seed
    job = translated(
        lambda: client.fine_tuning.jobs.create(
            model=model,
            training_file=train,
            method=method,
            metadata={"drone_ft_job": own_id},
            **more,
        )
    )
    count = sum(bool(line.strip()) for line in train_jsonl.split("\n"))
    return Job(own_id, endpoint, job.id, model, suffix, epochs, job.status, time.time(), examples=count)


def _upload(client: openai.OpenAI, name: str, text: str) -> str:
    return patiently(lambda: client.files.create(file=(name, text.encode()), purpose="fine-tune")).id


def refresh(client: openai.OpenAI, job: Job) -> Job:
    """The job as its endpoint sees it now, with all its events; reading changes nothing there."""
    now = patiently(lambda: client.fine_tuning.jobs.retrieve(job.endpoint_job_id))
    known = {event["id"] for event in job.events}
    fresh: list[dict[str, Any]] = []
    page = patiently(lambda: client.fine_tuning.jobs.list_events(job.endpoint_job_id, limit=20))
    for event in page:
        if event.id in known or len(fresh) >= MOST_EVENTS:
            break
        fresh.append(
            {
                "id": event.id,
                "created": event.created_at,
                "type": event.type,
                "message": event.message,
                "data": event.data,
            }
        )
    events = [*job.events, *reversed(fresh)]
    curve = loss_curve(events)
    # Validation last, so that the last of all is its newest where there is one.
    losses = [point[name] for name in ("train_loss", "valid_loss") for point in curve if point[name] is not None]
    failed = now.error.message if now.error and now.error.message else ""
    return dataclasses.replace(
        job,
        status=now.status,
        tuned_model=now.fine_tuned_model,
        message=failed or (events[-1]["message"] if events else ""),
        finished=float(now.finished_at) if now.finished_at else None,
        seconds_left=max(0.0, now.estimated_finish - time.time()) if now.estimated_finish else None,
        last_loss=losses[-1] if losses else None,
        events=events,
    )


def follow(
    client: openai.OpenAI,
    job: Job,
    save: Callable[[Job], None],
    tell: Callable[[Job], None] = lambda job: None,
    every: float = 2.0,
) -> Job:
    """Wait until the job is over, saving and telling it each time; raises JobError when it did not succeed.

    When somebody cancels (`tell` raises WorkCancelled, or Ctrl-C), the job is cancelled at its endpoint and saved as
    cancelled; any other trouble, such as an outage, leaves it running there.
    """
    try:
        tell(job)
        while not job.is_over:
            time.sleep(every)
            job = refresh(client, job)
            save(job)
            tell(job)
    except (WorkCancelled, KeyboardInterrupt):
        if not job.is_over:
            # The first error is the one worth telling; the job must not be gone on with even if this one fails.
            with contextlib.suppress(EndpointError):
                cancel(client, job)
            save(dataclasses.replace(job, status="cancelled", seconds_left=None))
        raise
    if job.status != "succeeded" or not job.tuned_model:
        raise JobError(f"The fine-tuning job ended as {job.status}: {job.message or 'no reason given'}")
    return job


def cancel(client: openai.OpenAI, job: Job) -> Job:
    """Ask the endpoint to cancel the job."""
    now = translated(lambda: client.fine_tuning.jobs.cancel(job.endpoint_job_id))
    return dataclasses.replace(job, status=now.status)


def progress(job: Job) -> tuple[int, int]:
    """Steps done and steps in all, as the newest metrics tell; (0, 0) before the first."""
    for event in reversed(job.events):
        data = event["data"] if isinstance(event["data"], dict) else {}
        if data.get("step") and data.get("total_steps"):
            return int(data["step"]), int(data["total_steps"])
    return 0, 0


def loss_curve(events: Sequence[dict[str, Any]]) -> list[dict[str, float | None]]:
    """Points of the loss curve that a job's events tell, in order of steps.

    Each has step, train_loss and valid_loss, None where not measured.
    """
    points: dict[int, dict[str, float | None]] = {}
    for event in events:
        data = event["data"] if isinstance(event["data"], dict) else {}
        if "step" not in data:
            continue
        point = points.setdefault(
            int(data["step"]), {"step": float(data["step"]), "train_loss": None, "valid_loss": None}
        )
        for name in ("train_loss", "valid_loss"):
            if data.get(name) is not None:
                point[name] = float(data[name])
    return [points[step] for step in sorted(points)]
