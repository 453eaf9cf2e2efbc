"""A model as the writer: values for blanks, commands for calls, impossible requests; nothing it says goes unchecked.

The stage knows no server. It asks in rounds: every request that can be put now, then what follows from the answers
(a call whose values are known, a second try with the error in hand). The same answers give the same examples.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import re
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from drone_ft import permutations, prices
from drone_ft.catalog import Call, Catalog, Function, problems
from drone_ft.dataset import Example, make_example
from drone_ft.endpoints import OPENAI_URL
from drone_ft.errors import DatasetError
from drone_ft.permutations import CallTemplate, Path
from drone_ft.schema.pieces import canonical
from drone_ft.synthesis import quality
from drone_ft.synthesis.quality import Said

log = logging.getLogger(__name__)
MOST_CALLS = 500  # of one function, listed for the model; of more a sample is taken
ALL, UNCOVERED = "all", "uncovered"

VALUES = """\
You fill in the missing values of a call that an assistant makes for a person.
You are given a function, and one call of it with some values left open.
- Choose values a real person would ask for, as the descriptions of the function and its parameters suggest.
- Stay within what the schema allows: types, ranges, formats.
- Prefer ordinary values to extreme ones, and real names of places, people and things to invented ones.
- Never write placeholders such as "string", "value" or "example".
Answer with one JSON object that has a value for every open name, and nothing else."""

COMMANDS = """\
You write what people say to an assistant that can call functions.
You are given a function, and one call of it. Write requests that mean exactly this call.
- Sound natural, as somebody talks or types in daily life: "get the inside lights going", not "turn on the dome light".
- Do not parrot the names of the function, its parameters or its choices; use the words people have for these things.
- Vary them: commands, questions, statements; some short, some long; some polite, some curt. No two alike.
- Say every value of the call, so that the call follows from the words alone: numbers as digits or in words.
- Ask for nothing beyond the call, and leave nothing of it open.
Answer with one JSON object, {"commands": ["...", "..."]}, and nothing else."""

IMPOSSIBLE = """\
You write requests that an assistant must turn down, because none of its functions can do them.
You are given all of its functions, and the one your requests have to come close to.
- Each request sounds at first as if that function could do it, but it cannot: another thing of the same kind, a setting
  it does not have, a value beyond what it allows, or something essential that is left unsaid.
- No other function on the list can do it either.
- Sound natural, as somebody talks or types in daily life; vary the wording, some short, some long.
Answer with one JSON object, {"requests": ["...", "..."]}, and nothing else."""


@dataclass(frozen=True)
class Prompts:
    """What the model is told, editable; `tone` says how the user's people speak, "" for no tone of their own."""

    values: str = VALUES
    commands: str = COMMANDS
    impossible: str = IMPOSSIBLE
    tone: str = ""


@dataclass(frozen=True)
class Plan:
    """What to write: so many commands for each call, so many impossible requests for each of their functions.

    `among` are the examples already there, which are not to be written again.
    """

    catalog: Catalog
    templates: tuple[CallTemplate, ...]
    commands: int = 2
    impossible: int = 3
    prompts: Prompts = Prompts()
    among: tuple[Example, ...] = ()

    @property
    def functions(self) -> list[Function]:
        """The functions of the calls, in the order of the catalog."""
        names = dict.fromkeys(template.function for template in self.templates)
        return [function for function in self.catalog.callable_functions if function.name in names]


@dataclass(frozen=True)
class LeftOut:
    """Something asked for that is not among the examples, with its reason; `words` where the model wrote any."""

    call: dict[str, Any]
    words: str
    reason: str


@dataclass(frozen=True)
class Writing:
    """What was written, in the order of the plan, and the ledger of what was left out."""

    examples: list[Example]
    left_out: list[LeftOut]


@dataclass(frozen=True)
class Estimate:
    """What writing takes, before it begins: requests, tokens, US dollars (None where the price is unknown)."""

    requests: int
    input_tokens: int
    output_tokens: int
    cost: float | None


