"""Examples, the split by wording, JSONL both ways."""

from __future__ import annotations

import dataclasses
import json

import pytest

from drone_ft import dataset
from drone_ft.catalog import Call, default_catalog
from drone_ft.dataset import Example, make_example
from drone_ft.errors import DatasetError

CATALOG = default_catalog()
REJECT = Call("reject_request", {})


def many() -> list[Example]:
    examples = []
    for wording in range(30):
        for altitude in (10 + wording, 200 + wording):
            call = Call("takeoff_drone", {"altitude": altitude})
            examples.append(
                make_example(
                    f"way {chr(97 + wording % 26)}{wording // 26 * 'x'} to {altitude} m", call, template=f"t{wording}"
                )
            )
    return [*examples, *(make_example(f"nonsense {chr(97 + n)}", REJECT) for n in range(12))]


def test_no_test_wording_has_a_twin_in_training() -> None:
    done = dataset.split(many(), test_share=0.2)
    sides: dict[str, list[str]] = {}
    for example in done:
        sides.setdefault(example.template, []).append(str(example.split))
    assert all(len(dict.fromkeys(side)) == 1 for side in sides.values())
    for name in ("takeoff_drone", "reject_request"):
        assert {e.split for e in done if e.call.name == name} == {"train", "test"}


@pytest.mark.parametrize(
    ("one", "other"),
    [("Climb 20 metres!", "climb 35 metres"), ("Go  UP, 7", "go up 900"), ("47.1, 8.5 is home", "12.25, 7.0 is home")],
)
def test_the_same_words_with_other_numbers_are_twins_whatever_their_template(one: str, other: str) -> None:
    call = Call("control_drone_movement", {"direction": "up", "distance": 20})
    filler = [make_example(f"filler {chr(97 + n)}", call) for n in range(6)]
    for seed in range(8):
        done = dataset.split(
            [make_example(one, call, template="a"), make_example(other, call, template="b"), *filler], 0.5, seed
        )
        assert done[0].split == done[1].split


def test_a_chain_of_twins_stays_together() -> None:
    call = Call("takeoff_drone", {"altitude": 20})
    chain = [
        make_example("up 5", call, template="a"),
        make_example("rise 5", call, template="b"),
        make_example("up 6", call, template="b"),
    ]
    filler = [make_example(f"filler {chr(97 + n)}", call) for n in range(6)]
    for seed in range(8):
        assert len({e.split for e in dataset.split([*chain, *filler], 0.5, seed)[:3]}) == 1


def test_a_new_example_joins_its_twins_and_otherwise_training() -> None:
    done = dataset.split(many(), 0.2)
    kept = next(e for e in done if e.split == "test" and e.call.name == "takeoff_drone")
    twin = make_example(kept.prompt.replace("way", "Way"), kept.call, template=kept.template)
    stranger = make_example("quite other words", kept.call)
    completed = dataset.complete_split([*done, twin, stranger])
    assert completed[: len(done)] == done
    assert [e.split for e in completed[-2:]] == ["test", "train"]


@pytest.mark.parametrize("form", ["tools", "functions"])
def test_jsonl_comes_back_as_it_went(form: dataset.Form) -> None:
    examples = many()
    text = dataset.to_jsonl(examples, CATALOG, form)
    back, catalog = dataset.from_jsonl(text)
    assert [(e.prompt, e.call) for e in back] == [(e.prompt, e.call) for e in examples]
    assert (catalog.system_prompt, catalog.functions) == (CATALOG.system_prompt, CATALOG.functions)
    assert text == dataset.to_jsonl(many(), CATALOG, form), "same data, same bytes"


def test_a_line_has_the_shape_that_the_api_documents() -> None:
    example = make_example("take off to ten metres", Call("takeoff_drone", {"altitude": 10}))
    row = json.loads(dataset.to_jsonl([example], CATALOG))
    assert row["parallel_tool_calls"] is False
    assert [m["role"] for m in row["messages"]] == ["system", "user", "assistant"]
    call = row["messages"][2]["tool_calls"][0]
    assert call["type"] == "function" and call["function"] == {"name": "takeoff_drone", "arguments": '{"altitude": 10}'}
    assert row["tools"][0]["type"] == "function" and len(row["tools"]) == 16
    old = json.loads(dataset.to_jsonl([example], CATALOG, "functions"))
    assert old["messages"][2]["function_call"] == call["function"] and old["functions"][0]["name"] == "takeoff_drone"


def good_line(**changes: object) -> dict[str, object]:
    row: dict[str, object] = json.loads(
        dataset.to_jsonl([make_example("take off to ten metres", Call("takeoff_drone", {"altitude": 10}))], CATALOG)
    )
    return {**row, **changes}


