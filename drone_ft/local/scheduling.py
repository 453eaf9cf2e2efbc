"""Requests on their way to an answer: which begin, which are read together, what is new after each pass.

Rows of one model that share a prefix (system prompt and tools) are a lane: a pass reads what is unread of all its rows,
end to end. Rows come and go between passes, and lanes take turns: nobody waits for the end of somebody else's answer.
"""

from __future__ import annotations

import itertools
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from drone_ft.local import cores, decoding, reading
from drone_ft.local.decoding import Answer, Row
from drone_ft.local.prompt import ChatRequest, Prompt
from drone_ft.local.shelf import Loaded, Shelf

TOGETHER = 128  # rows on their way at a time: more gain little speed and cost memory
TOKENS = 8192  # of them, where their prompts are long
LANES = 4
PREFIXES_KEPT = 4
PATIENCE = 5.0  # seconds: who has waited longer is not overtaken any more


@dataclass(frozen=True)
class News:
    """What a pass brought for a request: a piece of its text where it is streamed; at the end its answer, or error."""

    number: int
    text: str = ""
    answer: Answer | None = None
    error: Exception | None = None

    @property
    def is_last(self) -> bool:
        """Whether nothing more will come."""
        return self.answer is not None or self.error is not None


@dataclass
class _Request:
    model: str
    request: ChatRequest
    streamed: bool
    since: float
    row: Row | None = None
    sent: str = ""


@dataclass
class _Lane:
    reader: Any
    rows: dict[int, Row] = field(default_factory=dict)


class Scheduler:
    """Answers requests pass by pass: `add` them at any time, `step` while it is `busy`. For one thread at a time."""

    def __init__(self, shelf: Shelf, share: cores.Share) -> None:
        self._shelf, self._share = shelf, share
        self._numbers = itertools.count()
        self._waiting: dict[int, _Request] = {}  # oldest first
        self._active: dict[int, _Request] = {}
        self._lanes: OrderedDict[tuple[str, Sequence[int]], _Lane] = (
            OrderedDict()
        )  # by model and prefix; next one first

    @property
    def busy(self) -> bool:
        """Whether a request has yet to be answered."""
        return bool(self._waiting or self._active)

    def add(self, model: str, request: ChatRequest, *, streamed: bool = False) -> int:
        """Takes a request to the model of this id; its number in the news."""
        number = next(self._numbers)
        self._waiting[number] = _Request(model, request, streamed, time.monotonic())
        return number

    def drop(self, number: int) -> None:
        """Nobody wants this answer any more."""
        self._waiting.pop(number, None)
        if number in self._active:
            self._leave(number)

    def step(self) -> list[News]:
        """One pass, after those have begun for whom there is room. What goes wrong with one request is news, too."""
        with self._shelf.lock:
            news = self._begin()
            if self._lanes:
                key, lane = next(iter(self._lanes.items()))
                self._lanes.move_to_end(key)
                news += self._read(lane)
            for told in news:
                if told.is_last and told.number in self._active:
                    self._leave(told.number)
        return news

    # Who begins

    def _begin(self) -> list[News]:
        """Give those who wait, oldest first, what room there is. Who does not fit is passed over, but not for ever."""
        news = []
        for number, request in [*itertools.islice(self._waiting.items(), TOGETHER)]:
            try:
                row = self._row(request) if self._may_load(request.model) else None
                if row is None or not self._has_room(request.model, row):
                    if time.monotonic() - request.since > PATIENCE:
                        break
                    continue
                if row.finish:
                    news.append(News(number, answer=self._shelf.decoder.answer(row)))
                else:
                    self._enter(number, request, row)
            except Exception as error:
                news.append(News(number, error=error))
            del self._waiting[number]
        return news

    def _may_load(self, model: str) -> bool:
        """Whether this model can be had without a second tuned one in use: each takes as much memory as the base."""
        used = {model for model, _ in self._lanes} - {model}
        return self._shelf.is_base(model) or all(map(self._shelf.is_base, used))

    def _row(self, request: _Request) -> Row:
        """The request as the model will read it. Raises UnknownModel, WeightsError, PromptError."""
        if request.row is None:
            loaded = self._shelf.load(request.model)
            request.row = self._shelf.decoder.row(request.request, loaded.settings)
        return request.row

    def _has_room(self, model: str, row: Row) -> bool:
        rows = [row for lane in self._lanes.values() for row in lane.rows.values()]
        if not rows:
            return True
        is_known = (model, row.prompt.prefix_ids) in self._lanes or len(self._lanes) < LANES
        return is_known and len(rows) < TOGETHER and sum(other.tokens for other in [*rows, row]) <= TOKENS

    def _enter(self, number: int, request: _Request, row: Row) -> None:
        key = request.model, row.prompt.prefix_ids
        if key not in self._lanes:
            loaded = self._shelf.load(request.model)
            self._lanes[key] = _Lane(reading.reader(loaded.model, _beginning(loaded, row.prompt)))
        self._lanes[key].rows[number] = row
        self._active[number] = request

    def _leave(self, number: int) -> None:
        del self._active[number]
        for key, lane in [*self._lanes.items()]:
            if lane.rows.pop(number, None):
                lane.reader.forget(number)
            if not lane.rows:
                del self._lanes[key]

    # What is read

    def _read(self, lane: _Lane) -> list[News]:
        """Let the model read what is unread in a lane, and every row choose what follows."""
        import torch

        with torch.inference_mode():
            cores.use(self._share.threads())  # a training, or somebody else, may want one
            scores = lane.reader.read({number: row.unread for number, row in lane.rows.items()})
            news = [self._choose(lane, number, line) for number, line in zip([*lane.rows], scores, strict=True)]
        return [told for told in news if told]

    def _choose(self, lane: _Lane, number: int, scores: Any) -> News | None:
        """What a pass brought for one row."""
        row, decoder = lane.rows[number], self._shelf.decoder
        try:
            row.unread = []
            decoder.choose(row, scores)
            if not row.finish:
                return self._piece(number, row)
            other = decoder.other_way(row)
            if other and not other.finish:
                lane.rows[number] = other
                other.unread = other.unread[lane.reader.forget(number, kept=decoding.alike(row, other)) :]
                return None
            answer = decoder.answer(other or row)
            return News(number, self._rest(number, answer.text), answer)
        except Exception as error:
            return News(number, error=error)

    def _piece(self, number: int, row: Row) -> News | None:
        """What can be told of a text on its way and was not yet."""
        request = self._active[number]
        if not request.streamed:
            return None
        piece = self._rest(number, self._shelf.decoder.settled_text(row))
        return News(number, piece) if piece else None

    def _rest(self, number: int, text: str) -> str:
        """The part of a streamed text that was not told."""
        request = self._active[number]
        if not request.streamed or not text.startswith(request.sent):
            return ""
        rest, request.sent = text[len(request.sent) :], text
        return rest


def _beginning(loaded: Loaded, prompt: Prompt) -> Any:
    """The model's memory of a prefix; read once."""
    import torch

    if not prompt.prefix_ids:
        return None
    if prompt.prefix_ids not in loaded.prefixes:
        reader = reading.reader(loaded.model)
        with torch.inference_mode():
            reader.read({0: prompt.prefix_ids})
        while len(loaded.prefixes) >= PREFIXES_KEPT:
            loaded.prefixes.popitem(last=False)
        loaded.prefixes[prompt.prefix_ids] = reader.remembered(0)
    loaded.prefixes.move_to_end(prompt.prefix_ids)
    return loaded.prefixes[prompt.prefix_ids]
