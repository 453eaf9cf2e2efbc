"""The plain writer: serviceable requests for any function, from its name, description, choices and blanks."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from drone_ft import permutations
from drone_ft.catalog import Call, Catalog, Function, problems
from drone_ft.dataset import Example, make_example
from drone_ft.permutations import CallTemplate
from drone_ft.synthesis import phrasebook, spoken
from drone_ft.synthesis.blanks import fill

CALLS = 12  # calls sampled of each function
WORDINGS = 6  # wordings of each of them, at least

_VERBS = frozenset(
    """
    activate add adjust aim align allow analyze apply approve archive arm ask assign attach authenticate
    block book brew build buy calculate calibrate call cancel capture change charge check choose clean
    clear click close collect commit compare compile compute configure confirm connect control convert cook
    copy count create cut decrease delete deliver deploy describe design detect dim direct disable disarm
    disconnect display download draw drive drop edit email enable engage enter estimate evaluate execute
    exit explain export extract fetch fill filter find fix fly follow format forward generate get give go
    grant handle heat hide identify import increase initialize initiate insert inspect install invite join
    keep land launch lift link list listen load locate lock log look lower make manage map mark measure
    merge modify monitor mount move mute name notify open order park paste pause pay perform pick place
    plan play plot post predict prepare press print process produce promote provide pull purchase push put
    query raise rank rate read rebook rebuild recalculate receive recommend record redo refresh refund
    register reject release reload remind remove rename render repeat replace reply report request
    reschedule reserve reset resize resolve restart restore resume retrieve retry return review rotate run
    save scan schedule scroll search select sell send serve set share shift show shut sign simulate skip
    slide solve sort speak spin split spray start stop store stream submit subscribe subtract suggest
    summarize switch sync take tell test tilt toggle track trade train transfer translate trigger turn type
    undo unlock unmute unsubscribe update upgrade upload use validate verify view visit wait wake walk warm
    wash watch water wipe withdraw write zip zoom
    """.split()  # noqa: SIM905
)
_SETTERS = ("set", "toggle", "switch", "configure", "control", "enable", "change", "turn")
_NOTHING = "empty"
_ON = {"on": "on", "off": "off", "true": "on", "false": "off", "enabled": "on", "disabled": "off"}

_FRAMES = (
    "{Action} with {with_}.",
    "please {action}, {with_}",
    "Could you {action} with {with_}?",
    "I'd like you to {action}; {should}.",
    "With {with_}, {action}.",
    "{action}: {equals}",
    "{Described}, with {with_}.",
    "hey, {action} for me, {with_}",
    "{Should}. Please {action}.",
    "Can you {action}? {Should}.",
)
_BARE_FRAMES = (
    "{Action}.",
    "please {action}",
    "Could you {action}?",
    "I'd like you to {action}.",
    "{action} now",
    "hey, {action} for me",
    "{Described}.",
    "It's time to {action}.",
    "ok, go ahead and {action}",
    "Can you {action} right away?",
)
_SWITCH_FRAMES = (
    "Turn {noun} {on}.",
    "{noun} {on}",
    "please switch {on} {noun}",
    "Could you turn {on} {noun}?",
    "I want {noun} {on}.",
    "{noun} should be {on} now",
    "hey, put {noun} to {on}",
    "Set {noun} to {on}, please.",
)


def write_function(
    catalog: Catalog, function: Function, seed: int, only: dict[str, Any] | None = None
) -> list[Example]:
    """Requests for a sample of a function's calls, or for two of its calls that hold the values in `only`."""
    templates = permutations.sample(function, 300 if only else CALLS, seed)
    if only:
        templates = [t for t in templates if all(t.fixed.get(name) == only[name] for name in only)][:2]
    examples: dict[str, Example] = {}
    for turn, template in enumerate(templates):
        frames = _frames(function, template)
        each = max(WORDINGS, min(len(frames), 48 // len(templates)))
        for step in range(each):
            number = (turn * each + step) % len(frames)
            rng = random.Random(f"{seed}:{function.name}:{template.key}:{step}")
            call = fill(catalog, template, rng)
            if call is None:
                break
            prompt = _sentence(frames[number], function, call.arguments, rng, template.fixed)
            name = f"{function.name}: {frames[number]}"
            examples.setdefault(prompt.casefold(), make_example(prompt, call, origin="plain", template=name))
    return list(examples.values())


def _frames(function: Function, template: CallTemplate) -> tuple[str, ...]:
    if not template.fixed and not template.blanks:
        return _BARE_FRAMES
    return _SWITCH_FRAMES + _FRAMES[:2] if _switch(function, template.fixed, bool(template.blanks)) else _FRAMES


def _switch(function: Function, arguments: dict[str, Any], more: bool = False) -> tuple[str, str] | None:
    """What is switched, and "on" or "off", where a call does nothing else."""
    words = split_name(function.name)
    if more or len(arguments) != 1 or len(words) < 2 or words[0] not in _SETTERS:
        return None
    state = _ON.get(str(next(iter(arguments.values()))).lower())
    return (" ".join(words[1:]), state) if state else None


def _sentence(
    frame: str, function: Function, arguments: dict[str, Any], rng: random.Random, fixed: dict[str, Any] | None = None
) -> str:
    """A frame with the function and its arguments said; `fixed` holds those that are choices, not free text."""
    if frame in _SWITCH_FRAMES:
        noun, state = _switch(function, arguments) or ("", "")
        said = frame.format(noun=noun, on=state)
        return _capital(said) if said.endswith((".", "?")) else said
    choices = [label for label, _ in _parts(fixed or {})]
    said_values = [(label, value, _say(value, rng, label in choices)) for label, value in _parts(arguments)]
    words = {
        "action": action(function),
        "described": described(function),
        "with_": _listed([f"no {label}" if said == _NOTHING else f"{label} {said}" for label, _, said in said_values]),
        "should": _listed([f"{label} should be {said}" for label, _, said in said_values]),
        "equals": ", ".join(f"{label} = {_raw(value)}" for label, value, _ in said_values),
    }
    return frame.format(**words, **{name.capitalize(): _capital(text) for name, text in words.items()})


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def action(function: Function) -> str:
    """What a function does, as an imperative: "set_light_level" gives "set light level"."""
    words = split_name(function.name)
    if words and words[0] in _VERBS:
        return " ".join(words)
    said = described(function, fallback="")
    return said or f"use {' '.join(words) or function.name}"


def described(function: Function, fallback: str | None = None) -> str:
    """The first sentence of a description as an imperative, or else `fallback` (the action)."""
    first = re.split(r"(?<=[a-z)])[.;:](?:\s|$)|\n", function.description.strip(), maxsplit=1)[0].strip(" .")
    first = re.sub(r"^(use this( function| tool)?|this function( is used)?|used) to ", "", first, flags=re.IGNORECASE)
    verb, _, rest = first.partition(" ")
    verb = verb.lower()
    for base in (verb, verb.removesuffix("s"), verb.removesuffix("es"), re.sub("ies$", "y", verb)):
        if base in _VERBS and rest and len(rest.split()) <= 14:
            return f"{base} {rest}"
    return action(function) if fallback is None else fallback


def split_name(name: str) -> list[str]:
    """The words of an identifier, lower case: "setLightLevel", "set_light-level", "lights.set_level"."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name)
    words = [word for word in re.split(r"[\s_\-./]+", spaced) if word]
    shouted = name.isupper()
    return [word if word.isupper() and len(word) > 1 and not shouted else word.lower() for word in words]


def _parts(arguments: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every argument with its label in words; those of nested objects by the way to them."""
    for name, value in arguments.items():
        label = f"{prefix}{' '.join(split_name(name)) or name}"
        if isinstance(value, dict) and value:
            yield from _parts(value, f"{label} ")
        else:
            yield label, value


def _say(value: Any, rng: random.Random, choice: bool = False) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if value is None or value in ([], {}):
        return _NOTHING
    if isinstance(value, list):
        return _listed([_say(item, rng, choice) for item in value])
    if isinstance(value, int):
        return spoken.say_number(value, rng, form="signed" if value < 0 else "number")
    if isinstance(value, str):
        if choice and value:
            return value.replace("_", " ")
        return value if re.fullmatch(r"[\w\-]+", value) else f'"{value}"'
    return str(value)


def _raw(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(_raw, value)) + "]"
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _listed(items: list[str]) -> str:
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


@dataclass(frozen=True)
class _Doubt:
    """A request that names a function but cannot become a call."""

    prompt: str
    template: str


def write_impossible(catalog: Catalog, functions: list[Function], seed: int) -> list[Example]:
    """Impossible requests for functions without hand-written ones: incomplete, out of range, or of nothing it has."""
    if catalog.reject is None:
        return []
    call = Call(catalog.reject, {})
    doubts = [doubt for function in functions[:60] for doubt in _doubts(catalog, function, seed)]
    topics = {word[:5] for f in catalog.callable_functions for word in _long_words(f"{f.name} {f.description}")}
    elsewhere = phrasebook.read_phrasebook(phrasebook.FOLDER / "plain.json").impossible
    for text in (text for texts in elsewhere.values() for text in texts):
        if not any(word[:5] in topics for word in _long_words(text)):
            doubts.append(_Doubt(text, text))
    examples = {d.prompt.casefold(): make_example(d.prompt, call, origin="plain", template=d.template) for d in doubts}
    return list(examples.values())


def _long_words(text: str) -> list[str]:
    return [word for word in re.findall(r"[a-z]+", text.lower()) if len(word) > 3]


def _doubts(catalog: Catalog, function: Function, seed: int) -> Iterator[_Doubt]:
    rng = random.Random(f"{seed}:{function.name}:impossible")
    template = next(iter(permutations.sample(function, 1, seed)), None)
    required = function.parameters.get("required", [])
    open_ones = [path for path in template.blanks if path[0] in required] if template else []
    if template is None or not open_ones:
        return
    for frame in rng.sample(_BARE_FRAMES, 3):
        yield _Doubt(_sentence(frame, function, {}, rng), f"{function.name}: {frame}")
    beyond = {p: 10 * s["maximum"] + 7 for p, s in template.blanks.items() if len(p) == 1 and s.get("maximum", 0) > 0}
    good = fill(catalog, template, rng) if beyond else None
    for path, value in islice(beyond.items(), 1):
        if good and problems(catalog, wrong := Call(good.name, {**good.arguments, path[0]: value})):
            for frame in rng.sample(_FRAMES, 2):
                said = _sentence(frame, function, wrong.arguments, rng, template.fixed)
                yield _Doubt(said, f"{function.name}: beyond {frame}")
