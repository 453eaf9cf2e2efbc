"""Questions that wait together are answered together: one thread owns the engine, the event loop never waits for it."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

from drone_ft.local.api import ApiError
from drone_ft.local.prompt import ChatRequest


class Token(Protocol):
    """A token of an answer, with the likeliest ones at its place as (text, logprob)."""

    @property
    def text(self) -> str: ...
    @property
    def logprob(self) -> float: ...
    @property
    def likeliest(self) -> Sequence[tuple[str, float]]: ...


class Answer(Protocol):
    """What an engine makes of one request: calls as (name, arguments as JSON text), or text."""

    @property
    def calls(self) -> Sequence[tuple[str, str]]: ...
    @property
    def text(self) -> str | None: ...
    @property
    def finish_reason(self) -> str: ...
    @property
    def prompt_tokens(self) -> int: ...
    @property
    def completion_tokens(self) -> int: ...
    @property
    def logprobs(self) -> Sequence[Token] | None: ...


class Engine(Protocol):
    """The boundary to the models: `drone_ft.local.engine.Engine`, or a fake in tests."""

    def answer(self, model: str, requests: Sequence[ChatRequest], /) -> Sequence[Answer]:
        """One answer a request, in order."""

    def stream(self, model: str, request: ChatRequest, /) -> Iterator[str]:
        """Pieces of text as they are written; a generator may return the whole Answer. Used from one thread."""

    def models(self) -> Sequence[str]:
        """Ids of all models: the base first, then the tuned ones."""

    def has(self, model: str, /) -> bool:
        """Whether a model answers under this id: one of `models`, or a checkpoint of a job."""

    def forget(self, model: str, /) -> None:
        """Lets go of a tuned model that is about to be deleted."""


OnPiece = Callable[[str], bool]
"""Takes a piece of text; says whether anybody still wants more."""


@dataclass(frozen=True)
class _Question:
    model: str
    request: ChatRequest
    on_piece: OnPiece | None
    answer: Future[Answer | None] = field(default_factory=Future)


class Batcher:
    """Takes everything that waits and asks the engine once a model.

    Waits until none came for `window` seconds, but not for more than forty times that; takes at most `largest`.
    """

    def __init__(self, engine: Engine, *, window: float = 0.01, largest: int = 128, most_waiting: int = 2000) -> None:
        self._engine, self._window, self._largest = engine, window, largest
        self._waiting: queue.Queue[_Question | None] = queue.Queue(most_waiting)
        self._thread = threading.Thread(target=self._work, name="answers", daemon=True)

    def start(self) -> None:
        """Begins to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Answers what has begun, then ends."""
        self._waiting.put(None)
        self._thread.join(10)

    def ask(self, model: str, request: ChatRequest, on_piece: OnPiece | None = None) -> Future[Answer | None]:
        """A promise of the answer, its text told to `on_piece` as it is written. ApiError 429: too many wait."""
        question = _Question(model, request, on_piece)
        try:
            self._waiting.put_nowait(question)
        except queue.Full:
            message = "Too many requests wait for the model on this computer. Send this one again in a while."
            raise ApiError(429, message, type="requests", code="rate_limit_exceeded") from None
        return question.answer

    def _work(self) -> None:
        while (first := self._waiting.get()) is not None:
            batch, ended = self._gather(first)
            batch = [question for question in batch if question.answer.set_running_or_notify_cancel()]
            whole = [question for question in batch if question.on_piece is None]
            for model in dict.fromkeys(question.model for question in whole):
                self._answer(model, [question for question in whole if question.model == model])
            for question in batch:
                if question.on_piece is not None:
                    self._stream(question, question.on_piece)
            if ended:
                return

    def _gather(self, first: _Question) -> tuple[list[_Question], bool]:
        batch, deadline = [first], time.monotonic() + 40 * self._window
        while len(batch) < self._largest:
            try:
                question = self._waiting.get(timeout=max(0.0, min(self._window, deadline - time.monotonic())))
            except queue.Empty:
                break
            if question is None:
                return batch, True
            batch.append(question)
        return batch, False

    def _answer(self, model: str, questions: Sequence[_Question]) -> None:
        try:
            answers = self._engine.answer(model, [question.request for question in questions])
            pairs = [*zip(questions, answers, strict=True)]
        except Exception as error:
            if len(questions) == 1:
                questions[0].answer.set_exception(error)
                return
            # One bad request must not take down those it happened to wait with.
            for question in questions:
                self._answer_alone(model, question)
            return
        for question, answer in pairs:
            question.answer.set_result(answer)

    def _answer_alone(self, model: str, question: _Question) -> None:
        try:
            [answer] = self._engine.answer(model, [question.request])
        except Exception as error:
            question.answer.set_exception(error)
        else:
            question.answer.set_result(answer)

    def _stream(self, question: _Question, on_piece: OnPiece) -> None:
        try:
            pieces = self._engine.stream(question.model, question.request)
            answer = _hand_on(pieces, on_piece)
        except Exception as error:
            question.answer.set_exception(error)
        else:
            question.answer.set_result(answer)


def _hand_on(pieces: Iterator[str], on_piece: OnPiece) -> Answer | None:
    """Hands every piece on while they are wanted; what the generator returns at its end, if anything."""
    while True:
        try:
            piece = next(pieces)
        except StopIteration as end:
            answer: Answer | None = end.value
            return answer
        if not on_piece(piece):
            if isinstance(pieces, Generator):
                pieces.close()
            return None
