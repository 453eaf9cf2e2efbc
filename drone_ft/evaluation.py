"""Ask models the same cases, score every answer, compare two models and say how sure the comparison is."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import openai
from scipy.stats import binomtest

from drone_ft import abilities, endpoints
from drone_ft.abilities import Memory
from drone_ft.catalog import Call, Catalog, problems
from drone_ft.errors import DatasetError, EndpointError, EndpointRefused, EndpointUnavailable

AT_ONCE = 32  # requests on their way to a model
GOOD_ENOUGH = 0.7  # of each kind of request, below which a better model is still no good one


class Outcome(StrEnum):
    """What one answer turned out to be; unscored means that no answer came, which is nobody's mistake."""

    CORRECT = "correct"
    WRONG_ARGUMENTS = "wrong_arguments"
    WRONG_FUNCTION = "wrong_function"
    WRONGLY_REJECTED = "wrongly_rejected"
    SHOULD_HAVE_REJECTED = "should_have_rejected"
    NO_CALL = "no_call"
    UNSCORED = "unscored"

    @property
    def words(self) -> str:
        """The outcome as people read it."""
        return self.value.replace("_", " ")


@dataclass(frozen=True)
class Case:
    """A request with the call it should become.

    `accept` lists further right values per argument; null among them means that it may be left out.
    """

    prompt: str
    call: Call
    accept: dict[str, list[Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """What a model answered: a call, or text, or an error; `seconds` is how long it took."""

    prompt: str
    call: Call | None
    text: str = ""
    seconds: float = 0.0
    error: str | None = None

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> Answer:
        """The answer that `dataclasses.asdict` made into plain data."""
        return cls(**{**row, "call": Call(**row["call"]) if row["call"] else None})


def read_cases(path: str | Path, catalog: Catalog | None = None) -> list[Case]:
    """The cases of a JSONL file, one `{"prompt", "call": {"name", "arguments"}, "accept"?}` a line.

    Raises DatasetError naming line and field; with `catalog`, also where a call does not fit it.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DatasetError(
            f"The cases were not read: {path} ({error.strerror}). Name a JSONL file of cases."
        ) from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"The cases were not read: {path.name} is not UTF-8 text. Save it as UTF-8.") from error
    cases = [
        _read_case(line, f"{path.name}, line {n}", catalog)
        for n, line in enumerate(text.split("\n"), 1)
        if line.strip()
    ]
    if not cases:
        raise DatasetError(f"{path.name} holds no cases. Write one JSON object a line, with prompt and call.")
    return cases


def _read_case(line: str, where: str, catalog: Catalog | None) -> Case:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise DatasetError(f"{where}, column {error.colno}: not JSON ({error.msg}). Correct the line.") from error
    if not isinstance(row, dict) or not isinstance(row.get("prompt"), str) or not row["prompt"].strip():
        raise DatasetError(f"{where}, prompt: expected the person's words. Add a prompt.")
    call, accept = row.get("call"), row.get("accept") or {}
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        raise DatasetError(f'{where}, call: expected {{"name", "arguments"}}, received {call!r}.')
    if not isinstance(call.get("arguments", {}), dict):
        raise DatasetError(f"{where}, call.arguments: expected a JSON object, received {call['arguments']!r}.")
    if not isinstance(accept, dict) or not all(isinstance(values, list) for values in accept.values()):
        raise DatasetError(f"{where}, accept: expected lists of values by argument, received {accept!r}.")
    case = Case(row["prompt"], Call(call["name"], call.get("arguments", {})), accept)
    wrong = problems(catalog, case.call) if catalog else []
    if wrong:
        raise DatasetError(
            f"{where}, call of {case.call.name}: {'; '.join(wrong)}. Correct the case or choose its catalog."
        )
    return case


def score(case: Case, answer: Answer, reject: str | None) -> Outcome:
    """What an answer is worth, given the case and the name of the reject function."""
    if answer.error is not None:
        return Outcome.UNSCORED
    if answer.call is None:
        return Outcome.NO_CALL
    if case.call.name == reject:
        return Outcome.CORRECT if answer.call.name == reject else Outcome.SHOULD_HAVE_REJECTED
    if answer.call.name == reject:
        return Outcome.WRONGLY_REJECTED
    if answer.call.name != case.call.name:
        return Outcome.WRONG_FUNCTION
    return Outcome.CORRECT if _same_arguments(case, answer.call.arguments) else Outcome.WRONG_ARGUMENTS


def _same_arguments(case: Case, arguments: dict[str, Any]) -> bool:
    names = list(dict.fromkeys([*case.call.arguments, *arguments]))
    for name in names:
        allowed = [case.call.arguments.get(name), *case.accept.get(name, [])]
        if not any(_same(arguments.get(name), value) for value in allowed):
            return False
    return True


def _same(one: Any, other: Any) -> bool:
    """Equality of JSON values: 5 is 5.0, but true is not 1."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)


def ask(client: openai.OpenAI, model: str, catalog: Catalog, prompt: str, *, memory: Memory | None = None) -> Answer:
    """One request put to one model, with the catalog's tools; a call is required, so that all models play by one rule.

    A server that is down gives an Answer with `error`; a refusal that would meet every case (unknown model, bad key)
    raises EndpointRefused.
    """
    messages: Any = [{"role": "user", "content": prompt}]
    if catalog.system_prompt:
        messages.insert(0, {"role": "system", "content": catalog.system_prompt})
    started = time.perf_counter()
    try:
        reply = abilities.chat(
            client,
            model,
            memory,
            messages=messages,
            tools=catalog.tools(),
            tool_choice="required",
            parallel_tool_calls=False,
            temperature=0,
        )
    except EndpointError as error:
        # This one request may be too long for the model; a bad key, an unknown model or one that calls no functions
        # meets every request.
        no_calls = getattr(error, "code", None) == abilities.NO_CALLS
        if isinstance(error, EndpointRefused) and (error.status not in (400, 413, 422) or no_calls):
            raise
        return Answer(prompt, None, seconds=time.perf_counter() - started, error=str(error))
    seconds = time.perf_counter() - started
    message = reply.choices[0].message if reply.choices else None
    if message is None:
        return Answer(prompt, None, seconds=seconds, error="The server sent a reply without an answer.")
    return _answer(prompt, message, seconds)


def _answer(prompt: str, message: Any, seconds: float) -> Answer:
    """The call in a reply; a reply with broken JSON or several calls is kept as text, never as a call."""
    called = [tool.function for tool in message.tool_calls or [] if tool.type == "function"]
    if len(called) != 1:
        words = "; ".join(f"{c.name}({c.arguments})" for c in called) or message.content or message.refusal or ""
        return Answer(prompt, None, text=words, seconds=seconds)
    try:
        arguments = json.loads(called[0].arguments or "{}")
    except json.JSONDecodeError:
        arguments = None
    if not isinstance(arguments, dict):
        return Answer(prompt, None, text=f"{called[0].name}({called[0].arguments})", seconds=seconds)
    return Answer(prompt, Call(called[0].name, arguments), seconds=seconds)


def ask_all(
    client: openai.OpenAI,
    model: str,
    catalog: Catalog,
    prompts: Sequence[str],
    on_progress: Callable[[int], None] = lambda done: None,
    at_once: int = AT_ONCE,
    memory: Memory | None = None,
    before: Sequence[Answer] = (),
    keep: Callable[[Answer], None] = lambda answer: None,
) -> tuple[list[Answer], float]:
    """Answers in the order of the prompts, and the seconds all of it took on the wall clock.

    Prompts answered `before` are not asked; each new answer is handed to `keep` at once. `on_progress` is told how many
    are done, at least once a second, and may raise to stop.
    """
    started = time.perf_counter()
    pool = ThreadPoolExecutor(at_once)
    try:
        known = {answer.prompt: answer for answer in before}
        futures: dict[int, Future[Answer]] = {
            place: pool.submit(ask, client, model, catalog, prompt, memory=memory)
            for place, prompt in enumerate(prompts)
            if prompt not in known
        }
        waiting: set[Future[Answer]] = set(futures.values())
        while waiting:
            done, waiting = wait(waiting, timeout=1.0, return_when=FIRST_COMPLETED)
            for future in done:
                keep(future.result())
            on_progress(len(prompts) - len(waiting))
    finally:
        # Whoever stops does not wait for the answers still on their way.
        pool.shutdown(wait=False, cancel_futures=True)
    answers = [futures[at].result() if at in futures else known[prompt] for at, prompt in enumerate(prompts)]
    if answers and all(answer.error for answer in answers):
        raise EndpointUnavailable(f"{model} answered none of {len(answers)} requests. {answers[0].error}")
    return answers, time.perf_counter() - started


@dataclass(frozen=True)
class Verdict:
    """Base and tuned compared in one sentence; `p` is the exact McNemar probability, None with nothing to compare.

    `good` says that the tuned model is surely better, worse at no kind of request, and right often enough at each.
    """

    sentence: str
    better: int
    worse: int
    p: float | None
    good: bool = False


def key(model: str, endpoint: str, among: Sequence[str]) -> str:
    """A model's key in a report: its name, with its endpoint only where another one `among` those asked has it too."""
    return model + _at(endpoint) if list(among).count(model) > 1 else model


def _at(endpoint: str) -> str:
    return f" ({endpoint})"


@dataclass(frozen=True)
class Report:
    """What every model answered to every case; every number is derived from the answers.

    `answers` holds one list a model, in the order of `cases`; `seconds` the wall-clock seconds a model took;
    `endpoints` names where each was asked. Their keys are what `key` makes of the models.
    """

    id: str
    name: str
    reject: str | None
    cases: list[Case]
    answers: dict[str, list[Answer]]
    seconds: dict[str, float]
    created: float = 0.0
    catalog: str = ""  # whose functions the models were sent; unknown in reports of earlier versions
    endpoints: dict[str, str] = field(default_factory=dict)  # unknown in reports of earlier versions

    @property
    def models(self) -> list[str]:
        """The models asked, the base first."""
        return list(self.answers)

    def called(self, model: str) -> str:
        """What one of `models` is called at its endpoint; a report tells two of the same name apart."""
        return model.removesuffix(_at(self.endpoints.get(model, "")))

    def scores(self, model: str) -> list[Outcome]:
        """The outcome of every case, in order."""
        return [score(c, a, self.reject) for c, a in zip(self.cases, self.answers[model], strict=True)]

    def pace(self, model: str) -> float:
        """Seconds an answer took: the median at a service; on this computer, whose cores all share, the mean."""
        own = [answer.seconds for answer in self.answers[model] if answer.seconds and not answer.error]
        is_elsewhere = self.endpoints.get(model, endpoints.LOCAL) != endpoints.LOCAL
        return statistics.median(own) if own and is_elsewhere else self.seconds[model] / max(1, len(self.cases))

    def outcomes(self, model: str) -> dict[Outcome, int]:
        """How many answers had each outcome, all outcomes listed."""
        scores = self.scores(model)
        return {outcome: scores.count(outcome) for outcome in Outcome}

    def possible(self, model: str) -> tuple[int, int]:
        """Correct and asked among the possible requests that were scored."""
        return self._share(model, lambda case: case.call.name != self.reject)

    def impossible(self, model: str) -> tuple[int, int]:
        """Correctly rejected and asked among the impossible requests that were scored."""
        return self._share(model, lambda case: case.call.name == self.reject)

    def by_function(self, model: str) -> dict[str, tuple[int, int]]:
        """Correct and asked per function of the right call, in order of first appearance."""
        names = dict.fromkeys(case.call.name for case in self.cases)
        return {name: self._share(model, lambda case, name=name: case.call.name == name) for name in names}  # type: ignore[misc]

    def weakest_first(self) -> list[str]:
        """Functions by the share the last model had right, then by the first's; those never answered last."""
        tables = [self.by_function(model) for model in reversed(self.models)]

        def shares(name: str) -> list[float]:
            return [correct / of if of else 2.0 for correct, of in (table[name] for table in tables)]

        return sorted(tables[0], key=shares) if tables else []

    def differences(self, one: str, other: str) -> list[int]:
        """Indices of the cases where the two models' outcomes or calls differ."""
        pairs = zip(self.scores(one), self.scores(other), self.answers[one], self.answers[other], strict=True)
        return [i for i, (s, t, a, b) in enumerate(pairs) if s != t or _key(a) != _key(b)]

    def verdict(self, base: str, tuned: str) -> Verdict:
        """Is the tuned model better, and could that be chance?"""
        pairs = [
            (s == Outcome.CORRECT, t == Outcome.CORRECT)
            for s, t in zip(self.scores(base), self.scores(tuned), strict=True)
            if Outcome.UNSCORED not in (s, t)
        ]
        better, worse = pairs.count((False, True)), pairs.count((True, False))
        p = float(binomtest(better, better + worse, 0.5).pvalue) if better + worse else None
        good = p is not None and p < 0.05 and _word(self, base, tuned) == "better" and not _poor(self, tuned)
        return Verdict(_sentence(self, base, tuned, better, worse, p), better, worse, p, good)

    def to_json(self) -> dict[str, Any]:
        """The figures of every model, as `evaluate --json` prints them."""
        return {"models": {model: self._figures(model) for model in self.models}}

    def _figures(self, model: str) -> dict[str, Any]:
        shares = {"possible": self.possible(model), "impossible": self.impossible(model)}
        return {
            "n": len(self.cases),
            "outcomes": {outcome.value: count for outcome, count in self.outcomes(model).items()},
            **{name: {"correct": correct, "of": of} for name, (correct, of) in shares.items()},
            "seconds_per_case": round(self.seconds[model] / len(self.cases), 4) if self.cases else None,
            "seconds_per_answer": round(self.pace(model), 4) if self.cases else None,
        }

    def _share(self, model: str, wanted: Callable[[Case], bool]) -> tuple[int, int]:
        scored = [s for c, s in zip(self.cases, self.scores(model), strict=True) if wanted(c) and s != Outcome.UNSCORED]
        return scored.count(Outcome.CORRECT), len(scored)


def _word(report: Report, base: str, tuned: str) -> str:
    """Better, worse, or better at one kind and worse at the other: rejecting everything must not pass for better."""
    shares = {"possible requests": report.possible, "impossible ones": report.impossible}
    rose: list[str] = []
    fell: list[str] = []
    for name, share in shares.items():
        (was, of), (now, of_now) = share(base), share(tuned)
        change = (now / of_now if of_now else 0.0) - (was / of if of else 0.0)
        (rose if change > 0 else fell if change < 0 else []).append(name)
    if rose and fell:
        return f"better at {rose[0]} and worse at {fell[0]}"
    return "better" if rose else "worse"


def _poor(report: Report, model: str) -> bool:
    """Whether a model is right too seldom at a kind of request to be relied on."""
    shares = (report.possible(model), report.impossible(model))
    return any(of and correct / of < GOOD_ENOUGH for correct, of in shares)


def _key(answer: Answer) -> str:
    return answer.call.key if answer.call else answer.text


def _sentence(report: Report, base: str, tuned: str, better: int, worse: int, p: float | None) -> str:
    parts = []
    for words, share in (
        ("possible requests exactly right", report.possible),
        ("impossible requests rejected", report.impossible),
    ):
        (was, of), (now, of_now) = share(base), share(tuned)
        if of_now:
            parts.append(f"{now} of {of_now} {words} (base: {was} of {of})")
    figures = " and ".join(parts)
    unscored = report.outcomes(tuned)[Outcome.UNSCORED] + report.outcomes(base)[Outcome.UNSCORED]
    outage = f" {unscored} answers never came and are not counted." if unscored else ""
    if not parts:
        return f"There is nothing to compare: no request was answered.{outage}"
    if p is None:
        return f"The tuned model does no better and no worse than the base: {figures}.{outage}"
    if p >= 0.05:
        clear = f"No clear difference between tuned and base yet: {figures}."
        return f"{clear} This could be chance; ask more requests to find out.{outage}"
    word, advice = _word(report, base, tuned), ""
    if "better" in word and _poor(report, tuned):
        word += ", but not yet good" if word == "better" else ", and not yet good"
        advice = " Write more examples, or train for more epochs."
    chance = "hardly chance" if p < 0.001 else "unlikely to be chance"
    return f"The tuned model is {word}: {figures}. This is {chance}.{advice}{outage}"
