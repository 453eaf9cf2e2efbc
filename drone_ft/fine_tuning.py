"""A fine-tuning job at an endpoint: upload, start, follow, pause, cancel, find again."""

from __future__ import annotations

import base64
import binascii
import contextlib
import csv
import dataclasses
import math
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import openai
import tenacity
from openai.types.fine_tuning import FineTuningJob

from drone_ft import prices
from drone_ft.endpoints import LOCAL, patiently, translated, upload
from drone_ft.errors import EndpointError, EndpointRefused, EndpointUnavailable, JobError, WorkCancelled

OVER = ("succeeded", "failed", "cancelled")
CREATING = "creating"  # our own word: about to be created, or created without our having seen it
LOOK_HOSTED = 10.0  # seconds between two looks at a job at a service; it has a limit on requests
LONGEST_WAIT = 60.0  # seconds between two looks at a service that is away
TAG = "drone_ft_job"  # metadata that says which job of ours it is
# A careless server can page for ever; no job of ours has more events, no account of ours more jobs than this.
MOST_EVENTS = 20_000
MOST_JOBS = 2_000
# Seconds before each look for a job whose creation was not answered: it may appear a little later.
LOOKS = (1.0, 4.0)
CREATIONS = 3
CREATION_SECONDS = 300.0  # after which a job that its endpoint does not know was never created


