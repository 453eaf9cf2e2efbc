"""Which models there are to choose from, under names people can tell apart."""

from __future__ import annotations

import time

from drone_ft import endpoints, fine_tuning
from drone_ft.errors import EndpointError
from drone_ft.ui import session, words

# Stands for the local server's own model while the server sleeps and cannot tell its name.
ITS_OWN = ""
# Measured with the default data on 2 cores; used until a training on this computer tells better.
SECONDS_PER_EXAMPLE_AND_EPOCH = 0.07


def bases() -> list[str]:
    """All base models: those the running server lists, or ITS_OWN until it runs."""
    try:
        client = endpoints.client(endpoints.local_endpoint(start=False), timeout=5)
        listed = [model.id for model in endpoints.translated(client.models.list).data]
    except EndpointError:
        listed = []
    return [model for model in listed if not model.startswith("ft:")] or [ITS_OWN]


def jobs() -> list[fine_tuning.Job]:
    """Trainings for the loaded catalog, and those that name none; the newest first."""
    return session.store().jobs(session.store().catalog().name)


def tuned() -> dict[str, str]:
    """Tuned models, the newest first, each with its name: drone-demo, 23 Nov 14:05."""
    done = [job for job in jobs() if job.status == "succeeded" and job.tuned_model]
    return {str(job.tuned_model): f"{job.suffix or 'tuned'}, {moment(job.finished or job.created)}" for job in done}


def name(model: str) -> str:
    """A model's name for people, wherever it comes from."""
    if model == ITS_OWN:
        return "This computer's base model"
    parts = model.split(":")
    return tuned().get(model) or (f"{parts[3] or 'tuned'} ({parts[-1]})" if len(parts) > 4 else model)


def moment(seconds: float) -> str:
    """A time as people read it: 23 Nov 14:05."""
    then = time.localtime(seconds)
    return f"{then.tm_mday} {time.strftime('%b %H:%M', then)}"


def training_time(examples: int, epochs: int) -> str:
    """How long a training will take, from the last one on this computer or from our own measurement."""
    return words.duration(examples * epochs * _pace())


def _pace() -> float:
    """Seconds an example and epoch took in the newest finished training."""
    for job in session.store().jobs():
        if job.status == "succeeded" and job.finished and job.examples and isinstance(job.epochs, int):
            return max(0.001, (job.finished - job.created) / (job.examples * job.epochs))
    return SECONDS_PER_EXAMPLE_AND_EPOCH


STATUS = {
    "succeeded": "Finished",
    "failed": "Failed",
    "cancelled": "Cancelled",
    "running": "Training",
    "queued": "Waiting its turn",
    "validating_files": "Checking the data",
    "paused": "Paused",
}


def status(job: fine_tuning.Job) -> str:
    """A job's state in words; an unknown word of the endpoint is shown as it is."""
    return STATUS.get(job.status, words.title(job.status))
