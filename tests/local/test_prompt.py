"""What the model reads, what it may write, what is read back."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from drone_ft.local import calls, grammar, prompt
from drone_ft.local.calls import COMPACT, JSON, Writing
from drone_ft.local.prompt import ChatRequest, PromptError, Settings
from tests.local.tiny import KNOWS_TOOLS, TEMPLATE, make_tiny_model

CONDITIONAL: dict[str, Any] = {
    "type": "object",
    "properties": {
        "mode": {"type": "string", "enum": ["photo", "video"]},
        "duration": {"type": "integer", "minimum": 1, "maximum": 3600},
    },
    "required": ["mode"],
    "additionalProperties": False,
    "if": {"properties": {"mode": {"const": "video"}}, "required": ["mode"]},
    "then": {"required": ["duration"]},
    "else": {"not": {"required": ["duration"]}},
}
ALTITUDE = {
    "type": "object",
    "properties": {"altitude": {"type": "integer", "minimum": 1, "maximum": 500}},
    "required": ["altitude"],
}
PLACE = {
    "type": "object",
    "properties": {
        "coordinates": {
            "type": "object",
            "properties": {
                "latitude": {"type": "number", "minimum": -90, "maximum": 90},
                "longitude": {"type": "number", "minimum": -180, "maximum": 180},
            },
            "required": ["latitude", "longitude"],
        }
    },
    "required": ["coordinates"],
}


def tool(name: str, parameters: dict[str, Any] | None = None, description: str = "") -> dict[str, Any]:
    function = {"name": name, "description": description, "parameters": parameters or {"type": "object"}}
    return {"type": "function", "function": function}


TOOLS = [tool("takeoff", ALTITUDE, "Take off."), tool("camera", CONDITIONAL), tool("home", PLACE), tool("reject")]
ASK = ChatRequest([{"role": "user", "content": "go up"}], TOOLS, "required")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(make_tiny_model(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="module")
def vocabulary(tokenizer: Any) -> Any:
    import llguidance.hf

    return llguidance.hf.from_tokenizer(tokenizer)


def admits(
    vocabulary: Any, tokenizer: Any, request: ChatRequest, text: str, writing: Writing = JSON, *, wide: bool = False
) -> bool:
    import llguidance

    matcher = llguidance.LLMatcher(vocabulary, grammar.grammar(request, writing, wide=wide))
    return matcher.consume_tokens(list(prompt.encode(tokenizer, text))) and matcher.is_accepting()


def call(name: str, **arguments: Any) -> str:
    return json.dumps({"name": name, "arguments": arguments})


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        (call("takeoff", altitude=500), True),
        (call("takeoff", altitude=501), False),
        (call("takeoff", altitude=0), False),
        (call("takeoff"), False),
        (call("takeoff", altitude=5, speed=3), False),
        (call("camera", mode="photo"), True),
        (call("camera", mode="photo", duration=5), False),
        (call("camera", mode="video"), False),
        (call("camera", mode="video", duration=3600), True),
        (call("camera", mode="video", duration=3601), False),
        (call("home", coordinates={"latitude": -89.5, "longitude": 12}), True),
        (call("home", coordinates={"latitude": 90.5, "longitude": 12}), False),
        (call("home", coordinates={"latitude": 48.137154321, "longitude": 12}), True),
        ('{"name": "home", "arguments": {"coordinates": {"latitude": 1.' + "3" * 20, False),  # no digits without end
        (call("home", coordinates={"latitude": 1}), False),
        (call("reject"), True),
        (call("land"), False),
        ("I would rather not", False),
        (call("reject") + "\n" + call("reject"), False),
    ],
)
def test_a_required_call_is_admitted_only_if_valid(vocabulary: Any, tokenizer: Any, text: str, allowed: bool) -> None:
    assert admits(vocabulary, tokenizer, ASK, text) is allowed


SPEED = {
    "type": "object",
    "properties": {"speed": {"type": "integer", "minimum": 1, "maximum": 150}, "confirm": {"type": "boolean"}},
    "required": ["speed"],
    "allOf": [{"if": {"properties": {"speed": {"exclusiveMinimum": 100}}}, "then": {"required": ["confirm"]}}],
}
INT64 = {"type": "object", "properties": {"id": {"type": "integer", "minimum": 0, "maximum": 2**63 - 1}}}


@pytest.mark.parametrize(
    ("text", "bounded", "wide"),
    [
        (call("takeoff", altitude=500), True, True),
        (call("takeoff", altitude=900), False, True),
        (call("takeoff", altitude=-5), False, True),
        (call("takeoff", altitude=123456), False, False),  # no digits without end
        (call("home", coordinates={"latitude": 120.5, "longitude": 12}), False, True),
        (call("camera", mode="video", duration=36000), False, True),
        (call("camera", mode="photo", duration=5), False, False),
        (call("speed", speed=120, confirm=True), True, True),
        (call("speed", speed=120), False, False),  # a condition is no bound
        (call("speed", speed=900, confirm=True), False, True),
        (call("count", id=5), True, True),
    ],
)
def test_a_wide_grammar_admits_numbers_beyond_their_bounds_and_nothing_else(
    vocabulary: Any, tokenizer: Any, text: str, bounded: bool, wide: bool
) -> None:
    request = replace(ASK, tools=[*TOOLS, tool("speed", SPEED), tool("count", INT64)])
    assert admits(vocabulary, tokenizer, request, text) is bounded
    assert admits(vocabulary, tokenizer, request, text, wide=True) is wide


@pytest.mark.parametrize("changes", [{"tools": TOOLS[:1]}, {"tool_choice": {"name": "takeoff"}}, {"logprobs": 2}])
def test_where_nothing_else_could_be_called_numbers_are_held_to_their_bounds(changes: dict[str, Any]) -> None:
    request = replace(ASK, **changes)
    assert grammar.grammar(request, JSON, wide=True) == grammar.grammar(request, JSON)


@pytest.mark.parametrize(
    ("changes", "text", "allowed"),
    [
        ({"tool_choice": "auto"}, "Sure, {what} height?", True),
        ({"tool_choice": "auto"}, call("reject"), True),
        ({"tool_choice": "auto"}, '{"name": "land', False),
        ({"tool_choice": {"name": "reject"}}, call("reject"), True),
        ({"tool_choice": {"name": "reject"}}, call("takeoff", altitude=5), False),
        ({"parallel": True}, call("reject") + "\n" + call("takeoff", altitude=5), True),
    ],
)
def test_tool_choice_decides_what_is_admitted(
    vocabulary: Any, tokenizer: Any, changes: dict[str, Any], text: str, allowed: bool
) -> None:
    assert admits(vocabulary, tokenizer, replace(ASK, **changes), text) is allowed


HERMES = Writing('<tool_call>\n{"name": "', '", "arguments": ', "}\n</tool_call>")


@pytest.mark.parametrize("writing", [JSON, COMPACT, HERMES])
def test_calls_are_admitted_only_as_a_model_writes_them(vocabulary: Any, tokenizer: Any, writing: Writing) -> None:
    made = {"name": "camera", "arguments": '{"duration": 3, "mode": "video"}'}
    several = replace(ASK, parallel=True)
    for other in (JSON, COMPACT, HERMES):
        for number, request in ((1, ASK), (2, several), (2, ASK)):
            text = calls.write([made] * number, TOOLS, other)
            fits = other == writing and (number == 1 or request is several)
            assert admits(vocabulary, tokenizer, request, text, writing) is fits
    assert admits(vocabulary, tokenizer, replace(ASK, tool_choice="auto"), "Sure.", writing)
    assert not admits(vocabulary, tokenizer, replace(ASK, tool_choice="auto"), writing.before + "fly", writing)


def test_no_grammar_without_tools_or_when_calls_are_forbidden() -> None:
    assert grammar.grammar(replace(ASK, tool_choice="none"), JSON) is None
    assert grammar.grammar(replace(ASK, tools=[], tool_choice="auto"), COMPACT) is None


@pytest.mark.parametrize(
    ("request_", "param", "words"),
    [
        (replace(ASK, tool_choice={"name": "fly"}), "tool_choice", "'fly'"),
        (replace(ASK, messages=[]), "messages", "no messages"),
        (replace(ASK, tools=[*TOOLS, tool("scan", {"type": "object", "propertyNames": {}})]), "tools", "scan"),
        (replace(ASK, tools=[tool("scan", {"type": "object", "propertyNames": {}})]), "tools", "propertyNames"),
    ],
)
def test_what_cannot_be_asked_is_named(tokenizer: Any, request_: ChatRequest, param: str, words: str) -> None:
    with pytest.raises(PromptError) as caught:
        prompt.build(tokenizer, request_)
        grammar.grammar(request_, JSON)
    assert caught.value.param == param
    assert words in str(caught.value)


def test_the_base_model_reads_system_prompt_and_tools_once_in_a_shared_prefix(tokenizer: Any) -> None:
    messages = [{"role": "system", "content": "You fly."}, {"role": "user", "content": "go up"}]
    first = prompt.build(tokenizer, replace(ASK, messages=messages))
    second = prompt.build(tokenizer, replace(ASK, messages=[messages[0], {"role": "user", "content": "land"}]))
    assert first.prefix == second.prefix
    assert first.prefix.startswith("<|im_start|>system\nYou fly.")
    assert "takeoff(altitude: integer 1..500) - Take off." in first.prefix
    assert first.prefix.endswith("<|im_end|>\n<|im_start|>user\n")  # what stands before everybody's words, too
    assert first.text == "go up<|im_end|>\n<|im_start|>assistant\n"
    whole = prompt.encode(tokenizer, first.prefix + first.text)
    assert first.prefix_ids + first.ids == whole


@pytest.mark.parametrize(
    ("form", "system", "tools", "prefix"),
    [
        ("turns", "You fly.", TOOLS, "<|im_start|>system\n<|im_end|>\n<|im_start|>user\n"),
        ("turns", None, TOOLS, "<|im_start|>system\n<|im_end|>\n<|im_start|>user\n"),
        (
            "short",
            None,
            TOOLS,
            "<|im_start|>system\nYou fly.<|im_end|>\n<|im_start|>user\n",
        ),  # tuned by an earlier version
        ("turns", "You swim.", TOOLS, None),
        ("turns", "You fly.", TOOLS[:2], None),
        ("full", "You fly.", TOOLS, None),
    ],
)
def test_a_tuned_model_reads_prompt_and_tools_only_when_they_differ_from_its_own(
    tokenizer: Any, form: str, system: str | None, tools: list[dict[str, Any]], prefix: str | None
) -> None:
    tuned = Settings("ft:x", "x", form, prompt.tools_key(TOOLS), "You fly.")
    opening = [{"role": "system", "content": system}] if system else []
    built = prompt.build(tokenizer, replace(ASK, messages=[*opening, *ASK.messages], tools=tools), tuned)
    assert built.text == "go up<|im_end|>\n<|im_start|>assistant\n"
    assert built.prefix == prefix if prefix else "takeoff" in built.prefix


def test_a_template_that_knows_no_system_prompt_still_serves_a_tuned_model(tokenizer: Any) -> None:
    strict = copy.deepcopy(tokenizer)
    strict.chat_template = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no') }}{% endif %}" + TEMPLATE
    tuned = Settings("ft:x", "x", "turns", prompt.tools_key(TOOLS), "")
    built = prompt.build(strict, ASK, tuned)
    assert (built.prefix + built.text).endswith("<|im_start|>user\ngo up<|im_end|>\n<|im_start|>assistant\n")
    assert "You fly." not in built.prefix + built.text


@pytest.mark.parametrize(
    ("before", "said"),
    [
        ("", "go up"),
        ("", "?"),  # one of the words that tell where words begin
        ("", ""),
        ("t", "ake off"),  # a token stands across the border
    ],
)
def test_the_prefix_ends_where_the_words_begin_and_cuts_no_token(tokenizer: Any, before: str, said: str) -> None:
    """A template that refuses a system prompt without a turn shares its beginning, too."""
    strict = copy.deepcopy(tokenizer)
    strict.chat_template = "{% if messages|length == 1 %}{{ raise_exception('no') }}{% endif %}" + TEMPLATE.replace(
        "'\n' + message['content']", f"'\n{before}' + message['content']"
    )
    messages = [{"role": "system", "content": "You fly."}, {"role": "user", "content": said}]
    built = prompt.build(strict, replace(ASK, messages=messages))
    assert built.prefix.endswith(f"<|im_start|>user\n{before}")
    assert tokenizer.decode(built.prefix_ids).endswith("<|im_start|>user\n")
    assert built.prefix_ids + built.ids == prompt.encode(strict, built.prefix + built.text)
    assert built.text == f"{said}<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("writing", "text"),
    [
        (JSON, call("home", coordinates={"latitude": 1, "longitude": 2})),
        (COMPACT, '{"name":"home","arguments":{"coordinates":{"latitude":1,"longitude":2}}}'),
    ],
)
def test_calls_are_written_in_the_schemas_order(writing: Writing, text: str) -> None:
    made = {"name": "home", "arguments": '{"coordinates": {"longitude": 2, "latitude": 1}}'}
    assert calls.write([made], TOOLS, writing) == text


@pytest.mark.parametrize(
    ("message", "content"),
    [
        ({"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, "ab"),
        ({"role": "assistant", "function_call": {"name": "reject", "arguments": "{}"}}, call("reject")),
        ({"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "reject"}}]}, call("reject")),
    ],
)
def test_every_shape_of_message_becomes_text(message: dict[str, Any], content: str) -> None:
    assert prompt.plain_message(message, TOOLS, JSON)["content"] == content


@pytest.mark.parametrize(
    ("writing", "text", "found"),
    [
        (JSON, call("takeoff", altitude=5), [("takeoff", '{"altitude": 5}')]),
        (JSON, call("reject") + "\n" + call("reject"), [("reject", "{}"), ("reject", "{}")]),
        (JSON, '{"name": "takeoff", "argum', []),
        (JSON, call("unknown"), []),
        (JSON, "Hello!", []),
        (JSON, "[1]", []),
        (COMPACT, '{"name":"takeoff","arguments":{"altitude":5}}', [("takeoff", '{"altitude": 5}')]),
        (HERMES, HERMES.call("reject", {}) + "\n" + HERMES.call("reject", {}), [("reject", "{}"), ("reject", "{}")]),
        (HERMES, HERMES.call("reject", {})[:-3], []),
    ],
)
def test_answers_are_read_as_calls_or_left_as_text(writing: Writing, text: str, found: list[tuple[str, str]]) -> None:
    assert calls.read(text, TOOLS, writing) == found


ALONE = "{% if not loop.first %}{{ raise_exception('one') }}{% endif %}"
NAMED = "{{- call.function.name + '(' + call.function.arguments | tojson + ')' }}"


def calling(how: str) -> str:
    """A template that knows tools and writes calls otherwise."""
    start, end = "{{- '<tool_call>", "</tool_call>' }}"
    return KNOWS_TOOLS[: KNOWS_TOOLS.index(start)] + how + KNOWS_TOOLS[KNOWS_TOOLS.index(end) + len(end) :]


@pytest.mark.parametrize(
    ("template", "found"),
    [
        (KNOWS_TOOLS, HERMES),
        (
            calling(ALONE + NAMED),
            Writing("", "(", ")", None),
        ),
        (calling("{{- call.function.name + '(first=1)' }}"), None),
        (calling("{{- '<|im_start|>' }}" + NAMED), None),  # no grammar writes special tokens
        (KNOWS_TOOLS[KNOWS_TOOLS.index("{%- for") :], None),  # shows no tools
        (TEMPLATE, None),
    ],
)
def test_a_models_own_way_to_call_is_found_in_its_chat_template(
    tokenizer: Any, template: str, found: Writing | None
) -> None:
    knowing = copy.deepcopy(tokenizer)
    knowing.chat_template = template
    assert calls.own(knowing) == found
    built = prompt.build(knowing, ASK)
    assert ("takeoff(altitude" in built.prefix) is (found is None)
    assert ('"takeoff"' in built.prefix + built.text) is (found is not None)


def test_lists_that_want_each_item_once_get_it() -> None:
    items = {"type": "array", "items": {"enum": ["a", "b"]}, "uniqueItems": True}
    tools = [tool("f", {"type": "object", "properties": {"x": items}})]
    assert grammar.grammar(replace(ASK, tools=tools), JSON)
    assert calls.read(call("f", x=["a", "b", "a"]), tools, JSON) == [("f", '{"x": ["a", "b"]}')]


@pytest.mark.parametrize(
    ("schema", "shown"),
    [
        ({"enum": ["on", "off"]}, '"on"|"off"'),
        ({"type": "integer", "minimum": 0}, "integer 0.."),
        ({"type": "array", "items": {"type": "string"}}, "[string]"),
        (PLACE["properties"]["coordinates"], "{latitude: number -90..90, longitude: number -180..180}"),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "string|null"),
        (True, "any"),
    ],
)
def test_signatures_are_readable(schema: Any, shown: str) -> None:
    line = prompt.signature(tool("f", {"type": "object", "properties": {"a": schema}}))
    assert line == f"f(a?: {shown}) - "


def test_tiny_model_folder_is_complete(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / "tiny")
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in folder.iterdir()}
