"""A model at an endpoint writes a plan: the rounds of `by_model`, asked many at once or by batches."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice, takewhile
from typing import Any

from filelock import FileLock, Timeout

from drone_ft import asking, batches, endpoints, ledger, pacing, prices
from drone_ft.asking import Ask, Reply, Tally
from drone_ft.batches import Batch, Open
from drone_ft.endpoints import Endpoint
from drone_ft.errors import DroneFTError, EndpointError, EndpointRefused, EndpointUnavailable
from drone_ft.pacing import Gate
from drone_ft.store import Store
from drone_ft.synthesis import by_model
from drone_ft.synthesis.by_model import Heard, Plan, Request, Writing

PURPOSE = "write"
STOPPED = "You stopped before this was asked."
LEAST_BATCH = 20  # requests; fewer are asked one by one, as a batch may take a day
MOST_WRITTEN = 4_000  # tokens of an answer that is paid for: three times the longest one may ask for
NO_BATCHES = (405, 501)  # what servers without batches say
UNSEEN = 404  # of a batch that was deleted, and also of one of another key's or project's
KEPT_SECONDS = 30 * 86_400  # after which a batch that is not seen is given up: what it answered is deleted by then
HIDDEN = "a batch of an earlier writing is not seen with the key set now, and is kept for the key it was begun with"
WAY_OUT = (
    "Some of these requests are in a batch of an earlier writing that is not seen with the key set now, and asking "
    "again may pay for them twice. Set the key it was begun with and start again: it is collected. To have all asked "
    "and paid for anew, switch on “Ask anew what was answered before”, or in a terminal give another --seed."
)
BUSY = (
    "Another writing by a model is under way in {folder}, in the app or in a terminal; two at once would pay for the "
    "same. Wait for its end or stop it there, then start this one again."
)
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class How:
    """Who is asked, and in which manner; another `seed` asks anew what was answered before."""

    endpoint: Endpoint
    model: str
    at_once: int = pacing.AT_ONCE
    batch: bool = False
    seed: int = 0


def compose(
    store: Store,
    plan: Plan,
    how: How,
    tell: Callable[[Tally, str], None] = lambda tally, note: None,
    stopped: Callable[[], bool] = lambda: False,
) -> tuple[Writing, Tally]:
    """What the model wrote, and what came of the requests; stopped early, what there is by then.

    Batches that earlier writings left open at this endpoint, of whatever model, are settled first: those that are over
    are collected, those that were asked the same are waited for or asked to end.
    Raises EndpointRefused, also where such a batch is not seen with this key, EndpointUnavailable where no request at
    all was answered, and DroneFTError while another writing is under way in the workspace.
    """
    try:
        alone = FileLock(store.folder / "writing.lock").acquire(timeout=0)
    except Timeout as error:
        raise DroneFTError(BUSY.format(folder=store.folder)) from error
    with alone:
        composer = _Composer(store, how, tell, stopped)
        writing, tally = by_model.write(plan, composer.ask), composer.tally
    if tally.unanswered and not (tally.new or tally.kept or stopped()):
        reason = ledger.why_unanswered([dataclasses.asdict(one) for one in writing.left_out])
        raise EndpointUnavailable(f"{how.model} answered none of {tally.unanswered:,} requests: {reason}")
    return writing, tally


def costs(tally: Tally) -> str:
    """What the requests cost, in words: what is paid now, and what answers kept from before once cost."""
    words = f"{tally.done:,} request{'s' * (tally.done != 1)}"
    if tally.new:  # before, nobody knows; "free" would be a promise
        words += f", {prices.words(tally.spent)}"
    if tally.unanswered:
        words += f", {tally.unanswered:,} without an answer"
    if tally.kept:
        words += f"; {tally.kept:,} of them answered before ({prices.words(tally.spent_before)}), not asked again"
    if tally.trouble:
        busy = tally.trouble == 429
        said = "asks for patience (too many requests)" if busy else f"has errors (status {tally.trouble})"
        words += f"; the server {said}"
    return words


class _Composer:
    def __init__(self, store: Store, how: How, tell: Callable[[Tally, str], None], stopped: Callable[[], bool]) -> None:
        self.tally, self._note = Tally(), ""
        self._store, self._how, self._tell, self._stopped = store, how, tell, stopped
        self._where = asking.where(how.endpoint).rstrip("/")
        self._gate = Gate(how.at_once)
        self._client = endpoints.client(how.endpoint, listen=self._gate.hear)
        # The models whose price is known have room for so much, and do not think first, which would count. Apart from
        # the ask and its key: with another limit nothing is asked anew.
        paid = prices.price(how.model) and prices.is_sold_at(self._where)
        self._more = {"max_completion_tokens": MOST_WRITTEN} if paid else {}
        send = asking.sender(self._client, store)
        self._send = lambda ask: send(dataclasses.replace(ask, request={**ask.request, **self._more}))

    def ask(self, requests: list[Request]) -> list[Heard]:
        """One round: the answers in the order of the requests."""
        salt = str(self._how.seed or "")
        asks = [Ask(self._where, self._how.model, request, PURPOSE, salt) for request in requests]
        self._settle(asks)
        heard = self._by_batch(asks) if self._how.batch else {}
        heard |= self._at_once([ask for ask in asks if ask.key not in heard])
        return [heard.get(ask.key, Heard(None, STOPPED)) for ask in asks]

    def _at_once(self, asks: list[Ask]) -> dict[str, Heard]:
        if not asks or self._stopped():
            return {}
        more: dict[str, Any] = {"tell": self._told, "stopped": self._stopped, "so_far": self.tally}
        replies = asking.ask_all(asks, self._send, self._store, gate=self._gate, **more)
        return {reply.ask.key: _heard(reply) for reply in replies}

    def _told(self, tally: Tally) -> None:
        self.tally = tally
        self._tell(tally, self._note)

    # Batches

    def _settle(self, asks: list[Ask]) -> None:
        """Collect what batches of earlier writings hold; those that were asked the same are waited for."""
        keys, early = {ask.key for ask in asks}, not self._how.batch
        words = "the batch of an earlier writing "
        words += "was asked to end, and what it has is collected first: " if early else "is waited for: "
        for entry in [] if self._stopped() else self._store.batches(self._where):
            if any(key in keys and self._store.answer(key) is None for key in entry.keys):
                self._finish(entry, words, early)
            else:
                with contextlib.suppress(EndpointError):  # nothing in this round waits for it: another time will do
                    self._collect(entry, lambda batch_id: batches.look(self._client, batch_id))

    def _by_batch(self, asks: list[Ask]) -> dict[str, Heard]:
        """Answers, and reasons for those that have none, of what a batch was asked in this round."""
        missing = [ask for ask in asks if self._store.answer(ask.key) is None]
        if len(missing) < LEAST_BATCH or self._stopped():
            return {}
        # One goes ahead: what the model does not accept is learned from it, not from a batch that fails a day later.
        ahead, missing = self._at_once(missing[:1]), missing[1:]
        keys = iter(dict.fromkeys(ask.key for ask in missing))
        learned = self._store.get(str(self._client.base_url).rstrip("/"), self._how.model)
        texts = takewhile(self._goes_on, batches.parts(batches.lines(missing, learned, self._more)))
        entries = [self._begin(text, tuple(islice(keys, text.count("\n")))) for text in texts]
        reasons = {key: reason for entry in entries for key, reason in self._finish(entry, "the batch is ").items()}
        return ahead | {ask.key: self._from_batch(ask, reasons) for ask in missing}

    def _goes_on(self, text: str) -> bool:
        self._tell(self.tally, "a batch is handed over")  # and so hears whether to stop
        return not self._stopped()

    def _begin(self, text: str, keys: tuple[str, ...]) -> Open:
        file = endpoints.upload(self._client, "requests.jsonl", text, "batch")
        # Written down before there is a batch: whoever is killed now finds it by its tag or its file.
        entry = Open(uuid.uuid4().hex, self._where, self._how.model, PURPOSE, keys, file, created=time.time())
        self._store.save_batch(entry)
        try:
            entry = dataclasses.replace(entry, id=batches.submit(self._client, file, entry.tag).id)
        except EndpointRefused:  # it was not created
            self._store.remove_batch(entry.tag)
            raise
        self._store.save_batch(entry)
        return entry

    def _finish(self, entry: Open, words: str, early: bool = False) -> dict[str, str]:
        """Follow a batch to its end, which may be asked of it, and collect it; the reasons for what has no answer."""

        def watched(batch: Batch) -> None:
            done = f"{batch.status.replace('_', ' ')}: {batch.done} of {batch.total} answered"
            self._tell(self.tally, f"{words}{done}{f'; {batch.message}' if batch.message else ''}")
            if self._stopped() and not batch.is_over:
                raise _Stopped(batch.id)

        try:
            return self._collect(
                entry, lambda batch_id: batches.follow(self._client, batch_id, watched, ends_early=early)
            )
        except _Stopped as stopped:
            with contextlib.suppress(EndpointError):  # it may be over by now
                batches.cancel(self._client, str(stopped))
            return dict.fromkeys(entry.keys, STOPPED)

    def _collect(self, entry: Open, see: Callable[[str], Batch]) -> dict[str, str]:
        """Write down what a batch has, once it is over; the reasons for what has no answer.

        Raises EndpointRefused for one that is not seen, which is no proof that it is not there.
        """
        reasons: dict[str, str] = {}
        try:
            batch_id = entry.id or getattr(batches.find(self._client, entry.tag, entry.file), "id", "")
            batch = see(batch_id) if batch_id else None
        except EndpointError as error:
            status = getattr(error, "status", None)
            if status == UNSEEN and time.time() - entry.created < KEPT_SECONDS:
                self._note = HIDDEN
                raise EndpointRefused(WAY_OUT, UNSEEN) from error
            if status not in (UNSEEN, *NO_BATCHES):
                raise
            log.warning("A batch is gone: %s", error)
            self._note = f"a batch is gone: {error}"
            batch, reasons = None, dict.fromkeys(entry.keys, str(error))
        if batch and not batch.is_over:
            return reasons
        if batch:
            reasons = batches.collect(self._client, batch, entry, self._store)
        self._store.remove_batch(entry.tag)
        return reasons

    def _from_batch(self, ask: Ask, reasons: dict[str, str]) -> Heard:
        answer = self._store.answer(ask.key)
        reply = Reply(ask, answer, reasons.get(ask.key, STOPPED), is_new=True)
        if reply.answer or reply.reason != STOPPED:
            self.tally = self.tally.counting(reply)
        return _heard(reply)


class _Stopped(Exception):
    """The user pressed stop while a batch, by its id, was under way."""


def _heard(reply: Reply) -> Heard:
    return Heard(reply.answer.text) if reply.answer else Heard(None, reply.reason)
