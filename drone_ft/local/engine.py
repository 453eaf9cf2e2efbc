"""Answers chat requests with the base model or a tuned one: batched, grammar-constrained, prefixes read once.

A step feeds every unfinished row the tokens it has not read yet, all in one forward pass, end to end. What a grammar
forces is appended unread and unasked; the model only decides where there is a choice. A prefix that requests share
(system prompt and tools) is read once a model.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from drone_ft.local import calls, cores, reading, weights
from drone_ft.local.calls import Tool, Writing, function_of
from drone_ft.local.grammar import Grammars, grammar
from drone_ft.local.prompt import ChatRequest, Prompt, PromptError, Settings, build, writing_of
from drone_ft.local.shelf import Loaded, Shelf

TOGETHER = 128  # rows read at a time: more gain little speed and cost memory
TOKENS = 8192  # of them, where their prompts are long
PREFIXES_KEPT = 4
DEFAULT_MAX_TOKENS = 512
LONGEST_NAME = 64  # letters of a function's name
OTHERS = 4  # other beginnings kept at each choice, until the function to call is settled
CLOSING_TOKENS = 64  # room kept to end a call properly when its text grows without end


@dataclass(frozen=True)
class Token:
    """A token of an answer: its text, the natural logarithm of its chance, and the likeliest tokens at its place."""

    text: str
    logprob: float
    likeliest: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Answer:
    """One answer: calls as (name, arguments as JSON text), or text."""

    calls: tuple[tuple[str, str], ...]
    text: str
    finish_reason: str  # "tool_calls", "stop" or "length"
    prompt_tokens: int
    completion_tokens: int
    logprobs: tuple[Token, ...] | None = None  # of the text's tokens, when they were asked for


@dataclass
class _Row:
    """One request on its way: `unread` tokens the model has yet to read, `written` those of the answer."""

    request: ChatRequest
    writing: Writing
    prompt: Prompt
    matcher: Any
    generator: Any
    unread: list[int]
    budget: int
    wide: bool  # whether its numbers may leave their bounds at first
    written: list[int] = field(default_factory=list)
    told: list[Token] = field(default_factory=list)  # of what is written, when it was asked for
    named: bool = False  # whether it is settled which function is called, as far as that matters
    chance: float = 0.0  # logarithm, of what is written until then
    others: list[tuple[float, list[int]]] = field(default_factory=list)  # (chance, other beginning) until then
    kept: int | None = None  # how many of its calls are told, None for all
    instead: _Row | None = None  # what is answered in its place
    finish: str | None = None


class Engine:
    """The base model, the tuned models in `models_dir`, and the checkpoints of the jobs in `jobs_dir`.

    Safe to use from several threads.
    """

    def __init__(self, models_dir: Path, source: weights.Source | None = None, jobs_dir: Path | None = None) -> None:
        self.source = source or weights.resolve()
        self._shelf = Shelf(models_dir, self.source, jobs_dir)
        self._lock = threading.RLock()
        self._cores = cores.Share(cores.physical())
        self._grammars: Any = None
        self._closers: Any = None

    # Models

    def models(self) -> list[str]:
        """Ids of the base model and of every finished tuned model."""
        return self._shelf.ids()

    def has(self, model_id: str) -> bool:
        """Whether a model answers under this id: one of `models`, or a checkpoint of a job."""
        return self._shelf.has(model_id)

    def settings(self, model_id: str) -> Settings:
        """What a tuned model remembers of its training. Raises UnknownModel, for the base model too."""
        return self._shelf.settings(model_id)

    def whole(self, model_id: str) -> tuple[Any, Any]:
        """A tuned model with its adapter merged in, and the tokenizer. Raises UnknownModel, WeightsError."""
        with self._lock:
            return self._shelf.merged(model_id), self._shelf.tokenizer

    def forget(self, model_id: str) -> None:
        """Drop a tuned model from memory, for instance before its folder is deleted."""
        with self._lock:
            self._shelf.forget(model_id)

    def _load(self, model_id: str) -> Loaded:
        loaded = self._shelf.load(model_id)
        if self._grammars is None:
            self._grammars = Grammars(loaded.model, self._tokenizer)
        return loaded

    @property
    def _tokenizer(self) -> Any:
        return self._shelf.tokenizer

    # Answers

    def answer(self, model_id: str, requests: Sequence[ChatRequest]) -> list[Answer]:
        """One answer a request, in order, from one model. Raises UnknownModel, PromptError, WeightsError."""
        with self._lock:
            loaded = self._load(model_id)
            rows = [self._row(loaded, request) for request in requests]
            groups: dict[str, list[_Row]] = {}
            for row in rows:
                groups.setdefault(row.prompt.prefix, []).append(row)
            for group in groups.values():
                for _ in self._run(loaded, group):
                    pass
            return [self._answer(row.instead or row) for row in rows]

    def stream(self, model_id: str, request: ChatRequest) -> Generator[str, None, Answer]:
        """Pieces of one answer's text as they are written; the generator's return value is the whole Answer."""
        with self._lock:
            loaded = self._load(model_id)
            row = self._row(loaded, request, among=request.callable)
            sent = ""
            for _ in self._run(loaded, [row]):
                text = self._text(row)
                safe = text[: len(text) - _held_back(text, row)]
                if safe.startswith(sent) and len(safe) > len(sent):
                    yield safe[len(sent) :]
                    sent = safe
            answer = self._answer(row)
            if len(answer.text) > len(sent):
                yield answer.text[len(sent) :]
            return answer

    def _other_way(self, loaded: Loaded, row: _Row) -> _Row | None:
        """Where a number left its bounds: the likeliest other beginning, now held to them; None where all is well.

        What was asked for is not what that function does, so it is left out. Of several calls those before it stay.
        """
        if not row.wide:
            return None
        fitting = self._grammars.matcher(row.request, row.writing).validate_tokens(row.written)
        made = calls.read(self._text(row), row.request.callable, row.writing)
        if fitting == len(row.written) or not made:
            return None
        row.kept = calls.complete(self._tokenizer.decode(row.written[:fitting]), row.request.callable, row.writing)
        if row.kept > 0:
            return None
        left = [tool for tool in row.request.callable if function_of(tool)["name"] != made[0][0]]
        other = self._row(loaded, row.request, among=left)
        for _, begun in sorted(row.others, reverse=True):
            if self._begin(other, begun):
                break
        return other

    def _begin(self, row: _Row, begun: list[int]) -> bool:
        """Let a fresh row begin with these tokens, if its grammar admits them."""
        fixed = len(row.written)
        if begun[:fixed] != row.written or row.matcher.validate_tokens(begun[fixed:]) < len(begun) - fixed:
            return False
        row.matcher.consume_tokens(begun[fixed:])
        row.written += begun[fixed:]
        row.unread += begun[fixed:]
        self._force(row)
        return True

    def _row(self, loaded: Loaded, request: ChatRequest, among: Sequence[Tool] = ()) -> _Row:
        """A request at its beginning; `among`: the tools left to call, held to the bounds of their numbers."""
        import torch

        prompt = build(self._tokenizer, request, loaded.settings)
        budget = DEFAULT_MAX_TOKENS if request.max_tokens is None else request.max_tokens
        room = (getattr(loaded.model.config, "max_position_embeddings", None) or 1 << 20) - len(prompt.ids)
        room -= len(prompt.prefix_ids)
        if room <= 0:
            raise PromptError(
                f"The messages and tools take {len(prompt.prefix_ids) + len(prompt.ids)} tokens, more than this "
                "model can read. Send fewer or shorter messages.",
                "messages",
            )
        writing = writing_of(self._tokenizer, loaded.settings)
        asked = replace(request, tools=among) if among else request
        wide = not among and grammar(request, writing, wide=True) != grammar(request, writing)
        matcher = self._grammars.matcher(asked, writing, wide=wide)
        generator = torch.Generator().manual_seed(request.seed or 0)
        row = _Row(
            asked, writing, prompt, matcher, generator, list(prompt.ids), min(budget, room), wide, named=not wide
        )
        self._force(row)
        return row

    def _answer(self, row: _Row) -> Answer:
        text = self._text(row)
        made = calls.read(text, row.request.callable, row.writing)[: row.kept]
        finish = row.finish or "stop"
        if made:
            text, finish = "", "tool_calls"
        tokens = len(row.prompt.prefix_ids) + len(row.prompt.ids)
        told = None if made or row.request.logprobs is None else tuple(self._told(row, len(text)))
        return Answer(tuple(made), text, finish, tokens, len(row.written), told)

    def _told(self, row: _Row, letters: int) -> list[Token]:
        """The tokens of an answer's text, without those a stop sequence cut off."""
        told = row.told[: len(row.written)]
        while told and len(self._tokenizer.decode(row.written[: len(told)], skip_special_tokens=True)) > letters:
            told.pop()
        return told

    def _text(self, row: _Row) -> str:
        text = str(self._tokenizer.decode(row.written, skip_special_tokens=True))
        for stop in row.request.stop:
            text = text.split(stop)[0] if stop else text
        return text

    # Steps

    def _run(self, loaded: Loaded, rows: Sequence[_Row]) -> Iterator[None]:
        """Write the answers of rows that share a prefix; yields after every forward pass.

        Where one is finished the next begins, so that few passes are spent on few rows; the order changes no answer.
        """
        import torch

        reader = reading.reader(loaded.model, self._prefix(loaded, rows[0].prompt))
        # rows of like length begin together
        waiting = deque(sorted((row for row in rows if row.finish is None), key=lambda row: len(row.unread)))
        active: dict[int, _Row] = {}
        begun = 0
        while waiting or active:
            held = sum(len(row.prompt.ids) + len(row.written) for row in active.values())
            while waiting and (not active or (len(active) < TOGETHER and held + len(waiting[0].unread) <= TOKENS)):
                held += len(waiting[0].unread)
                active[begun] = waiting.popleft()
                begun += 1
            with torch.inference_mode():
                cores.use(self._cores.threads())  # a training, or somebody else, may want one
                logits = reader.read({number: row.unread for number, row in active.items()})
                for row in active.values():
                    row.unread = []
                self._choose(list(active.values()), logits)
            for number, row in [*active.items()]:
                if row.finish is None:
                    continue
                row.instead = other = self._other_way(loaded, row)
                if other is None or other.finish is not None:
                    del active[number]
                    reader.forget(number)
                else:
                    active[number] = other
                    other.unread = other.unread[reader.forget(number, kept=_alike(row, other)) :]
            yield

    def _prefix(self, loaded: Loaded, prompt: Prompt) -> Any:
        """The model's memory of the prefix; read once."""
        import torch

        if not prompt.prefix:
            return None
        if prompt.prefix not in loaded.prefixes:
            reader = reading.reader(loaded.model)
            with torch.inference_mode():
                reader.read({0: prompt.prefix_ids})
            while len(loaded.prefixes) >= PREFIXES_KEPT:
                loaded.prefixes.popitem(last=False)
            loaded.prefixes[prompt.prefix] = reader.remembered(0)
        loaded.prefixes.move_to_end(prompt.prefix)
        return loaded.prefixes[prompt.prefix]

    def _choose(self, rows: list[_Row], logits: Any) -> None:
        """The next token of every row (logits: one line a row), then what the grammar forces."""
        ends = self._grammars.ends
        allowed = self._allowed(rows, logits.shape[-1])
        for row, mask, line in zip(rows, allowed, logits, strict=True):
            scores = line.float()
            if mask is not None:
                scores = scores.masked_fill(~mask.to(scores.device), float("-inf"))
            token = _pick(scores, row)
            if token in ends:
                row.finish = "stop"
                continue
            if not row.named:
                _note_others(row, token, scores)
            if row.request.logprobs is not None:
                row.told.append(self._token(token, scores, row.request.logprobs))
            row.written.append(token)
            row.unread.append(token)
            if row.matcher is not None:
                row.matcher.consume_token(token)
            self._force(row)
            row.named = row.named or self._is_named(row)
            if row.request.stop and any(stop in self._tail(row) for stop in row.request.stop):
                row.finish = "stop"

    def _is_named(self, row: _Row) -> bool:
        """Whether an answer is past the name of the function it calls, or too long for one."""
        rest = self._tokenizer.decode(row.written).lstrip()[len(row.writing.before.lstrip()) :]
        return row.writing.between in rest or len(rest) > LONGEST_NAME + len(row.writing.between)

    def _token(self, token: int, scores: Any, likeliest: int) -> Token:
        """What to tell of a chosen token; among what the grammar admits, as it was chosen."""
        chances = scores.log_softmax(-1)
        best = [(self._piece(int(other)), float(chances[other])) for other in chances.topk(likeliest).indices]
        return Token(self._piece(token), float(chances[token]), tuple(pair for pair in best if pair[1] > -1e9))

    def _piece(self, token: int) -> str:
        return str(self._tokenizer.decode([token]))

    def _tail(self, row: _Row) -> str:
        """The last few words of an answer, enough to see a stop sequence end."""
        return str(self._tokenizer.decode(row.written[-32:], skip_special_tokens=True))

    def _allowed(self, rows: list[_Row], vocabulary: int) -> list[Any]:
        """For each row the tokens its grammar admits, as a bool tensor, or None without a grammar."""
        masks: list[Any] = []
        for row in rows:
            mask = None
            if row.matcher is not None:
                mask = _unpack(row.matcher.compute_bitmask(), vocabulary)
                if row.budget - len(row.written) <= CLOSING_TOKENS < row.budget:
                    mask = self._closing_only(mask)
            masks.append(mask)
        return masks

    def _closing_only(self, mask: Any) -> Any:
        """Of the tokens admitted those that end a string, or else an object or list, if it cannot just end."""
        import torch

        if bool(mask[self._grammars.ends].any()):
            return mask
        if self._closers is None:
            texts = self._tokenizer.batch_decode([[token] for token in range(len(self._tokenizer))])
            self._closers = torch.zeros(2, len(mask), dtype=torch.bool)
            for token, text in enumerate(texts):
                if text and not text.strip('"]}'):
                    self._closers[0 if text[0] == '"' else 1, token] = True
        return next((mask & closers for closers in self._closers if bool((mask & closers).any())), mask)

    def _force(self, row: _Row) -> None:
        """Append what the grammar forces; finish the row when nothing can follow or no room is left."""
        if row.matcher is not None:
            forced = row.matcher.compute_ff_tokens()
            if forced:
                row.matcher.consume_tokens(forced)
                row.written += forced
                row.unread += forced
                if row.request.logprobs is not None:
                    row.told += [Token(self._piece(token), 0.0, ((self._piece(token), 0.0),)) for token in forced]
            if row.matcher.is_stopped():
                row.finish = "stop"
        if row.finish is None and len(row.written) >= row.budget:
            row.written = row.written[: row.budget]
            row.finish = "length"


