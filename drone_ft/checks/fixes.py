"""What can be repaired: lines removed, or changed and nothing else in the file."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from typing import Any

from drone_ft.checks import reading
from drone_ft.checks.files import allows_several
from drone_ft.checks.lines import has_id, is_bad_weight, too_long, unidentified, unusable
from drone_ft.checks.offers import Offer, Trouble
from drone_ft.checks.pairs import duplicates, leaks
from drone_ft.checks.reading import Given, Row
from drone_ft.checks.targets import Target, without, words_in

Fixed = tuple[str, str | None]
Fix = Callable[..., Fixed]
Edits = dict[tuple[str, int], str | None]  # by file and line: the new line, or None to remove it

DUPLICATES = "Remove exact duplicates"
LEAKS = "Remove validation lines that are also in training"
LONG = "Remove lines that are too long"
UNUSABLE = "Remove lines that cannot be used"
SCHEMAS = "Leave out what the target does not know"
ONE_CALL = "Ask for one call at a time"
WEIGHTS = "Remove weights that are not 0 or 1"
IDS = "Give every call an id"


def _fix(edits: Callable[[Given], Edits]) -> Fix:
    """A fix that makes edits; all other lines stay as they are, to the byte."""

    def fix(train: str, validation: str | None = None, *more: Any) -> Fixed:
        given = reading.given(train, validation, *more)
        new, texts = edits(given), []
        for file in given.files:
            lines = (new.get((file.name, number), line) for number, line in reading.lines(file.text))
            texts.append("".join(f"{line}\n" for line in lines if line is not None))
        # an emptied validation file would be an error of its own, where none at all is not
        return texts[0], (texts[1] or None) if texts[1:] else None

    return fix


def _dropping(rule: Callable[[Given], Iterator[Trouble]]) -> Fix:
    """A fix that removes the lines in which a rule finds something."""
    return _fix(lambda given: {(trouble.file, trouble.line): None for trouble in rule(given)})


def _changing(change: Callable[[Row, Target], dict[str, Any]]) -> Fix:
    """A fix that changes what the lines hold; a change returns what it keeps as it was."""

    def edits(given: Given) -> Edits:
        changed = ((row, change(row, given.target)) for row in given.rows)
        return {
            (row.file, row.line): json.dumps(data, ensure_ascii=False) for row, data in changed if data is not row.data
        }

    return _fix(edits)


def _one_call(row: Row, target: Target) -> dict[str, Any]:
    return {**row.data, "parallel_tool_calls": False} if allows_several(row.data) else row.data


def _good_weights(row: Row, target: Target) -> dict[str, Any]:
    messages = list(row.data["messages"])
    bad = [(index, message) for index, message in row.talk if is_bad_weight(message)]
    for index, message in bad:
        messages[index] = {key: value for key, value in message.items() if key != "weight"}
    return {**row.data, "messages": messages} if bad else row.data


def _with_ids(row: Row, target: Target) -> dict[str, Any]:
    messages, found = list(row.data["messages"]), list(unidentified(row))
    for index, place, call in found:
        calls = list(messages[index]["tool_calls"])
        calls[place] = {**call, "id": call["id"] if has_id(call) else f"call_{index}_{place}", "type": "function"}
        messages[index] = {**messages[index], "tool_calls": calls}
    return {**row.data, "messages": messages} if found else row.data


def _with_known_words(row: Row, target: Target) -> dict[str, Any]:
    tools = _known_tools(row.offer, target)
    return row.data if tools == row.offer.entries else {**row.data, row.offer.form: tools}


@functools.lru_cache(maxsize=64)
def _known_tools(offer: Offer, target: Target) -> Any:
    """A line's tools without the words that the target refuses."""
    entries = list(offer.entries) if offer.bodies else offer.entries
    for index, body in offer.bodies.items():
        if words_in(body.get("parameters"), target.refused):
            body = {**body, "parameters": without(body["parameters"], target.refused)}
            entries[index] = {**entries[index], "function": body} if offer.form == "tools" else body
    return entries


FIXES: dict[str, Fix] = {
    UNUSABLE: _dropping(unusable),
    LONG: _dropping(too_long),
    DUPLICATES: _dropping(duplicates),
    LEAKS: _dropping(leaks),
    SCHEMAS: _changing(_with_known_words),
    ONE_CALL: _changing(_one_call),
    WEIGHTS: _changing(_good_weights),
    IDS: _changing(_with_ids),
}
"""What can be repaired: (train, validation, target, catalog, count) to (train, validation), under a button's name."""
