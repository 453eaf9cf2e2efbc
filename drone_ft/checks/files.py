"""What is wrong with whole files, and with what their lines share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from drone_ft.checks.offers import TRAINING, Offer, Trouble, elsewhere, place
from drone_ft.checks.reading import Given, Row, text_of
from drone_ft.checks.targets import Target, words_in

LEAST_EXAMPLES = 10  # to learn from; fewer teach nothing here, and hosted fine-tuning refuses them
MOST_BYTES = 512_000_000


def sizes(given: Given) -> Iterator[Trouble]:
    """How large the files are, and how many examples they hold."""
    for file in given.files:
        size, number, words = len(file.text.encode("utf-8", "surrogatepass")), len(file.rows) + len(file.broken), ""
        if size > MOST_BYTES:
            most = f"at most {MOST_BYTES / 1e6:,.0f} MB can be uploaded; remove examples"
            yield Trouble("size", "whole file", f"{size / 1e6:,.1f} MB, but {most}", file=file.name)
        if file.name == TRAINING and number < LEAST_EXAMPLES:
            words = f"{number} examples, but fine-tuning needs at least {LEAST_EXAMPLES}; add more"
        elif number == 0:
            words = "no examples; add some, or choose no validation file"
        if words:
            yield Trouble("too few", "whole file", words, file=file.name)


def offered(given: Given) -> Iterator[Trouble]:
    """What is wrong with the functions lines offer, said once however many lines repeat it."""
    for file in given.files:
        rows: dict[Offer, list[Row]] = {}
        for row in file.rows:
            rows.setdefault(row.offer, []).append(row)
        for offer, same in rows.items():
            for trouble in (*offer.troubles, *_refused(offer, given.target)):
                yield _shared(same, trouble.rule, trouble.field, trouble.words)


def _refused(offer: Offer, target: Target) -> Iterator[Trouble]:
    for index, body in offer.bodies.items():
        if words := words_in(body.get("parameters"), target.refused):
            found = f"{body.get('name')} uses {', '.join(words)}, which {target.name} does not know"
            advice = "leave them out, the examples still show when to use what"
            yield Trouble("unknown to target", f"{place(offer.form, index)}.parameters", f"{found}; {advice}")


def _shared(rows: list[Row], rule: str, field: str, words: str, more: str = "") -> Trouble:
    """One trouble of many rows, told of the first of them."""
    return rows[0].trouble(rule, field, words + elsewhere([row.line for row in rows]) + more)


def forms(given: Given) -> Iterator[Trouble]:
    """What holds for many lines at once: older form, several calls allowed."""
    for file in given.files:
        if older := [row for row in file.rows if row.offer.form == "functions"]:
            words = "the older form; it can be trained on, and only newer features ask for tools in its place"
            yield _shared(older, "older form", "functions", words)
        if several := [row for row in file.rows if allows_several(row.data)]:
            words = "several calls at once are allowed, though every answer here is one; set it to false"
            yield _shared(several, "several calls", "parallel_tool_calls", words)


def allows_several(data: dict[str, Any]) -> bool:
    """Whether a line lets the model ask for several calls in one answer."""
    return bool(data.get("tools")) and data.get("parallel_tool_calls") is not False


def sameness(given: Given) -> Iterator[Trouble]:
    """Lines that offer other functions, or give other instructions, than the first line of training."""
    for file in given.files if given.train.rows else ():
        first = given.train.rows[0]
        if tools := [row for row in file.rows if row.offer.key != first.offer.key]:
            words, place = f"not the functions of line {first.line}", tools[0].offer.form or "tools"
            more = "; the model must then read them all with every request, which is slower and costs more: "
            more += "offer the same everywhere, unless you mean it"
            yield _shared(tools, "different functions", place, words, more)
        others = [row for row in file.rows if _instructions(row) != _instructions(first)]
        if others and not given.target.is_hosted:
            words = f"not the instructions of line {first.line}"
            more = "; this computer learns fastest when they are the same everywhere: use one text, unless you mean it"
            yield _shared(others, "different instructions", "messages[0].content", words, more)


def _instructions(row: Row) -> list[str]:
    return [text_of(message) for _, message in row.talk if message.get("role") in ("system", "developer")]