def _pick(scores: Any, row: _Row) -> int:
    """The best token at temperature 0 (the default), else one drawn with the request's seed."""
    import torch

    temperature = row.request.temperature or 0.0
    if temperature <= 0:
        return int(scores.argmax())
    chances = torch.softmax(scores.cpu() / temperature, dim=-1)
    if row.request.top_p is not None and row.request.top_p < 1:
        ordered, order = chances.sort(descending=True)
        ordered[1:][ordered.cumsum(0)[:-1] >= row.request.top_p] = 0  # the best one always stays
        chances = torch.zeros_like(chances).scatter(0, order, ordered)
    return int(torch.multinomial(chances, 1, generator=row.generator))


def _note_others(row: _Row, token: int, scores: Any) -> None:
    """Keep in mind how else the model might have gone on."""
    chances = scores.log_softmax(-1)
    best = chances.topk(OTHERS + 1)
    for chance, other in zip(best.values.tolist(), best.indices.tolist(), strict=True):
        if other != token and math.isfinite(chance):
            row.others.append((row.chance + chance, [*row.written, other]))
    row.chance += float(chances[token])


def _unpack(bitmask: bytes, vocabulary: int) -> Any:
    """llguidance's bits as a bool tensor of one entry a token."""
    import numpy as np
    import torch

    bits = np.unpackbits(np.frombuffer(bitmask, dtype=np.uint8), bitorder="little")[:vocabulary]
    mask = torch.zeros(vocabulary, dtype=torch.bool)
    mask[: len(bits)] = torch.from_numpy(bits.astype(bool))
    return mask


def _alike(row: _Row, other: _Row) -> int:
    """How many tokens two rows have in common at their beginning, the last of the other left out."""
    pairs = zip([*row.prompt.ids, *row.written], [*other.prompt.ids, *other.written][:-1], strict=False)
    return next((count for count, (one, two) in enumerate(pairs) if one != two), len(other.unread) - 1)


def _held_back(text: str, row: _Row) -> int:
    """Letters at the end that may still change: half a character, or the beginning of a stop sequence."""
    if text.endswith("�"):
        return len(text) - len(text.rstrip("�"))
    for length in range(max((len(stop) for stop in row.request.stop), default=0), 0, -1):
        if any(stop[:length] == text[-length:] for stop in row.request.stop if len(stop) >= length):
            return length
    return 0
