"""Reading a catalog: three shapes accepted, one clear error for a malformed one; checking a call in words."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from drone_ft.catalog import Call, Catalog, Function, default_catalog, parse_catalog, problems, read_catalog
from drone_ft.errors import CatalogError

CATALOGS = Path(__file__).parent.parent / "data" / "catalogs"
NOTEBOOK_PROMPT = """You are an intelligent AI that controls a drone. Given a command or request from the user,
call one of your functions to complete the request. If the request cannot be completed by your available functions, call the reject_request function.
If the request is ambiguous or unclear, reject the request."""  # noqa: E501

FLY = {
    "name": "fly",
    "description": "Fly.",
    "parameters": {
        "type": "object",
        "properties": {
            "mode": {"type": "string", "enum": ["eco", "fast"]},
            "height": {"type": "integer"},
            "place": {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"]},
        },
        "required": ["mode"],
    },
}


def fly(**changes: Any) -> dict[str, Any]:
    """The function above with some keys of its parameters changed."""
    function = copy.deepcopy(FLY)
    function["parameters"].update(changes)  # type: ignore[attr-defined]
    return function


def with_height(**rules: Any) -> dict[str, Any]:
    """The function above with another schema for `height`."""
    function = fly()
    function["parameters"]["properties"]["height"] = rules
    return function


# ---------------------------------------------------------------- the committed catalogs


def test_cookbook_catalog_is_the_notebooks() -> None:
    catalog = read_catalog(CATALOGS / "drone_cookbook.json")
    assert (len(catalog.functions), catalog.reject) == (16, "reject_request")
    assert catalog.system_prompt == NOTEBOOK_PROMPT
    assert catalog.function("set_home_location").parameters == {
        "type": "object",
        "properties": {"coordinates": {"type": "object", "description": "GPS coordinates for the home location."}},
        "required": ["coordinates"],
    }


def test_default_catalog_is_the_same_functions_mended() -> None:
    cookbook, mended = read_catalog(CATALOGS / "drone_cookbook.json"), default_catalog()
    assert [f.name for f in mended.functions] == [f.name for f in cookbook.functions]
    for before, after in zip(cookbook.functions, mended.functions, strict=True):
        assert list(before.parameters["properties"]) == list(after.parameters["properties"])
        assert before.parameters.get("required", []) == after.parameters.get("required", [])
        assert after.parameters["additionalProperties"] is False
    assert mended.function("set_drone_speed").parameters["properties"]["speed"]["maximum"] == 150


# ---------------------------------------------------------------- shapes


@pytest.mark.parametrize(
    "data",
    [
        [FLY],
        [{"type": "function", "function": FLY}],
        {"tools": [{"type": "function", "function": FLY}]},
        {"functions": [FLY]},
        {"name": "mine", "system_prompt": "Fly!", "reject": None, "functions": [FLY]},
        [{"type": "function", "strict": True, **FLY}],
    ],
    ids=["bare list", "tools entries", "tools key", "functions key", "our file", "flat tools"],
)
def test_every_shape_gives_the_same_functions(data: Any) -> None:
    assert parse_catalog(data, "given").functions == (Function("fly", "Fly.", FLY["parameters"]),)  # type: ignore[arg-type]


def test_our_file_reads_back_as_written() -> None:
    for catalog in (default_catalog(), Catalog("one", "Fly.", (Function("fly", "", {}),), None)):
        assert parse_catalog(json.loads(json.dumps(catalog.to_json())), "other") == catalog
    assert parse_catalog(default_catalog().tools(), "drone").functions == default_catalog().functions


def test_reject_function_is_found_or_named_or_none() -> None:
    no = {"name": "reject_request", "parameters": {"type": "object", "properties": {}}}
    assert parse_catalog([FLY, no], "c").reject == "reject_request"
    assert parse_catalog([FLY], "c").reject is None
    assert parse_catalog({"functions": [FLY, no], "reject": None}, "c").reject is None
    catalog = parse_catalog({"functions": [FLY, {**no, "name": "refuse"}], "reject": "refuse"}, "c")
    assert [f.name for f in catalog.callable_functions] == ["fly"]
    assert "refuse" in catalog.system_prompt


# ---------------------------------------------------------------- malformed catalogs

MALFORMED: list[tuple[str, Any, list[str]]] = [
    ("not a list", "fly", ["'fly'", "a list of functions"]),
    ("unknown object", {"calls": []}, ["calls", "a list of functions", '"name": "open_door"']),
    ("no functions", [], ["no functions", "at least one"]),
    ("functions not a list", {"functions": {"fly": FLY}}, ["a list of functions"]),
    ("function not an object", [FLY, "land"], ["number 2", "'land'", "an object with name"]),
    ("twice", [FLY, FLY], ["'fly'", "same name twice"]),
    ("no name", [{"parameters": {}}], ["number 1", "no name", "64 letters"]),
    ("bad name", [{**FLY, "name": "fly home"}], ["'fly home'", "letters, digits"]),
    ("long name", [{**FLY, "name": "f" * 65}], ["fff", "1 to 64"]),
    ("description", [{**FLY, "description": 5}], ["'fly'", "description 5", "text"]),
    ("misspelt key", [{"name": "fly", "paramters": {}}], ["'fly'", "'paramters'", "parameters"]),
    ("parameters not an object", [{**FLY, "parameters": ["mode"]}], ["'fly'", '["mode"]', "JSON Schema"]),
    ("parameters of another type", [fly(type="array")], ["'fly'", "'array'", "'object'"]),
    ("no type", [{"name": "fly", "parameters": {"properties": {}}}], ["no type", "'object'"]),
    ("properties not a dict", [fly(properties=["mode"])], ["'fly'", '["mode"]', "names and schemas"]),
    ("property not a schema", [fly(properties={"mode": "text"}, required=[])], ["'mode'", "'text'"]),
    ("required unknown", [fly(required=["speed"])], ["'fly'", "'speed'", "mode, height, place"]),
    ("required not a list", [fly(required="mode")], ["'fly'", "required 'mode'", "a list"]),
    ("required on a property", [with_height(type="integer", required=True)], ["'height'", "required true"]),
    ("unknown type", [with_height(type="int")], ["'fly'", "'height'", "'int'", "integer"]),
    ("empty enum", [with_height(type="integer", enum=[])], ["'height'", "enum []", "at least one"]),
    (
        "enum of another type",
        [with_height(type="integer", enum=[1, "two"])],
        ["'height'", "'two'", "a whole number"],
    ),
    ("const of another type", [with_height(type="integer", const="two")], ["'height'", "'two'"]),
    (
        "bounds crossed",
        [with_height(type="integer", minimum=5, maximum=1)],
        ["'height'", "minimum 5", "maximum 1"],
    ),
    (
        "bound not a number",
        [with_height(type="integer", minimum="5")],
        ["'height'", "minimum '5'", "a number"],
    ),
    ("bad pattern", [with_height(type="string", pattern="(")], ["'height'", "pattern '('", "regex"]),
    ("allOf not a list", [fly(allOf=5)], ["allOf 5", "a list"]),
    ("dangling $ref", [with_height(**{"$ref": "#/$defs/h"})], ["'height'", "#/$defs/h", "same schema"]),
    ("foreign $ref", [with_height(**{"$ref": "https://example.org/h"})], ["'height'", "example.org"]),
    ("endless $ref", [with_height(**{"$ref": "#"})], ["'fly'", "back to itself"]),
    (
        "condition on an unknown property",
        [fly(**{"if": {"properties": {"speed": {"const": 1}}}, "then": {"required": ["height"]}})],
        ["'fly'", "condition", "'speed'", "mode, height, place"],
    ),
    (
        "consequence for an unknown property",
        [fly(**{"if": {"required": ["height"]}, "then": {"required": ["speed"]}})],
        ["'fly'", "required", "'speed'"],
    ),
    (
        "condition inside allOf",
        [fly(allOf=[{"if": {"required": ["height"]}, "then": {"properties": {"speed": False}}}])],
        ["'fly'", "'speed'"],
    ),
    ("dependentRequired", [fly(dependentRequired={"height": ["speed"]})], ["'fly'", "'speed'"]),
    (
        "nested required",
        [
            fly(
                properties={"place": {"type": "object", "properties": {"x": {}}, "required": ["y"]}},
                required=[],
            )
        ],
        ["'fly'", "'place'", "'y'", "x"],
    ),
    (
        "condition that divides open text",
        [fly(**{"if": {"properties": {"place": {"properties": {"x": {"multipleOf": 2}}}}}, "then": False})],
        ["'fly'", "'place.x'", "multipleOf", "expected a condition on enum"],
    ),
    ("reject unknown", {"functions": [FLY], "reject": "no"}, ["'no'", "reject", "or null"]),
    ("reject needs arguments", {"functions": [FLY], "reject": "fly"}, ["'fly'", "'mode'", "reject function"]),
    ("catalog name", {"name": "", "functions": [FLY]}, ["name ''"]),
    ("system prompt", {"system_prompt": 7, "functions": [FLY]}, ["system_prompt 7", "text"]),
]


@pytest.mark.parametrize(("data", "words"), [case[1:] for case in MALFORMED], ids=[case[0] for case in MALFORMED])
def test_malformed_catalog_gets_one_error_that_names_the_place(data: Any, words: list[str]) -> None:
    with pytest.raises(CatalogError) as caught:
        parse_catalog(data, "mine")
    message = str(caught.value)
    assert [word for word in [*words, "Nothing was loaded"] if word not in message] == []
    assert "\n" not in message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'[{"name": "fly",\n  "description" "x"}]', ["line 2, column 17", "bad.json"]),
        (
            b'[{"name": "fly", "parameters": {"type": "object"}, "name": "land"}]',
            ["'name' twice", "'fly'", "'land'"],
        ),
        ('[{"name": "fly", "description": "Höhe"}]'.encode("latin-1"), ["not UTF-8", "0xf6"]),
        (b"", ["is empty", '"name": "open_door"', "Nothing was loaded"]),
        (b'[{"name": "fly",\n  "description": "x"}', ["not complete", "line 2, column 22", "Nothing was loaded"]),
        (b'[{"name": "fl', ["not complete", "line 1, column 11"]),
        (b"hello world", ["starts with 'hello'", '"name": "open_door"']),
        (b"[" * 200_000, ["too deep"]),
    ],
    ids=["broken JSON", "key twice", "latin-1", "empty", "cut off", "cut off in text", "not JSON at all", "deep"],
)
def test_unreadable_file_says_where(tmp_path: Path, content: bytes, words: list[str]) -> None:
    (tmp_path / "bad.json").write_bytes(content)
    with pytest.raises(CatalogError) as caught:
        read_catalog(tmp_path / "bad.json")
    assert all(word in str(caught.value) for word in words)


def test_missing_file_and_folder_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(CatalogError, match="no catalog file"):
        read_catalog(tmp_path / "none.json")
    with pytest.raises(CatalogError, match="cannot be read"):
        read_catalog(str(tmp_path))


def test_a_file_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    (tmp_path / "windows.json").write_bytes(b"\xef\xbb\xbf" + json.dumps([FLY]).encode())
    assert read_catalog(tmp_path / "windows.json").name == "windows"


def test_alternatives_may_declare_their_own_properties() -> None:
    circle = {
        "type": "object",
        "properties": {"kind": {"const": "circle"}, "r": {"type": "number"}},
        "required": ["r"],
    }
    square = {
        "type": "object",
        "properties": {"kind": {"const": "square"}, "a": {"type": "number"}},
        "required": ["a"],
    }
    parse_catalog([fly(properties={"shape": {"anyOf": [circle, square]}}, required=[])], "c")


# ---------------------------------------------------------------- calls


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("control_camera", {"mode": "video", "duration": 120}, []),
        ("control_camera", {"mode": "video"}, ["duration is missing, needed with mode video"]),
        ("control_camera", {"mode": "photo", "duration": 3}, ["duration does not go with mode photo"]),
        ("control_camera", {"duration": 3}, ["mode is missing"]),
        ("takeoff_drone", {"altitude": 900}, ["altitude is 900, more than the maximum 500"]),
        ("takeoff_drone", {"altitude": 0}, ["altitude is 0, less than the minimum 1"]),
        ("takeoff_drone", {}, ["altitude is missing"]),
        ("takeoff_drone", {"altitude": "high"}, ["altitude is 'high', not a whole number"]),
        ("takeoff_drone", {"altitude": True}, ["altitude is true, not a whole number"]),
        ("takeoff_drone", {"altitude": 5, "speed": 2}, ["speed is not a parameter; it takes altitude"]),
        ("return_to_home", {"speed": 2}, ["speed is not a parameter; it takes none"]),
        (
            "configure_led_display",
            {"pattern": "solid", "color": "purple"},
            ["color is 'purple'; allowed: red, blue, green, yellow, white"],
        ),
        (
            "configure_led_display",
            {"pattern": "rainbow", "color": "red"},
            ["color does not go with pattern rainbow"],
        ),
        ("land_drone", {"location": "custom"}, ["coordinates is missing, needed with location custom"]),
        (
            "land_drone",
            {"location": "custom", "coordinates": {"latitude": 91}},
            ["coordinates.longitude is missing", "coordinates.latitude is 91, more than the maximum 90"],
        ),
    ],
)
def test_problems_of_a_call_are_said_in_words(name: str, arguments: dict[str, Any], expected: list[str]) -> None:
    assert problems(default_catalog(), Call(name, arguments)) == expected


def test_a_condition_is_not_blamed_while_what_it_looks_at_is_wrong() -> None:
    coordinates = {"latitude": 1, "longitude": 2}
    found = problems(default_catalog(), Call("land_drone", {"location": "roof", "coordinates": coordinates}))
    assert found == ["location is 'roof'; allowed: current, home_base, custom"]


def test_an_unknown_function_is_a_problem_with_a_suggestion() -> None:
    [problem] = problems(default_catalog(), Call("take_off_drone", {}))
    assert "'take_off_drone'" in problem and "takeoff_drone" in problem


@pytest.mark.parametrize(
    ("rules", "arguments", "expected"),
    [
        ({"not": {"required": ["a", "b"]}}, {"a": 1, "b": 2}, ["a 1 and b 2 do not go together"]),
        ({"dependentRequired": {"a": ["b"]}}, {"a": 1}, ["b is missing, needed with a"]),
        (
            {"dependentSchemas": {"a": {"properties": {"b": False}}}},
            {"a": 1, "b": 2},
            ["b does not go with a"],
        ),
        ({"minProperties": 1}, {}, ["the arguments are {}, too few: at least 1 needed"]),
        (
            {"allOf": [{"if": {"properties": {"a": {"const": 1}}}, "then": {"properties": {"b": {"maximum": 5}}}}]},
            {"a": 1, "b": 9},
            ["b is 9, more than the maximum 5 with a 1"],
        ),
        (
            {"properties": {"a": {"anyOf": [{"type": "integer"}, {"type": "null"}]}}},
            {"a": "x"},
            ["a is 'x', not a whole number or null"],
        ),
        (
            {"properties": {"a": {"oneOf": [{"properties": {"k": {"const": kind}}} for kind in ("cat", "dog")]}}},
            {"a": {"k": "cow"}},
            ["a.k is 'cow'; allowed: cat, dog"],
        ),
        (
            {"properties": {"a": {"type": "array", "items": {"enum": ["x"]}}}},
            {"a": ["x", "y"]},
            ["a.1 is 'y'; allowed: x"],
        ),
    ],
)
def test_conditions_are_explained(rules: dict[str, Any], arguments: dict[str, Any], expected: list[str]) -> None:
    parameters = {"type": "object", "properties": {"a": {}, "b": {}}, **rules}
    catalog = Catalog("c", "", (Function("f", "", parameters),))
    assert problems(catalog, Call("f", arguments)) == expected


def test_calls_compare_as_json_schema_does() -> None:
    assert Call("f", {"a": 1, "b": 2}) == Call("f", {"b": 2.0, "a": 1})
    assert Call("f", {"a": 1}) != Call("f", {"a": True})
    assert len({Call("f", {"a": [1]}), Call("f", {"a": [1.0]}), Call("g", {"a": [1]})}) == 2


def test_call_is_read_from_data_and_from_argument_text() -> None:
    call = Call("f", {"a": 1})
    assert Call.from_json(call.to_json()) == call == Call.from_json({"name": "f", "arguments": '{"a": 1}'})
    for bad in (
        None,
        {},
        {"name": "f", "arguments": "{"},
        {"name": "f", "arguments": [1]},
        {"arguments": {}},
    ):
        with pytest.raises(CatalogError):
            Call.from_json(bad)


def test_asking_for_an_unknown_function_suggests_near_names() -> None:
    with pytest.raises(CatalogError, match="control_gimbal"):
        default_catalog().function("control_gimble")
