"""Every call a catalog allows: the notebook's own 56, conditions obeyed, counted without listing, sampled evenly."""

from __future__ import annotations

import itertools
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from drone_ft.catalog import Call, Catalog, Function, default_catalog, problems, read_catalog
from drone_ft.errors import CatalogError
from drone_ft.permutations import (
    CallTemplate,
    count,
    count_catalog,
    iterate,
    iterate_catalog,
    sample,
)

COOKBOOK = Path(__file__).parent.parent / "data" / "catalogs" / "drone_cookbook.json"


def of(properties: dict[str, Any], *required: str, **rules: Any) -> Function:
    """A function `f` with these parameters."""
    return Function("f", "", {"type": "object", "properties": properties, "required": list(required), **rules})


def listed(function: Function) -> list[str]:
    """Every call as a sentence, without the function's name."""
    return [template.sentence().removeprefix("f: ") for template in iterate(function)]


# ---------------------------------------------------------------- the notebook as oracle


def notebook_permutations(params: dict[str, Any]) -> list[dict[str, Any]]:
    """The cookbook notebook's rules: required fields, then every subset of the optional ones; [] for other types."""

    def possible(field: str) -> list[Any]:
        info = params["properties"][field]
        if "enum" in info:
            return list(info["enum"])
        kinds: dict[str, list[Any]] = {
            "integer": ["fill_in_int"],
            "string": ["fill_in_string"],
            "boolean": [True, False],
        }
        if info["type"] == "array" and "enum" in info["items"]:
            values = info["items"]["enum"]
            return [list(c) for i in range(1, len(values) + 1) for c in itertools.combinations(values, i)]
        return kinds.get(info["type"], [])

    required = params.get("required", [])
    found = []
    for values in itertools.product(*(possible(field) for field in required)):
        base = dict(zip(required, values, strict=True))
        optional = [field for field in params["properties"] if field not in base]
        for size in range(len(optional) + 1):
            for subset in itertools.combinations(optional, size):
                for more in itertools.product(*(possible(field) for field in subset)):
                    found.append({**base, **dict(zip(subset, more, strict=True))})
    return found


def notebook_form(template: CallTemplate) -> dict[str, Any]:
    """The template as the notebook writes it, blanks as words."""
    words = {"integer": "fill_in_int", "string": "fill_in_string"}
    return template.fill({path: words[rules["type"]] for path, rules in template.blanks.items()}).arguments


def test_cookbook_catalog_gives_the_notebooks_56_calls_in_its_order() -> None:
    catalog = read_catalog(COOKBOOK)
    for function in catalog.callable_functions:
        assert [notebook_form(t) for t in iterate(function)] == notebook_permutations(function.parameters)
    counts = count_catalog(catalog)
    assert (sum(counts.values()), counts["set_home_location"], counts["configure_led_display"]) == (56, 0, 24)


def test_the_notebooks_rules_hold_for_lists_and_several_optional_fields() -> None:
    properties = {
        "on": {"type": "boolean"},
        "days": {"type": "array", "items": {"type": "string", "enum": ["mon", "tue", "wed"]}},
        "note": {"type": "string"},
        "level": {"type": "integer"},
        "place": {"type": "object"},
    }
    function = of(properties, "on")
    ours = sorted(json.dumps(notebook_form(t), sort_keys=True) for t in iterate(function))
    assert ours == sorted(json.dumps(c, sort_keys=True) for c in notebook_permutations(function.parameters))


# ---------------------------------------------------------------- the default catalog


def test_default_catalog_leaves_no_function_without_calls() -> None:
    counts = count_catalog(default_catalog())
    assert min(counts.values()) == 1 and "reject_request" not in counts
    assert {name: counts[name] for name in ("land_drone", "control_camera", "configure_led_display")} == {
        "land_drone": 3,
        "control_camera": 3,
        "configure_led_display": 19,
    }
    assert len(list(iterate_catalog(default_catalog()))) == sum(counts.values()) == 49


def test_default_calls_read_as_sentences() -> None:
    sentences = [template.sentence() for template in iterate_catalog(default_catalog())]
    for sentence in (
        "takeoff_drone: altitude is any whole number from 1 to 500",
        "control_camera: mode is video, duration is any whole number from 1 to 3600",
        "control_camera: mode is photo",
        "land_drone: location is custom, coordinates latitude is any number from -90 to 90, "
        "coordinates longitude is any number from -180 to 180",
        "configure_led_display: pattern is rainbow",
        "return_to_home: no arguments",
    ):
        assert sentence in sentences
    assert not any("rainbow, color" in sentence or "photo, duration" in sentence for sentence in sentences)


