"""Permutations: every call counted, filtered, shown as sentence and as JSON; a huge catalog stays quick."""

from __future__ import annotations

import time

from seen import said

from drone_ft import permutations
from drone_ft.catalog import Catalog, Function, default_catalog


def test_every_call_is_counted_and_browsed_by_page(open_page):
    total = sum(permutations.count_catalog(default_catalog()).values())
    at = open_page("permutations")
    assert f"**{total} kinds of call** across 15 functions" in said(at)
    rows = at.dataframe[0].value
    assert len(rows) == 20 and rows["Call"][0] == "altitude is any whole number from 1 to 500"


def test_calls_are_filtered_by_function_and_by_words(open_page):
    at = open_page("permutations")
    at.selectbox(key="permutations.function").select("control_camera").run()
    assert list(at.dataframe[0].value["Call"])[:2] == ["mode is photo", "mode is panorama"]
    at.text_input(key="permutations.text").set_value("video").run()
    assert len(at.dataframe[0].value) == 1
    at.text_input(key="permutations.text").set_value("nothing like it").run()
    assert not at.dataframe and "No call matches" in said(at)


def test_calls_can_be_read_as_json(open_page):
    at = open_page("permutations")
    at.segmented_control(key="permutations.view").set_value("JSON").run()
    assert '"name": "takeoff_drone"' in at.code[0].value and not at.dataframe


def test_a_trillion_calls_are_sampled_not_listed(open_page, store):
    many = {"type": "object", "properties": {f"p{i}": {"enum": list("abcdefghi")} for i in range(12)}}
    store.set_catalog(Catalog("big", "", (Function("big", "", many),)))
    start = time.monotonic()
    at = open_page("permutations")
    assert "trillion kinds of call" in said(at) and "too many to list" in said(at)
    assert len(at.dataframe[0].value) == 20
    assert time.monotonic() - start < 10
