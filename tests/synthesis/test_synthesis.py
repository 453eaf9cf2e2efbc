"""Words for any catalog: by hand where a phrasebook fits, plain elsewhere, and saying which is which."""

from __future__ import annotations

import copy
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from drone_ft.catalog import Catalog, Function, default_catalog, parse_catalog, problems, read_catalog
from drone_ft.dataset import Example
from drone_ft.synthesis import plain, write_examples


def function(name: str, description: str = "", required: tuple[str, ...] = (), **properties: Any) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, "required": list(required)}
    return {"name": name, "description": description, "parameters": parameters}


LEVEL = {"type": "integer", "minimum": 0, "maximum": 100}
HOUSE = parse_catalog(
    {
        "name": "house",
        "system_prompt": "You run a house.",
        "reject": "decline",
        "functions": [
            function("set_light_level", "Sets the brightness in a room.", ("room", "level"),
                     room={"type": "string", "enum": ["kitchen", "living_room", "hall"]}, level=LEVEL),
            function("toggle_wifi", "", ("enabled",), enabled={"type": "boolean"}),
            function("getForecast", "Forecast for a city.", ("city",),
                     city={"type": "string"}, days={"type": "integer", "minimum": 1, "maximum": 14}),
            function("order_pizza", "Order a pizza.", ("size", "address"),
                     size={"enum": ["small", "extra large"]},
                     toppings={"type": "array", "items": {"enum": ["ham", "olives"]}, "uniqueItems": True},
                     address={"type": "object", "required": ["street", "number"],
                              "properties": {"street": {"type": "string"}, "number": LEVEL}}),
            function("restart", "Restart the hub."),
            function("decline", "Use this when nothing fits."),
        ],
    },
    "house",
)  # fmt: skip


def of(examples: list[Example], name: str) -> list[Example]:
    return [example for example in examples if example.call.name == name]


def test_the_default_catalog_is_written_by_hand_alone() -> None:
    catalog = default_catalog()
    writing = write_examples(catalog)
    assert (writing.plain, writing.missing) == ((), ())
    assert {example.origin for example in writing.examples} == {"phrasebook"}
    impossible = of(writing.examples, "reject_request")
    assert len(impossible) >= 260
    assert len(writing.examples) - len(impossible) >= 520
    prompts = Counter(example.prompt.casefold() for example in writing.examples)
    assert prompts.most_common(1)[0][1] == 1


def test_the_cookbook_catalog_has_words_for_every_function() -> None:
    catalog = read_catalog(Path("data/catalogs/drone_cookbook.json"))
    writing = write_examples(catalog)
    assert (writing.plain, writing.missing) == ((), ())
    assert {e.call.name for e in writing.examples} == {f.name for f in catalog.functions}


def test_a_foreign_catalog_gets_plain_words_and_says_so() -> None:
    writing = write_examples(HOUSE)
    assert writing.plain == ("set_light_level", "toggle_wifi", "getForecast", "order_pizza", "restart")
    assert writing.missing == ()
    assert {example.origin for example in writing.examples} == {"plain"}
    for example in writing.examples:
        assert problems(HOUSE, example.call) == [], example.prompt
    for name in writing.plain:
        assert len(of(writing.examples, name)) >= 8
        assert len({example.template for example in of(writing.examples, name)}) >= 6
    assert len(of(writing.examples, "decline")) >= 30


def test_plain_words_say_every_value() -> None:
    for example in of(write_examples(HOUSE).examples, "order_pizza"):
        assert example.call.arguments["size"] in example.prompt.lower()
        assert example.call.arguments["address"]["street"] in example.prompt
        assert all(topping in example.prompt for topping in example.call.arguments.get("toppings", []))
    for example in of(write_examples(HOUSE).examples, "toggle_wifi"):
        state = "on" if example.call.arguments["enabled"] else "off"
        assert state in example.prompt.lower().replace(".", "").replace(",", "").split() or "=" in example.prompt


