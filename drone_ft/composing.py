"""A model at an endpoint writes a plan: the rounds of `by_model`, asked many at once or by batches."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from drone_ft import asking, batches, endpoints, prices
from drone_ft.asking import Ask, Gate, Reply, Tally
from drone_ft.batches import Batch
from drone_ft.endpoints import Endpoint
from drone_ft.errors import EndpointError, EndpointRefused, EndpointUnavailable
from drone_ft.store import Store
from drone_ft.synthesis import by_model
from drone_ft.synthesis.by_model import Heard, Plan, Request, Writing

PURPOSE = "write"
STOPPED = "You stopped before this was asked. Start again to go on."
LEAST_BATCH = 20  # requests; fewer are asked one by one, as a batch may take a day


@dataclass(frozen=True)
class How:
    """Who is asked, and in which manner; another `seed` asks anew what was answered before."""

    endpoint: Endpoint
    model: str
    at_once: int = asking.AT_ONCE
    batch: bool = False
    seed: int = 0


def compose(
    store: Store,
    plan: Plan,
    how: How,
    tell: Callable[[Tally, str], None] = lambda tally, note: None,
    stopped: Callable[[], bool] = lambda: False,
    remembered: Sequence[dict[str, Any]] = (),
    remember: Callable[[list[dict[str, Any]]], None] = lambda batches: None,
) -> tuple[Writing, Tally]:
    """What the model wrote, and what came of the requests; stopped early, what there is by then.

    `remembered` are the batches an earlier life had under way, as it was told to `remember` them. Raises
    EndpointRefused, and EndpointUnavailable where no request at all was answered.
    """
    composer = _Composer(store, how, tell, stopped, list(remembered), remember)
    writing, tally = by_model.write(plan, composer.ask), composer.tally
    if tally.unanswered and not (tally.new or tally.kept or stopped()):
        reason = writing.left_out[0].reason
        raise EndpointUnavailable(f"{how.model} answered none of {tally.unanswered:,} requests. {reason}")
    return writing, tally


def costs(tally: Tally) -> str:
    """What the requests cost, in words: what is paid now, and what answers kept from before once cost."""
    words = f"{tally.done:,} requests, {prices.words(tally.spent)}"
    if tally.unanswered:
        words += f", {tally.unanswered:,} without an answer"
    if tally.kept:
        words += f"; {tally.kept:,} of them answered before ({prices.words(tally.spent_before)}), not asked again"
    return words


class _Composer:
    def __init__(
        self,
        store: Store,
        how: How,
        tell: Callable[[Tally, str], None],
        stopped: Callable[[], bool],
        remembered: list[dict[str, Any]],
        remember: Callable[[list[dict[str, Any]]], None],
    ) -> None:
        self.tally = Tally()
        self._store, self._how, self._tell, self._stopped = store, how, tell, stopped
        self._batches, self._remember = remembered, remember
        self._gate = Gate(how.at_once)
        self._client = endpoints.client(how.endpoint, listen=self._gate.hear)
        self._send = asking.sender(self._client, store)
        self._round = 0

    def ask(self, requests: list[Request]) -> list[Heard]:
        """One round: the answers in the order of the requests."""
        self._round += 1
        where, salt = asking.where(self._how.endpoint), str(self._how.seed or "")
        asks = [Ask(where, self._how.model, request, PURPOSE, salt) for request in requests]
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
        self._tell(tally, "")

    # Batches

    def _by_batch(self, asks: list[Ask]) -> dict[str, Heard]:
        """Answers, and reasons for those that have none, of what a batch was asked in this round."""
        for entry in [entry for entry in self._batches if entry["round"] == self._round]:
            self._finish(entry, asks)  # an earlier life's; what it has left open is asked again
        missing = [ask for ask in asks if self._store.answer(ask.key) is None]
        if len(missing) < LEAST_BATCH or self._stopped():
            return {}
        # One goes ahead: what the model does not accept is learned from it, not from a batch that fails a day later.
        ahead, missing = self._at_once(missing[:1]), missing[1:]
        entries = []
        learned = self._store.get(str(self._client.base_url).rstrip("/"), self._how.model)
        for text in batches.parts(batches.lines(missing, learned)):
            # Written down before there is a batch: whoever is killed now finds it by its tag.
            entry = {"tag": uuid.uuid4().hex, "id": "", "round": self._round}
            self._keep([*self._batches, entry])
            entry["id"] = batches.submit(self._client, text, entry["tag"]).id
            self._keep(self._batches)
            entries.append(entry)
        reasons = {key: reason for entry in entries for key, reason in self._finish(entry, missing).items()}
        return ahead | {ask.key: self._from_batch(ask, reasons) for ask in missing}

    def _keep(self, entries: list[dict[str, Any]]) -> None:
        self._batches = entries
        self._remember(entries)

    def _finish(self, entry: dict[str, Any], asks: list[Ask]) -> dict[str, str]:
        """Follow a batch to its end and collect it; the reasons for what it did not answer."""
        reasons: dict[str, str] = {}
        try:
            found = entry["id"] or getattr(batches.find(self._client, entry["tag"]), "id", "")
            if found:
                over = batches.follow(self._client, found, self._watched)
                reasons = batches.collect(self._client, over, asks, self._store)
        except _Stopped:
            with contextlib.suppress(EndpointError):  # it may be over by now
                batches.cancel(self._client, found)
            return dict.fromkeys((ask.key for ask in asks), STOPPED)
        except EndpointRefused as error:
            if error.status != 404:
                raise
            reasons = dict.fromkeys((ask.key for ask in asks), str(error))
        self._keep([other for other in self._batches if other is not entry])
        return reasons

    def _watched(self, batch: Batch) -> None:
        self._tell(self.tally, f"the batch is {batch.status.replace('_', ' ')}: {batch.done} of {batch.total} answered")
        if self._stopped() and not batch.is_over:
            raise _Stopped

    def _from_batch(self, ask: Ask, reasons: dict[str, str]) -> Heard:
        answer = self._store.answer(ask.key)
        reply = Reply(ask, answer, reasons.get(ask.key, STOPPED), is_new=True)
        if reply.answer or reply.reason != STOPPED:
            self.tally = self.tally.counting(reply)
        return _heard(reply)


class _Stopped(Exception):
    """The user pressed stop while a batch was under way."""


def _heard(reply: Reply) -> Heard:
    return Heard(reply.answer.text) if reply.answer else Heard(None, reply.reason)
