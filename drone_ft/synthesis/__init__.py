"""Words for calls: hand-written ones where a phrasebook fits the catalog, plain ones everywhere else."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from drone_ft import dataset
from drone_ft.catalog import Catalog, Function
from drone_ft.dataset import Example
from drone_ft.synthesis import manner, phrasebook, plain
from drone_ft.synthesis.phrasebook import Phrasebook

IMPOSSIBLE = 0.265  # share of all requests, at most: more of them, and the model refuses what it could do
LEAST_IMPOSSIBLE = 120  # as many are kept even so
SLIPS = 0.03  # share of requests with a slip of the finger
MORE_CHOICES = 24  # choices of one function that get plain requests of their own, at most


@dataclass(frozen=True)
class Writing:
    """Examples; the functions that have only plain wordings; the functions nothing could be written for."""

    examples: list[Example]
    plain: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


def write_examples(catalog: Catalog, seed: int = 0, per_wording: int = 1, book: Phrasebook | None = None) -> Writing:
    """Requests for every function of a catalog, and impossible ones if it has a function to reject with.

    The same catalog, seed and phrasebook give the same examples in the same order; prompts are distinct but
    for case. `per_wording` is how often each hand-written wording is used, with other values and in other manners.
    """
    book = book or phrasebook.read_phrasebook()
    written = phrasebook.write_calls(book, catalog, seed, per_wording)
    by_hand = dict.fromkeys(example.call.name for example in written)
    plain_ones = [function for function in catalog.callable_functions if function.name not in by_hand]
    for function in catalog.callable_functions:
        if function.name not in by_hand:
            written += plain.write_function(catalog, function, seed)
        for only in list(islice(_unsaid(function, written), MORE_CHOICES)):
            written += plain.write_function(catalog, function, seed, only)
    said = dict.fromkeys(example.call.name for example in written)
    written += phrasebook.write_impossible(book, catalog, list(by_hand), seed)
    if len(by_hand) * 2 < len(catalog.callable_functions):
        written += plain.write_impossible(catalog, plain_ones, seed)
    examples: dict[str, Example] = {}
    for number, example in enumerate(written):
        example = _as_said(example, random.Random(f"{seed}:{number}:{example.prompt}"))
        examples.setdefault(example.prompt.casefold().rstrip("."), example)
    return Writing(
        _balanced(list(examples.values()), catalog, seed),
        plain=tuple(function.name for function in plain_ones if function.name in said),
        missing=tuple(function.name for function in plain_ones if function.name not in said),
    )


def _balanced(examples: list[Example], catalog: Catalog, seed: int) -> list[Example]:
    """The examples in their order, without some impossible ones where those are too many."""
    impossible = [place for place, example in enumerate(examples) if example.call.name == catalog.reject]
    most = round((len(examples) - len(impossible)) * IMPOSSIBLE / (1 - IMPOSSIBLE))
    kept = min(len(impossible), max(LEAST_IMPOSSIBLE, most))
    left_out = {*impossible} - {*random.Random(seed).sample(impossible, kept)}
    return [example for place, example in enumerate(examples) if place not in left_out]


def _as_said(example: Example, rng: random.Random) -> Example:
    """The example as one person or another says and types it; every second one gets straight to the point."""
    prompt = manner.say(example.prompt, rng) if rng.random() < 0.5 else example.prompt
    prompt = manner.slip(prompt, rng, _said_freely(example)) if rng.random() < SLIPS else prompt
    return dataset.make_example(
        manner.type_out(prompt, rng),
        example.call,
        origin=example.origin,
        template=example.template,
        accept=example.accept,
    )


def _said_freely(example: Example) -> str:
    """The words of a call that no list of choices holds, for all anybody knows: those of examples written plainly."""
    return json.dumps(example.call.arguments, ensure_ascii=False) if example.origin == "plain" else ""


def _unsaid(function: Function, written: list[Example]) -> Iterator[dict[str, Any]]:
    """Choices of a function that no request makes yet, such as one a person added to the catalog."""
    properties = function.parameters.get("properties", {})
    for name, schema in properties.items():
        for choice in schema.get("enum", []) if isinstance(schema, dict) else []:
            if not any(e.call.name == function.name and e.call.arguments.get(name) == choice for e in written):
                yield {name: choice}
