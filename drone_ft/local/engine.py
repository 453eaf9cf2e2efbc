"""Answers chat requests with the base model or a tuned one: batched, grammar-constrained, prefixes read once.

A step feeds every unfinished row the tokens it has not read yet, all in one forward pass, end to end. What a grammar
forces is appended unread and unasked; the model only decides where there is a choice. A prefix that requests share
(system prompt and tools) is read once a model.
"""

from __future__ import annotations

import copy
import json
import math
import threading
from collections import OrderedDict
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from drone_ft.errors import WeightsError
from drone_ft.local import calls, packing, reading, weights
from drone_ft.local.calls import Tool, Writing, function_of
from drone_ft.local.grammar import Grammars, beyond
from drone_ft.local.prompt import ChatRequest, Prompt, PromptError, Settings, build, writing_of

CHUNK = 64  # rows read together: more gain little speed and cost memory
TUNED_KEPT = 1  # merged tuned models in memory, 430 MB each for the default base
PREFIXES_KEPT = 4
DEFAULT_MAX_TOKENS = 512
OTHERS = 4  # other beginnings kept at each choice, until the function to call is settled
CLOSING_TOKENS = 64  # room kept to end a call properly when its text grows without end


class UnknownModel(WeightsError):
    """No base or tuned model has the id asked for."""


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
    written: list[int] = field(default_factory=list)
    told: list[Token] = field(default_factory=list)  # of what is written, when it was asked for
    named: bool = False  # whether the function to call is settled
    chance: float = 0.0  # logarithm, of what is written until then
    others: list[tuple[float, list[int]]] = field(default_factory=list)  # (chance, other beginning) until then
    finish: str | None = None


@dataclass
class _Loaded:
    """A model in memory with the prefixes it has read."""

    model: Any
    settings: Settings | None
    prefixes: OrderedDict[str, Any] = field(default_factory=OrderedDict)