@dataclass(frozen=True)
class Job:
    """One fine-tuning job: our id, the endpoint's id of it and the tuned model's id are three different things.

    `examples` is how many it learns from, 0 when unknown; `status` is the endpoint's own word, an open set, but
    CREATING until that is known, and with it the endpoint's id; times are Unix seconds; `last_loss` is the newest one
    measured, on validation data where there are any; `events` oldest first, none in a list of jobs. `trained_tokens`
    are those the endpoint bills, `cost` US dollars, None when unknown.
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
    seed: int | None = None
    hyperparameters: dict[str, Any] = field(default_factory=dict)  # as the endpoint chose them
    trained_tokens: int | None = None
    cost: float | None = None
    result_files: list[str] = field(default_factory=list)  # the endpoint's ids of them
    training_file: str = ""  # the endpoint's id of what we uploaded
    deployment: str = ""  # the name somebody gave the tuned model at Azure, where it answers under that one alone

    @property
    def is_over(self) -> bool:
        """Whether nothing more will happen to it."""
        return self.status in OVER

    @property
    def answers_as(self) -> str | None:
        """The name under which its model is asked; None before there is one."""
        return self.deployment or self.tuned_model


def start(
    client: openai.OpenAI,
    endpoint: str,
    train_jsonl: str,
    validation_jsonl: str | None,
    model: str,
    epochs: int | str = "auto",
    suffix: str = "",
    seed: int | None = None,
    *,
    lost: Job | None = None,
    catalog: str = "",
    save: Callable[[Job], None] = lambda job: None,
    sleep: Callable[[float], None] = tenacity.nap.sleep,
) -> Job:
    """Upload the data and create the job; raises EndpointError, TrainingClosed where the endpoint takes none.

    The creation is never repeated blindly: `save` gets the job before it is created, and whoever is killed then comes
    with it as `lost`, to take over what there is. A creation refused is saved as failed.
    """
    count = sum(bool(line.strip()) for line in train_jsonl.split("\n"))
    id = lost.id if lost else uuid.uuid4().hex[:12]
    job = Job(id, endpoint, "", model, suffix, epochs, CREATING, time.time(), examples=count)
    job = dataclasses.replace(job, catalog=catalog, seed=seed)
    made = None
    if lost:
        job = dataclasses.replace(job, created=lost.created, training_file=lost.training_file)
        with _failed(job, save):
            made = _look_again(client, job, sleep)
    if made is None:
        request = _request(client, job, train_jsonl, validation_jsonl, sleep)
        # Only now, as the upload may take minutes: the time counts from here in which the job may appear.
        job = dataclasses.replace(job, training_file=request["training_file"], created=time.time())
        save(job)
        with _failed(job, save):
            made = _create(client, job.id, sleep, **request)
    return dataclasses.replace(
        job, endpoint_job_id=made.id, status=made.status, training_file=made.training_file or job.training_file
    )


def _look_again(client: openai.OpenAI, job: Job, sleep: Callable[[float], None]) -> FineTuningJob | None:
    """A job of an app that ended before it was told; None where another one can be created and none is paid twice."""
    left = CREATION_SECONDS - (time.time() - job.created) if job.endpoint != LOCAL else 0.0
    waits = (0.0, *LOOKS) if left > 0 else (0.0,)
    made = _look(client, job.id, job.training_file, sleep, waits, "the app ended before it was told.")
    if made is None and left > 0:
        minutes = math.ceil(left / 60)
        raise EndpointUnavailable(
            f"This training was handed over to {job.endpoint} before, without an answer. It may still appear there, "
            f"and a second one would be paid for as well. Try again in {minutes} minute{'s' if minutes > 1 else ''}."
        )
    return made


@contextlib.contextmanager
def _failed(job: Job, save: Callable[[Job], None]) -> Iterator[None]:
    """Saves the job as failed where its endpoint refuses it: it does not look alive in a list, and why is told."""
    try:
        yield
    except EndpointRefused as error:
        save(dataclasses.replace(job, status="failed", message=str(error)))
        raise


def _request(
    client: openai.OpenAI, job: Job, train_jsonl: str, validation_jsonl: str | None, sleep: Callable[[float], None]
) -> dict[str, Any]:
    """What creates the job, its data uploaded."""
    about = {TAG: job.id, "drone_ft_examples": str(job.examples)}
    request: dict[str, Any] = {
        "model": job.model,
        "training_file": upload(client, "train.jsonl", train_jsonl, "fine-tune", sleep),
        "method": {"type": "supervised", "supervised": {"hyperparameters": {"n_epochs": job.epochs}}},
        "metadata": about | ({"drone_ft_catalog": job.catalog} if job.catalog else {}),
    }
    if validation_jsonl:
        request["validation_file"] = upload(client, "validation.jsonl", validation_jsonl, "fine-tune", sleep)
    if job.suffix:
        request["suffix"] = job.suffix
    if job.seed is not None:
        request["seed"] = job.seed
    return request


def _create(client: openai.OpenAI, tag: str, sleep: Callable[[float], None], **request: Any) -> FineTuningJob:
    """Create the job; when the answer is lost, look for it by its tag, and try again only where it is not there."""
    for left in reversed(range(CREATIONS)):
        try:
            made = translated(lambda: client.fine_tuning.jobs.create(**request))
            if made.id:
                return made
            raise EndpointUnavailable("The server's answer has no job in it.")
        except EndpointUnavailable as error:
            found = _look(client, tag, str(request["training_file"]), sleep, LOOKS, str(error))
            if found:
                return found
            # Only who was told no tries again: a job whose answer was lost may still appear, and would be paid twice.
            if not left or error.status is None:
                raise
            sleep(error.wait or 0.0)
    raise AssertionError("the last attempt returns or raises")


def _look(
    client: openai.OpenAI,
    tag: str,
    training_file: str,
    sleep: Callable[[float], None],
    waits: Sequence[float],
    lost: str,
) -> FineTuningJob | None:
    """A job whose creation nobody saw end; EndpointRefused where a server can list no jobs, so that none is found."""
    try:
        for wait in waits:
            sleep(wait)
            made = find(client, tag, training_file, sleep)
            if made:
                return made
    except EndpointError as error:
        words = (
            f"Whether the job was created is not known: {lost} Nor could the jobs be listed: {error} "
            f"Before you start another, look for a job with the metadata {TAG} = {tag}."
        )
        if isinstance(error, EndpointRefused) and error.status in (404, 405):
            raise EndpointRefused(words, error.status, error.code) from error
        raise EndpointUnavailable(words) from error
    return None


def find(
    client: openai.OpenAI,
    tag: str,
    training_file: str | None = None,
    sleep: Callable[[float], None] = tenacity.nap.sleep,
) -> FineTuningJob | None:
    """The endpoint's job with our tag, or on our own upload where a server keeps no metadata; None when not there."""
    for job in _paged(lambda: client.fine_tuning.jobs.list(limit=100), MOST_JOBS, sleep):
        if (job.metadata or {}).get(TAG) == tag or (training_file and job.training_file == training_file):
            found: FineTuningJob = job
            return found
    return None