@dataclass(frozen=True)
class Heard:
    """A model's answer to one request; without one, the reason."""

    text: str | None
    reason: str = ""


Request = dict[str, Any]
Asking = Callable[[list[Request]], Sequence[Heard]]


def choose(
    catalog: Catalog, which: str = UNCOVERED, examples: Sequence[Example] = (), seed: int = 0, most: int = MOST_CALLS
) -> list[CallTemplate]:
    """The calls to write for: "all", or those "uncovered" by any example; of many calls of one function a sample."""
    if which not in (ALL, UNCOVERED):
        raise DatasetError(f"Which calls should be written for? Received {which!r}; choose {ALL!r} or {UNCOVERED!r}.")
    chosen: list[CallTemplate] = []
    for function in catalog.callable_functions:
        calls = [example.call for example in examples if example.call.name == function.name]
        listed = permutations.count(function) <= most
        templates = permutations.iterate(function) if listed else iter(permutations.sample(function, most, seed))
        chosen += list(templates if which == ALL else _uncovered(templates, calls))
    return chosen


def _uncovered(templates: Iterator[CallTemplate], calls: list[Call]) -> Iterator[CallTemplate]:
    """The templates that none of the calls fills."""
    leaves = [quality.leaves(call.arguments) for call in calls]
    seen: dict[frozenset[Path], set[str]] = {}
    for template in templates:
        blanks = frozenset(template.blanks)
        if blanks not in seen:
            seen[blanks] = {
                _fixed({p: v for p, v in all_.items() if p not in blanks}) for all_ in leaves if blanks <= {*all_}
            }
        if _fixed(quality.leaves(template.fixed)) not in seen[blanks]:
            yield template


def _fixed(leaves: dict[Path, Any]) -> str:
    return canonical(sorted([list(path), value] for path, value in leaves.items()))


# ---------------------------------------------------------------- writing


@dataclass(frozen=True)
class _Task:
    """One request under way: `place` is where its examples belong, `kind` who asks it and reads the answer.

    `said` is the answer that did not do and what is wrong with it, where it is asked once more.
    """

    kind: str
    place: int
    function: Function
    template: CallTemplate | None = None
    call: Call | None = None
    said: tuple[str, str] | None = None


def write(plan: Plan, ask: Asking) -> Writing:
    """Have a model write; `ask` puts requests to it and gives the answers in their order."""
    desk = _Desk(plan)
    tasks = _first(plan)
    while tasks:
        heard = ask([_request_of(plan, task) for task in tasks])
        tasks = [after for task, one in zip(tasks, heard, strict=True) for after in _read(desk, task, one)]
    return desk.writing()


def _read(desk: _Desk, task: _Task, heard: Heard) -> list[_Task]:
    """What follows from an answer: nothing where there is none, or where it is such that reading it fails."""
    if heard.text is None:
        desk.leave_out(task, "", heard.reason)
        return []
    try:
        return list(_READERS[task.kind](desk, task, heard.text))
    except Exception as error:  # models say what nobody thinks of; the others' answers are paid for, too
        # Where, not what: the error's own words may repeat the answer.
        where = "".join(traceback.format_tb(error.__traceback__))
        log.error("reading an answer (%s) failed: %s\n%s", task.kind, type(error).__name__, where)
        desk.leave_out(task, "", "the answer could not be read; the details are in the log")
        return []


def _first(plan: Plan) -> list[_Task]:
    """What can be asked before anything is answered."""
    functions = {function.name: function for function in plan.functions}
    tasks: list[_Task] = []
    for place, template in enumerate(plan.templates):
        function = functions[template.function]
        if template.blanks:
            tasks.append(_Task("values", place, function, template))
        elif plan.commands:
            tasks.append(_Task("commands", place, function, template, template.fill({})))
    if plan.impossible and plan.catalog.reject:
        for number, function in enumerate(functions.values()):
            tasks.append(_Task("impossible", len(plan.templates) + number, function))
    return tasks


