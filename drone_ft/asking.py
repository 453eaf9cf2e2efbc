"""Many requests to a model at once: at the server's pace, written down before they are used, never asked twice."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import queue
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import openai
from pydantic import BaseModel

from drone_ft import abilities, endpoints, prices
from drone_ft.endpoints import Endpoint
from drone_ft.errors import EndpointError, EndpointRefused, EndpointUnavailable
from drone_ft.pacing import AT_ONCE, Gate, Stopped

IN_A_ROW = 20  # requests without an answer, at least, before the server is taken to be away
LAST_WORD = 30.0  # seconds that whoever stops waits for answers that are being paid for
TRIES = 4  # of one request; a server may have worked on, and bill, each whose answer was lost on the way
ONE_REQUEST = (400, 413, 422)  # refusals that concern this request; any other meets every request


@dataclass(frozen=True)
class Ask:
    """One chat request to a model at an endpoint; `salt` tells apart what is worth asking once more."""

    base_url: str
    model: str
    request: dict[str, Any]
    purpose: str = ""
    salt: str = ""

    @functools.cached_property
    def key(self) -> str:
        """The same for the same request to the same model at the same place, today and next year."""
        return _digest([self.base_url.rstrip("/"), self.model, self.request, *([self.salt] if self.salt else [])])


@dataclass(frozen=True)
class Carried:
    """What is left of an ask once its request is gone, as with one that a batch carries."""

    key: str
    base_url: str
    model: str
    purpose: str


@dataclass(frozen=True)
class Answer:
    """A reply as it is kept: `body` is the chat completion as plain data."""

    key: str
    base_url: str
    model: str
    purpose: str
    body: dict[str, Any]
    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    by_batch: bool = False
    created: float = 0.0

    @property
    def text(self) -> str:
        """What the model said; its words of refusal where it refused."""
        message = self.body["choices"][0]["message"]
        return str(message.get("content") or message.get("refusal") or "")

    @property
    def cost(self) -> float | None:
        """What it cost in US dollars; nothing on this computer, None where the price is unknown."""
        return prices.cost(
            self.model,
            input=self.input_tokens,
            cached=self.cached_tokens,
            output=self.output_tokens,
            batch=self.by_batch,
            where=self.base_url,
        )


@dataclass(frozen=True)
class Reply:
    """What came of an ask: an answer, new or kept from before, or the reason why there is none."""

    ask: Ask
    answer: Answer | None
    reason: str = ""
    is_new: bool = False


@dataclass(frozen=True)
class Tally:
    """How far the asking is; costs in US dollars, None where a price is unknown."""

    new: int = 0
    kept: int = 0
    unanswered: int = 0
    spent: float | None = 0.0  # now
    spent_before: float | None = 0.0  # on the answers kept
    input_tokens: int = 0
    output_tokens: int = 0
    at_once: int = 0  # requests the server is given at present
    trouble: int | None = None  # the HTTP status that the server said last, where it was no answer

    @property
    def done(self) -> int:
        """How many asks have come to an end."""
        return self.new + self.kept + self.unanswered

    def counting(self, reply: Reply) -> Tally:
        """The tally with one more reply."""
        answer = reply.answer
        if answer is None:
            return dataclasses.replace(self, unanswered=self.unanswered + 1)
        if not reply.is_new:
            return dataclasses.replace(self, kept=self.kept + 1, spent_before=_sum(self.spent_before, answer.cost))
        return dataclasses.replace(
            self,
            new=self.new + 1,
            spent=_sum(self.spent, answer.cost),
            input_tokens=self.input_tokens + answer.input_tokens,
            output_tokens=self.output_tokens + answer.output_tokens,
        )


def _sum(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one + other


class Kept(Protocol):
    """Where answers are kept; the store is one."""

    def answer(self, key: str) -> Answer | None:
        """The answer of a key."""

    def keep_answers(self, answers: Sequence[Answer]) -> None:
        """Write answers down, all or none."""


Send = Callable[[Ask], dict[str, Any]]


def where(endpoint: Endpoint) -> str:
    """What an endpoint is called in keys: its base URL, but this computer's own changes with every start."""
    return endpoints.LOCAL if endpoint.is_local else endpoint.base_url


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:32]


