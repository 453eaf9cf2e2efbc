"""Examples: write, read, filter, edit with typed fields, add, approve, remove and bring back, load and download."""

from __future__ import annotations

import dataclasses
import json

import pytest
import seed
from seen import labels, said
from streamlit.testing.v1 import AppTest

from drone_ft import dataset
from drone_ft.catalog import Call, default_catalog
from drone_ft.ui import examples


def ticked(store, *ids):
    """The panel above the table, with these examples ticked: a browser's click AppTest cannot make."""

    def script(ids):
        from drone_ft.ui import example_editor, examples, session

        every = session.store().examples()
        examples.undo()
        example_editor.panel([e for e in every if e.id in ids], every, session.store().catalog())

    at = AppTest.from_function(script, args=(list(ids),), default_timeout=30).run()
    assert not at.exception
    return at


def opened(store, id):
    """The same with one example ticked and opened for editing."""
    at = ticked(store, id)
    return at.button(key="examples.edit").click().run()


@pytest.fixture
def few(store):
    """A video, a landing at coordinates, and a draft."""
    made = [
        dataset.make_example(
            "film for a minute", Call("control_camera", {"mode": "video", "duration": 60}), split="train"
        ),
        dataset.make_example(
            "land at 48.1, 11.5",
            Call("land_drone", {"location": "custom", "coordinates": {"latitude": 48.1, "longitude": 11.5}}),
            split="test",
        ),
        dataset.make_example("zoom in", Call("reject_request"), split="train", status="draft", origin="phrasebook"),
    ]
    store.replace_examples(made)
    return made


def test_without_examples_the_page_writes_them(open_page, started):
    at = open_page("examples")
    assert "No examples yet" in said(at)
    at.button(key="examples.write").click().run()
    assert started == [("write", {})]


def test_the_table_shows_words_and_calls_and_can_be_filtered(open_page, store):
    every = seed.examples(store)
    at = open_page("examples")
    assert len(at.dataframe[0].value) == len(every)
    at.selectbox(key="examples.kind").select("Impossible").run()
    assert set(at.dataframe[0].value["Call"]) == {"Impossible request"}
    at.selectbox(key="examples.split").select("Testing").run()
    assert set(at.dataframe[0].value["Used for"]) == {"Testing"}
    at.selectbox(key="examples.kind").set_value(None).run()
    at.selectbox(key="examples.function").select("control_camera").run()
    at.text_input(key="examples.text").set_value("PANORAMA").run()
    shown = at.dataframe[0].value
    assert len(shown) and all("panorama" in words.lower() for words in shown["Words"])
    at.text_input(key="examples.text").set_value("submarine").run()
    assert not at.dataframe and "No example matches" in said(at)


def test_filters_are_as_they_were_left(open_page, store, few):
    at = open_page("examples")
    at.selectbox(key="examples.function").select("control_camera").run()
    at.text_input(key="examples.text").set_value("film").run()
    at.switch_page("pages/home.py").run()
    at.switch_page("pages/examples.py").run()
    assert at.selectbox(key="examples.function").value == "control_camera"
    assert at.text_input(key="examples.text").value == "film" and len(at.dataframe[0].value) == 1


def test_a_filter_on_what_is_no_longer_there_is_forgotten(open_page, store, few):
    at = open_page("examples")
    at.selectbox(key="examples.function").select("control_camera").run()
    store.remove_examples([few[0].id])
    at.run()
    assert not at.exception and len(at.dataframe[0].value) == 2


def test_examples_can_be_narrowed_to_those_of_a_writer(open_page, store, few):
    at = open_page("examples")
    assert at.selectbox(key="examples.origin").options == ["You", "Phrasebook"]
    at.selectbox(key="examples.origin").select("You").run()
    assert len(at.dataframe[0].value) == 2


def test_drafts_are_counted_and_plain_wordings_named(open_page, store, few):
    plain = dataset.make_example("set drone speed 5", Call("set_drone_speed", {"speed": 5}), origin="plain")
    store.add_examples([plain])
    at = open_page("examples")
    assert "1 draft will be left out of training" in said(at)
    assert "Set drone speed are plain" in said(at)


