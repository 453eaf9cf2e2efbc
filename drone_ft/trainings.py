"""Trainings kept in the store: started once, gone on with, caught up with, found again."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable

import openai
from filelock import FileLock

from drone_ft import endpoints, fine_tuning
from drone_ft.endpoints import Endpoint
from drone_ft.errors import EndpointError, EndpointRefused, EndpointUnavailable
from drone_ft.fine_tuning import CREATING, Job
from drone_ft.store import Store


def train(
    store: Store,
    endpoint: Endpoint,
    client: openai.OpenAI,
    train_jsonl: str,
    validation_jsonl: str | None,
    model: str,
    epochs: int | str,
    suffix: str,
    tell: Callable[[Job], None],
    seed: int | None = None,
    catalog: str = "",
    before: str = "",
    waiting: Callable[[], bool] = lambda: False,
) -> Job:
    """Start a job, kept in the store with its data before it is created, and follow it; `tell` may raise WorkCancelled.

    The same training started again goes on with its job, unless that is over; with the one whose id is `before` also
    where that has made its model. `waiting` is called while another training is handed over; it may raise, too.
    """
    settings, data = (model, epochs, suffix, seed), (train_jsonl, validation_jsonl or "")
    # Held while a job is created: whoever starts the same training meanwhile waits, and then finds it.
    with FileLock(store.folder / "creating.lock").acquire(poll_interval=0.5, cancel_check=waiting):
        job = _begun(store, client, endpoint.name, settings, data, before)
        if job is None or job.status == CREATING:

            def save(now: Job) -> None:
                store.save_job(now, *data)

            job = fine_tuning.start(
                client,
                endpoint.name,
                train_jsonl,
                validation_jsonl or None,
                *settings,
                lost=job,
                catalog=catalog,
                save=save,
            )
            save(job)
    return fine_tuning.follow(client, job, store.save_job, tell)


def _begun(
    store: Store,
    client: openai.OpenAI,
    endpoint: str,
    settings: tuple[str, int | str, str, int | None],
    data: tuple[str, str],
    before: str,
) -> Job | None:
    """The newest job of this very training that is not over, or is the one of `before`; none that ended badly.

    Raises EndpointRefused where it is under way and not seen with the key set now: it would be paid twice.
    """
    *same, seed = settings
    for job in store.jobs():
        is_over = job.is_over if job.id != before else job.status in ("failed", "cancelled")
        if is_over or job.endpoint != endpoint or [job.model, job.epochs, job.suffix] != same:
            continue
        is_seed = job.seed == seed or (seed is None and job.status != CREATING)  # the endpoint chose one
        if not is_seed or store.job_data(job.id) != data:
            continue
        if job.status == CREATING:
            return job
        try:
            job = fine_tuning.refresh(client, store.job(job.id) or job)
        except EndpointRefused as error:
            if error.status != 404:
                raise
            if job.is_over or endpoint == endpoints.LOCAL:  # it is gone there
                continue
            raise EndpointRefused(
                f"A training with these settings is under way at {endpoint}, but the key set now does not see it. "
                "Use the key it was started with, or another name (suffix).",
                404,
            ) from error
        store.save_job(job)
        if job.status not in ("failed", "cancelled"):
            return job
    return None


def catch_up(store: Store, reach: Callable[[str], openai.OpenAI]) -> None:
    """Bring jobs nobody follows any more (an app that was killed) to where their endpoints see them.

    `reach` gives a client for an endpoint's name; one that cannot be reached now is left for another time.
    """
    forgotten = [job for job in store.jobs() if not job.is_over]
    for name in dict.fromkeys(job.endpoint for job in forgotten):
        with contextlib.suppress(EndpointError):
            _catch_up(store, reach(name), [job for job in forgotten if job.endpoint == name])


def _catch_up(store: Store, client: openai.OpenAI, forgotten: list[Job]) -> None:
    with contextlib.suppress(EndpointUnavailable):
        for job in forgotten:
            try:
                # A job of the list has no events; with those it has, only the new ones are fetched.
                now = _caught_up(client, store.job(job.id) or job)
                if now.status != CREATING:  # somebody may be about to save it otherwise
                    store.save_job(now)
            except EndpointRefused as error:
                if error.status != 404:
                    raise
                lost = "The server no longer knows this training. Start it again."
                if job.endpoint != endpoints.LOCAL:  # perhaps another key or address is set just now: nothing is final
                    lost = f"{job.endpoint} does not know this training, with the key and address set now."
                status = "failed" if job.endpoint == endpoints.LOCAL else job.status
                store.save_job(dataclasses.replace(job, status=status, message=lost, seconds_left=None))


def _caught_up(client: openai.OpenAI, job: Job) -> Job:
    """The job as its endpoint sees it now; one whose creation nobody saw end is looked for by its tag."""
    if job.status == CREATING:
        made = fine_tuning.find(client, job.id, job.training_file)
        if made is None:
            if time.time() - job.created < fine_tuning.CREATION_SECONDS:  # somebody may be about to create it
                return job
            # Where even our upload is not known, the key or the address may be another one now: that proves nothing.
            endpoints.patiently(lambda: client.files.retrieve(job.training_file))
            words = "It was never created: the app ended before. Start it again."
            return dataclasses.replace(job, status="failed", message=words)
        job = dataclasses.replace(job, endpoint_job_id=made.id)
    return fine_tuning.refresh(client, job)


def find_again(store: Store, endpoint: str, client: openai.OpenAI) -> tuple[int, int]:
    """Bring back the trainings of ours that an endpoint knows and the store lost: how many it knows, and how many came.

    What the store has stays as it is; of two jobs created for one training, the second comes under its own number.
    """
    found, came = fine_tuning.found_again(client, endpoint), 0
    for job in found:
        mine = store.job(job.id)
        if mine and mine.endpoint_job_id not in ("", job.endpoint_job_id):
            job = dataclasses.replace(job, id=job.endpoint_job_id)
            mine = store.job(job.id)
        if mine is None or not mine.endpoint_job_id:
            store.save_job(fine_tuning.refresh(client, job))
            came += 1
    return len(found), came
