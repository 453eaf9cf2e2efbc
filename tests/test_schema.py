"""Conditional schemas as plain variants: equivalent, pairwise disjoint, without conditions."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from drone_ft import permutations
from drone_ft.catalog import Call, Catalog, Function, default_catalog, problems
from drone_ft.errors import CatalogError
from drone_ft.schema import check, factors, pieces, variants
from drone_ft.schema.pieces import canonical

MODE = {"type": "string", "enum": ["photo", "video", "panorama"]}
LENGTH = {"type": "integer", "minimum": 1, "maximum": 100}
IS_VIDEO = {"properties": {"mode": {"const": "video"}}, "required": ["mode"]}
CONDITION_WORDS = ('"if"', '"then"', '"allOf"', '"oneOf"', '"not"', '"dependent', '"minProperties"', '"$ref"')


def camera(**rules: Any) -> dict[str, Any]:
    """A mode, a length, and what ties them."""
    return {"type": "object", "properties": {"mode": MODE, "length": LENGTH}, "required": ["mode"], **rules}


def brief(parameters: dict[str, Any]) -> list[str]:
    """Every variant as "name: values" with ! for required, short enough for a table."""
    return [
        ", ".join(
            name + ("!" if name in variant.get("required", []) else "") + _brief_value(rules)
            for name, rules in variant["properties"].items()
        )
        for variant in variants(parameters)
    ]


def _brief_value(rules: dict[str, Any]) -> str:
    if "anyOf" in rules:
        return "(" + "|".join(_brief_value(part) for part in rules["anyOf"]) + ")"
    if "enum" in rules:
        return "=" + "/".join(str(value) for value in rules["enum"])
    low = rules.get("minimum", rules.get("exclusiveMinimum"))
    high = rules.get("maximum", rules.get("exclusiveMaximum"))
    return f" {low}..{high}" if low is not None or high is not None else ""


AT_MOST_9 = {"type": "integer", "maximum": 9}

# ---------------------------------------------------------------- a table of conditions


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ({}, ["mode!=photo/video/panorama, length 1..100"]),
        (
            {"if": IS_VIDEO, "then": {"required": ["length"]}, "else": {"properties": {"length": False}}},
            ["mode!=photo/panorama", "mode!=video, length! 1..100"],
        ),
        (
            {
                "allOf": [
                    {
                        "if": IS_VIDEO,
                        "then": {"required": ["length"]},
                        "else": {"not": {"required": ["length"]}},
                    }
                ]
            },
            ["mode!=photo/panorama", "mode!=video, length! 1..100"],
        ),
        ({"if": IS_VIDEO, "then": {}}, ["mode!=photo/video/panorama, length 1..100"]),
        (
            {"if": {"required": ["length"]}, "then": IS_VIDEO},
            ["mode!=photo/video/panorama", "mode!=video, length! 1..100"],
        ),
        (
            {"dependentSchemas": {"length": IS_VIDEO}},
            ["mode!=photo/video/panorama", "mode!=video, length! 1..100"],
        ),
        ({"dependentRequired": {"mode": ["length"]}}, ["mode!=photo/video/panorama, length! 1..100"]),
        (
            {"if": {"properties": {"length": {"minimum": 50}}, "required": ["length"]}, "then": IS_VIDEO},
            ["mode!=photo/video/panorama, length 1..49", "mode!=video, length! 50..100"],
        ),
        (
            {"if": {"properties": {"length": {"const": 7}}, "required": ["length"]}, "then": IS_VIDEO},
            ["mode!=photo/video/panorama, length( 1..6| 8..100)", "mode!=video, length!=7"],
        ),
        ({"not": IS_VIDEO}, ["mode!=photo/panorama, length 1..100"]),
        ({"anyOf": [IS_VIDEO, {"properties": {"length": {"maximum": 9}}}]}, None),
        (
            {"oneOf": [IS_VIDEO, {"required": ["length"]}]},
            ["mode!=photo/panorama, length! 1..100", "mode!=video"],
        ),
        ({"minProperties": 2}, ["mode!=photo/video/panorama, length! 1..100"]),
        ({"maxProperties": 1}, ["mode!=photo/video/panorama"]),
        ({"if": IS_VIDEO, "then": False}, ["mode!=photo/panorama, length 1..100"]),
        ({"allOf": [{"required": ["length"]}]}, ["mode!=photo/video/panorama, length! 1..100"]),
        ({"not": {}}, []),
    ],
)
def test_conditions_become_variants(rules: dict[str, Any], expected: list[str] | None) -> None:
    found = variants(camera(**rules))
    assert expected is None or brief(camera(**rules)) == expected
    assert not any(word in json.dumps(found) for word in CONDITION_WORDS)
    rules_hold = Draft202012Validator(camera(**rules))
    for mode, length in itertools.product([None, "photo", "video"], [None, 1, 7, 9, 10, 49, 50, 100]):
        call = {k: v for k, v in (("mode", mode), ("length", length)) if v is not None}
        fitting = sum(Draft202012Validator(variant).is_valid(call) for variant in found)
        assert fitting == rules_hold.is_valid(call), (call, found)


def test_a_schema_without_conditions_is_its_own_variant() -> None:
    for function in default_catalog().functions:
        if "if" not in function.parameters:
            assert variants(function.parameters) == [function.parameters]


def test_variants_keep_descriptions_order_and_closedness() -> None:
    photo, video = variants(default_catalog().function("control_camera").parameters)
    assert list(video["properties"]) == ["mode", "duration"]
    assert video["properties"]["duration"]["description"].startswith("Length of the video")
    assert video["properties"]["mode"]["description"] == photo["properties"]["mode"]["description"]
    assert photo["additionalProperties"] is video["additionalProperties"] is False


def test_a_property_ruled_out_of_an_open_object_closes_it() -> None:
    [photo, _video] = variants(camera(**{"if": IS_VIDEO, "then": {}, "else": {"properties": {"length": False}}}))
    assert photo["additionalProperties"] is False and "length" not in photo["properties"]


def test_conditions_of_nested_objects_are_written_in_place() -> None:
    shot = camera(**{"if": IS_VIDEO, "then": {"required": ["length"]}})
    [outer] = variants({"type": "object", "properties": {"shot": shot, "shots": {"type": "array", "items": shot}}})
    assert len(outer["properties"]["shot"]["anyOf"]) == 2
    assert outer["properties"]["shots"]["items"] == outer["properties"]["shot"]


def test_local_references_are_followed() -> None:
    parameters = {
        "type": "object",
        "properties": {"a": {"$ref": "#/$defs/kind"}, "b": {"$ref": "#/$defs/kind", "description": "Other."}},
        "if": {"$ref": "#/$defs/a_is_one"},
        "then": {"required": ["b"]},
        "$defs": {
            "kind": {"type": "string", "enum": ["one", "two"]},
            "a_is_one": {"properties": {"a": {"const": "one"}}, "required": ["a"]},
        },
    }
    assert brief(parameters) == ["a=two, b=one/two", "a!=one, b!=one/two"]
    assert all("$defs" not in variant for variant in variants(parameters))
    assert variants(parameters)[0]["properties"]["b"]["description"] == "Other."


def test_independent_conditions_stay_apart() -> None:
    names = [f"p{i}" for i in range(40)]
    parameters = {
        "type": "object",
        "properties": {name: {"type": "boolean"} for name in names},
        "allOf": [
            {"if": {"required": [a]}, "then": {"required": [b]}} for a, b in zip(names[::2], names[1::2], strict=True)
        ],
    }
    assert [len(group) for group in factors(parameters)] == [2] * 20
    check(parameters)
    with pytest.raises(CatalogError, match="1,048,576 combinations"):
        variants(parameters)


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ({"pattern": "^a"}, "'text'.*'pattern'"),
        ({"const": "a"}, "'text'.*'const'"),
        ({"enum": ["a", "b"]}, "'text'.*'enum'"),
    ],
)
def test_a_condition_on_open_text_is_refused_by_name(rules: dict[str, Any], words: str) -> None:
    parameters = {
        "type": "object",
        "properties": {"text": {"type": "string"}, "length": LENGTH},
        "if": {"properties": {"text": rules}},
        "then": {"required": ["length"]},
    }
    with pytest.raises(CatalogError, match=words):
        variants(parameters)


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        (True, [{}]),
        (False, []),
        ({"type": "integer", "description": "D"}, [{"type": "integer", "description": "D"}]),
        ({"type": ["string", "null"]}, [{"type": "string"}, {"type": "null", "enum": [None]}]),
        ({"const": 5}, [{"type": "integer", "enum": [5]}]),
        ({"type": "integer", "enum": [3, 2, 3, 9], "maximum": 5}, [{"type": "integer", "enum": [3, 2]}]),
        ({"enum": [True, False]}, [{"type": "boolean"}]),
        ({"enum": [1, True, "1", None]}, [{"enum": [1, True, "1", None]}]),
        ({"anyOf": [{"type": "integer"}, {"type": "string"}]}, [{"type": "integer"}, {"type": "string"}]),
        ({"oneOf": [{"type": "integer"}, {"type": "string"}]}, [{"type": "integer"}, {"type": "string"}]),
        (
            {"allOf": [{"type": "integer", "minimum": 2.5}, {"exclusiveMaximum": 9}]},
            [{"type": "integer", "minimum": 3, "maximum": 8}],
        ),
        ({"type": "integer", "minimum": 0, "not": {"minimum": 10}}, [{"type": "integer", "minimum": 0, "maximum": 9}]),
        (
            {"type": "number", "minimum": 0, "not": {"const": 1}},
            [
                {"type": "number", "minimum": 0, "exclusiveMaximum": 1},
                {"type": "number", "exclusiveMinimum": 1},
            ],
        ),
        ({"type": "integer", "anyOf": [{"maximum": 5}, {"minimum": 3, "maximum": 9}]}, [AT_MOST_9]),
        ({"type": "string", "not": {"minLength": 4}}, [{"type": "string", "maxLength": 3}]),
    ],
)  # fmt: skip
def test_a_values_alternatives(rules: Any, expected: list[dict[str, Any]]) -> None:
    assert pieces(rules) == expected


# ---------------------------------------------------------------- any condition at all

COLORS, NUMBERS = ["red", "blue"], range(4)
NESTED = [{}, {"p": "u"}, {"p": "v"}, {"p": "u", "q": True}]
DOMAIN: dict[str, list[Any]] = {"color": COLORS, "lit": [True, False], "size": [*NUMBERS], "box": NESTED}
ALL_CALLS = [
    {name: value for name, value in zip(DOMAIN, values, strict=True) if value is not ...}
    for values in itertools.product(*([..., *domain] for domain in DOMAIN.values()))
]


def _value_tests(name: str) -> st.SearchStrategy[Any]:
    number = st.sampled_from(NUMBERS)
    tests: dict[str, list[st.SearchStrategy[Any]]] = {
        "color": [
            st.builds(lambda v: {"const": v}, st.sampled_from(COLORS)),
            st.builds(lambda v: {"not": {"const": v}}, st.sampled_from(COLORS)),
            st.just({"enum": ["blue"]}),
        ],
        "lit": [st.builds(lambda v: {"const": v}, st.booleans())],
        "size": [
            st.builds(
                lambda w, v: {w: v},
                st.sampled_from(["minimum", "maximum", "exclusiveMinimum", "const"]),
                number,
            ),
            st.just({"enum": [0, 3]}),
        ],
        "box": [st.sampled_from([{"required": ["p"]}, {"properties": {"p": {"const": "u"}}}, {"minProperties": 1}])],
    }
    return st.one_of(*tests[name], st.just(False))


NAMES = st.sampled_from(list(DOMAIN))
ATOMS = st.one_of(
    NAMES.flatmap(lambda name: st.builds(lambda rules: {"properties": {name: rules}}, _value_tests(name))),
    NAMES.flatmap(
        lambda name: st.builds(lambda rules: {"properties": {name: rules}, "required": [name]}, _value_tests(name))
    ),
    st.builds(lambda names: {"required": names}, st.lists(NAMES, min_size=1, max_size=2, unique=True)),
    st.builds(lambda amount: {"minProperties": amount}, st.integers(1, 3)),
    st.builds(lambda one, two: {"dependentRequired": {one: [two]}}, NAMES, NAMES),
)
TESTS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.builds(lambda a: {"not": a}, inner),
        st.builds(lambda w, a, b: {w: [a, b]}, st.sampled_from(["allOf", "anyOf", "oneOf"]), inner, inner),
        st.builds(lambda a, b, c: {"if": a, "then": b, "else": c}, inner, inner, inner),
    ),
    max_leaves=3,
)


@st.composite
def conditional_schemas(draw: st.DrawFn) -> dict[str, Any]:
    """An object with four small properties and up to two conditions on them."""
    box: dict[str, Any] = {
        "type": "object",
        "properties": {"p": {"enum": ["u", "v"]}, "q": {"type": "boolean"}},
    }
    box["additionalProperties"] = False
    if draw(st.booleans()):
        box |= {"if": {"properties": {"p": {"const": "u"}}}, "then": {"required": ["q"]}}
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {
            "color": {"type": "string", "enum": COLORS},
            "lit": {"type": "boolean"},
            "size": {"type": "integer", "minimum": 0, "maximum": 3},
            "box": box,
        },
        "required": draw(st.lists(NAMES, max_size=2, unique=True)),
        "if": draw(TESTS),
        "then": draw(TESTS),
    }
    if draw(st.booleans()):
        schema["allOf"] = [draw(TESTS)]
    return schema


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(conditional_schemas())
def test_variants_are_equivalent_and_disjoint_and_listed_exactly(schema: dict[str, Any]) -> None:
    """For any condition: one variant for each valid call, none for others; the listed calls are the valid ones."""
    found = variants(schema)
    assert not any(word in json.dumps(found) for word in CONDITION_WORDS)
    original, checks = Draft202012Validator(schema), [Draft202012Validator(variant) for variant in found]
    for call in ALL_CALLS:
        assert sum(one.is_valid(call) for one in checks) == original.is_valid(call), call

    function = Function("f", "", schema)
    templates = list(permutations.iterate(function))
    assert len(templates) == permutations.count(function) == len({template.key for template in templates})
    listed = [canonical(call.arguments) for template in templates for call in filled(template)]
    assert len(listed) == len(set(listed))
    assert {canonical(call) for call in ALL_CALLS if original.is_valid(call)} <= set(listed)
    assert all(original.is_valid(json.loads(call)) for call in listed)


def filled(template: permutations.CallTemplate) -> list[Call]:
    """The template with every value of NUMBERS that its blanks allow."""
    values = [[n for n in NUMBERS if Draft202012Validator(rules).is_valid(n)] for rules in template.blanks.values()]
    return [template.fill(dict(zip(template.blanks, chosen, strict=True))) for chosen in itertools.product(*values)]


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(conditional_schemas(), st.sampled_from(ALL_CALLS))
def test_a_call_has_problems_exactly_if_it_is_invalid(schema: dict[str, Any], arguments: dict[str, Any]) -> None:
    catalog = Catalog("c", "", (Function("f", "", schema),))
    assert (problems(catalog, Call("f", arguments)) == []) == Draft202012Validator(schema).is_valid(arguments)