def test_an_example_is_edited_through_fields_that_follow_the_schema(store, few):
    at = opened(store, few[0].id)
    key = f"examples.edit.{few[0].id}"
    assert at.number_input(key=f"{key}.control_camera.duration").value == 60
    assert at.number_input(key=f"{key}.control_camera.duration").label == "Duration, 1 to 3,600"
    at.selectbox(key=f"{key}.control_camera.mode").select('"photo"').run()  # photo: no duration any more
    assert not [n for n in at.number_input if "duration" in n.key]
    at.text_area(key=f"{key}.prompt").set_value("take a picture").run()
    at.button(key=f"{key}.save").click().run()
    saved = store.examples()[0]
    assert saved.prompt == "take a picture" and saved.call == Call("control_camera", {"mode": "photo"})
    assert saved.origin == "person" and saved.split == "train" and saved.template == few[0].template


def test_an_editor_is_closed_without_saving(store, few):
    at = opened(store, few[0].id)
    key = f"examples.edit.{few[0].id}"
    at.text_area(key=f"{key}.prompt").set_value("something else").run()
    at.button(key=f"{key}.close").click().run()
    assert store.examples() == few and "1 example ticked" in said(at) and not at.text_area


def test_a_number_out_of_range_is_refused_and_never_replaced_by_the_old_one(store, few):
    at = opened(store, few[0].id)
    key = f"examples.edit.{few[0].id}"
    at.number_input(key=f"{key}.control_camera.duration").set_value(9000)
    at.button(key=f"{key}.save").click().run()
    assert "Not saved: duration is 9000, more than the maximum 3600" in at.error[0].value.replace("\\", "")
    assert at.number_input(key=f"{key}.control_camera.duration").value == 9000 and store.examples() == few


def test_an_editor_stays_open_with_what_was_typed_while_other_rows_are_ticked(open_page, store, few, monkeypatch):
    monkeypatch.setattr(examples, "table", lambda shown, catalog: [few[1], few[2]])
    at = open_page("examples")
    assert "2 examples ticked" in said(at)
    at.session_state[examples.EDITING] = few[0].id
    at.run()
    key = f"examples.edit.{few[0].id}"
    at.text_area(key=f"{key}.prompt").set_value("half written").run()
    assert at.button(key="examples.add").disabled
    monkeypatch.setattr(examples, "table", lambda shown, catalog: [few[2]])
    at.run()
    assert at.text_area(key=f"{key}.prompt").value == "half written"
    at.button(key=f"{key}.close").click().run()
    assert "1 example ticked" in said(at) and not at.text_area and not at.button(key="examples.add").disabled


def test_coordinates_keep_every_digit(store, few):
    at = opened(store, few[1].id)
    key = f"examples.edit.{few[1].id}.land_drone.coordinates"
    at.number_input(key=f"{key}.latitude").set_value(48.137154).run()
    at.button(key=f"examples.edit.{few[1].id}.save").click().run()
    assert store.examples()[1].call.arguments["coordinates"] == {"latitude": 48.137154, "longitude": 11.5}


def test_what_is_missing_is_said_and_nothing_is_saved(store, few):
    at = opened(store, few[0].id)
    key = f"examples.edit.{few[0].id}"
    at.number_input(key=f"{key}.control_camera.duration").set_value(None).run()
    at.button(key=f"{key}.save").click().run()
    assert "duration is missing" in at.error[0].value
    at.text_area(key=f"{key}.prompt").set_value("  ").run()
    at.button(key=f"{key}.save").click().run()
    assert "words are missing" in at.error[0].value
    assert store.examples() == few


def test_the_same_words_twice_are_refused(store, few):
    at = opened(store, few[2].id)
    key = f"examples.edit.{few[2].id}"
    at.text_area(key=f"{key}.prompt").set_value("film for a minute").run()
    at.selectbox(key=f"{key}.function").select("control_camera").run()
    at.selectbox(key=f"{key}.control_camera.mode").select('"video"').run()
    at.number_input(key=f"{key}.control_camera.duration").set_value(60).run()
    at.button(key=f"{key}.save").click().run()
    assert "in the list already" in at.error[0].value


def test_a_draft_is_approved(store, few):
    at = opened(store, few[2].id)
    at.button(key=f"examples.edit.{few[2].id}.approve").click().run()
    assert store.examples()[2] == dataclasses.replace(few[2], status="approved")


