"""Names, times, values and schemas as people say them; fields made from any schema."""

from __future__ import annotations

import pytest
from streamlit.testing.v1 import AppTest

from drone_ft import schema
from drone_ft.catalog import Call
from drone_ft.ui import parameters, words


@pytest.mark.parametrize(
    "got, expected",
    [
        (words.title("takeoff_drone"), "Takeoff drone"),
        (words.title("configure_led_display"), "Configure LED display"),
        (words.title("getWeather"), "Get Weather"),
        (words.count(1, "function"), "1 function"),
        (words.count(1204, "example"), "1,204 examples"),
        (words.big(8_300), "8,300"),
        (words.big(2_400_000), "about 2.4 million"),
        (words.listed(["a", "b", "c"]), "a, b or c"),
        (words.listed([]), ""),
        (words.duration(4), "a few seconds"),
        (words.duration(44), "40 seconds"),
        (words.duration(100), "2 minutes"),
        (words.duration(3700), "1 hour 2 minutes"),
        (words.value(True), "yes"),
        (words.value("home_base"), "home base"),
        (words.value("Main hall"), "“Main hall”"),
        (words.value({"latitude": 1.5}), "latitude 1.5"),
        (words.value(["a", "b"]), "a and b"),
        (words.value("Go! " * 99), f"“{'Go! ' * 19}Go!…”"),
        (words.value(1_500_000), "1,500,000"),
        (words.value(-(10**300)), "a number of 301 digits"),
        (
            words.call(Call("control_camera", {"mode": "video", "duration": 120})),
            "Control camera: mode video, duration 120",
        ),
        (words.call(Call("calibrate_sensors")), "Calibrate sensors"),
        (words.call(Call("no"), reject="no"), "Impossible request"),
        (words.call(None), "No call"),
        (words.takes({"enum": ["on", "off"]}), "on or off"),
        (words.takes({"const": 3}), "always 3"),
        (words.takes({"type": "integer", "minimum": 1, "maximum": 5}), "any whole number from 1 to 5"),
        (words.takes({"type": ["string", "null"]}), "any text or nothing"),
        (words.takes({"type": "boolean"}), "yes or no"),
        (words.takes({"type": "array", "items": {"enum": ["a", "b"]}}), "a list, each a or b"),
        (words.takes({"type": "object", "properties": {"x": {}, "y": {}}}), "x and y"),
    ],
)
def test_words(got, expected):
    assert got == expected


@pytest.mark.parametrize("text", ["50% *off* for $5 [link](x) :red[no] #1", "a_b `c` <b>", "9:30 - 10:00"])
def test_escaped_text_is_shown_as_it_is(text):
    import re

    assert re.sub(r"\\(.)", r"\1", words.escape(text)) == text


def object_of(properties, required=(), **more):
    return {"type": "object", "properties": properties, "required": list(required), **more}


VIDEO = object_of(
    {"mode": {"enum": ["photo", "video"]}, "duration": {"type": "integer"}},
    ["mode"],
    **{
        "if": {"properties": {"mode": {"const": "video"}}},
        "then": {"required": ["duration"]},
        "else": {"properties": {"duration": False}},
    },
)


@pytest.mark.parametrize(
    "rules, name, expected",
    [
        (object_of({"a": {"type": "integer"}}, ["a"]), "a", "always"),
        (object_of({"a": {"type": "integer"}}), "a", "optional"),
        (VIDEO, "duration", "when mode is video, and only then"),
        (
            object_of(
                {"mode": {"enum": ["a", "b"]}, "n": {"type": "integer"}},
                ["mode"],
                **{"if": {"properties": {"mode": {"const": "a"}}}, "then": {"required": ["n"]}},
            ),
            "n",
            "when mode is a; otherwise optional",
        ),
        (
            object_of({"a": {"type": "string"}, "b": {"type": "string"}}, dependentRequired={"a": ["b"]}),
            "b",
            "when a is given; otherwise optional",
        ),
    ],
)
def test_when_a_parameter_is_needed(rules, name, expected):
    assert parameters.needed(name, schema.variants(rules)) == expected


def test_fields_are_made_from_any_schema_and_give_back_what_they_were_given():
    def script(rules, arguments):
        import streamlit as st

        from drone_ft.catalog import Call, Catalog, Function
        from drone_ft.ui import call_form

        catalog = Catalog("c", "", (Function("f", "", rules),), None)
        st.session_state["got"] = call_form.edit(catalog, Call("f", arguments), "k")

    rules = object_of(
        {
            "text": {"type": "string"},
            "count": {"type": "integer", "minimum": 0},
            "share": {"type": "number"},
            "yes": {"type": "boolean"},
            "tags": {"type": "array", "items": {"type": "string"}},
            "rooms": {"type": "array", "items": {"enum": ["hall", "attic"]}},
            "place": object_of({"x": {"type": "number"}}, ["x"]),
            "free": {"type": "array", "items": {"type": "number"}},
        },
        ["text"],
    )
    arguments = {
        "text": "hello", "count": 0, "share": 0.125, "yes": False, "tags": ["a", "b"], "rooms": ["attic"],
        "place": {"x": -3}, "free": [1, 2.5],
    }  # fmt: skip
    at = AppTest.from_function(script, args=(rules, arguments), default_timeout=30).run()
    assert not at.exception and at.session_state["got"] == Call("f", arguments)
    at = AppTest.from_function(script, args=(rules, {"text": "hello"}), default_timeout=30).run()
    assert at.session_state["got"] == Call("f", {"text": "hello"}), "what is not given is not made up"