# Half an emoji: no database and no file takes it. As a letter, and as it is escaped inside an answer's own JSON.
_HALF = re.compile(
    r"(?P<whole>\\\\u[dD][89abAB][0-9a-fA-F]{2}\\\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    r"|\\\\u[dD][89a-fA-F][0-9a-fA-F]{2}|[\ud800-\udfff]"
)


def _whole(match: re.Match[str]) -> str:
    return match["whole"] or "\ufffd"


def make_answer(ask: Ask | Carried, body: dict[str, Any], by_batch: bool = False) -> Answer:
    """The answer in a chat completion's body; raises EndpointUnavailable where there is none in it."""
    body = json.loads(_HALF.sub(_whole, json.dumps(body, default=repr, ensure_ascii=False)))
    try:
        message = body["choices"][0]["message"]
        usage = body.get("usage") or {}
        tokens = (
            int(usage.get("prompt_tokens") or 0),
            int((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0),
            int(usage.get("completion_tokens") or 0),
        )
        if not isinstance(message, dict):
            raise TypeError(message)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        said = json.dumps(body, default=repr, ensure_ascii=False)[:60]
        raise EndpointUnavailable(f"The server sent a reply without an answer: {said}. Try again later.") from error
    return Answer(ask.key, ask.base_url, ask.model, ask.purpose, body, *tokens, by_batch, time.time())


def sender(client: openai.OpenAI, memory: abilities.Memory) -> Send:
    """How an ask reaches the model; `memory` is where its abilities are remembered, such as the store."""
    remembered = _ReadOnce(memory)

    def send(ask: Ask) -> dict[str, Any]:
        # Tried once: whoever waits for another go makes room for others meanwhile.
        reply = abilities.chat(client, ask.model, remembered, attempts=1, **ask.request)
        if not isinstance(reply, BaseModel):
            raise EndpointUnavailable("The server sent a reply that is no answer. Try again.")
        return reply.model_dump(mode="json", exclude_none=True, warnings=False)

    return send


class _ReadOnce:
    """A memory that is read once for each model, not for each request."""

    def __init__(self, memory: abilities.Memory) -> None:
        self._memory = memory
        self._known: dict[tuple[str, str], dict[str, str]] = {}

    def get(self, base_url: str, model: str) -> dict[str, str]:
        """The lessons of a model."""
        if (base_url, model) not in self._known:
            self._known[base_url, model] = self._memory.get(base_url, model)
        return self._known[base_url, model]

    def put(self, base_url: str, model: str, learned: dict[str, str]) -> None:
        """Keep the lessons of a model."""
        self._memory.put(base_url, model, learned)
        self._known[base_url, model] = learned


# ---------------------------------------------------------------- asking


def ask_all(
    asks: Iterable[Ask],
    send: Send,
    kept: Kept,
    limit: int = AT_ONCE,
    tell: Callable[[Tally], None] = lambda tally: None,
    stopped: Callable[[], bool] = lambda: False,
    gate: Gate | None = None,
    so_far: Tally | None = None,
) -> Iterator[Reply]:
    """Replies as they come, in any order; a request answered before, now or in an earlier life, is not asked again.

    `asks` is read as needed. Every new answer is in `kept` before it is handed on. One whose answer never arrived (time
    ran out, garbage came) is asked up to TRIES times, and billed as often. A request that fails for its own
    reasons is handed on without an answer; a refusal that would meet every one of them (bad key, unknown model, no
    money) is raised as EndpointRefused, a server that is away for all of them as EndpointUnavailable. `tell` hears of
    progress a few times a second and may raise to stop; where `stopped` says so, what is on the wire still comes.
    """
    asking = _Asking(iter(asks), send, kept, gate or Gate(limit))
    tally, told, in_a_row = so_far or Tally(), 0.0, 0
    try:
        for reply in asking.replies():
            if reply is not None:
                tally = tally.counting(reply)
                in_a_row = 0 if reply.answer else in_a_row + 1
                yield reply
            if in_a_row >= max(IN_A_ROW, 2 * asking.gate.limit):
                raise EndpointUnavailable(
                    f"{in_a_row} requests in a row came back without an answer. {reply.reason if reply else ''} "
                    "What was answered is kept: start again when the server is well."
                )
            if time.monotonic() - told > 0.2:
                tell(dataclasses.replace(tally, at_once=asking.gate.inside, trouble=asking.gate.trouble))
                told = time.monotonic()
                if stopped():
                    asking.gate.close()
        tell(tally)
    finally:
        asking.stop()


class _Asking:
    """The threads that ask, and what they hand on."""

    def __init__(self, asks: Iterator[Ask], send: Send, kept: Kept, gate: Gate) -> None:
        self.gate = gate
        gate.open()
        self._asks, self._send, self._kept = asks, send, kept
        self._lock = threading.Lock()
        self._reading = threading.Lock()
        self._writer = _Writer(kept)
        # Who asks the same while it is on the wire gets the same answer.
        self._same: dict[str, list[Ask]] = {}
        # Bounded, so that quick servers do not fill the memory of slow readers.
        self._out: queue.Queue[Reply | BaseException | None] = queue.Queue(2 * gate.limit)
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(gate.limit)]

    def replies(self) -> Iterator[Reply | None]:
        """The replies; None now and then where none has come for a while."""
        for thread in self._threads:
            thread.start()
        working, until = len(self._threads), None
        while working:
            try:
                item = self._out.get(timeout=0.2)
            except queue.Empty:
                if self.gate.is_closed:
                    until = until or time.monotonic() + LAST_WORD
                    if not self.gate.inside or time.monotonic() > until:
                        return
                yield None
                continue
            if isinstance(item, BaseException):
                raise item
            working -= item is None
            if item is not None:
                yield item

    def stop(self) -> None:
        """Begin nothing more, and let what is on the wire be written down."""
        self.gate.close()
        until = time.monotonic() + LAST_WORD
        while self.gate.inside and time.monotonic() < until:
            time.sleep(0.01)

    def _work(self) -> None:
        try:
            while not self.gate.is_closed:
                with self._lock:
                    ask = next(self._asks, None)
                    if ask is None:
                        break
                    if ask.key in self._same:
                        self._same[ask.key].append(ask)
                        continue
                    self._same[ask.key] = []
                reply = self._reply(ask)
                with self._lock:
                    twins = self._same.pop(ask.key)
                for one in (reply, *(dataclasses.replace(reply, ask=twin, is_new=False) for twin in twins)):
                    self._hand_on(one)
        except Stopped:
            pass
        except BaseException as error:
            self._hand_on(error)
        self._hand_on(None)

    def _hand_on(self, item: Reply | BaseException | None) -> None:
        while True:
            try:
                return self._out.put(item, timeout=0.2)
            except queue.Full:
                if self.gate.is_closed:
                    return None

    def _reply(self, ask: Ask) -> Reply:
        with self._reading:
            answer = self._kept.answer(ask.key)
        if answer:
            return Reply(ask, answer)

        def paid() -> Answer:
            with self.gate:
                answer = make_answer(ask, self._send(ask))
                self.gate.took(answer.input_tokens + answer.output_tokens)
                self._writer.write(answer)
                return answer

        try:
            return Reply(ask, endpoints.patiently(paid, TRIES, self.gate.nap), is_new=True)
        except EndpointError as error:
            if isinstance(error, EndpointRefused) and error.status not in ONE_REQUEST:
                raise
            return Reply(ask, None, str(error))


class _Writer:
    """Writes what waits in one transaction: one thread at a time, on behalf of all that stand in line."""

    def __init__(self, kept: Kept) -> None:
        self._kept = kept
        self._waiting: list[Answer] = []
        self._lock, self._turn = threading.Lock(), threading.Lock()

    def write(self, answer: Answer) -> None:
        """Return when the answer is in the database."""
        with self._lock:
            self._waiting.append(answer)
        with self._turn:
            with self._lock:
                batch, self._waiting = self._waiting, []
            if not batch:  # whoever had the turn before wrote it, too
                return
            try:
                self._kept.keep_answers(batch)
            except BaseException:
                with self._lock:
                    self._waiting = batch + self._waiting
                raise
