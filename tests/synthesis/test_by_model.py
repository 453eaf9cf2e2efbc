"""A model as the writer: what it says is read leniently, checked honestly, and nothing of it vanishes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from drone_ft import permutations
from drone_ft.catalog import Call, Catalog, Function, default_catalog, problems
from drone_ft.dataset import make_example
from drone_ft.endpoints import LOCAL
from drone_ft.errors import DatasetError
from drone_ft.permutations import CallTemplate
from drone_ft.synthesis import by_model, quality
from drone_ft.synthesis.by_model import Heard, Plan, Request, choose, estimate, read_texts, read_values, write
from drone_ft.synthesis.quality import Said
from tests import people

DRONE = default_catalog()
UP = next(permutations.iterate(DRONE.function("takeoff_drone")))
LIGHTS = next(permutations.iterate(DRONE.function("set_drone_lighting")))
PLACE = next(permutations.iterate(DRONE.function("set_home_location")))


class Model:
    """Answers from a script by what is asked for; notes the requests. After the last answer of a kind, it repeats."""

    def __init__(self, **answers: list[str | None]) -> None:
        self._answers = answers
        self.asked: list[Request] = []

    def __call__(self, requests: list[Request]) -> list[Heard]:
        self.asked += requests
        return [self._answer(request) for request in requests]

    def _answer(self, request: Request) -> Heard:
        left = self._answers[request["response_format"]["json_schema"]["name"]]
        text = left.pop(0) if len(left) > 1 else left[0]
        return Heard(text) if text is not None else Heard(None, "the server was away")


def perfect(requests: list[Request]) -> list[Heard]:
    return [Heard(people.answer(request)) for request in requests]


def commands(*texts: str) -> str:
    return json.dumps({"commands": texts})


def plan(*templates: CallTemplate, **more: Any) -> Plan:
    return Plan(DRONE, templates, **{"impossible": 0, **more})


# The whole


def test_a_good_model_writes_all_that_was_asked_for_in_the_order_of_the_plan() -> None:
    templates = tuple(choose(DRONE, "all"))
    written = write(Plan(DRONE, templates), perfect)
    assert [left for left in written.left_out if left.call["name"] != DRONE.reject] == []
    possible = [example for example in written.examples if example.call.name != DRONE.reject]
    assert len(possible) == 2 * len(templates) == 98
    assert [e.call.name for e in possible[::2]] == [template.function for template in templates]
    assert sum(example.call.name == DRONE.reject for example in written.examples) == 3 * 15
    assert all(problems(DRONE, example.call) == [] and example.origin == "model" for example in written.examples)
    assert write(Plan(DRONE, templates), perfect) == written, "the same answers give the same examples"


def test_values_that_do_not_fit_are_asked_for_once_more_with_the_error_in_hand() -> None:
    model = Model(values=['{"altitude": 9000}', '{"altitude": 40}'], commands=[commands("Go up 40 m", "40 up please")])
    written = write(plan(UP), model)
    assert [example.call for example in written.examples] == [Call("takeoff_drone", {"altitude": 40})] * 2
    again = model.asked[1]["messages"]
    assert again[-2] == {"role": "assistant", "content": '{"altitude": 9000}'}
    assert "more than the maximum 500" in again[-1]["content"]


@pytest.mark.parametrize(
    ("answers", "reason", "requests"),
    [
        (['{"altitude": 9000}', '{"altitude": "high"}'], "no values that fit were found: altitude is", 2),
        (["Sure! Happy to.", "Sure!"], "the answer is not a JSON object", 2),
        (["I'm sorry, as an AI I cannot do this.", "No."], "no values that fit", 2),
        ([None], "the server was away", 1),
        (['{"altitude": 9000}', None], "the server was away", 2),
    ],
)
def test_a_call_without_values_is_in_the_ledger_with_the_reason(
    answers: list[str | None], reason: str, requests: int
) -> None:
    model = Model(values=answers, commands=[commands("never", "asked")])
    written = write(plan(UP), model)
    assert written.examples == [] and len(model.asked) == requests
    assert [left.call["name"] for left in written.left_out] == ["takeoff_drone"]
    assert reason in written.left_out[0].reason


def test_every_text_is_among_the_examples_or_in_the_ledger() -> None:
    texts = (
        "Lights on!",
        "Lights on",
        "lights ON!!",
        "",
        "I cannot help with that",
        "Make it bright",
        "Light up, then",
    )
    written = write(plan(LIGHTS, commands=2), Model(commands=[commands(*texts)]))
    assert [example.prompt for example in written.examples] == ["Lights on!", "Make it bright"]
    told = {left.words: left.reason for left in written.left_out}
    assert len(told) == 5 and told[""] == "there are no words" and "there already" in told["Lights on"]
    assert "refused" in told["I cannot help with that"] and "more than the 2" in told["Light up, then"]


def test_fewer_than_asked_for_is_explained() -> None:
    written = write(plan(LIGHTS), Model(commands=[commands("Lights on!")]))
    assert len(written.examples) == 1
    assert written.left_out[0].reason == "2 were asked for, the model wrote 1"


def test_commands_of_which_none_is_good_are_asked_for_once_more() -> None:
    model = Model(commands=["Here you are.", commands("Make it bright", "Can I have some light?")])
    written = write(plan(LIGHTS), model)
    assert len(written.examples) == 2 and written.left_out == []
    assert "no list of requests" in model.asked[1]["messages"][-1]["content"]
    stubborn = write(plan(LIGHTS), Model(commands=["As an AI language model, no."]))
    assert [left.reason for left in stubborn.left_out] == ["the model refused"]


def test_words_there_already_and_words_for_another_call_are_left_out() -> None:
    on, off = Call("set_drone_lighting", {"mode": "on"}), Call("set_drone_lighting", {"mode": "off"})
    there = (make_example("Make it bright, will you", on), make_example("Do the light thing", off))
    texts = commands("Make it bright, will you!", "Make it bright will ya", "Do the light thing", "Shine!")
    written = write(plan(LIGHTS, among=there), Model(commands=[texts]))
    assert [example.prompt for example in written.examples] == ["Shine!"]
    assert [left.reason.split(" “")[0] for left in written.left_out] == [
        "it is there already",
        "it is nearly the same as",
        "the same words already mean another call",
    ]


def test_what_an_earlier_life_wrote_is_written_again_not_left_out() -> None:
    first = write(plan(LIGHTS), perfect)
    assert write(plan(LIGHTS, among=tuple(first.examples)), perfect) == first


def test_impossible_requests_call_the_reject_function_and_those_that_are_possible_are_left_out() -> None:
    both = Model(
        commands=[commands("Make it bright", "Some light, please")],
        requests=[json.dumps({"requests": ["Make it bright", "Make the light smell of roses"]})],
    )
    written = write(plan(LIGHTS, impossible=2), both)
    assert [(e.prompt, e.call) for e in written.examples if e.call.name == DRONE.reject] == [
        ("Make the light smell of roses", Call("reject_request", {}))
    ]
    assert written.left_out[0].reason == "near set_drone_lighting: the same words already mean another call"
    request = both.asked[1]["messages"]
    assert all(function.name in request[0]["content"] for function in DRONE.callable_functions)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("takeoff_drone", "technical name “takeoff_drone”"),
        ("Set drone lighting", "merely repeats"),
        ("As an AI language model, no", "refused"),
        ("light=purple", "code"),
    ],
)
def test_impossible_requests_are_what_people_say_too(words: str, reason: str) -> None:
    texts = json.dumps({"requests": [words, "Make the light smell of roses"]})
    written = write(plan(LIGHTS, commands=0, impossible=1), Model(requests=[texts]))
    assert [e.prompt for e in written.examples] == ["Make the light smell of roses"]
    assert reason in written.left_out[0].reason


@pytest.mark.parametrize("value", ["text", "The Text", "string", "what to remember", "ToRemember"])
def test_a_placeholder_is_no_value(value: str) -> None:
    rules = {"type": "string", "description": "What to remember."}
    function = Function("note", "", {"type": "object", "properties": {"text": rules}, "required": ["text"]})
    (template,) = permutations.iterate(function)
    call, wrong = read_values(Catalog("notes", "", (function,)), template, json.dumps({"text": value}))
    assert (call is None) == (value not in ("The Text", "ToRemember")) == ("placeholder" in wrong)


def test_a_catalog_that_cannot_reject_gets_no_impossible_requests() -> None:
    catalog = Catalog("coffee", "", (Function("brew", "Brew.", {"type": "object", "properties": {}}),))
    model = Model(commands=[commands("Coffee, please", "I need a cup")])
    assert len(write(Plan(catalog, tuple(choose(catalog))), model).examples) == 2 and len(model.asked) == 1


def test_the_users_own_prompts_and_tone_reach_the_model() -> None:
    model = Model(commands=[commands("Light!", "More light!")])
    write(plan(LIGHTS, prompts=by_model.Prompts(commands="Write haikus.", tone="sailors")), model)
    assert model.asked[0]["messages"][0]["content"] == "Write haikus.\n\nThe people who speak: sailors"


def test_an_answer_that_reading_it_fails_on_costs_nobody_elses(caplog: pytest.LogCaptureFixture) -> None:
    bad = commands("My secret \ud800")  # half an emoji, of which no id can be made
    dark = [*permutations.iterate(DRONE.function("set_drone_lighting"))][1]
    written = write(plan(LIGHTS, dark, commands=1), Model(commands=[bad, commands("No more light, please")]))
    assert [example.prompt for example in written.examples] == ["No more light, please"]
    assert [(left.call, left.words) for left in written.left_out] == [(LIGHTS.fill({}).to_json(), "")]
    assert "could not be read" in written.left_out[0].reason
    assert "UnicodeEncodeError" in caplog.text and "secret" not in caplog.text


def test_a_fault_of_our_own_planning_is_not_taken_for_a_bad_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(by_model, "_commands_request", lambda *given: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write(plan(UP), Model(values=['{"altitude": 40}'], commands=[commands("never asked")]))


# Which calls


def test_uncovered_calls_are_those_that_no_example_fills() -> None:
    filled = [UP.fill({("altitude",): 7}), LIGHTS.fill({}), PLACE.fill(dict.fromkeys(PLACE.blanks, 1.5))]
    examples = [make_example(f"words {n}", call) for n, call in enumerate(filled)]
    left = choose(DRONE, "uncovered", examples)
    assert len(left) == 46 and not {UP, LIGHTS, PLACE} & {*left}
    assert choose(DRONE, "all", examples) == choose(DRONE, "uncovered") == [*permutations.iterate_catalog(DRONE)]


def test_of_too_many_calls_a_sample_is_taken_and_an_unknown_choice_is_refused() -> None:
    assert len([t for t in choose(DRONE, "all", most=5) if t.function == "configure_led_display"]) == 5
    with pytest.raises(DatasetError, match="'some'"):
        choose(DRONE, "some")


# Reading


@pytest.mark.parametrize(
    ("text", "texts"),
    [
        ('{"commands": ["a", "b"]}', ["a", "b"]),
        ('Sure!\n```json\n{"commands": ["a"]}\n```', ["a"]),
        ('["a", " b "]', ["a", "b"]),
        ('{"commands": [{"text": "a"}, {"text": "b"}]}', ["a", "b"]),
        ('1. "Go up"\n2) Climb\n', ["Go up", "Climb"]),
        ("- Go up\n* Climb", ["Go up", "Climb"]),
        ('{"commands": ["half a', []),
        ("Go up, please.", []),
        ('{"commands": []}', []),
        ('{"commands": [1, 2]}', []),
        ("[" * 3000, []),
        ("", []),
    ],
)
def test_lists_as_models_write_them(text: str, texts: list[str]) -> None:
    assert read_texts(text) == texts


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ('{"coordinates.latitude": 1.5, "coordinates.longitude": 2}', ""),
        ('{"coordinates": {"latitude": 1.5, "longitude": 2}}', ""),
        ('{"latitude": 1.5, "longitude": 2}', ""),
        ('{"name": "set_home_location", "arguments": {"coordinates": {"latitude": 1.5, "longitude": 2}}}', ""),
        ('Here: {"latitude": 1.5, "longitude": 2, "note": "!"}', ""),
        ('{"latitude": 1.5}', "coordinates.longitude is missing"),
        ('{"latitude": 91, "longitude": 2}', "coordinates.latitude"),
        ('{"latitude": "1.5", "longitude": 2}', "coordinates.latitude"),
        ('{"latitude": NaN, "longitude": 2}', "not a JSON object"),
        ('{"latitude": 1.5, "longitude": 1e999}', "not a JSON object"),
        ("[1.5, 2]", "not a JSON object"),
    ],
)
def test_values_as_models_write_them(text: str, wrong: str) -> None:
    call, said = read_values(DRONE, PLACE, text)
    assert wrong in said and bool(said) == bool(wrong)
    assert (call is None) == bool(wrong)
    if call:
        assert call.arguments == {"coordinates": {"latitude": 1.5, "longitude": 2}}


# Quality

MOVE = [*permutations.iterate(DRONE.function("control_drone_movement"))][2]  # left
VIDEO = [*permutations.iterate(DRONE.function("control_camera"))][2]
NOTE = Function(
    "save_note",
    "Save a note.",
    {
        "type": "object",
        "properties": {"text": {"type": "string"}, "dueDate": {"type": "string"}},
        "required": ["text"],
    },
)
NOTES = [*permutations.iterate(NOTE)]


def trouble(words: str, template: CallTemplate, **values: Any) -> str | None:
    function = NOTE if template.function == NOTE.name else DRONE.function(template.function)
    call = template.fill({path: values[path[-1]] for path in template.blanks})
    return quality.trouble(Said(words, call, function, tuple(template.blanks)))


@pytest.mark.parametrize(
    ("words", "template", "values", "reason"),
    [
        ("Climb to 120 m", UP, {"altitude": 120}, None),
        ("Climb to a hundred and twenty metres", UP, {"altitude": 120}, None),
        ("Up we go", UP, {"altitude": 120}, "the words never say altitude 120"),
        ("Up to 12", UP, {"altitude": 120}, "the words never say altitude 120"),
        ("", UP, {"altitude": 120}, "no words"),
        ("?!", UP, {"altitude": 120}, "no words"),
        ("Climb to 120 " * 60, UP, {"altitude": 120}, "longer than anybody"),
        ("As an AI language model I climb to 120", UP, {"altitude": 120}, "refused"),
        ("I’m sorry, but I can’t assist with 120", UP, {"altitude": 120}, "refused"),
        ("I'm sorry to bother you, climb to 120", UP, {"altitude": 120}, None),
        ('{"altitude": 120}', UP, {"altitude": 120}, "code"),
        ("takeoff(120)", UP, {"altitude": 120}, "code"),
        ("altitude=120", UP, {"altitude": 120}, "code"),
        ("Run takeoff_drone to 120", UP, {"altitude": 120}, "technical name “takeoff_drone”"),
        ("Please set drone lighting", LIGHTS, {}, "merely repeats"),
        ("Set the drone's lighting on", LIGHTS, {}, None),
        ("Go 20 metres left", MOVE, {"distance": 20}, None),
        ("Go 20 metres to the port side", MOVE, {"distance": 20}, None),
        ("Go 20 metres right", MOVE, {"distance": 20}, "say “right”, but direction is “left”"),
        ("Go right, no, left, 20", MOVE, {"distance": 20}, None),
        ("Film for two minutes", VIDEO, {"duration": 120}, None),
        ("Film for 2 min", VIDEO, {"duration": 120}, None),
        ("Film for a minute and a half", VIDEO, {"duration": 90}, None),
        ("Film for 2", VIDEO, {"duration": 120}, "never say duration 120"),
        ("Note: buy milk", NOTES[0], {"text": "Buy milk"}, None),
        ("Remember the milk", NOTES[0], {"text": "Buy bread"}, "never say text “Buy bread”"),
        ("Jot down milk, to buy", NOTES[0], {"text": "buy milk"}, None),
        ("Nota: comprar leche", NOTES[0], {"text": "comprar leche"}, None),
        ("buy milk by March 14th", NOTES[1], {"text": "buy milk", "dueDate": "2026-03-14"}, None),
        ("buy milk in March", NOTES[1], {"text": "buy milk", "dueDate": "2026-03-14"}, "never say dueDate"),
        ("buy milk, dueDate 2026-03-14", NOTES[1], {"text": "buy milk", "dueDate": "2026-03-14"}, "technical name"),
    ],
)
def test_words_for_a_call_are_checked(words: str, template: CallTemplate, values: Any, reason: str | None) -> None:
    found = trouble(words, template, **values)
    assert (found is None) == (reason is None) and (reason or "") in (found or ""), found


@pytest.mark.parametrize(
    ("one", "other", "near"),
    [
        ("Turn the lights on, please", "turn the lights on please!", True),
        ("Turn the lights on, please", "Turn the light on, please", True),
        ("Turn the lights on, please", "Could I have some light?", False),
    ],
)
def test_near_duplicates(one: str, other: str, near: bool) -> None:
    assert quality.is_near(one, other) == near


# Before the start


def test_the_estimate_is_near_what_a_good_model_takes_and_says_when_a_price_is_unknown() -> None:
    whole, asked = Plan(DRONE, tuple(choose(DRONE, "all"))), list[Request]()

    def ask(requests: list[Request]) -> list[Heard]:
        asked.extend(requests)
        return perfect(requests)

    write(whole, ask)
    found = estimate(whole, "gpt-4o-mini")
    sent = sum(len(json.dumps(request["messages"])) for request in asked) / 4
    assert found.requests == len(asked) == 76
    assert 0.7 < found.input_tokens / sent < 1.4 and found.cost and 0.001 < found.cost < 0.1
    half = estimate(whole, "gpt-4o-mini", batch=True).cost
    assert half == pytest.approx(found.cost / 2)
    assert estimate(whole, "nobody-knows").cost is None and estimate(whole, "smollm2", where=LOCAL).cost == 0
