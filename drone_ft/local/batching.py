"""Promises of answers: one thread owns the models, the event loop never waits for them."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

from drone_ft.local.api import ApiError
from drone_ft.local.decoding import Answer
from drone_ft.local.prompt import ChatRequest
from drone_ft.local.scheduling import News


class Scheduler(Protocol):
    """Answers requests pass by pass: `drone_ft.local.scheduling.Scheduler`, or a fake in tests."""

    @property
    def busy(self) -> bool:
        """Whether a request has yet to be answered."""

    def add(self, model: str, request: ChatRequest, /, *, streamed: bool = False) -> int:
        """Takes a request; its number in the news."""

    def step(self) -> Sequence[News]:
        """One pass over what is on its way."""

    def drop(self, number: int, /) -> None:
        """Nobody wants this answer any more."""


class Engine(Protocol):
    """The boundary to the models: `drone_ft.local.engine.Engine`, or a fake in tests."""

    def scheduler(self) -> Scheduler:
        """A new one, over these models."""

    def models(self) -> Sequence[str]:
        """Ids of all models: the base first, then the tuned ones."""

    def has(self, model: str, /) -> bool:
        """Whether a model answers under this id: one of `models`, or a checkpoint of a job."""

    def forget(self, model: str, /) -> None:
        """Lets go of a tuned model that is about to be deleted."""


@dataclass(frozen=True)
class _Question:
    model: str
    request: ChatRequest
    on_piece: Callable[[str], None] | None
    answer: Future[Answer] = field(default_factory=Future)

    def end(self, news: News) -> None:
        """Keep the promise, unless nobody waits for it any more."""
        if not self.answer.set_running_or_notify_cancel():
            return
        if news.answer is not None:
            self.answer.set_result(news.answer)
        else:
            self.answer.set_exception(news.error)


class Batcher:
    """Asks the engine what it is asked, all together; who asks first waits `window` seconds for company."""

    def __init__(self, engine: Engine, *, window: float = 0.01, most_waiting: int = 2000) -> None:
        self._engine, self._window, self._most = engine, window, most_waiting
        self._new: queue.SimpleQueue[_Question | None] = queue.SimpleQueue()
        self._asked: dict[int, _Question] = {}
        self._thread = threading.Thread(target=self._work, name="answers", daemon=True)

    def start(self) -> None:
        """Begins to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Answers what has begun, then ends."""
        self._new.put(None)
        self._thread.join(10)

    def ask(self, model: str, request: ChatRequest, on_piece: Callable[[str], None] | None = None) -> Future[Answer]:
        """A promise of the answer, its text told to `on_piece` as it is written. ApiError 429: too many wait.

        To cancel it frees the engine of it.
        """
        if self._new.qsize() + len(self._asked) >= self._most:
            message = "Too many requests wait for the model on this computer. Send this one again in a while."
            raise ApiError(429, message, type="requests", code="rate_limit_exceeded")
        question = _Question(model, request, on_piece)
        self._new.put(question)
        return question.answer

    def _work(self) -> None:
        scheduler = self._engine.scheduler()
        ended = False
        while not ended or scheduler.busy:
            for question in self._newly_asked(wait=not scheduler.busy):
                if question is None:
                    ended = True
                else:
                    streamed = question.on_piece is not None
                    self._asked[scheduler.add(question.model, question.request, streamed=streamed)] = question
            for number in [number for number, question in self._asked.items() if question.answer.cancelled()]:
                scheduler.drop(number)
                del self._asked[number]
            try:
                for news in scheduler.step():
                    self._tell(news)
            except Exception as error:
                for number in [*self._asked]:
                    self._tell(News(number, error=error))
                scheduler = self._engine.scheduler()

    def _newly_asked(self, *, wait: bool) -> Iterator[_Question | None]:
        if wait:
            yield self._new.get()
        end = time.monotonic() + (self._window if wait else 0)
        while True:
            try:
                yield self._new.get(timeout=max(0, end - time.monotonic()))
            except queue.Empty:
                return

    def _tell(self, news: News) -> None:
        question = self._asked[news.number]
        if news.text and question.on_piece is not None:
            question.on_piece(news.text)
        if news.is_last:
            del self._asked[news.number]
            question.end(news)
