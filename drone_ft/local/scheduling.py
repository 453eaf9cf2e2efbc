"""Requests on their way to an answer: which begin, which are read together, what is new after each pass.

Rows of one model that share a prefix (system prompt and tools) are a lane: a pass reads what is unread of all its rows,
end to end, long prompts in parts; only a prefix is read at one go, once. Rows come and go between passes, and lanes
take turns: nobody waits for the end of somebody else's answer.
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
from drone_ft.local.shelf import TUNED_KEPT, Loaded, Shelf

TOGETHER = 128  # rows on their way at a time: more gain little speed and cost memory
TOKENS = 8192  # of them, where their prompts are long
PASS = 2048  # tokens read at a time: fewer cost speed, more let everybody wait too long for the next word
LANES = 4
PREFIXES_KEPT = 4
TURN = 5.0  # seconds a lane takes in whoever fits; after them, nobody while others wait for its place


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
    row: Row | None = None  # while it waits
    sent: str = ""


@dataclass
class _Lane:
    model: str
    reader: Any
    since: float
    rows: dict[int, Row] = field(default_factory=dict)


class Scheduler:
    """Answers requests pass by pass: `add` them at any time, `step` while it is `busy`. For one thread at a time."""

    def __init__(self, shelf: Shelf, share: cores.Share) -> None:
        self._shelf, self._share = shelf, share
        self._numbers = itertools.count()
        self._waiting: dict[int, _Request] = {}  # oldest first
        self._active: dict[int, _Request] = {}
        # by model and prefix; whose turn it is first
        self._lanes: OrderedDict[tuple[str, Sequence[int]], _Lane] = OrderedDict()

    @property
    def busy(self) -> bool:
        """Whether a request has yet to be answered."""
        return bool(self._waiting or self._active)

    def add(self, model: str, request: ChatRequest, *, streamed: bool = False) -> int:
        """Takes a request to the model of this id; its number in the news."""
        number = next(self._numbers)
        self._waiting[number] = _Request(model, request, streamed)
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
        """Give those who wait, oldest first, what room there is; who does not fit is passed over.

        Not for ever: lanes that have had their turn take in nobody more while somebody older waits for what they hold.
        """
        news = []
        passed, room_wanted, model_wanted = 0, False, False
        for number, request in [*self._waiting.items()]:
            if len(self._active) >= TOGETHER or passed >= TOGETHER:
                break
            is_tuned = not self._shelf.is_base(request.model)
            if is_tuned and not self._may_load(request.model):
                model_wanted = True
                continue
            try:
                row = self._row(request)
                if row.finish:
                    news.append(News(number, answer=self._shelf.decoder.answer(row)))
                elif not self._has_room(request.model, row):
                    passed, room_wanted = passed + 1, True
                    continue
                elif (room_wanted or (model_wanted and is_tuned)) and not self._has_turn(request.model, row):
                    passed += 1
                    continue
                else:
                    self._enter(number, request, row)
            except Exception as error:
                news.append(News(number, error=error))
            del self._waiting[number]
        return news

    def _may_load(self, tuned: str) -> bool:
        """Whether a tuned model is in use, or may take the place of one that is not."""
        used = {lane.model for lane in self._lanes.values() if not self._shelf.is_base(lane.model)}
        return len(used | {tuned}) <= TUNED_KEPT

    def _row(self, request: _Request) -> Row:
        """The request as the model will read it. Raises UnknownModel, WeightsError, PromptError."""
        if request.row is None:
            settings = None if self._shelf.is_base(request.model) else self._shelf.settings(request.model)
            request.row = self._shelf.decoder.row(request.request, settings)
        return request.row

    def _has_room(self, model: str, row: Row) -> bool:
        rows = [row for lane in self._lanes.values() for row in lane.rows.values()]
        is_known = (model, row.prompt.prefix_ids) in self._lanes or len(self._lanes) < LANES
        return not rows or (is_known and sum(other.tokens for other in [*rows, row]) <= TOKENS)

    def _has_turn(self, model: str, row: Row) -> bool:
        """Whether a row may join a lane although somebody older waits."""
        lane = self._lanes.get((model, row.prompt.prefix_ids))
        return lane is not None and time.monotonic() - lane.since < TURN

    def _enter(self, number: int, request: _Request, row: Row) -> None:
        key = request.model, row.prompt.prefix_ids
        if key not in self._lanes:
            loaded = self._shelf.load(request.model)
            reader = reading.reader(loaded.model, _beginning(loaded, row.prompt))
            self._lanes[key] = _Lane(request.model, reader, time.monotonic())
        self._lanes[key].rows[number] = row
        self._active[number], request.row = request, None

    def _leave(self, number: int) -> None:
        del self._active[number]
        for key, lane in [*self._lanes.items()]:
            if lane.rows.pop(number, None):
                lane.reader.forget(number)
            if not lane.rows:
                del self._lanes[key]

    # What is read

    def _read(self, lane: _Lane) -> list[News]:
        """Let the model read what is unread in a lane; rows that are read choose what follows.

        The shortest first, but the oldest always gets on: what is long would else wait for ever.
        """
        import torch

        oldest, parts, left = min(lane.rows), dict[int, list[int]](), PASS
        for number in sorted(lane.rows, key=lambda number: (number != oldest, len(lane.rows[number].unread))):
            if left:
                row, most = lane.rows[number], max(1, left // 2) if number == oldest else left
                parts[number], row.unread = row.unread[:most], row.unread[most:]
                left -= len(parts[number])
        try:
            with torch.inference_mode():
                cores.use(self._share.threads())  # a training, or somebody else, may want one
                scores = lane.reader.read(parts)
                news = [self._choose(lane, number, line) for number, line in zip(parts, scores, strict=True)]
        except Exception as error:  # out of memory, for one
            return [News(number, error=error) for number in lane.rows]
        return [told for told in news if told]

    def _choose(self, lane: _Lane, number: int, scores: Any) -> News | None:
        """What a pass brought for one row."""
        row, decoder = lane.rows[number], self._shelf.decoder
        if row.unread:
            return None
        try:
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