def test_plain_impossible_requests_are_incomplete_or_out_of_range() -> None:
    prompts = [example.prompt for example in of(write_examples(HOUSE).examples, "decline")]
    assert any("set light level" in prompt.lower() and "room" not in prompt.lower() for prompt in prompts)
    assert any("1007" in prompt for prompt in prompts)
    assert "Order two pizzas with extra cheese." not in prompts, "this catalog can order pizza"


def test_the_same_seed_gives_the_same_words() -> None:
    assert write_examples(HOUSE, seed=3) == write_examples(HOUSE, seed=3)
    assert write_examples(HOUSE, seed=3) != write_examples(HOUSE, seed=4)


def test_a_choice_added_to_the_drone_gets_plain_words() -> None:
    data = copy.deepcopy(default_catalog().to_json())
    lighting = next(item for item in data["functions"] if item["name"] == "set_drone_lighting")
    lighting["parameters"]["properties"]["mode"]["enum"].append("dim")
    writing = write_examples(parse_catalog(data, "more"))
    dim = [e for e in of(writing.examples, "set_drone_lighting") if e.call.arguments["mode"] == "dim"]
    assert len(dim) >= 6
    assert writing.plain == ()


def test_a_function_added_to_the_drone_gets_plain_words() -> None:
    data = default_catalog().to_json()
    data["functions"].append(function("drop_parcel", "Drop the parcel.", ("height",), height=LEVEL))
    writing = write_examples(parse_catalog(data, "more"))
    assert writing.plain == ("drop_parcel",)
    assert len(of(writing.examples, "drop_parcel")) >= 8
    assert len(of(writing.examples, "takeoff_drone")) >= 20
    assert "Drop the parcel over the garden" not in [example.prompt for example in writing.examples]


def test_a_catalog_with_a_billion_calls_is_bounded_and_quick() -> None:
    tags = {f"tag{n}": {"type": "string", "enum": [f"v{k}" for k in range(10)]} for n in range(12)}
    catalog = parse_catalog([function("mark", "Mark it.", tuple(tags), **tags)], "large")
    start = time.perf_counter()
    writing = write_examples(catalog)
    assert time.perf_counter() - start < 5
    assert 50 <= len(writing.examples) <= 500
    assert of(writing.examples, "reject_request") == []


def test_a_function_nothing_can_be_written_for_is_named() -> None:
    code = {"type": "string", "pattern": "^[XYZ]{17}$"}
    writing = write_examples(parse_catalog([function("unlock", "", ("code",), code=code), function("lock")], "safe"))
    assert writing.missing == ("unlock",)
    assert writing.plain == ("lock",)


SENTENCES = [
    ("set_light_level", "Sets the brightness.", "set light level", "set the brightness"),
    ("getForecast", "Forecast for a city.", "get forecast", "get forecast"),
    ("lights.dim", "This function is used to dim the lights.", "dim the lights", "dim the lights"),
    ("HVAC-control", "", "use HVAC control", "use HVAC control"),
    ("retrieve_user", "Retrieves a user; the id is needed.", "retrieve user", "retrieve a user"),
    ("searchHTML", "Searches pages. Slow.", "search HTML", "search pages"),
]


@pytest.mark.parametrize(("name", "description", "action", "described"), SENTENCES)
def test_names_and_descriptions_become_imperatives(name: str, description: str, action: str, described: str) -> None:
    one = Function(name, description)
    assert plain.action(one) == action
    assert plain.described(one) == described


def test_no_words_for_an_empty_catalog() -> None:
    assert write_examples(Catalog("none", "", (), None)).examples == []


def test_how_a_request_is_typed_does_not_give_away_whether_it_is_possible() -> None:
    written = write_examples(default_catalog()).examples
    for looks in (lambda p: p.endswith("."), lambda p: p[0].isupper()):
        shares = []
        for impossible in (True, False):
            prompts = [
                e.prompt for e in written if (e.call.name == "reject_request") is impossible and "?" not in e.prompt
            ]
            shares.append(sum(map(looks, prompts)) / len(prompts))
        assert abs(shares[0] - shares[1]) < 0.06, shares
