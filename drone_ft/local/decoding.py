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
BEYOND = "beyond"  # how a row ends where a number leaves its bounds


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
    bounds: Any = None  # a matcher that holds numbers to their bounds, where `matcher` does not
    written: list[int] = field(default_factory=list)
    told: list[Token] = field(default_factory=list)  # of what is written, when it was asked for
    named: bool = False  # whether it is settled which function is called, as far as that matters
    chance: float = 0.0  # logarithm, of what is written until then
    others: list[tuple[float, list[int]]] = field(default_factory=list)  # (chance, other beginning) until then
    fitting: int = 0  # tokens written before one left its bounds
    calls: list[tuple[str, str]] = field(default_factory=list)  # those made before one that cannot be
    finish: str | None = None

    @property
    def tokens(self) -> int:
        """How many the model has to remember, its prefix apart."""
        return len(self.prompt.ids) + len(self.written)

    def write(self, tokens: list[int]) -> None:
        """Append tokens; the row ends where a number leaves its bounds."""
        if self.matcher is not None:
            self.matcher.consume_tokens(tokens)
        if self.bounds is not None:
            fitting = self.bounds.validate_tokens(tokens)
            self.bounds.consume_tokens(tokens[:fitting])
            if fitting < len(tokens):
                self.finish, self.fitting = BEYOND, len(self.written) + fitting
        self.written += tokens
        self.unread += tokens


class Decoder:
    """Writes answers with one model's vocabulary: its tokenizer, its grammars, `context` tokens at most."""

    def __init__(self, tokenizer: Any, model: Any) -> None:
        self._tokenizer = tokenizer
        self._grammars = Grammars(model, tokenizer)
        self._context = getattr(model.config, "max_position_embeddings", None) or 1 << 20
        self._closers: Any = None

    def row(self, request: ChatRequest, settings: Settings | None) -> Row:
        """A request at its beginning; `settings` are those of a tuned model. Raises PromptError."""
        return self._row(request, settings, build(self._tokenizer, request, settings))

    def _row(self, request: ChatRequest, settings: Settings | None, prompt: Prompt, among: Sequence[Tool] = ()) -> Row:
        """A request whose prompt is known; `among`: the tools left to call, held to the bounds of their numbers."""
        import torch

        room = self._context - len(prompt.ids) - len(prompt.prefix_ids)
        if room <= 0:
            raise PromptError(
                f"The messages and tools take {len(prompt.prefix_ids) + len(prompt.ids)} tokens, more than this "
                "model can read. Send fewer or shorter messages.",
                "messages",
            )
        writing = writing_of(self._tokenizer, settings)
        asked = replace(request, tools=among) if among else request
        matcher, bounds = self._grammars.matcher(asked, writing), None
        if not among and grammar(request, writing, wide=True) != grammar(request, writing):
            matcher, bounds = self._grammars.matcher(asked, writing, wide=True), matcher
        generator = torch.Generator().manual_seed(request.seed or 0)
        budget = min(room, DEFAULT_MAX_TOKENS if request.max_tokens is None else request.max_tokens)
        unread = list(prompt.ids)
        row = Row(asked, settings, writing, prompt, matcher, generator, unread, budget, bounds, named=bounds is None)
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
        row.write([token])
        self._force(row)
        row.named = row.named or self._is_named(row)
        if row.finish != BEYOND and row.request.stop and any(stop in self._tail(row) for stop in row.request.stop):
            row.finish = "stop"

    def other_way(self, row: Row) -> Row | None:
        """Where a number left its bounds: the likeliest other beginning, now held to them; None where all is well.

        What was asked for is not what that function does, so it is left out. Of several calls those before it stay.
        """
        if row.finish != BEYOND:
            return None
        tools = row.request.callable
        row.calls = calls.complete(self._tokenizer.decode(row.written[: row.fitting]), tools, row.writing)
        if row.calls:
            return None
        named = calls.named(self._tokenizer.decode(row.written), row.writing)
        left = [tool for tool in tools if function_of(tool)["name"] != named]
        other = self._row(row.request, row.settings, row.prompt, among=left)
        for _, begun in sorted(row.others, reverse=True):
            if self._begin(other, begun):
                break
        return other

    def answer(self, row: Row) -> Answer:
        """What a finished row says."""
        text = self._text(row)
        made = row.calls or calls.read(text, row.request.callable, row.writing)
        finish = row.finish or "stop"
        if made:
            text, finish = "", "tool_calls"
        tokens = len(row.prompt.prefix_ids) + len(row.prompt.ids)
        told = None if made or row.request.logprobs is None else tuple(self._told(row, len(text)))
        return Answer(tuple(made), text, finish, tokens, len(row.written), told)

    def settled_text(self, row: Row) -> str:
        """The text of a row on its way, as far as nothing that follows can change it; a call is none."""
        text = self._text(row)
        if calls.may_be_call(text, row.request.callable, row.writing):
            return ""
        return text[: len(text) - _held_back(text, row)]

    def _begin(self, row: Row, begun: list[int]) -> bool:
        """Let a fresh row begin with these tokens, if its grammar admits them."""
        fixed = len(row.written)
        if begun[:fixed] != row.written or row.matcher.validate_tokens(begun[fixed:]) < len(begun) - fixed:
            return False
        row.write(begun[fixed:])
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
        if row.matcher is not None and row.finish is None:
            forced = row.matcher.compute_ff_tokens()
            if forced:
                row.write(forced)
                if row.request.logprobs is not None:
                    row.told += [Token(self._piece(token), 0.0, ((self._piece(token), 0.0),)) for token in forced]
            if row.matcher.is_stopped():
                row.finish = row.finish or "stop"
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
    whole = text.rstrip("�")
    for length in range(max((len(stop) for stop in row.request.stop), default=0), 0, -1):
        if any(stop[:length] == whole[-length:] for stop in row.request.stop if len(stop) >= length):
            return len(text) - len(whole) + length
    return len(text) - len(whole)