def found_again(client: openai.OpenAI, endpoint: str = "") -> list[Job]:
    """All jobs of ours that an endpoint knows, the newest first, without their events; for a store that lost them."""
    jobs = []
    for now in _paged(lambda: client.fine_tuning.jobs.list(limit=100), MOST_JOBS):
        about = now.metadata or {}
        if not about.get(TAG):
            continue
        suffix = getattr(now, "user_provided_suffix", None) or ""
        job = Job(about[TAG], endpoint, now.id, now.model, str(suffix), "auto", now.status, float(now.created_at))
        examples = about.get("drone_ft_examples", "")
        job = dataclasses.replace(
            job,
            epochs=(_settings(now).get("n_epochs") or "auto"),
            examples=int(examples) if examples.isdigit() else 0,
            catalog=about.get("drone_ft_catalog", ""),
            training_file=now.training_file or "",
        )
        jobs.append(_seen(client, job, now))
    return jobs


def _paged(first: Callable[[], Any], most: int, sleep: Callable[[float], None] = tenacity.nap.sleep) -> Iterator[Any]:
    """The items of a listing, page by page; ends at the first item seen before, and after `most`."""
    (page, rows), seen = _page(first, sleep), set[str]()
    while True:
        for item in rows:
            if item.id in seen or len(seen) >= most:
                return
            seen.add(item.id)
            yield item
        if not page.has_next_page():
            return
        page, rows = _page(page.get_next_page, sleep)


def _page(get: Callable[[], Any], sleep: Callable[[float], None]) -> tuple[Any, list[Any]]:
    """A page of a listing, and what has an id on it."""
    try:
        page = patiently(get, sleep=sleep)
        return page, [row for row in page.data or [] if isinstance(row.id, str)]
    except AttributeError as error:  # the client takes whatever comes for a page, and for a row
        raise EndpointError("The server's answer is no list. Check the base URL (most end in /v1).") from error


def refresh(client: openai.OpenAI, job: Job) -> Job:
    """The job as its endpoint sees it now, with all its events; reading changes nothing there."""
    now = patiently(lambda: client.fine_tuning.jobs.retrieve(job.endpoint_job_id))
    known = {event["id"] for event in job.events}
    fresh: list[dict[str, Any]] = []
    for event in _paged(lambda: client.fine_tuning.jobs.list_events(job.endpoint_job_id, limit=20), MOST_EVENTS):
        if event.id in known:
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
    return _seen(client, dataclasses.replace(job, events=[*job.events, *reversed(fresh)]), now)


def _seen(client: openai.OpenAI, job: Job, now: FineTuningJob) -> Job:
    """The job with what its endpoint says of it now."""
    failed = now.error.message if now.error and now.error.message else ""
    trained, where = now.trained_tokens, LOCAL if job.endpoint == LOCAL else str(client.base_url)
    return dataclasses.replace(
        job,
        status=now.status,
        tuned_model=now.fine_tuned_model,
        message=failed or (job.events[-1]["message"] if job.events else job.message),
        finished=float(now.finished_at) if now.finished_at else None,
        seconds_left=max(0.0, now.estimated_finish - time.time()) if now.estimated_finish else None,
        last_loss=_last_loss(job),
        seed=now.seed if isinstance(now.seed, int) else job.seed,
        hyperparameters=_settings(now) or job.hyperparameters,
        trained_tokens=trained if trained is not None else job.trained_tokens,
        cost=job.cost if trained is None else prices.cost(job.model, training=trained, where=where),
        result_files=list(now.result_files or []),
    )


def _last_loss(job: Job) -> float | None:
    """The newest loss measured: on validation data where there are any."""
    curve = loss_curve(job.events)
    losses = [point[name] for name in ("train_loss", "valid_loss") for point in curve if point[name] is not None]
    return losses[-1] if losses else job.last_loss


