"""One answer, token by token: what a grammar forces is appended unread and unasked; the model decides the rest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from drone_ft.local import calls
from drone_ft.local.calls import Tool, Writing, function_of
from drone_ft.local.grammar import Grammars, grammar
from drone_ft.local.prompt import ChatRequest, Prompt, PromptError, Settings, build, writing_of

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
class Row:
    """One request on its way: `unread` tokens the model has yet to read, `written` those of the answer."""

    request: ChatRequest
    settings: Settings | None  # of the model that answers, when it is a tuned one
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
    finish: str | None = None

    @property
    def tokens(self) -> int:
        """How many the model has to remember, its prefix apart."""
        return len(self.prompt.ids) + len(self.written)


class Decoder:
    """Writes answers with one model's vocabulary: its tokenizer, its grammars, `context` tokens at most."""

    def __init__(self, tokenizer: Any, model: Any) -> None:
        self._tokenizer = tokenizer
        self._grammars = Grammars(model, tokenizer)
        self._context = getattr(model.config, "max_position_embeddings", None) or 1 << 20
        self._closers: Any = None

    def row(self, request: ChatRequest, settings: Settings | None, among: Sequence[Tool] = ()) -> Row:
        """A request at its beginning; `among`: the tools left to call, held to the bounds of their numbers.

        `settings` are those of a tuned model. Raises PromptError.
        """
        import torch

        prompt = build(self._tokenizer, request, settings)
        budget = DEFAULT_MAX_TOKENS if request.max_tokens is None else request.max_tokens
        room = self._context - len(prompt.ids) - len(prompt.prefix_ids)
        if room <= 0:
            raise PromptError(
                f"The messages and tools take {len(prompt.prefix_ids) + len(prompt.ids)} tokens, more than this "
                "model can read. Send fewer or shorter messages.",
                "messages",
            )
        writing = writing_of(self._tokenizer, settings)
        asked = replace(request, tools=among) if among else request
        wide = not among and grammar(request, writing, wide=True) != grammar(request, writing)
        matcher = self._grammars.matcher(asked, writing, wide=wide)
        generator = torch.Generator().manual_seed(request.seed or 0)
        row = Row(
            asked,
            settings,
            writing,
            prompt,
            matcher,
            generator,
            list(prompt.ids),
            min(budget, room),
            wide,
            named=not wide,
        )
        self._force(row)
        return row

    def choose(self, row: Row, scores: Any) -> None:
        """The next token, by the model's scores (vocabulary); then what the grammar forces."""
        scores = scores.float()
        admitted = self._admitted(row, len(scores))
        if admitted is not None:
            scores = scores.masked_fill(~admitted.to(scores.device), float("-inf"))
        token = _pick(scores, row)
        if token in self._grammars.ends:
            row.finish = "stop"
            return
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

    def other_way(self, row: Row) -> Row | None:
        """Where a number left its bounds: the likeliest other beginning, now held to them; None where all is well.

        What was asked for is not what that function does, so it is left out. Of several calls those before it stay.
        """
        if not row.wide:
            return None
        bounded: Any = self._grammars.matcher(row.request, row.writing)
        fitting = bounded.validate_tokens(row.written)
        made = calls.read(self._text(row), row.request.callable, row.writing)
        if fitting == len(row.written) or not made:
            return None
        row.kept = calls.complete(self._tokenizer.decode(row.written[:fitting]), row.request.callable, row.writing)
        if row.kept > 0:
            return None
        left = [tool for tool in row.request.callable if function_of(tool)["name"] != made[0][0]]
        other = self.row(row.request, row.settings, among=left)
        for _, begun in sorted(row.others, reverse=True):
            if self._begin(other, begun):
                break
        return other

    def answer(self, row: Row) -> Answer:
        """What a finished row says."""
        text = self._text(row)
        made = calls.read(text, row.request.callable, row.writing)[: row.kept]
        finish = row.finish or "stop"
        if made:
            text, finish = "", "tool_calls"
        tokens = len(row.prompt.prefix_ids) + len(row.prompt.ids)
        told = None if made or row.request.logprobs is None else tuple(self._told(row, len(text)))
        return Answer(tuple(made), text, finish, tokens, len(row.written), told)

    def settled_text(self, row: Row) -> str:
        """The text of a row on its way, as far as nothing that follows can change it."""
        text = self._text(row)
        return text[: len(text) - _held_back(text, row)]

    def _begin(self, row: Row, begun: list[int]) -> bool:
        """Let a fresh row begin with these tokens, if its grammar admits them."""
        fixed = len(row.written)
        if begun[:fixed] != row.written or row.matcher.validate_tokens(begun[fixed:]) < len(begun) - fixed:
            return False
        row.matcher.consume_tokens(begun[fixed:])
        row.written += begun[fixed:]
        row.unread += begun[fixed:]
        self._force(row)
        return True

    def _told(self, row: Row, letters: int) -> list[Token]:
        """The tokens of an answer's text, without those a stop sequence cut off."""
        told = row.told[: len(row.written)]
        while told and len(self._tokenizer.decode(row.written[: len(told)], skip_special_tokens=True)) > letters:
            told.pop()
        return told

    def _text(self, row: Row) -> str:
        text = str(self._tokenizer.decode(row.written, skip_special_tokens=True))
        for stop in row.request.stop:
            text = text.split(stop)[0] if stop else text
        return text

    def _is_named(self, row: Row) -> bool:
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

    def _tail(self, row: Row) -> str:
        """The last few words of an answer, enough to see a stop sequence end."""
        return str(self._tokenizer.decode(row.written[-32:], skip_special_tokens=True))

    def _admitted(self, row: Row, vocabulary: int) -> Any:
        """The tokens a row's grammar admits, as a bool tensor, or None without a grammar."""
        if row.matcher is None:
            return None
        mask = _unpack(row.matcher.compute_bitmask(), vocabulary)
        closing = row.budget - len(row.written) <= CLOSING_TOKENS < row.budget
        return self._closing_only(mask) if closing else mask

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

    def _force(self, row: Row) -> None:
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


def alike(row: Row, other: Row) -> int:
    """How many tokens two rows have in common at their beginning, the last of the other left out."""
    pairs = zip([*row.prompt.ids, *row.written], [*other.prompt.ids, *other.written][:-1], strict=False)
    return next((count for count, (one, two) in enumerate(pairs) if one != two), len(other.unread) - 1)


def _pick(scores: Any, row: Row) -> int:
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


def _note_others(row: Row, token: int, scores: Any) -> None:
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


def _held_back(text: str, row: Row) -> int:
    """Letters at the end that may still change: half a character, or the beginning of a stop sequence."""
    if text.endswith("�"):
        return len(text) - len(text.rstrip("�"))
    for length in range(max((len(stop) for stop in row.request.stop), default=0), 0, -1):
        if any(stop[:length] == text[-length:] for stop in row.request.stop if len(stop) >= length):
            return length
    return 0