# ---------------------------------------------------------------- kinds of values


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ({"const": 5}, ["a is 5"]),
        ({"enum": ["x", 2, None, True]}, ["a is x", "a is 2", "a is null", "a is true"]),
        ({"type": "boolean"}, ["a is true", "a is false"]),
        ({"type": "null"}, ["a is null"]),
        ({"type": "integer", "minimum": 3}, ["a is any whole number of at least 3"]),
        ({"type": "number", "exclusiveMinimum": 0, "maximum": 1}, ["a is any number above 0 and of at most 1"]),
        ({"type": "string", "maxLength": 9}, ["a is any text of at most 9 characters"]),
        ({"type": "string", "format": "date"}, ["a is any text in the form of a date"]),
        ({"type": ["string", "null"]}, ["a is any text", "a is null"]),
        ({"anyOf": [{"type": "integer"}, {"const": "auto"}]}, ["a is any whole number", "a is auto"]),
        ({}, ["a is any value"]),
        ({"type": "array", "items": {"enum": ["x", "y"]}}, ["a is x", "a is y", "a is x and y"]),
        ({"type": "array", "items": {"enum": ["x", "y"]}, "minItems": 2}, ["a is x and y"]),
        ({"type": "array", "items": {"enum": ["x", "y"]}, "maxItems": 1}, ["a is x", "a is y"]),
        ({"type": "array", "items": {"type": "boolean"}}, ["a is true", "a is false", "a is true and false"]),
        ({"type": "array", "items": {"type": "string"}, "minItems": 2}, ["a is any list of texts of at least 2 items"]),
        ({"type": "object"}, []),
        ({"type": "object", "additionalProperties": {"type": "string"}}, []),
        ({"type": "object", "properties": {}, "additionalProperties": False}, ["a is empty"]),
        (
            {"type": "object", "properties": {"b": {"type": "boolean"}, "c": {"type": "integer"}}, "required": ["b"]},
            [f"a b is {b}{rest}" for b in ("true", "false") for rest in ("", ", a c is any whole number")],
        ),
        ({"type": "object", "properties": {"b": {"const": 1}}}, ["a is empty", "a b is 1"]),
    ],
)  # fmt: skip
def test_values_of_one_required_parameter(rules: dict[str, Any], expected: list[str]) -> None:
    function = of({"a": rules}, "a")
    assert listed(function) == expected
    assert count(function) == len(expected)
    assert listed(of({"a": rules})) == ["no arguments", *expected]


def test_alternatives_of_an_object_do_not_mix() -> None:
    circle = {"type": "object", "properties": {"kind": {"const": "circle"}, "r": {"type": "number"}}}
    square = {"type": "object", "properties": {"kind": {"const": "square"}, "side": {"type": "number"}}}
    for shape in (circle, square):
        shape["required"] = list(shape["properties"])  # type: ignore[call-overload]
    expected = ["a kind is circle, a r is any number", "a kind is square, a side is any number"]
    assert listed(of({"a": {"anyOf": [circle, square]}}, "a")) == expected
    assert listed(of({"a": {"oneOf": [circle, square]}}, "a")) == expected


def test_a_blank_knows_its_schema_and_its_path() -> None:
    [_, _, custom] = iterate(default_catalog().function("land_drone"))
    assert custom.fixed == {"location": "custom"}
    assert list(custom.blanks) == [("coordinates", "latitude"), ("coordinates", "longitude")]
    assert custom.blanks[("coordinates", "latitude")]["maximum"] == 90


def test_filling_keeps_the_order_of_the_schema() -> None:
    [first, second] = iterate(of({"n": {"type": "integer"}, "b": {"type": "boolean"}}, "n", "b"))
    assert list(first.fill({("n",): 3}).arguments) == ["n", "b"]
    assert second.fill({("n",): 3}) == Call("f", {"n": 3, "b": False})
    for wrong in ({}, {("n",): 1, ("m",): 2}):
        with pytest.raises(CatalogError, match="blank"):
            first.fill(wrong)


def test_equal_templates_have_equal_keys_and_different_ones_do_not() -> None:
    templates = list(iterate_catalog(default_catalog()))
    assert len({t.key for t in templates}) == len(set(templates)) == len(templates)
    assert [t.key for t in templates] == [t.key for t in iterate_catalog(default_catalog())]


# ---------------------------------------------------------------- counting and sampling