def _settings(now: FineTuningJob) -> dict[str, Any]:
    """The hyperparameters, wherever the endpoint tells them."""
    method = now.method.supervised if now.method else None
    for told in (method.hyperparameters if method else None, now.hyperparameters):
        if told:
            return {name: value for name, value in told.model_dump().items() if value is not None}
    return {}


def follow(
    client: openai.OpenAI,
    job: Job,
    save: Callable[[Job], None],
    tell: Callable[[Job], None] = lambda job: None,
    every: float = 2.0,
    sleep: Callable[[float], None] = time.sleep,
) -> Job:
    """Wait until the job is over, saving and telling it each time; raises JobError when it did not succeed.

    When somebody cancels (`tell` raises WorkCancelled, or Ctrl-C), the job is cancelled at its endpoint and saved as
    that sees it; any other trouble leaves it running there. A service that is away is waited for, as its jobs go on.
    """
    pause = every
    try:
        tell(job)
        while not job.is_over:
            if job.endpoint != LOCAL:
                pause = max(pause, min(LOOK_HOSTED, every * 5))
            _wait(pause, every, job, tell, sleep)
            try:
                job, pause = refresh(client, job), every
            except EndpointUnavailable:
                if job.endpoint == LOCAL:
                    raise
                pause = min(LONGEST_WAIT, pause * 2)
                job = dataclasses.replace(job, message=f"{job.endpoint} is away; it is asked again within a minute.")
            save(job)
            tell(job)
    except (WorkCancelled, KeyboardInterrupt):
        if not job.is_over:
            save(_cancelled(client, job, sleep))
        raise
    if job.status == "succeeded" and not loss_curve(job.events):
        job = _with_results(client, job)
        save(job)
    if job.status != "succeeded" or not job.tuned_model:
        raise JobError(f"The fine-tuning job ended as {job.status}: {job.message or 'no reason given'}")
    return job


def _wait(seconds: float, every: float, job: Job, tell: Callable[[Job], None], sleep: Callable[[float], None]) -> None:
    """Wait in short pieces, so that somebody who cancels is heard soon."""
    while True:
        sleep(min(every, seconds))
        seconds -= every
        if seconds <= 0:
            return
        tell(job)


def _cancelled(client: openai.OpenAI, job: Job, sleep: Callable[[float], None]) -> Job:
    """The job after it was cancelled at its endpoint; still open where nobody knows whether it was."""
    try:
        return dataclasses.replace(patiently(lambda: cancel(client, job), sleep=sleep), seconds_left=None)
    except EndpointRefused:  # it was over already, or is gone
        with contextlib.suppress(EndpointError):
            return refresh(client, job)
        return dataclasses.replace(job, status="cancelled", seconds_left=None)
    except EndpointError as error:
        words = f"It could not be cancelled, and may still be running: {error}"
        return dataclasses.replace(job, message=words, seconds_left=None)


def _with_results(client: openai.OpenAI, job: Job) -> Job:
    """The job with the points of its result file, where its events told none."""
    try:
        points = result_points(client, job)
    except EndpointError:
        return job  # the model is there; its curve is only nice to have
    told = [
        {"id": f"result-{point['step']}", "created": job.finished, "type": "metrics", "message": "", "data": point}
        for point in points
    ]
    job = dataclasses.replace(job, events=[*job.events, *told])
    return dataclasses.replace(job, last_loss=_last_loss(job))


def cancel(client: openai.OpenAI, job: Job) -> Job:
    """Ask the endpoint to cancel the job."""
    now = translated(lambda: client.fine_tuning.jobs.cancel(job.endpoint_job_id))
    return dataclasses.replace(job, status=now.status)


def pause(client: openai.OpenAI, job: Job) -> Job:
    """Ask the endpoint to pause the job; its checkpoints answer meanwhile."""
    now = _if_offered(lambda: client.fine_tuning.jobs.pause(job.endpoint_job_id))
    return dataclasses.replace(job, status=now.status)