class _Desk:
    """Where answers are read: what is good so far, and the ledger."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._good: list[tuple[int, Example]] = []
        self._left_out: list[tuple[int, LeftOut]] = []
        self._there = {example.id for example in plan.among}
        self._said: dict[str, str] = {quality.fold(e.prompt): e.call.key for e in plan.among}
        self._alike: dict[str, list[str]] = {}
        for example in plan.among:
            self._alike.setdefault(example.call.key, []).append(example.prompt)

    def writing(self) -> Writing:
        """All of it, in the order of the plan."""
        good = [example for _, example in sorted(self._good, key=lambda item: item[0])]
        return Writing(good, [left for _, left in sorted(self._left_out, key=lambda item: item[0])])

    def leave_out(self, task: _Task, words: str, reason: str) -> None:
        """Note what is not used, and why."""
        reject = Call(self.plan.catalog.reject or "", {}) if task.kind == "impossible" else None
        fixed = task.template.fixed if task.template else {}
        call = task.call or reject or Call(task.function.name, fixed)
        near = f"near {task.function.name}: " if reject else ""
        self._left_out.append((task.place, LeftOut(call.to_json(), words, near + reason)))

    def take(self, task: _Task, texts: Sequence[str], call: Call, wrong: Callable[[str], str | None]) -> int:
        """Keep what is good of the texts, leave out the rest; returns how many are good."""
        wanted = self.plan.commands if task.kind == "commands" else self.plan.impossible
        good = 0
        for text in texts:
            example = make_example(text, call, origin="model")
            written_before = example.id in self._there
            reason = None if written_before else wrong(text) or self._again(text, call)
            if good == wanted and not reason:
                reason = f"it is one more than the {wanted} asked for"
            if reason:
                self.leave_out(task, text, reason)
                continue
            good += 1
            self._good.append((task.place, example))
            self._said[quality.fold(text)] = call.key
            self._alike.setdefault(call.key, []).append(text)
        return good

    def _again(self, text: str, call: Call) -> str | None:
        """Why words that others have been before are no use."""
        there = self._said.get(quality.fold(text))
        if there is not None:
            return "it is there already" if there == call.key else "the same words already mean another call"
        near = next((other for other in self._alike.get(call.key, ()) if quality.is_near(text, other)), None)
        return f"it is nearly the same as “{near}”" if near else None


def _read_values(desk: _Desk, task: _Task, text: str) -> Iterator[_Task]:
    assert task.template is not None
    call, wrong = read_values(desk.plan.catalog, task.template, text)
    if call is not None and desk.plan.commands:
        yield _Task("commands", task.place, task.function, task.template, call)
    elif call is None and not task.said:
        yield dataclasses.replace(task, said=(text, wrong))
    elif call is None:
        desk.leave_out(task, text, f"no values that fit were found: {wrong}")


def _read_commands(desk: _Desk, task: _Task, text: str) -> Iterator[_Task]:
    assert task.template is not None and task.call is not None
    template, call = task.template, task.call

    def wrong(text: str) -> str | None:
        return quality.trouble(Said(text, call, task.function, tuple(template.blanks)))

    yield from _read_texts(desk, task, text, call, wrong)


def _read_impossible(desk: _Desk, task: _Task, text: str) -> Iterator[_Task]:
    call = Call(desk.plan.catalog.reject or "", {})
    names = [function.name for function in desk.plan.catalog.functions]

    def wrong(text: str) -> str | None:
        return quality.trouble(Said(text, call, task.function)) or quality.technical_trouble(text, names)

    yield from _read_texts(desk, task, text, call, wrong)


def _read_texts(desk: _Desk, task: _Task, text: str, call: Call, wrong: Callable[[str], str | None]) -> Iterator[_Task]:
    texts = read_texts(text)
    good = desk.take(task, texts, call, wrong)
    wanted = desk.plan.commands if task.kind == "commands" else desk.plan.impossible
    reason = "the model refused" if quality.is_refusal(text) else "the answer holds no list of requests"
    if not good and not task.said:
        faults = "; ".join(dict.fromkeys(fault for fault in map(wrong, texts) if fault))
        yield dataclasses.replace(task, said=(text, faults if texts else reason))
    elif not texts:
        desk.leave_out(task, text, reason)
    elif len(texts) < wanted:
        desk.leave_out(task, "", f"{wanted} were asked for, the model wrote {len(texts)}")


_READERS: dict[str, Callable[[_Desk, _Task, str], Iterator[_Task]]] = {
    "values": _read_values,
    "commands": _read_commands,
    "impossible": _read_impossible,
}


# ---------------------------------------------------------------- requests


def _request_of(plan: Plan, task: _Task) -> Request:
    """What a task asks of the model."""
    if task.kind == "impossible":
        request = _impossible_request(plan, task.function)
    elif task.call:
        request = _commands_request(plan, task.function, task.call)
    else:
        assert task.template is not None
        request = _values_request(plan, task.function, task.template)
    return {**request, "messages": [*request["messages"], *_again(task, *task.said)]} if task.said else request


def _again(task: _Task, answer: str, wrong: str) -> list[dict[str, str]]:
    """Asks for the same once more, with the error in hand."""
    subject = json.dumps(task.call.to_json(), ensure_ascii=False) if task.call else task.function.name
    words = f"That does not do: {wrong or 'nothing of it can be used'}. Answer once more, for {subject}, without that."
    if task.template and not task.call:
        words += f" The call: {task.template.sentence()}."
    return [{"role": "assistant", "content": answer or "(nothing)"}, {"role": "user", "content": words}]


def _values_request(plan: Plan, function: Function, template: CallTemplate) -> Request:
    names = {".".join(path): rules for path, rules in template.blanks.items()}
    schema = {"type": "object", "properties": names, "required": list(names), "additionalProperties": False}
    told = (
        f"The function: {_show(function.to_json())}\n"
        f"The call so far: {_show({'name': function.name, 'arguments': template.fixed})}\n"
        f"Open: {_show(names)}\n"
        f"In words: {template.sentence()}."
    )
    # Not strict: schemas of people's own functions hold words that strict mode refuses; the values are checked here.
    return _request(plan.prompts.values, told, "values", schema, strict=False)


def _commands_request(plan: Plan, function: Function, call: Call) -> Request:
    told = (
        f"The function: {_show(function.to_json())}\nThe call: {_show(call.to_json())}\n"
        f"Write {_count(plan.commands)} that mean this call."
    )
    return _request(_toned(plan, plan.prompts.commands), told, "commands", _list_schema("commands", plan.commands))


def _impossible_request(plan: Plan, function: Function) -> Request:
    functions = plan.catalog.callable_functions
    # The same for every function and first, so that servers that remember beginnings charge less for it.
    listed = "\n".join(f"- {one.name}: {one.description}" for one in functions)
    rules = f"{_toned(plan, plan.prompts.impossible)}\n\nAll functions:\n{listed}"
    told = f"Come close to: {_show(function.to_json())}\nWrite {_count(plan.impossible)} that must be turned down."
    return _request(rules, told, "requests", _list_schema("requests", plan.impossible))


def _request(rules: str, told: str, name: str, schema: dict[str, Any], strict: bool = True) -> Request:
    return {
        "messages": [{"role": "system", "content": rules}, {"role": "user", "content": told}],
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": name, "schema": schema, "strict": strict},
        },
    }


def _list_schema(name: str, count: int) -> dict[str, Any]:
    texts = {"type": "array", "items": {"type": "string"}, "minItems": count, "maxItems": count}
    return {"type": "object", "properties": {name: texts}, "required": [name], "additionalProperties": False}


def _toned(plan: Plan, rules: str) -> str:
    return f"{rules}\n\nThe people who speak: {plan.prompts.tone.strip()}" if plan.prompts.tone.strip() else rules


def _count(number: int) -> str:
    return "1 request" if number == 1 else f"{number} different requests"


def _show(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


# ---------------------------------------------------------------- answers


def read_values(catalog: Catalog, template: CallTemplate, text: str) -> tuple[Call | None, str]:
    """The call with the values of an answer, or what is wrong with them."""
    found = next((data for data in _json_in(text) if isinstance(data, dict)), None)
    if found is None:
        return None, "the model refused" if quality.is_refusal(text) else "the answer is not a JSON object"
    inner = found.get("arguments")
    given = {**found, **(inner if isinstance(inner, dict) else {})}
    leaves = quality.leaves(given)
    values = {}
    for path in template.blanks:
        alone = sum(path[-1] == other[-1] for other in template.blanks) == 1
        named = [".".join(path), *([path[-1]] if alone else [])]
        if path in leaves or any(name in given for name in named):
            values[path] = leaves[path] if path in leaves else next(given[name] for name in named if name in given)
    missing = [".".join(path) for path in template.blanks if path not in values]
    if missing:
        return None, f"{', '.join(missing)} is missing"
    for path, value in values.items():
        if isinstance(value, str) and quality.is_placeholder(value, path, template.blanks[path]):
            return None, f"{'.'.join(path)} is “{value}”, which is no value but a placeholder"
    call = template.fill(values)
    wrong = problems(catalog, call)
    return (None, "; ".join(wrong)) if wrong else (call, "")


def read_texts(text: str) -> list[str]:
    """The requests in an answer: a list in JSON, or else the lines of a list; [] where there is neither."""
    for data in _json_in(text):
        lists = [data] if isinstance(data, list) else [v for v in data.values() if isinstance(v, list)]
        for items in lists:
            firsts = [next(iter(item.values()), None) if isinstance(item, dict) else item for item in items]
            texts = [first.strip() for first in firsts if isinstance(first, str)]
            if texts and len(texts) == len(firsts):
                return texts
    lines = [re.fullmatch(r"\s*(?:[-*•]|\d+[.)])\s+(\S.*?)\s*", line) for line in text.splitlines()]
    return [line.group(1).strip('"“” ') for line in lines if line]


def _json_in(text: str) -> Iterator[Any]:
    """Every JSON object and list in a text, the outer ones only."""
    decoder, at = json.JSONDecoder(parse_float=_finite, parse_constant=_finite), 0
    while (start := re.compile(r"[{\[]").search(text, at)) is not None:
        try:
            data, at = decoder.raw_decode(text, start.start())
            yield data
        except (ValueError, RecursionError):
            at = start.end()


def _finite(text: str) -> float:
    """A number as JSON has it; no comparison holds NaN to its bounds, and no file takes it."""
    if not math.isfinite(float(text)):
        raise ValueError("not a number")
    return float(text)


# ---------------------------------------------------------------- before the start


def estimate(plan: Plan, model: str, batch: bool = False, where: str = OPENAI_URL) -> Estimate:
    """What the plan will take if every answer is good at once; `where` as `asking.where` tells it. Nothing is asked."""
    tasks = _first(plan)
    functions = {function.name: function for function in plan.functions}
    read = sum(_tokens(_request_of(plan, task)) for task in tasks)
    written = sum(_length(plan, task) for task in tasks)
    later = [template for template in plan.templates if template.blanks] if plan.commands else []
    for place, template in enumerate(later):
        # The call is not known yet; with its blanks described it is about as long.
        call = Call(template.function, {**template.fixed, "in words": template.sentence()})
        task = _Task("commands", place, functions[template.function], template, call)
        read, written = read + _tokens(_request_of(plan, task)), written + _length(plan, task)
    cost = prices.cost(model, input=read, output=written, batch=batch, where=where)
    return Estimate(len(tasks) + len(later), read, written, cost)


def _tokens(request: Request) -> int:
    return sum(prices.tokens(message["content"]) + 4 for message in request["messages"]) + 60


def _length(plan: Plan, task: _Task) -> int:
    """About how many tokens the answer will have: a request is some twenty, a value some eight."""
    if task.kind == "values" and task.template:
        return 10 + 8 * len(task.template.blanks)
    return 10 + 20 * (plan.commands if task.kind == "commands" else plan.impossible)