def nine(amount: int) -> dict[str, Any]:
    """That many optional parameters of nine values each: ten choices each, absence included."""
    return {f"p{i}": {"type": "string", "enum": [f"v{j}" for j in range(9)]} for i in range(amount)}


MANY = of(nine(12))
MANY_CONDITIONS = of(
    nine(12),
    allOf=[
        {
            "if": {"properties": {f"p{i}": {"const": "v0"}}, "required": [f"p{i}"]},
            "then": {"required": [f"p{i + 1}"]},
            "else": {"properties": {f"p{i + 1}": False}},
        }
        for i in range(0, 12, 2)
    ],
)


@pytest.mark.parametrize(
    ("function", "expected"), [(MANY, 10**12), (MANY_CONDITIONS, 18**6), (of(nine(60)), 10**60)], ids=str
)
def test_huge_spaces_are_counted_at_once(function: Function, expected: int) -> None:
    best = min(_seconds(lambda: count(function)) for _ in range(3))
    assert count(function) == expected
    assert best < 0.05


def _seconds(work: Any) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def test_iteration_and_sampling_of_a_huge_space_list_nothing_else() -> None:
    first = list(itertools.islice(iterate(MANY), 3))
    assert [t.fixed for t in first] == [{}, {"p11": "v0"}, {"p11": "v1"}]
    drawn = sample(of(nine(60)), 200, seed=1)
    assert len({t.key for t in drawn}) == 200
    assert all(not problems(Catalog("c", "", (MANY_CONDITIONS,)), t.fill({})) for t in sample(MANY_CONDITIONS, 50, 3))


def test_a_sample_is_reproducible_and_bounded() -> None:
    function = default_catalog().function("configure_led_display")
    assert sample(function, 5, seed=4) == sample(function, 5, seed=4) != sample(function, 5, seed=5)
    assert {t.key for t in sample(function, 99, seed=0)} == {t.key for t in iterate(function)}
    assert sample(function, 0, seed=0) == [] == sample(of({"a": {"type": "object"}}, "a"), 3, seed=0)


@pytest.mark.parametrize("k", [2, 6])
def test_a_sample_is_uniform_and_without_replacement(k: int) -> None:
    function = of({"a": {"enum": [*range(9)]}}, "a")
    drawn: Counter[int] = Counter()
    for seed in range(1500):
        chosen = [t.fixed["a"] for t in sample(function, k, seed)]
        assert len(set(chosen)) == k
        drawn.update(chosen)
    expected = 1500 * k / 9
    # 26.1 is the 0.1% point of chi-square with 8 degrees of freedom; draws without replacement vary less.
    assert sum((drawn[value] - expected) ** 2 / expected for value in range(9)) < 26.1


VALUES = st.sampled_from(
    [
        {"type": "boolean"},
        {"type": "string", "enum": ["x", "y"]},
        {"type": "integer", "minimum": 2, "maximum": 4},
        {"type": "number", "exclusiveMinimum": 0},
        {"type": "string"},
        {"type": ["integer", "null"]},
        {"type": "array", "items": {"enum": ["x", "y", "z"]}, "minItems": 2},
        {"type": "object", "properties": {"u": {"type": "boolean"}, "w": {"type": "integer"}}, "required": ["w"]},
        {"type": "object"},
    ]
)
EXAMPLES = {"integer": 3, "number": 0.5, "string": "words"}


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(st.dictionaries(st.sampled_from("abcd"), VALUES, min_size=1), st.data())
def test_every_filled_template_is_valid_and_counted_once(properties: dict[str, Any], data: st.DataObject) -> None:
    names = st.sampled_from(list(properties))
    required = data.draw(st.lists(names, unique=True))
    one, two = data.draw(names), data.draw(names)
    conditions: list[dict[str, Any]] = [
        {},
        {"if": {"required": [one]}, "then": {"required": [two]}},
        {"if": {"required": [one]}, "then": {"required": [one]}, "else": {"properties": {two: False}}},
        {"dependentRequired": {one: [two]}},
    ]
    function = of(properties, *required, **data.draw(st.sampled_from(conditions)))
    templates = list(iterate(function))
    assert len(templates) == count(function) == len({template.key for template in templates})
    holds = Draft202012Validator(function.parameters)
    for template in templates:
        holds.validate(
            template.fill({path: EXAMPLES[rules["type"]] for path, rules in template.blanks.items()}).arguments
        )
    drawn = sample(function, 7, seed=0)
    assert len({template.key for template in drawn}) == min(7, len(templates))
    assert {template.key for template in drawn} <= {template.key for template in templates}
