"""Files read line by line, each line as far as it can be read."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from drone_ft.catalog import Call, Catalog, breaks_off
from drone_ft.checks import offers
from drone_ft.checks.offers import TRAINING, VALIDATION, Offer, Trouble
from drone_ft.checks.targets import TARGETS, Target
from drone_ft.errors import DatasetError
from drone_ft.schema.pieces import canonical
from drone_ft.schema.words import show

Count = Callable[[str], int]
_Tails = dict[str, tuple[dict[str, Any], Offer]]

ROLES = ("system", "developer", "user", "assistant", "tool", "function")


@dataclass(frozen=True, eq=False)
class Row:
    """One line, as far as it can be read; `calls` with their fields, `answer` is None where it has no usable one."""

    file: str
    line: int
    data: dict[str, Any]
    offer: Offer
    words: str
    asked: str
    calls: tuple[tuple[str, Call], ...]
    answer: Call | str | None
    troubles: tuple[Trouble, ...]

    def trouble(self, rule: str, field: str, words: str) -> Trouble:
        """Something that is wrong here."""
        return Trouble(rule, field, words, self.line, self.file)

    @property
    def talk(self) -> list[tuple[int, dict[str, Any]]]:
        """The messages that are objects, with their places."""
        return [(place, m) for place, m in enumerate(self.data["messages"]) if isinstance(m, dict)]

    @functools.cached_property
    def before(self) -> str:
        """Everything before the answer, and what is offered: with the same, the same answer is right."""
        return json.dumps(self.data["messages"][:-1], ensure_ascii=False) + self.offer.key

    @functools.cached_property
    def after(self) -> str:
        """The answer: equal for equal calls."""
        return self.answer.key if isinstance(self.answer, Call) else canonical(self.answer)


@dataclass(frozen=True)
class File:
    """A file's rows, and the lines that are none with what is wrong with them."""

    name: str
    text: str
    rows: list[Row] = field(default_factory=list)
    broken: list[tuple[str, Trouble]] = field(default_factory=list)

    @property
    def usable(self) -> list[Row]:
        """The rows whose answer can be read."""
        return [row for row in self.rows if row.answer is not None]


@dataclass(frozen=True)
class Given:
    """What the rules look at: training, validation if there is one, and what to hold them against."""

    files: tuple[File, ...]
    target: Target
    catalog: Catalog | None
    count: Count | None

    @property
    def train(self) -> File:
        """The training file."""
        return self.files[0]

    @property
    def rows(self) -> Iterator[Row]:
        """The rows of all files."""
        return (row for file in self.files for row in file.rows)


def given(
    train: str,
    validation: str | None = None,
    target: str = "local",
    catalog: Catalog | None = None,
    count: Count | None = None,
) -> Given:
    """The files, read. DatasetError: unknown target."""
    if target not in TARGETS:
        raise DatasetError(f"There is no target {target!r}. Use one of: {', '.join(TARGETS)}.")
    known: dict[str, Offer] = {}
    texts = {TRAINING: train} if validation is None else {TRAINING: train, VALIDATION: validation}
    return Given(tuple(read(text, name, known) for name, text in texts.items()), TARGETS[target], catalog, count)