def resume(client: openai.OpenAI, job: Job) -> Job:
    """Ask the endpoint to go on with a paused job."""
    now = _if_offered(lambda: client.fine_tuning.jobs.resume(job.endpoint_job_id))
    return dataclasses.replace(job, status=now.status)


def _if_offered(call: Callable[[], FineTuningJob]) -> FineTuningJob:
    try:
        return translated(call)
    except EndpointRefused as error:
        if error.status in (404, 405):
            words = "This server cannot pause trainings and go on with them. Let it run, or cancel it."
            raise EndpointRefused(words, error.status, error.code) from error
        raise


@dataclass(frozen=True)
class Checkpoint:
    """The model as it was after `step`; `model` is an id that answers. Losses are None where not measured."""

    model: str
    step: int
    train_loss: float | None = None
    valid_loss: float | None = None


def checkpoints(client: openai.OpenAI, job: Job) -> list[Checkpoint]:
    """The checkpoints the endpoint keeps of the job, the first one first; none where it keeps none."""
    try:
        listed = list(_paged(lambda: client.fine_tuning.jobs.checkpoints.list(job.endpoint_job_id, limit=100), 1_000))
    except EndpointRefused as error:
        if error.status in (404, 405):
            return []
        raise
    found = [
        Checkpoint(
            row.fine_tuned_model_checkpoint,
            row.step_number,
            getattr(row.metrics, "train_loss", None),
            getattr(row.metrics, "valid_loss", None),
        )
        for row in listed
    ]
    return sorted(found, key=lambda checkpoint: checkpoint.step)


def progress(job: Job) -> tuple[int, int]:
    """Steps done and steps in all, as the newest metrics tell; (0, 0) before the first."""
    for event in reversed(job.events):
        data = event["data"] if isinstance(event["data"], dict) else {}
        done, total = _number(data.get("step")), _number(data.get("total_steps"))
        if done and total:
            return int(done), int(total)
    return 0, 0


def loss_curve(events: Sequence[dict[str, Any]]) -> list[dict[str, float | None]]:
    """Points of the loss curve that a job's events tell, in order of steps.

    Each has step, train_loss and valid_loss, None where not measured.
    """
    points: dict[int, dict[str, float | None]] = {}
    for event in events:
        data = event["data"] if isinstance(event["data"], dict) else {}
        step = _number(data.get("step"))
        if step is None:
            continue
        point = points.setdefault(int(step), {"step": step, "train_loss": None, "valid_loss": None})
        for name in ("train_loss", "valid_loss"):
            value = _number(data.get(name))
            point[name] = point[name] if value is None else value
    return [points[step] for step in sorted(points)]


def result_points(client: openai.OpenAI, job: Job) -> list[dict[str, float | None]]:
    """The points of the job's result file, shaped as `loss_curve` gives them; none before there is such a file.

    Raises EndpointError when the file is not the table it should be.
    """
    points: dict[int, dict[str, float | None]] = {}
    for file in job.result_files:
        try:
            raw = patiently(lambda file=file: client.files.content(file)).content  # type: ignore[misc]
        except EndpointRefused as error:
            if error.status == 404:  # deleted, or never there
                continue
            raise
        rows = csv.DictReader(_table(raw).splitlines())
        if "step" not in (rows.fieldnames or []):
            raise EndpointError(f'The result file {file} is no table with a column "step". See the job\'s events.')
        for row in rows:
            step = _number(row.get("step"))
            if step is None:
                continue
            losses = {name: _number(row.get(name)) for name in ("train_loss", "valid_loss")}
            points[int(step)] = {"step": step, **losses}
    return [points[step] for step in sorted(points)]


def _table(raw: bytes) -> str:
    """The text of a result file, which some servers send in base64."""
    if b"," not in raw:  # no table without a comma, no base64 with one
        with contextlib.suppress(binascii.Error):
            raw = base64.b64decode(b"".join(raw.split()), validate=True)
    return raw.decode("utf-8-sig", errors="replace")


def _number(told: Any) -> float | None:
    """A finite number in a cell or an event; None for anything else."""
    try:
        value = float(told)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None