def calling(name: str = "takeoff_drone", arguments: object = '{"altitude": 10}') -> list[dict[str, object]]:
    call = {"id": "c", "type": "function", "function": {"name": name, "arguments": arguments}}
    return [{"role": "user", "content": "up"}, {"role": "assistant", "tool_calls": [call]}]


@pytest.mark.parametrize(
    ("line", "field", "words"),
    [
        ('{"messages": [', "column 15", "not complete JSON, it breaks off"),
        ('{"messages": ["hi', "column 15", "not complete JSON, it breaks off"),
        ('{"messages" []}', "column 13", "not JSON"),
        ("[1, 2]", "whole line", "a list of 2"),
        ({"tools": []}, "messages", "nothing"),
        ({"messages": [], "tools": []}, "messages", "a list of 0"),
        (good_line(messages=[{"role": "boss", "content": "x"}]), "messages[0].role", "'boss'"),
        (good_line(messages=[{"role": "user", "content": " "}]), "messages[0].content", "expected words"),
        (good_line(messages=[{"role": "assistant", "content": "x"}]), "messages", "no user message"),
        (good_line(messages=[{"role": "user", "content": "x"}]), "messages[0].role", "last message"),
        (
            good_line(messages=[calling()[0], {"role": "assistant", "content": "hi"}]),
            "messages[1].tool_calls",
            "exactly one call",
        ),
        (
            good_line(messages=calling(arguments="{altitude: 10}")),
            "messages[1].tool_calls[0].function.arguments",
            "JSON text",
        ),
        (good_line(messages=calling(arguments="[1]")), "messages[1].tool_calls[0].function.arguments", "a list of 1"),
        (
            good_line(messages=calling(name="fly_to_mars", arguments="{}")),
            "messages[1] call of fly_to_mars",
            "fly_to_mars",
        ),
        (good_line(messages=calling(arguments='{"altitude": 900}')), "messages[1] call of takeoff_drone", "900"),
        (good_line(tools=[{"type": "function", "function": {"description": "no name"}}]), "tools", "name"),
        ({"messages": calling()}, "tools", "missing"),
    ],
)
def test_trouble_names_line_and_field(line: object, field: str, words: str) -> None:
    text = json.dumps(good_line()) + "\n\n" + (line if isinstance(line, str) else json.dumps(line)) + "\n"
    with pytest.raises(DatasetError, match=r"line 3.*Nothing was added\.$") as caught:
        dataset.from_jsonl(text)
    told = str(caught.value)
    assert told.startswith(f"file, line 3, {field}: ") and words in told
    assert ".." not in told and ".)." not in told


def test_the_other_lines_in_trouble_are_counted() -> None:
    with pytest.raises(DatasetError, match=r"file, line 1, .* Lines in trouble besides: 2\.$"):
        dataset.from_jsonl("[1]\n[2]\n" + json.dumps(good_line()) + "\n[3]")


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_an_empty_file_is_named(text: str) -> None:
    with pytest.raises(DatasetError, match=r"^file: it is empty"):
        dataset.from_jsonl(text)


def test_loaded_examples_are_placed_beside_their_twins_and_a_first_set_is_split() -> None:
    here = dataset.split(many(), 0.2)
    kept = next(e for e in here if e.split == "test" and e.call.name == "takeoff_drone")
    twin = make_example(kept.prompt.upper(), kept.call, origin="file")
    assert dataset.place([twin], here)[0].split == "test"
    assert {e.split for e in dataset.place(many(), [])} == {"train", "test"}


def test_what_is_written_little_by_little_is_dealt_out_like_what_is_written_at_once() -> None:
    first = [example for example in many() if example.call.name == "takeoff_drone"][:4]
    here = dataset.split(first)
    assert {e.split for e in here} == {"train"}, "two wordings are too few"
    for start in range(0, len(many()), 20):
        here += dataset.place([e for e in many()[start : start + 20] if e not in first], here)
    for name, in_test in (("takeoff_drone", 8), ("reject_request", 2)):
        assert sum(e.call.name == name and e.split == "test" for e in here) == in_test
    assert len({(e.template, e.split) for e in here}) == len({e.template for e in here}), "twins stay together"
    assert dataset.place(many()[20:40], here[:20]) == dataset.place(many()[20:40], here[:20])


def test_new_calls_are_not_all_kept_for_testing_where_nothing_was_so_far() -> None:
    here = [dataclasses.replace(example, split="train") for example in many()[:40]]
    new = dataset.place([make_example(f"other {w} m", here[0].call) for w in "abcd"], here)
    assert sorted(str(e.split) for e in new) == ["test", "test", "train", "train"]


@pytest.mark.parametrize(("one", "other"), [("Взлети на 20 метров", "Включи свет 5"), ("上升20米", "开灯5")])
def test_words_of_any_script_are_told_apart(one: str, other: str) -> None:
    assert dataset.wording(one) != dataset.wording(other)