def test_approved_ones_become_drafts_and_are_approved_again(store, few):
    at = ticked(store, few[0].id, few[1].id)
    at.button(key="examples.draft_all").click().run()
    assert [e.status for e in store.examples()[:2]] == ["draft", "draft"]
    at = ticked(store, few[0].id, few[1].id)
    at.button(key="examples.approve_all").click().run()
    assert store.examples()[:2] == few[:2]


def test_functions_without_words_are_named(open_page, store, few):
    at = open_page("examples")
    assert "no words yet for Takeoff drone, " in at.warning[0].value and "Land drone" not in at.warning[0].value


def test_several_are_removed_and_brought_back(store, few):
    at = ticked(store, few[0].id, few[1].id)
    assert "Remove all 2" in labels(at)
    at.button(key="examples.remove").click().run()
    assert store.examples() == few[2:]
    at.button(key="examples.undo").click().run()
    assert store.examples() == few


def test_an_example_is_added_by_hand(open_page, store, few):
    at = open_page("examples")
    at.selectbox(key="examples.kind").select("Impossible").run()
    at.button(key="examples.add").click().run()
    key = "examples.edit.new"
    at.text_area(key=f"{key}.prompt").set_value("up to  thirty metres, please").run()
    at.button(key=f"{key}.save").click().run()
    assert "Choose what the model should do" in at.error[0].value
    at.selectbox(key=f"{key}.function").select("takeoff_drone").run()
    at.number_input(key=f"{key}.takeoff_drone.altitude").set_value(30).run()
    at.button(key=f"{key}.save").click().run()
    added = store.examples()[-1]
    assert (added.prompt, added.call) == ("up to thirty metres, please", Call("takeoff_drone", {"altitude": 30}))
    assert (added.origin, added.status, added.split) == ("person", "approved", "train")
    assert at.toast[0].value == "Saved for training. It stands first in the table."
    assert at.dataframe[0].value["Words"][0] == added.prompt and len(at.dataframe[0].value) == 4


def test_the_download_is_what_fine_tuning_takes(few):
    text = dataset.to_jsonl(few[:1], default_catalog(), "functions")
    assert "function_call" in json.loads(text)["messages"][-1]


def test_a_file_of_examples_is_added_without_doubles(open_page, store, few):
    catalog = default_catalog()
    new = dataset.make_example("lights on", Call("set_drone_lighting", {"mode": "on"}))
    at = open_page("examples")
    text = dataset.to_jsonl([new, dataset.make_example("film for a minute", few[0].call)], catalog)
    at.file_uploader(key="examples.file").upload("more.jsonl", text.encode()).run()
    assert "more.jsonl holds 2 examples; 1 of them are new here" in said(at)
    at.button(key="examples.load").click().run()
    assert [e.prompt for e in store.examples()][-1] == "lights on" and len(store.examples()) == 4


@pytest.mark.parametrize(
    "content, expected",
    [
        (b'{"prompt": "hi"}\n', "line 1"),
        (b"\xff\xfe\x00", "not a text file"),
        (b"", "more\\.jsonl: it is empty"),
        (b'{"messages": [{"role": "user", "con', "not complete JSON, it breaks off"),
    ],
)
def test_a_broken_file_is_one_sentence_and_the_page_stays(content, expected, open_page, store, few):
    at = open_page("examples")
    at.file_uploader(key="examples.file").upload("more.jsonl", content).run()
    assert len(at.error) == 1 and expected.replace("\\", "") in at.error[0].value.replace("\\", "")
    assert len(at.dataframe[0].value) == 3 and store.examples() == few


def test_examples_of_another_catalog_are_refused(open_page, store, few):
    other = {"name": "open_door", "description": "", "parameters": {"type": "object", "properties": {}}}
    call = {"id": "c", "type": "function", "function": {"name": "open_door", "arguments": "{}"}}
    line = {
        "messages": [{"role": "user", "content": "open up"}, {"role": "assistant", "tool_calls": [call]}],
        "tools": [{"type": "function", "function": other}],
    }
    at = open_page("examples")
    at.file_uploader(key="examples.file").upload("more.jsonl", json.dumps(line).encode()).run()
    message = at.error[0].value.replace("\\", "")
    assert "does not fit this catalog" in message and "open_door" in message and ".)" not in message