class Engine:
    """The base model, the tuned models in `models_dir`, and the checkpoints of the jobs in `jobs_dir`.

    Safe to use from several threads.
    """

    def __init__(self, models_dir: Path, source: weights.Source | None = None, jobs_dir: Path | None = None) -> None:
        self.models_dir, self.jobs_dir = Path(models_dir), jobs_dir
        self.source = source or weights.resolve()
        self._lock = threading.RLock()
        self._base: _Loaded | None = None
        self._tuned: OrderedDict[str, _Loaded] = OrderedDict()
        self._tokenizer: Any = None
        self._grammars: Any = None
        self._closers: Any = None

    # Models

    def models(self) -> list[str]:
        """Ids of the base model and of every finished tuned model."""
        return [self.source.name, *sorted(self._finished())]

    def has(self, model_id: str) -> bool:
        """Whether a model answers under this id: one of `models`, or a checkpoint of a job."""
        return model_id in self.models() or model_id in self._checkpoints()

    def settings(self, model_id: str) -> Settings:
        """What a tuned model remembers of its training. Raises UnknownModel, for the base model too."""
        found = self._read_settings(self._folder(model_id))
        assert found is not None
        return found

    def whole(self, model_id: str) -> tuple[Any, Any]:
        """A tuned model with its adapter merged in, and the tokenizer. Raises UnknownModel, WeightsError."""
        with self._lock:
            return _merged(self._load_base().model, self._folder(model_id), model_id), self._tokenizer

    def forget(self, model_id: str) -> None:
        """Drop a tuned model from memory, for instance before its folder is deleted."""
        with self._lock:
            self._tuned.pop(model_id, None)

    def _finished(self) -> dict[str, Path]:
        return self._folders(self.models_dir.glob("*/settings.json"))

    def _checkpoints(self) -> dict[str, Path]:
        return self._folders(self.jobs_dir.glob("*/checkpoints/epoch-*/settings.json")) if self.jobs_dir else {}

    def _folders(self, settings_files: Iterable[Path]) -> dict[str, Path]:
        found = {}
        for path in sorted(settings_files):
            settings = self._read_settings(path.parent)
            # an adapter fits the base it was learnt with, and no other
            if settings is not None and settings.base == self.source.name:
                found[settings.id] = path.parent
        return found

    @staticmethod
    def _read_settings(folder: Path) -> Settings | None:
        try:
            return Settings.from_json(json.loads((folder / "settings.json").read_text("utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def _folder(self, model_id: str) -> Path:
        folder = self._finished().get(model_id) or self._checkpoints().get(model_id)
        if folder is None:
            known = ", ".join(self.models())
            raise UnknownModel(f"There is no model {model_id!r} here; there is: {known}. Check the model's name.")
        return folder

    def _load_base(self) -> _Loaded:
        if self._base is None:
            weights.use_physical_cores()
            model, self._tokenizer = weights.load(self.source)
            model = model.to(_device())
            if packing.can_pack(model):
                packing.pack(model)
            self._grammars = Grammars(model, self._tokenizer)
            self._base = _Loaded(model, None)
        return self._base

    def _load(self, model_id: str) -> _Loaded:
        base = self._load_base()
        if model_id == self.source.name:
            return base
        if model_id not in self._tuned:
            folder = self._folder(model_id)
            settings = self._read_settings(folder)
            assert settings is not None
            while len(self._tuned) >= TUNED_KEPT:
                self._tuned.popitem(last=False)
            self._tuned[model_id] = _Loaded(_merged(base.model, folder, model_id), settings)
        self._tuned.move_to_end(model_id)
        return self._tuned[model_id]

    # Answers

    def answer(self, model_id: str, requests: Sequence[ChatRequest]) -> list[Answer]:
        """One answer a request, in order, from one model. Raises UnknownModel, PromptError, WeightsError."""
        with self._lock:
            loaded = self._load(model_id)
            rows = [self._row(loaded, request) for request in requests]
            self._finish(loaded, rows)
            again = {number: other for number, row in enumerate(rows) if (other := self._other_way(loaded, row))}
            self._finish(loaded, list(again.values()))
            return [self._answer(again.get(number, row)) for number, row in enumerate(rows)]

    def stream(self, model_id: str, request: ChatRequest) -> Generator[str, None, Answer]:
        """Pieces of one answer's text as they are written; the generator's return value is the whole Answer."""
        with self._lock:
            loaded = self._load(model_id)
            row = self._row(loaded, request)
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

    def _other_way(self, loaded: _Loaded, row: _Row) -> _Row | None:
        """Where a call left its bounds: the likeliest other beginning, now held to them; None where all is well.

        What was asked for is not what that function does, so it is left out, where there is another.
        """
        tools, choice = row.request.callable, row.request.tool_choice
        misfits = beyond(calls.read(self._text(row), tools, row.writing), tools)
        if not misfits:
            return None
        left = [tool for tool in tools if function_of(tool)["name"] not in misfits]
        if isinstance(choice, dict) or not left:
            return self._row(loaded, row.request, bounded=tools)
        other = self._row(loaded, row.request, bounded=left)
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

    def _row(self, loaded: _Loaded, request: ChatRequest, bounded: Sequence[Tool] = ()) -> _Row:
        """A request at its beginning; to be answered with `bounded`, where there are any, of its tools."""
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
        asked = replace(request, tools=bounded) if bounded else request
        matcher = self._grammars.matcher(asked, writing, bounded=bool(bounded))
        generator = torch.Generator().manual_seed(request.seed or 0)
        row = _Row(request, writing, prompt, matcher, generator, list(prompt.ids), min(budget, room))
        self._force(row)
        return row

    def _answer(self, row: _Row) -> Answer:
        text = self._text(row)
        made = calls.read(text, row.request.callable, row.writing)
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

    def _finish(self, loaded: _Loaded, rows: Sequence[_Row]) -> None:
        """Write the rows' answers, those that share a prefix together."""
        groups: dict[str, list[_Row]] = {}
        for row in rows:
            groups.setdefault(row.prompt.prefix, []).append(row)
        for group in groups.values():
            # answers of like length finish together; the order never changes an answer
            group.sort(key=lambda row: len(row.unread))
            for start in range(0, len(group), CHUNK):
                for _ in self._run(loaded, group[start : start + CHUNK]):
                    pass

    def _run(self, loaded: _Loaded, rows: list[_Row]) -> Iterator[None]:
        """Advance the rows, which share a prefix, until all are finished; yields after every forward pass."""
        import torch

        active = {number: row for number, row in enumerate(rows) if row.finish is None}
        if not active:
            return
        reader = reading.reader(loaded.model, self._prefix(loaded, rows[0].prompt))
        while active:
            with torch.inference_mode():
                logits = reader.read({number: row.unread for number, row in active.items()})
                for row in active.values():
                    row.unread = []
                self._choose(list(active.values()), logits)
            for number in [number for number, row in active.items() if row.finish is not None]:
                del active[number]
                reader.forget(number)
            yield

    def _prefix(self, loaded: _Loaded, prompt: Prompt) -> Any:
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
            if row.matcher is not None and not row.named:
                _note_others(row, token, scores)
            if row.request.logprobs is not None:
                row.told.append(self._token(token, scores, row.request.logprobs))
            row.written.append(token)
            row.unread.append(token)
            if row.matcher is not None:
                row.matcher.consume_token(token)
            self._force(row)
            row.named = row.named or row.writing.between in self._tokenizer.decode(row.written)
            if row.request.stop and any(stop in self._tail(row) for stop in row.request.stop):
                row.finish = "stop"

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
        """Of the tokens admitted those that end a string, or else an object or list, if there are any."""
        import torch

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


def _held_back(text: str, row: _Row) -> int:
    """Letters at the end that may still change: half a character, or the beginning of a stop sequence."""
    if text.endswith("�"):
        return len(text) - len(text.rstrip("�"))
    for length in range(max((len(stop) for stop in row.request.stop), default=0), 0, -1):
        if any(stop[:length] == text[-length:] for stop in row.request.stop if len(stop) >= length):
            return length
    return 0


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _merged(base: Any, folder: Path, model_id: str) -> Any:
    """A copy of the base with the adapter merged in; what no adapter touches is shared, not copied."""
    from peft import PeftModel

    embeddings = base.get_input_embeddings().weight
    try:
        twin = copy.deepcopy(base, {id(embeddings): embeddings})
        return PeftModel.from_pretrained(twin, str(folder)).merge_and_unload().eval()
    except Exception as error:
        raise WeightsError(
            f"The tuned model {model_id} cannot be loaded: its adapter in {folder} is missing or damaged "
            f"({type(error).__name__}). Train it again."
        ) from error
