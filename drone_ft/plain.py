"""The plain writer: serviceable requests for any function, from its name, description, choices and blanks."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

from drone_ft import permutations, spoken
from drone_ft.catalog import Call, Catalog, Function, problems
from drone_ft.dataset import Example, make_example
from drone_ft.permutations import CallTemplate

CALLS = 12  # calls sampled of each function
WORDINGS = 6  # wordings of each of them, at least
_ATTEMPTS = 40

_VERBS = frozenset(
    "activate add adjust aim align allow analyze apply approve archive arm ask assign attach authenticate block book "
    "brew build buy calculate calibrate call cancel capture change charge check choose clean clear click close collect "
    "commit compare compile compute configure confirm connect control convert cook copy count create cut decrease delete "
    "deliver deploy describe design detect dim direct disable disarm disconnect display download draw drive drop edit "
    "email enable engage enter estimate evaluate execute exit explain export extract fetch fill filter find fix fly "
    "follow format forward generate get give go grant handle heat hide identify import increase initialize initiate "
    "insert inspect install invite join keep land launch lift link list listen load locate lock log look lower make manage map "
    "mark measure merge modify monitor mount move mute name notify open order park paste pause pay perform pick place "
    "plan play plot post predict prepare press print process produce promote provide pull purchase push put query "
    "raise rank rate read rebook rebuild recalculate receive recommend record redo refresh refund register reject "
    "release reload remind remove rename render repeat replace reply report request reschedule reserve reset resize "
    "resolve restart restore resume retrieve retry return review rotate run save scan schedule scroll search select sell send "
    "serve set share shift show shut sign simulate skip slide solve sort speak spin split spray start stop store stream "
    "submit subscribe subtract suggest summarize switch sync take tell test tilt toggle track trade train transfer translate "
    "trigger turn type undo unlock unmute unsubscribe update upgrade upload use validate verify view visit wait wake walk "
    "warm wash watch water withdraw wipe write zip zoom".split()
)
_SETTERS = ("set", "toggle", "switch", "configure", "control", "enable", "change", "turn")
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


def write_function(catalog: Catalog, function: Function, seed: int, only: dict[str, Any] | None = None) -> list[Example]:
    """Requests for a sample of a function's calls; `only` keeps calls whose fixed arguments hold these values."""
    only = only or {}
    sampled = permutations.sample(function, 300 if only else CALLS, seed)
    templates = [t for t in sampled if all(t.fixed.get(name) == value for name, value in only.items())]
    examples: dict[str, Example] = {}
    for turn, template in enumerate(templates[:CALLS]):
        frames = _frames(function, template)
        each = max(WORDINGS, min(len(frames), 48 // len(templates[:CALLS])))
        for step in range(each):
            number = (turn * each + step) % len(frames)
            rng = random.Random(f"{seed}:{function.name}:{template.key}:{step}")
            call = fill(catalog, template, rng)
            if call is None:
                break
            prompt = _sentence(frames[number], function, call.arguments, rng)
            name = f"{function.name}: {frames[number]}"
            examples.setdefault(prompt.casefold(), make_example(prompt, call, origin="plain", template=name))
    return list(examples.values())


def fill(catalog: Catalog, template: CallTemplate, rng: random.Random) -> Call | None:
    """The template's call with values in its blanks, or None if no value that fits was found."""
    for _ in range(_ATTEMPTS if template.blanks else 1):
        arguments = _copy(template.fixed)
        for path, schema in template.blanks.items():
            place = arguments
            for step in path[:-1]:
                place = place.setdefault(step, {})
            place[path[-1]] = some_value(schema, path[-1], rng)
        call = Call(template.function, arguments)
        if not problems(catalog, call):
            return call
    return None


def _copy(value: Any) -> Any:
    return {name: _copy(item) for name, item in value.items()} if isinstance(value, dict) else value


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


def _sentence(frame: str, function: Function, arguments: dict[str, Any], rng: random.Random) -> str:
    if frame in _SWITCH_FRAMES:
        noun, state = _switch(function, arguments) or ("", "")
        said = frame.format(noun=noun, on=state)
        return said[0].upper() + said[1:] if said.endswith((".", "?")) else said
    parts = list(_parts(arguments))
    spoken_values = [_say(value, rng) for _, value in parts]
    labels = [label for label, _ in parts]
    pairs = list(zip(labels, parts, spoken_values, strict=True))
    with_ = _listed([_with(label, part[1], said) for label, part, said in pairs])
    should = _listed([_should(label, part[1], said) for label, part, said in pairs])
    equals = ", ".join(f"{label} = {_raw(part[1])}" for label, part, _ in pairs)
    words = {"action": action(function), "described": described(function), "with_": with_, "should": should}
    capitals = {name.capitalize(): text[:1].upper() + text[1:] for name, text in words.items()}
    return frame.format(**words, **capitals, equals=equals)


def action(function: Function) -> str:
    """What a function does, as an imperative: "set_light_level" gives "set light level"."""
    words = split_name(function.name)
    if words and words[0] in _VERBS:
        return " ".join(words)
    said = described(function, fallback="")
    return said or f"use {' '.join(words)}"


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
    return [word.lower() if not word.isupper() or len(word) < 2 else word for word in re.split(r"[\s_\-./]+", spaced) if word]


def _parts(arguments: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every argument with its label in words; those of nested objects by the way to them."""
    for name, value in arguments.items():
        label = f"{prefix}{' '.join(split_name(name)) or name}"
        if isinstance(value, dict) and value:
            yield from _parts(value, f"{label} ")
        else:
            yield label, value


def _say(value: Any, rng: random.Random) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if value is None or value in ([], {}):
        return "empty"
    if isinstance(value, list):
        return _listed([_say(item, rng) for item in value])
    if isinstance(value, int):
        return spoken.say_number(value, rng, form="signed" if value < 0 else "number")
    if isinstance(value, str):
        return value.replace("_", " ") if re.fullmatch(r"[A-Za-z0-9_\-]+", value) else f'"{value}"'
    return str(value)


def _with(label: str, value: Any, said: str) -> str:
    return f"no {label}" if said == "empty" else f"{label} {said}"


def _should(label: str, value: Any, said: str) -> str:
    return f"{label} should be {said}"


def _raw(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(_raw, value)) + "]"
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _listed(items: list[str]) -> str:
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def some_value(schema: dict[str, Any], name: str, rng: random.Random) -> Any:
    """A plausible value for a blank; the caller checks it against the whole call."""
    kind = schema.get("type")
    kind = next((k for k in kind if k != "null"), "string") if isinstance(kind, list) else kind
    examples = schema.get("examples")
    if isinstance(examples, list) and examples and rng.random() < 0.7:
        return rng.choice(examples)
    if kind in ("integer", "number"):
        return _some_number(schema, kind == "integer", rng)
    if kind == "array":
        low = max(1, schema.get("minItems", 1))
        return [some_value(schema.get("items") or {}, name, rng) for _ in range(rng.randint(low, max(low, min(3, schema.get("maxItems", 3)))))]
    if kind == "boolean":
        return rng.random() < 0.5
    if kind == "object":
        return {key: some_value(sub, key, rng) for key, sub in schema.get("properties", {}).items()}
    return _some_text(schema, name, rng)


def _some_number(schema: dict[str, Any], whole: bool, rng: random.Random) -> float:
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    low = (min(1, high - 100) if high is not None else 1) if low is None else low
    high = max(low + 1, 100) if high is None else high
    step = schema.get("multipleOf")
    if step:
        value = step * rng.randint(-int(-low // step), max(int(high // step), -int(-low // step)))
        return int(value) if whole or float(value).is_integer() else round(value, 6)
    if whole:
        return spoken.some_number(-int(-low // 1), int(high // 1), rng)
    return round(rng.uniform(low, high), rng.choice((1, 1, 2, 3)))


_TEXTS: dict[str, tuple[str, ...]] = {
    "date": ("2026-03-14", "2027-11-02", "2026-08-30", "2027-01-19"),
    "time": ("08:45", "17:20", "12:05", "21:30"),
    "date-time": ("2026-03-14T08:45:00Z", "2027-11-02T17:20:00Z", "2026-08-30T12:05:00Z"),
    "email": ("nora@example.com", "t.okafor@example.org", "front.desk@example.net"),
    "uri": ("https://example.com/report", "https://example.org/a/b", "https://example.net/list?page=2"),
    "city": ("Lisbon", "Osaka", "Nairobi", "Winnipeg", "Porto Alegre"),
    "country": ("Portugal", "Japan", "Kenya", "Canada", "Brazil"),
    "name": ("Nora Lind", "Tunde Okafor", "Mei Tan", "blue lantern", "Project Heron"),
    "file": ("notes.txt", "summary.pdf", "data_2.csv", "photo-18.png"),
    "id": ("A-1042", "K77", "order-318", "x9f2"),
    "": ("blue lantern", "first draft", "the long way round", "spare parts", "Tuesday meeting", "north gate", "quiet room"),
}
_HINTS = {
    "email": ("email",), "date-time": ("datetime", "timestamp"), "date": ("date", "day"), "time": ("time",),
    "uri": ("url", "uri", "link"), "city": ("city", "location", "place", "destination", "origin", "town"),
    "country": ("country",), "file": ("file", "filename", "path"), "id": ("id", "code", "number"),
    "name": ("name", "title", "person", "user", "recipient", "contact"),
}  # fmt: skip


def _some_text(schema: dict[str, Any], name: str, rng: random.Random) -> str:
    words = split_name(name)
    kind = str(schema.get("format", ""))
    if kind not in _TEXTS or not kind:
        kind = next((kind for kind, hints in _HINTS.items() if any(hint in words for hint in hints)), "")
    shortest, longest = schema.get("minLength", 0), schema.get("maxLength", 1000)
    fitting = [text for text in _TEXTS[kind] + _TEXTS[""] * (rng.random() < 0.2) if shortest <= len(text) <= longest]
    if not fitting:
        fitting = [(f"{text} " * (shortest // len(text) + 1)).strip()[: max(longest, 1)] for text in _TEXTS[""]]
    if "pattern" in schema:
        fitting = [text for options in _TEXTS.values() for text in options if re.search(schema["pattern"], text)] or fitting
    return rng.choice(fitting)


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
    topics = {word[:5] for f in catalog.callable_functions for word in split_name(f"{f.name} {f.description}") if len(word) > 3}
    for text in ELSEWHERE:
        if not any(word[:5] in topics for word in re.findall(r"[a-z]{4,}", text.lower())):
            doubts.append(_Doubt(text, text))
    examples = {d.prompt.casefold(): make_example(d.prompt, call, origin="plain", template=d.template) for d in doubts}
    return list(examples.values())


def _doubts(catalog: Catalog, function: Function, seed: int) -> Iterator[_Doubt]:
    rng = random.Random(f"{seed}:{function.name}:impossible")
    template = next(iter(permutations.sample(function, 1, seed)), None)
    required = function.parameters.get("required", [])
    open_ones = [path for path in template.blanks if path[0] in required] if template else []
    if template is None or not open_ones:
        return
    for frame in rng.sample(_BARE_FRAMES, 3):
        said = frame.format(action=action(function), Action=_capital(action(function)), Described=_capital(described(function)))
        yield _Doubt(said, f"{function.name}: {frame}")
    beyond = {p: 10 * s["maximum"] + 7 for p, s in template.blanks.items() if len(p) == 1 and s.get("maximum", 0) > 0}
    good = fill(catalog, template, rng) if beyond else None
    for path, value in islice(beyond.items(), 1):
        if good and problems(catalog, wrong := Call(good.name, {**good.arguments, path[0]: value})):
            for frame in rng.sample(_FRAMES, 2):
                yield _Doubt(_sentence(frame, function, wrong.arguments, rng), f"{function.name}: beyond {frame}")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


ELSEWHERE = (
    "Tell me a joke.",
    "what's the capital of Mongolia?",
    "Write a poem about the sea.",
    "Who won the match yesterday?",
    "turn into an octopus",
    "How are you feeling today?",
    "Could you knit me a scarf?",
    "Explain gravity to a six-year-old.",
    "hello there",
    "thanks, bye",
    "asdf qwer",
    "Do that thing again.",
    "the other one please",
    "Make it better.",
    "a bit more",
    "Is it going to rain tomorrow?",
    "Order two pizzas with extra cheese.",
    "Book me a taxi for half past six.",
    "Play some jazz.",
    "Translate this letter into Danish.",
    "sing happy birthday",
    "What is the square root of 1764?",
    "Water the tomatoes in the greenhouse.",
    "My shoelace broke.",
    "Call my sister.",
    "Can you lend me twenty euros?",
    "Paint the fence green.",
    "Which phone should I buy?",
    "Brew a strong coffee.",
    "I dreamt about trains.",
    "Make me invisible.",
    "Fetch the newspaper from the door.",
    "What did I have for lunch?",
    "Recommend a good detective novel.",
    "Guess my age.",
    "set it",
    "you know what to do",
    "do something",
    "Change it to the usual.",
    "never mind",
)
