"""Catalog: functions as cards, and loading another one without ever losing this one."""

from __future__ import annotations

import json

from seen import said

from drone_ft import dataset
from drone_ft.catalog import Call, Catalog, Function, default_catalog
from drone_ft.ui import catalog as page

HOUSE = {
    "name": "open_door",
    "description": "Open a door.",
    "parameters": {"type": "object", "properties": {"door": {"type": "string"}}},
}


def table(at, index):
    return at.table[index].value


def test_functions_are_cards_with_their_parameters_in_words(open_page):
    at = open_page("catalog")
    assert [s.value for s in at.subheader][:3] == ["Takeoff drone", "Land drone", "Control drone movement"]
    takeoff, land = table(at, 0), table(at, 1)
    assert list(takeoff["Takes"]) == ["any whole number from 1 to 500"]
    assert list(takeoff["Needed"]) == ["always"]
    assert land["Needed"][1] == "when location is custom, and only then"
    assert "coordinates › latitude" in land["Parameter"][2] and land["Needed"][2] == "with coordinates"
    assert "for impossible requests" in said(at)


def test_a_search_narrows_the_cards(open_page):
    at = open_page("catalog")
    at.text_input(key="catalog.search").set_value("gimbal").run()
    assert [s.value for s in at.subheader] == ["Control gimbal"]
    at.text_input(key="catalog.search").set_value("submarine").run()
    assert not at.subheader and "No function matches" in said(at)


def test_a_pasted_catalog_is_checked_shown_and_used(open_page, store):
    at = open_page("catalog")
    at.text_area(key="catalog.text").set_value(json.dumps([HOUSE])).run()
    assert "Found 1 function" in at.success[0].value
    at.button(key="catalog.use_text").click().run()
    assert [f.name for f in store.catalog().functions] == ["open_door"]
    assert "Pasted is loaded" in at.toast[0].value
    assert [s.value for s in at.subheader] == ["Open door"]
    at.button(key="catalog.reset").click().run()
    assert store.catalog() == default_catalog()


def test_what_is_wrong_is_one_sentence_and_nothing_is_loaded(open_page, store):
    for text, expected in (
        ('[{"name": ', "not complete JSON"),
        (json.dumps([HOUSE, HOUSE]), "twice"),
        ("{}", "expected"),
    ):
        at = open_page("catalog")
        at.text_area(key="catalog.text").set_value(text).run()
        assert len(at.error) == 1 and expected in at.error[0].value
        assert at.subheader, "the catalog that is loaded stays on the page"
    assert store.catalog() == default_catalog()


def test_a_file_may_be_loaded_and_a_picture_may_not(open_page, store):
    at = open_page("catalog")
    at.file_uploader(key="catalog.file").upload(
        "house.json", json.dumps({"tools": [{"type": "function", "function": HOUSE}]}).encode()
    )
    at.run()
    at.button(key="catalog.use_file").click().run()
    assert store.catalog().name == "house"
    at = open_page("catalog")
    at.file_uploader(key="catalog.file").upload("house.json", b"\xff\xd8\xff").run()
    assert "not a text file" in at.error[0].value


def test_ready_made_and_saved_catalogs_can_be_chosen(open_page, store):
    at = open_page("catalog")
    assert "This one is loaded now." in said(at)
    at.selectbox(key="catalog.name").select("drone_cookbook").run()
    at.button(key="catalog.use_ready").click().run()
    assert store.catalog().name == "drone_cookbook"


def test_a_catalog_that_cannot_say_no_learns_to_and_keeps_its_examples(open_page, store):
    store.set_catalog(Catalog("house", "You open doors.", (Function("open_door", "", HOUSE["parameters"]),)))
    store.replace_examples([dataset.make_example("open up", Call("open_door"))])
    at = open_page("catalog")
    at.button(key="catalog.reject").click().run()
    now = store.catalog()
    assert now.reject == "reject_request" == now.functions[-1].name and len(now.functions) == 2
    assert now.system_prompt.startswith("You open doors. If the request cannot be completed")
    assert [e.prompt for e in store.examples()] == ["open up"]
    assert "with a way to say no" in at.toast[0].value and "catalog.reject" not in [b.key for b in at.button]


def test_a_way_to_say_no_changes_nothing_else():
    drone = default_catalog()
    without = Catalog("drone", "", drone.callable_functions)
    assert page.with_reject(without).functions == drone.functions
    assert page.with_reject(without).system_prompt.startswith("If the request cannot be completed")
