"""What is wrong with a training file before it is uploaded, and the fixes."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from drone_ft import checks, dataset, synthesis
from drone_ft.catalog import Call, Catalog, Function, default_catalog
from drone_ft.checks import FIXES, RULES, Finding, check
from drone_ft.dataset import make_example, to_jsonl
from drone_ft.errors import DatasetError

Row = dict[str, Any]
SAID = (
    "up to 20 metres", "lights on please", "shine", "could you light the way", "dark here", "rise 35 m",
    "what's for lunch", "sing me a song", "kill the lights", "no more light", "beam off", "blink for me",
)  # fmt: skip


def tool(name: str, parameters: dict[str, Any] | None = None) -> Row:
    body = {"type": "object", "properties": {}} if parameters is None else parameters
    return {"type": "function", "function": {"name": name, "description": "", "parameters": body}}


RISE = tool("rise", {"type": "object", "properties": {"metres": {"type": "number"}}, "required": ["metres"]})
LIGHT = tool(
    "light", {"type": "object", "properties": {"mode": {"enum": ["on", "off", "blink"]}}, "required": ["mode"]}
)
TOOLS = [RISE, LIGHT, tool("reject_request")]


def called(name: str, **arguments: Any) -> Row:
    return {"id": "call_1", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}


def row(said: str, *calls: Row, **changes: Any) -> Row:
    messages = [
        {"role": "system", "content": "Call a function."},
        {"role": "user", "content": said},
        {"role": "assistant", "tool_calls": list(calls)},
    ]
    return {"messages": messages, "tools": TOOLS, "parallel_tool_calls": False, **changes}


def good() -> list[Row]:
    """Twelve lines that no rule finds anything in, for any target."""
    rejected = called("reject_request")
    modes = ["on", "on", "on", "on", "", "", "", "off", "off", "off", "blink"]
    done = [row(SAID[0], called("rise", metres=20))]
    for said, mode in zip(SAID[1:], modes, strict=True):
        call = called("light", mode=mode) if mode else called("rise", metres=35) if "35" in said else rejected
        done.append(row(said, call))
    return done


def text(rows: list[Row | str]) -> str:
    return "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in rows)


Change = Callable[[list[Any]], object]


def changed(*changes: Change) -> str:
    rows: list[Any] = json.loads(json.dumps(good()))
    for change in changes:
        change(rows)
    return text(rows)


def answer(message: Row, at: int = 2) -> Change:
    """A change that gives line 3 another answer."""
    return lambda rows: rows[2]["messages"].__setitem__(at, message)


def calling(**function: Any) -> Change:
    return answer({"role": "assistant", "tool_calls": [{"id": "c", "type": "function", "function": function}]})


def with_tools(*more: Row, **changes: Any) -> Change:
    """A change of what every line offers."""
    return lambda rows: [line.update(tools=[*TOOLS, *more], **changes) for line in rows]


def parameters(**words: Any) -> Row:
    return {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}}, **words}


IF = parameters(**{"if": {"required": ["a"]}, "then": {"required": ["b"]}})
DEEP = {"type": "object", "properties": {"in": parameters(dependentRequired={"a": ["b"]})}}
TOP = {
    "type": "object",
    "oneOf": [
        {"properties": {"x": {"const": 1}}, "required": ["x"]},
        {"properties": {"x": {"const": 2}}, "required": ["x"]},
    ],
}
NEVER = "no example calls extra"

# what is changed in line 3 or everywhere; target; rule; line; field; words of the message
TABLE: dict[str, tuple[Change, str, str, int, str, str]] = {
    "broken JSON": (lambda r: r.__setitem__(2, '{"messages": ['), "local", "json", 3, "column 15", "not JSON"),
    "broken end": (
        lambda r: r.__setitem__(2, json.dumps(r[2])[:-1]), "local", "json", 3, "column 781", "one JSON object a line",
    ),
    "no object": (lambda r: r.__setitem__(2, "[1]"), "local", "messages", 3, "whole line", "found [1]"),
    "no messages": (lambda r: r[2].update(messages=[]), "openai", "messages", 3, "messages", "found []"),
    "role": (lambda r: r[2]["messages"][0].update(role="boss"), "azure", "roles", 3, "messages[0].role", "'boss'"),
    "message": (lambda r: r[2]["messages"].__setitem__(0, "hi"), "azure", "roles", 3, "messages[0].role", "null"),
    "no words": (
        lambda r: r[2]["messages"][1].update(content=" "),
        "local", "content", 3, "messages[1].content", "write the words",
    ),
    "no user": (lambda r: r[2]["messages"].pop(1), "local", "content", 3, "messages", "no user message"),
    "no answer": (
        lambda r: r[2]["messages"].pop(), "openai", "last message", 3, "messages[1].role", "assistant's answer",
    ),
    "empty answer": (
        answer({"role": "assistant", "content": ""}),
        "local", "one answer", 3, "messages[2].tool_calls", "found nothing",
    ),
    "two calls": (
        answer({"role": "assistant", "tool_calls": [called("light", mode="on")] * 2}),
        "openai", "one answer", 3, "messages[2].tool_calls", "2 calls",
    ),
    "calls that are none": (
        lambda r: r[2]["messages"][2].update(tool_calls=5),
        "openai", "one answer", 3, "messages[2].tool_calls", "found 5",
    ),
    "both forms": (
        answer({
            "role": "assistant",
            "tool_calls": [called("light", mode="on")],
            "function_call": {"name": "light", "arguments": '{"mode": "on"}'},
        }),
        "openai", "one answer", 3, "messages[2].function_call", "keep one",
    ),
    "nameless call": (
        calling(arguments="{}"), "local", "one answer", 3, "messages[2].tool_calls[0].function", "function's name",
    ),
    "arguments as object": (
        calling(name="light", arguments={"mode": "on"}),
        "openai", "arguments", 3, "messages[2].tool_calls[0].function.arguments", "JSON text",
    ),
    "arguments as list": (
        calling(name="light", arguments="[1]"),
        "local", "arguments", 3, "messages[2].tool_calls[0].function.arguments", "'[1]'",
    ),
    "unfit call": (
        calling(name="light", arguments='{"mode": "green"}'),
        "local", "call", 3, "messages[2].tool_calls[0].function (light)", "allowed: on, off, blink",
    ),
    "unknown function": (
        calling(name="lihgt", arguments="{}"),
        "openai", "call", 3, "messages[2].tool_calls[0].function (lihgt)", "does not offer the function 'lihgt'",
    ),
    "call without tools": (
        lambda r: r[2].pop("tools"), "openai", "call", 3, "messages[2].tool_calls[0].function (light)", "none",
    ),
    "earlier call unfit": (
        lambda r: r[2]["messages"].insert(1, {"role": "assistant", "tool_calls": [called("rise")]}),
        "local", "call", 3, "messages[1].tool_calls[0].function (rise)", "metres is missing",
    ),
    "call without id": (
        lambda r: r[2]["messages"][2]["tool_calls"][0].pop("id"),
        "openai", "call ids", 3, "messages[2].tool_calls[0]", "needs an id",
    ),
    "weight": (
        lambda r: r[2]["messages"][2].update(weight=0.5), "openai", "weight", 3, "messages[2].weight", "0.5",
    ),
    "weight of a user": (
        lambda r: r[2]["messages"][1].update(weight=1), "local", "weight", 3, "messages[1].weight", "'user'",
    ),
    "weight 0": (
        lambda r: r[2]["messages"][2].update(weight=0), "local", "nothing to learn", 3, "messages", "weight 0",
    ),
    "tools that are none": (
        lambda r: r[2].update(tools={"a": 1}), "local", "functions", 3, "tools", "list the functions",
    ),
    "tool without name": (with_tools({"type": "function"}), "azure", "functions", 1, "tools[3].function", "a name"),
    "broken schema": (
        with_tools(tool("extra", {"type": "object", "properties": {"a": {"type": "strin"}}})),
        "openai", "functions", 1, "tools[3].function.parameters", "parameter a: found type 'strin'",
    ),
    "long name": (
        with_tools(tool("x" * 65)), "openai", "function names", 1, "tools[3].function.name", "1 to 64 letters",
    ),
    "odd name": (with_tools(tool("ex tra")), "local", "function names", 1, "tools[3].function.name", "'ex tra'"),
    "name twice": (with_tools(tool("rise")), "azure", "function names", 1, "tools[3].function.name", "twice"),
    "many functions": (
        with_tools(*(tool(f"extra_{n}") for n in range(126))),
        "openai", "too many functions", 1, "tools", "129 functions",
    ),
    "if and then": (
        with_tools(tool("extra", IF)), "openai", "unknown to target", 1, "tools[3].function.parameters",
        "extra uses if, then, which OpenAI does not know",
    ),
    "condition deep down": (
        with_tools(tool("extra", DEEP)), "azure", "unknown to target", 1, "tools[3].function.parameters",
        "dependentRequired",
    ),
    "alternatives at the top": (
        with_tools(tool("extra", TOP)), "openai", "unknown to target", 1, "tools[3].function.parameters", "oneOf",
    ),
    "too few": (lambda r: r.__delitem__(slice(9, None)), "local", "too few", 0, "whole file", "9 examples"),
    "too long": (
        lambda r: r[2]["messages"][1].update(content="light " * 44_000),
        "openai", "too long", 3, "messages", "but OpenAI reads 65,536: the rest would be cut off",
    ),
    "too long here": (
        lambda r: r[2]["messages"][1].update(content="light " * 6_000),
        "local", "too long", 3, "messages", "This computer reads 8,192",
    ),
    "several calls": (
        lambda r: r[2].pop("parallel_tool_calls"),
        "local", "several calls", 3, "parallel_tool_calls", "set it to false",
    ),
    "several calls as a number": (
        lambda r: r[2].update(parallel_tool_calls=0), "openai", "several calls", 3, "parallel_tool_calls", "set it to",
    ),
    "conflict": (
        lambda r: r.append(row("SHINE", called("light", mode="off"))),
        "openai", "conflict", 13, "messages[1].content", "line 3 again",
    ),
    "duplicate": (
        lambda r: r.append(r[2]), "local", "duplicate", 13, "messages[1].content", "the same as line 3, 'shine'",
    ),
    "near duplicate": (
        lambda r: r.append(row("could you light the way?", called("light", mode="on"))),
        "local", "near duplicate", 13, "messages[1].content", "97% line 4",
    ),
    "other functions": (
        lambda r: r[2].update(tools=[RISE, LIGHT]), "local", "different functions", 3, "tools", "functions of line 1",
    ),
    "other instructions": (
        lambda r: r[2]["messages"][0].update(content="Obey."),
        "local", "different instructions", 3, "messages[0].content", "instructions of line 1",
    ),
    "function never called": (with_tools(tool("extra")), "local", "coverage", 0, "functions", NEVER),
    "choice never said": (
        lambda r: r.__setitem__(11, row("what time is it", called("reject_request"))),
        "local", "coverage", 0, "light.mode", "no example says 'blink'",
    ),
    "ungrounded": (
        lambda r: r.append(row("rise thirty metres", called("rise", metres=40))),
        "local", "grounding", 13, "messages[2].tool_calls[0].function.arguments", "rise has metres 40",
    ),
    "nothing impossible": (
        lambda r: r.__setitem__(slice(6, 8), [row("glow", called("light", mode="on"))]),
        "local", "no impossible requests", 0, "messages", "reject_request",
    ),
    "mostly impossible": (
        lambda r: r.extend(row(f"{n} bananas", called("reject_request")) for n in range(12)),
        "openai", "many impossible requests", 0, "messages", "14 of 24",
    ),
    "older form": (
        lambda r: r.__setitem__(2, {
            "messages": [
                *r[2]["messages"][:2],
                {"role": "assistant", "function_call": {"name": "light", "arguments": '{"mode": "on"}'}},
            ],
            "functions": [one["function"] for one in TOOLS],
        }),
        "openai", "older form", 3, "functions", "can be trained on",
    ),
}  # fmt: skip


def rules(found: list[Finding]) -> list[str]:
    return list(dict.fromkeys(finding.rule for finding in found))


@pytest.mark.parametrize("target", checks.TARGETS)
def test_a_good_file_has_no_findings(target: str) -> None:
    assert check(changed(), None, target) == []
    assert checks.summary([]) == "Ready to upload."


@pytest.mark.parametrize("case", TABLE)
def test_what_is_wrong_is_named_with_line_and_field(case: str) -> None:
    change, target, rule, line, field, words = TABLE[case]
    found = check(changed(change), None, target)
    told = [finding for finding in found if (finding.rule, finding.line, finding.field) == (rule, line, field)]
    assert len(told) == 1, found
    assert words in told[0].message
    assert told[0].message.startswith(f"Line {line}, {field}: " if line else f"Training file, {field}: ")
    assert (told[0].severity, told[0].fix) == RULES[rule]
    assert found == check(changed(change), None, target), "the same file, the same findings"


@pytest.mark.parametrize("case", [case for case, entry in TABLE.items() if RULES[entry[2]][1]])
@pytest.mark.parametrize("where", ["training", "validation"])
def test_after_a_fix_its_finding_is_gone_and_no_other_line_has_changed(case: str, where: str) -> None:
    change, target, rule, line, *_ = TABLE[case]
    broken, filler = changed(change), text([row(f"go up {n} m", called("rise", metres=n)) for n in range(100, 112)])
    given = (broken, None) if where == "training" else (filler, broken)
    before = [finding for finding in check(*given, target) if finding.rule == rule]
    assert before and {finding.file for finding in before} == {where}
    train, validation = FIXES[str(before[0].fix)](*given, target)
    assert rule not in rules(check(train, validation, target))
    done = train if where == "training" else validation
    assert done is not None
    if case not in ("if and then", "condition deep down", "alternatives at the top"):
        kept = done.splitlines()
        assert [entry for n, entry in enumerate(broken.splitlines(), 1) if n != line and entry not in kept] == []
        assert len(kept) in (len(broken.splitlines()), len(broken.splitlines()) - 1)
    assert where == "training" or train == filler


def test_every_rule_and_every_fix_is_tried_by_the_table() -> None:
    tried = {entry[2] for entry in TABLE.values()}
    elsewhere = {"leak", "size", "not all compared"}
    assert tried | elsewhere == set(RULES)
    assert {fix for _, fix in RULES.values() if fix} == set(FIXES)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(deep for key, inner in inside for deep in places(inner, (*path, key)))]


@pytest.mark.parametrize("junk", [None, True, 2.5, "x", [], {}, [None], {"type": "object", "oneOf": [{"$ref": "#"}]}])
def test_whatever_stands_anywhere_in_a_line_is_told_and_what_has_a_fix_is_fixed(junk: Any) -> None:
    for path in places(good()[2])[1:]:

        def spoil(rows: list[Any], path: tuple[Any, ...] = path) -> None:
            inside = functools.reduce(lambda value, key: value[key], path[:-1], rows[2])
            inside[path[-1]] = junk

        broken = changed(spoil)
        for fix in dict.fromkeys(finding.fix for finding in check(broken, None, "openai") if finding.fix):
            done, _ = FIXES[fix](broken, None, "openai")
            assert fix not in [finding.fix for finding in check(done, None, "openai")], path
        assert checks.tokens(broken).in_file > 0


@pytest.mark.parametrize("fix", FIXES)
def test_a_fix_leaves_a_good_file_as_it_is(fix: str) -> None:
    assert FIXES[fix](changed(), None, "openai") == (changed(), None)


# ---------------------------------------------------------------- training and validation


@pytest.mark.parametrize("said", ["Up to 50 metres!", "up to 7 metres"])
def test_a_validation_line_whose_words_are_in_training_leaks_and_can_be_removed(said: str) -> None:
    metres = 50 if "50" in said else 7
    validation = text([row("go up by 9", called("rise", metres=9)), row(said, called("rise", metres=metres))])
    found = check(changed(), validation)
    assert [(f.rule, f.file, f.line) for f in found] == [("leak", "validation", 2)]
    assert "Validation line 2" in found[0].message and "training line 1" in found[0].message
    train, left = FIXES[str(found[0].fix)](changed(), validation)
    assert (train, left) == (changed(), validation.splitlines()[0] + "\n")
    assert check(train, left) == []


def test_a_validation_file_that_only_leaks_is_left_out_altogether() -> None:
    train, left = FIXES["Remove validation lines that are also in training"](changed(), changed())
    assert (train, left) == (changed(), None)


def test_validation_may_be_short_but_not_empty() -> None:
    assert check(changed(), text([row("go up by 9", called("rise", metres=9))])) == []
    assert [(f.rule, f.file) for f in check(changed(), "\n")] == [("too few", "validation")]


# ---------------------------------------------------------------- targets and limits


def test_a_file_that_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks.files, "MOST_BYTES", 1000)
    found = check(changed(), None, "openai")
    assert [(f.rule, f.severity, f.line) for f in found] == [("size", "error", 0)]


def test_only_hosted_targets_refuse_conditions_and_calls_without_ids() -> None:
    broken = changed(with_tools(tool("extra", IF)), lambda r: r[2]["messages"][2]["tool_calls"][0].pop("id"))
    assert rules(check(broken, None, "local")) == ["coverage"]
    assert rules(check(broken, None, "azure")) == ["unknown to target", "call ids", "coverage"]


def test_a_tokenizer_is_believed_and_the_same_tools_cost_this_computer_nothing() -> None:
    def heavy(said: str) -> int:
        return 9000 if '"parameters"' in said else 1

    assert check(changed(), None, "local", count=heavy) == []
    mixed = changed(lambda r: r[2].update(tools=[RISE, LIGHT]))
    assert {f.line for f in check(mixed, None, "local", count=heavy) if f.rule == "too long"} == set(range(1, 13))
    words = [f.message for f in check(mixed, None, "local", count=heavy) if f.rule == "too long"]
    assert all("about" not in message for message in words)


def test_tokens_are_an_estimate_without_a_tokenizer_and_trained_once_an_epoch() -> None:
    estimate = checks.tokens(changed(), epochs=3)
    assert estimate.is_estimate and estimate.trained == 3 * estimate.in_file
    assert 0.5 < estimate.in_file / (len(changed()) / 4) < 1.0
    exact = checks.tokens(changed(), 2, lambda said: 5)
    assert exact == checks.TokenCount(12 * (5 + 5), 24 * (5 + 5), False)


def test_an_unknown_target_is_refused() -> None:
    with pytest.raises(DatasetError, match=r"'mars'.*openai, azure, custom, local"):
        check(changed(), None, "mars")


# ---------------------------------------------------------------- catalogs


def test_a_catalog_is_stricter_than_the_tools_of_the_file_and_names_the_reject_function() -> None:
    function = Function("light", "", {"type": "object", "properties": {"mode": {"enum": ["on", "off"]}}})
    catalog = Catalog("own", "", (Function("rise", "", RISE["function"]["parameters"]), function), "rise")
    found = check(changed(), None, "local", catalog)
    assert [(f.rule, f.line) for f in found] == [("call", 7), ("call", 8), ("call", 12)]
    assert "allowed: on, off" in found[2].message


@functools.cache
def default_files() -> tuple[str, str]:
    catalog = default_catalog()
    examples = dataset.split(synthesis.write_examples(catalog, 0).examples)
    # every ninth, so that the test is quick; the whole is measured by hand
    parts = [[e for e in examples if e.split == split][::9] for split in ("train", "test")]
    return dataset.to_jsonl(parts[0], catalog), dataset.to_jsonl(parts[1], catalog)


@pytest.mark.parametrize("target", checks.TARGETS)
def test_the_default_data_have_no_errors_once_fixed(target: str) -> None:
    train, validation = default_files()
    errors = [f for f in check(train, validation, target, default_catalog()) if f.severity == "error"]
    assert rules(errors) == (["unknown to target"] if target != "local" else [])
    done: tuple[str, str | None] = (train, validation)
    for fix in dict.fromkeys(str(finding.fix) for finding in errors):
        done = FIXES[fix](*done, target, default_catalog())
    assert [f for f in check(*done, target, default_catalog()) if f.severity == "error"] == []
    assert len(done[0].splitlines()) == len(train.splitlines())


# ---------------------------------------------------------------- schemas without what a target refuses


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (IF, parameters()),
        (DEEP, {"type": "object", "properties": {"in": parameters()}}),
        (TOP, {"type": "object", "properties": {"x": {"anyOf": [{"const": 1}, {"const": 2}]}}}),
        (
            {"type": "object", "properties": {"a": {"oneOf": [{"type": "string"}, {"type": "null"}]}}},
            {"type": "object", "properties": {"a": {"anyOf": [{"type": "string"}, {"type": "null"}]}}},
        ),
        (
            {
                "type": "object",
                "allOf": [{"properties": {"a": {"type": "string"}}, "required": ["a"]}],
                "required": ["b"],
                "properties": {"b": {"allOf": [{"$ref": "#/$defs/size"}], "description": "how much"}},
                "$defs": {"size": {"type": "integer", "not": {"const": 3}}},
            },
            {
                "type": "object",
                "properties": {"a": {"type": "string"}, "b": {"type": "integer", "description": "how much"}},
                "required": ["b", "a"],
            },
        ),
        (
            {"type": "object", "properties": {"if": {"enum": ["then", {"not": 1}]}}, "minProperties": 1},
            {"type": "object", "properties": {"if": {"enum": ["then", {"not": 1}]}}},
        ),
    ],
)
def test_a_schema_without_refused_words_still_takes_what_it_took(given: Row, wanted: Row) -> None:
    assert checks.without(given) == wanted
    Draft202012Validator.check_schema(wanted)
    values = [{}, {"a": "x"}, {"a": "x", "b": "y"}, {"a": "x", "b": 1}, {"x": 1}, {"x": 2}, {"a": None}, {"in": {}}]
    for value in (value for value in values if Draft202012Validator(given).is_valid(value)):
        assert Draft202012Validator(wanted).is_valid(value), value


@pytest.mark.parametrize(("target", "fewer"), [("openai", True), ("azure", True), ("custom", False), ("local", False)])
def test_what_a_target_surely_refuses_is_never_sent_there(target: str, fewer: bool) -> None:
    catalog = default_catalog()
    sent = checks.sent(catalog, target)
    changed = [old.name for old, new in zip(catalog.functions, sent.functions, strict=True) if old != new]
    assert changed == (["land_drone", "control_camera", "configure_led_display"] if fewer else [])
    assert dataclasses.replace(sent, functions=catalog.functions) == catalog
    example = make_example("up ten metres", Call("takeoff_drone", {"altitude": 10}))
    by_button, _ = FIXES[checks.fixes.SCHEMAS](to_jsonl([example], catalog), None, target)
    assert (to_jsonl([example], sent) == by_button) == (target != "custom"), "the very bytes that the button makes"


# ---------------------------------------------------------------- numbers, and order


@pytest.mark.parametrize(("said", "number"), [("for two minutes", 120), ("tilt down 20", -20), ("nothing said", 0)])
def test_numbers_are_grounded_however_people_say_them(said: str, number: float) -> None:
    assert "grounding" not in rules(check(changed(lambda r: r.append(row(said, called("rise", metres=number))))))


def test_numbers_that_nobody_said_are_told_once() -> None:
    broken = changed(lambda r: r.extend(row(said, called("rise", metres=25)) for said in ("twenty metres", "as ever")))
    told = [f for f in check(broken) if f.rule == "grounding"]
    assert [f.line for f in told] == [13] and "the same in 1 more line)" in told[0].message


def test_errors_come_first_and_many_of_a_kind_are_counted() -> None:
    wild = changed(
        lambda r: [line.pop("parallel_tool_calls") for line in r],
        lambda r: r.extend([row(f"{n} beams", called("light", mode=n)) for n in range(30)]),
    )
    found = check(wild, None, "local")
    order = ["error", "warning", "note"]
    assert [f.severity for f in found] == sorted((f.severity for f in found), key=order.index)
    wrong = [f for f in found if f.rule == "call"]
    assert len(wrong) == checks.MOST_SHOWN + 1
    assert "10 more of the same kind" in wrong[-1].message and "33, 34, 35, 36, 37" in wrong[-1].message
    several = [f for f in found if f.rule == "several calls"]
    assert [f.line for f in several] == [1] and "11 more lines" in several[0].message
    assert checks.summary(found) == "1 thing to be corrected before the upload, 1 thing worth a look."
    fixed, _ = FIXES[str(wrong[0].fix)](wild)
    assert len(fixed.splitlines()) == 12, "also those that were only counted are removed"


def test_comparing_words_stops_where_it_would_take_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks.pairs, "MOST_PAIRS", 3)
    assert rules(check(changed())) == ["not all compared"]


def test_tools_first_or_words_like_tools_in_a_text_change_nothing() -> None:
    def reorder(rows: list[Row]) -> None:
        rows[:] = [{"tools": line["tools"], **line} for line in rows]
        rows[2]["messages"][1]["content"] = 'the lamp, "tools": [1], please'

    assert check(changed(reorder)) == []
    assert check("\ufeff" + changed().replace("\n", "\r\n\r\n")) == []


def test_a_finding_is_a_value() -> None:
    found = check("")[0]
    assert found == dataclasses.replace(found) and str(found) == found.message
    assert "needs at least 10" in found.message
