"""The Batch API, at half the price: write the requests, submit, follow, collect; also what is only partly done.

Answers go where `asking.ask_all` looks first, so that asking afterwards asks only what is missing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import openai

from drone_ft import abilities, asking
from drone_ft.asking import Ask, Carried, Kept
from drone_ft.endpoints import patiently, translated
from drone_ft.errors import EndpointError, EndpointRefused, EndpointUnavailable

MOST_REQUESTS = 50_000
MOST_BYTES = 190_000_000  # of the 200 MB a file may have
OVER = ("completed", "failed", "expired", "cancelled")
TAG = "drone_ft_batch"
MOST_LISTED = 500  # batches looked through for one of ours; careless servers page for ever
WRITTEN_AT_ONCE = 200
FIRST_WAIT, LONGEST_WAIT = 5.0, 60.0  # seconds between two looks
AWAY = "the server is away, and is asked again within a minute"


@dataclass(frozen=True)
class Open:
    """A batch that may be under way: where, whom and what it asks, the keys of its asks, the id of its request file.

    It is written down before the batch is created, and until it is collected; `id` is empty until the server tells it.
    """

    tag: str
    base_url: str
    model: str
    purpose: str
    keys: tuple[str, ...]
    file: str = ""
    id: str = ""
    created: float = 0.0


@dataclass(frozen=True)
class Batch:
    """A batch as its endpoint sees it; `status` is the endpoint's own word, an open set."""

    id: str
    status: str
    done: int = 0
    failed: int = 0
    total: int = 0
    output_file: str | None = None
    error_file: str | None = None
    message: str = ""

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come."""
        return self.status in OVER


def lines(asks: Sequence[Ask], learned: dict[str, str], more: dict[str, Any] | None = None) -> Iterator[str]:
    """The lines of a request file: each the key of its ask, and its request with `more`, as its model accepts it."""
    for ask in {ask.key: ask for ask in asks}.values():
        body = {"model": ask.model, **abilities.adapted({**ask.request, **(more or {})}, learned)}
        line = {"custom_id": ask.key, "method": "POST", "url": "/v1/chat/completions", "body": body}
        yield json.dumps(line, ensure_ascii=False) + "\n"


def parts(lines: Iterator[str], most: int = MOST_REQUESTS, most_bytes: int = MOST_BYTES) -> Iterator[str]:
    """Request files that a server takes, each as large as it may be."""
    part: list[str] = []
    size = 0
    for line in lines:
        length = len(line.encode())
        if part and (len(part) == most or size + length > most_bytes):
            yield "".join(part)
            part, size = [], 0
        part.append(line)
        size += length
    if part:
        yield "".join(part)


def submit(client: openai.OpenAI, file: str, tag: str) -> Batch:
    """A new batch of a request file, by its id; `tag` is one of its own, by which it is found again.

    Raises EndpointError. Creating is never repeated blindly: a server may have made what it did not confirm.
    """
    try:
        made = translated(
            lambda: client.batches.create(
                input_file_id=file,
                endpoint="/v1/chat/completions",
                completion_window="24h",
                metadata={TAG: tag},
            )
        )
    except EndpointUnavailable:
        found = None
        with contextlib.suppress(EndpointRefused):  # what was refused now says nothing of what was made before
            found = find(client, tag, file)
        if not found:
            raise
        return found
    return _batch(made)


def find(client: openai.OpenAI, tag: str, file: str) -> Batch | None:
    """The batch with a tag of ours, or of our request file, as some servers keep no tags; None where there is none.

    Raises EndpointRefused (404) where the key set now does not show the file either, which says nothing of the batch.
    """
    listed = islice(patiently(lambda: client.batches.list(limit=100)), MOST_LISTED)
    ours = (one for one in listed if (one.metadata or {}).get(TAG) == tag or one.input_file_id == file)
    found = translated(lambda: next(ours, None))
    if found is None:
        patiently(lambda: client.files.retrieve(file))
    return _batch(found) if found else None


def look(client: openai.OpenAI, batch_id: str) -> Batch:
    """The batch as it is now, asked once; looking changes nothing."""
    return _batch(translated(lambda: client.batches.retrieve(batch_id)))


def cancel(client: openai.OpenAI, batch_id: str) -> None:
    """Ask for an end; what is done by then is billed, kept and can be collected."""
    patiently(lambda: client.batches.cancel(batch_id))


def follow(
    client: openai.OpenAI,
    batch_id: str,
    tell: Callable[[Batch], None],
    wait: Callable[[float], None] = time.sleep,
    ends_early: bool = False,
) -> Batch:
    """The batch when it is over, which is asked of it where it `ends_early`.

    `tell` hears of it every second and may raise to stop. An endpoint that is away is waited for: `message` says so.
    """
    batch, pause = Batch(batch_id, "not seen yet"), FIRST_WAIT
    while True:
        try:
            batch, factor = look(client, batch_id), 1.3
            if ends_early and not batch.is_over and batch.status != "cancelling":
                with contextlib.suppress(EndpointRefused):  # it is over by now, or will be in a moment
                    translated(lambda: client.batches.cancel(batch_id))
        except EndpointUnavailable as error:
            if error.status == 501:  # it will never know
                raise
            batch, factor = dataclasses.replace(batch, message=AWAY), 2.0
        tell(batch)
        if batch.is_over:
            return batch
        for _ in range(int(pause)):
            wait(1.0)
            tell(batch)
        pause = min(LONGEST_WAIT, pause * factor)


def collect(client: openai.OpenAI, batch: Batch, entry: Open, kept: Kept) -> dict[str, str]:
    """Write down every answer of a batch, whoever asks for it now; returns the reasons for keys that have none."""
    said = batch.message or f"The batch is {batch.status} and holds no answer to this."
    reasons, carried = dict.fromkeys(entry.keys, said), {*entry.keys}
    answers: list[asking.Answer] = []
    for row in _rows(client, batch):
        key = str(row.get("custom_id"))
        if key not in carried:
            continue
        try:
            asked = Carried(key, entry.base_url, entry.model, entry.purpose)
            answers.append(asking.make_answer(asked, _body(row), by_batch=True))
            reasons.pop(key, None)
        except EndpointError as error:
            reasons[key] = str(error)
        if len(answers) >= WRITTEN_AT_ONCE:
            kept.keep_answers(answers)
            answers = []
    if answers:
        kept.keep_answers(answers)
    return reasons


def _rows(client: openai.OpenAI, batch: Batch) -> Iterator[dict[str, Any]]:
    """The lines of what a batch left behind, answers first; broken lines are none."""
    for file_id in (batch.error_file, batch.output_file):
        if not file_id:
            continue
        try:
            content = patiently(lambda file_id=file_id: client.files.content(file_id))  # type: ignore[misc]
        except EndpointRefused as error:
            if error.status == 404:  # deleted, or kept no longer
                continue
            raise
        for line in content.text.split("\n"):  # iter_lines also parts them inside texts
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict):
                yield row


def _body(row: dict[str, Any]) -> dict[str, Any]:
    """The chat completion in a line; raises EndpointUnavailable with the line's own reason."""
    response, error = row.get("response") or {}, row.get("error") or {}
    body = response.get("body") if isinstance(response, dict) else None
    if isinstance(body, dict) and response.get("status_code") == 200:
        return body
    said = error or (body.get("error") if isinstance(body, dict) else None) or {}
    message = str((said.get("message") if isinstance(said, dict) else said) or "").rstrip(".")
    if "expired" in str(said):
        raise EndpointUnavailable("The batch expired before this was answered.")
    status = response.get("status_code") if isinstance(response, dict) else None
    raise EndpointUnavailable(
        f"The batch has no answer to this{f' (status {status})' if status else ''}: {message or 'no reason is given'}."
    )


def _batch(made: Any) -> Batch:
    counts = made.request_counts
    told = [error.message for error in (made.errors.data or [] if made.errors else []) if error.message]
    return Batch(
        made.id,
        made.status,
        counts.completed if counts else 0,
        counts.failed if counts else 0,
        counts.total if counts else 0,
        made.output_file_id,
        made.error_file_id,
        "; ".join(told),
    )