def lines(text: str) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, with their numbers."""
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
        if line.strip():
            yield number, line


def read(text: str, name: str = TRAINING, known: dict[str, Offer] | None = None) -> File:
    """One file; `known` are the offers of files read before."""
    file, tails, known = File(name, text), _Tails(), {} if known is None else known
    for number, line in lines(text):
        try:
            data, offer = _line(line, tails, known)
        except (ValueError, RecursionError) as error:
            place, reason = "whole line", "nested too deep"
            if isinstance(error, json.JSONDecodeError):
                place, reason = f"column {error.colno}", "it breaks off" if breaks_off(error) else error.msg
            words = f"not JSON ({reason}), received {show(line.strip(), 40)}; write one JSON object a line"
            trouble = Trouble("json", place, words, number, name)
        else:
            messages = data.get("messages") if isinstance(data, dict) else data
            if isinstance(data, dict) and isinstance(messages, list) and messages:
                file.rows.append(_row(name, number, data, offer))
                continue
            place = "messages" if isinstance(data, dict) else "whole line"
            words = f"found {show(messages, 40)}; write an object whose messages are a list: system, user, assistant"
            trouble = Trouble("messages", place, words, number, name)
        file.broken.append((line, trouble))
    return file


def _line(line: str, tails: _Tails, known: dict[str, Offer]) -> tuple[Any, Offer]:
    """A line's object and its offer; ValueError if it is not JSON.

    Most lines end on the same tools, and parsing these is nearly all the work. Where the object's start closes with
    a brace, and its end, opened with one, is JSON too, the line is JSON and holds the keys of both.
    """
    at = max(line.rfind('"tools"'), line.rfind('"functions"'))
    head, tail = (line[:at].rstrip(), line[at:]) if at > 0 else ("", "")
    if head.endswith(",") and head[:-1].strip() != "{":
        try:
            first = json.loads(head[:-1] + "}")
            if tail not in tails:
                rest = json.loads("{" + tail)
                tails[tail] = rest, offers.read(rest, known)
            return {**first, **tails[tail][0]}, tails[tail][1]
        except ValueError:
            pass  # the words stood inside a text, or the line is broken: then the whole of it says where
    data = json.loads(line)
    return data, offers.read(data if isinstance(data, dict) else {}, known)


def _row(file: str, line: int, data: dict[str, Any], offer: Offer) -> Row:
    troubles, calls, said = list[Trouble](), list[tuple[str, Call]](), list[str]()
    asked, answer = "messages", None
    for index, message in enumerate(data["messages"]):
        where = f"messages[{index}]"
        role = message.get("role") if isinstance(message, dict) else None
        troubles += _message_troubles(message, role, where)
        if role == "user":
            asked = f"{where}.content"
            said.append(text_of(message))
        if role == "assistant":
            place, answer = _answer(message, where)
            calls += [(place, answer)] if isinstance(answer, Call) else []
            troubles += [answer] if isinstance(answer, Trouble) else []
    if not said:
        troubles.append(Trouble("content", "messages", "there is no user message; add the person's words"))
    if role in ROLES and role != "assistant":
        words = f"found {show(role)} in the last message; end the line with the assistant's answer"
        troubles.append(Trouble("last message", f"{where}.role", words))
    usable = None if troubles or isinstance(answer, Trouble) else answer
    placed = tuple(replace(trouble, line=line, file=file) for trouble in troubles)
    return Row(file, line, data, offer, "\n".join(said), asked, tuple(calls), usable, placed)


def _message_troubles(message: Any, role: object, where: str) -> Iterator[Trouble]:
    """What is wrong with one message, but for an answer."""
    if role not in ROLES:
        yield Trouble("roles", f"{where}.role", f"found {show(role)}; use system, user or assistant")
    elif role in ("system", "developer", "user") and not text_of(message).strip():
        found = f"found {show(message.get('content'), 40)}"
        yield Trouble("content", f"{where}.content", f"{found}; write the words, or remove the message")


def text_of(message: dict[str, Any]) -> str:
    """The words of a message, whose content may be a list of parts."""
    content = message.get("content")
    if isinstance(content, list):
        return "\n".join(str(part.get("text") or part.get("type")) for part in content if isinstance(part, dict))
    return content if isinstance(content, str) else ""


def _answer(message: dict[str, Any], where: str) -> tuple[str, Call | str | Trouble]:
    """The field of an assistant's answer, and its one call, its text, or what is wrong with it."""
    made, older = message.get("tool_calls"), message.get("function_call")
    calls = offers.listed(made) if older is None else [older]
    place = f"{where}.tool_calls" if older is None else f"{where}.function_call"
    if older is not None and made:
        return place, Trouble("one answer", place, "found a call here and in tool_calls; keep one of them")
    if older is None and not made and text_of(message).strip():
        return place, text_of(message)
    if len(calls) != 1:
        found = f"{len(calls)} calls" if calls else show(made, 40) if made else "nothing"
        return place, Trouble("one answer", place, f"found {found}; write exactly one call, or text")
    called = calls[0].get("function") if older is None and isinstance(calls[0], dict) else calls[0]
    place += "[0].function" if older is None else ""
    if not isinstance(called, dict) or not isinstance(called.get("name"), str):
        words = f"found {show(called, 40)}; write the function's name and its arguments"
        return place, Trouble("one answer", place, words)
    try:
        arguments = json.loads(called["arguments"])
    except (KeyError, TypeError, ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        words = f"found {show(called.get('arguments'), 40)}; write the JSON text of an object, such as '{{}}'"
        return place, Trouble("arguments", f"{place}.arguments", words)
    return place, Call(called["name"], arguments)
