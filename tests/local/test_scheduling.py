"""Requests on their way side by side: who begins when, who waits for whom, and that company changes no answer."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from drone_ft.local import reading, scheduling, weights
from drone_ft.local.decoding import Answer, Decoder
from drone_ft.local.engine import Engine
from drone_ft.local.prompt import ChatRequest, PromptError
from drone_ft.local.scheduling import News, Scheduler
from drone_ft.local.shelf import Shelf, UnknownModel
from tests.local.test_engine import ID, WORDS, add_adapter, ask
from tests.local.tiny import make_tiny_model

TEXT = {"tools": (), "max_tokens": 12}
OTHER = ID.replace("abcd", "efgh")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    folder = make_tiny_model(tmp_path_factory.mktemp("model") / "tiny")
    made = Engine(tmp_path_factory.mktemp("models"), weights.Source("tiny", str(folder), "folder"))
    for name in ("x", "y"):
        add_adapter(made, made._shelf.models_dir / name)
    settings = made._shelf.models_dir / "y" / "settings.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "id": OTHER}))
    return made


@pytest.fixture
def scheduler(engine: Engine) -> Scheduler:
    return engine.scheduler()


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many rows each pass reads, prefixes apart."""
    rows: list[int] = []
    original = reading.Packed.read

    def noted(self: reading.Packed, unread: dict[int, Any]) -> Any:
        if self.beginning:
            rows.append(len(unread))
        return original(self, unread)

    monkeypatch.setattr(reading.Packed, "read", noted)
    yield rows


def run(scheduler: Scheduler) -> dict[int, Answer | Exception]:
    """What becomes of all that is on its way, in the order it ends."""
    ended: dict[int, Answer | Exception] = {}
    while scheduler.busy:
        ended |= last(scheduler.step())
    return ended


def last(news: list[News]) -> dict[int, Answer | Exception]:
    return {told.number: told.answer or told.error for told in news if told.is_last}  # type: ignore[misc]


def test_who_comes_late_is_read_with_the_others_and_may_be_done_first(
    engine: Engine, scheduler: Scheduler, read: list[int]
) -> None:
    long, short = ask(WORDS[0], **TEXT), ask(WORDS[1], **TEXT | {"max_tokens": 2})
    alone = [engine.answer("tiny", [request])[0] for request in (long, short)]
    read.clear()
    first = scheduler.add("tiny", long)
    scheduler.step()
    second = scheduler.add("tiny", short)
    ended = run(scheduler)
    assert [*ended] == [second, first] and [ended[first], ended[second]] == alone
    assert read[:3] == [1, 2, 2] and read[-1] == 1


def swim(request: ChatRequest, name: str = "swim") -> ChatRequest:
    """The same request after another system prompt."""
    return replace(request, messages=[{"role": "system", "content": f"You {name}."}, *request.messages[1:]])


def test_models_and_prefixes_take_turns(engine: Engine, scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [ask(word, **TEXT) for word in WORDS[:2]]
    asked = [(model, request) for model in ("tiny", ID) for request in words] + [("tiny", swim(r)) for r in words]
    alone = [engine.answer(model, [request])[0] for model, request in asked]
    turns: list[int] = []
    lane_read = Scheduler._read
    monkeypatch.setattr(Scheduler, "_read", lambda self, lane: (turns.append(id(lane)), lane_read(self, lane))[1])
    numbers = [scheduler.add(model, request) for model, request in asked]
    ended = last(scheduler.step())
    assert [len(lane.rows) for lane in scheduler._lanes.values()] == [2, 2, 2]
    ended |= run(scheduler)
    assert [ended[number] for number in numbers] == alone
    assert len({*turns[:3]}) == 3 and turns[:3] == turns[3:6]


@pytest.fixture
def loads(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Tuned models as they are loaded; none is at first."""
    for model in (ID, OTHER):
        engine.forget(model)
    found: list[str] = []
    merged = Shelf.merged
    monkeypatch.setattr(Shelf, "merged", lambda self, model: (found.append(model), merged(self, model))[1])
    yield found


def test_a_second_tuned_model_waits_until_the_first_is_done_and_is_not_overtaken_for_ever(
    scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two at a time would take twice the memory. The base model, which is there anyway, holds nobody up."""
    monkeypatch.setattr(scheduling, "TURN", 1000)
    request, long = ask("hello", **TEXT), ask("hello", **TEXT | {"max_tokens": 40})
    first, second, base = (scheduler.add(model, long) for model in (ID, OTHER, "tiny"))
    scheduler.step()
    assert set(scheduler._active) == {first, base}
    early = scheduler.add(ID, request)
    scheduler.step()
    assert set(scheduler._active) == {first, base, early}
    monkeypatch.setattr(scheduling, "TURN", 0)
    late, late_base = scheduler.add(ID, request), scheduler.add("tiny", request)
    scheduler.step()
    assert set(scheduler._active) == {first, base, early, late_base}
    ended = [*run(scheduler)]
    assert ended.index(late_base) < ended.index(first) < ended.index(second) < ended.index(late)


def test_a_heap_of_requests_to_two_tuned_models_loads_each_once(
    scheduler: Scheduler, loads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduling, "TURN", 1000)
    for word in WORDS * 3:
        for model in (ID, OTHER):
            scheduler.add(model, ask(word, **TEXT))
    assert len(run(scheduler)) == 36 and loads == [ID, OTHER]


def test_who_finds_no_room_loads_nothing(
    scheduler: Scheduler, loads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduling, "TOGETHER", 1)
    for model in ("tiny", ID, OTHER, ID):
        scheduler.add(model, ask("hello", **TEXT))
    scheduler.step()
    assert loads == []


@pytest.mark.parametrize("turn", [0, 1000])
def test_a_heap_of_requests_with_more_prefixes_than_lanes_is_read_together(
    scheduler: Scheduler, read: list[int], monkeypatch: pytest.MonkeyPatch, turn: float
) -> None:
    monkeypatch.setattr(scheduling, "TURN", turn)
    monkeypatch.setattr(scheduling, "LANES", 2)
    for word in WORDS * 2:
        for name in ("fly", "swim", "run"):
            scheduler.add("tiny", swim(ask(word, **TEXT), name))
    answers = run(scheduler).values()
    assert len(answers) == 36 and all(isinstance(answer, Answer) for answer in answers)
    if turn:
        assert len(read) < 40 and max(read) == 12


@pytest.mark.parametrize(("limit", "value"), [("TOGETHER", 2), ("TOKENS", 60), ("LANES", 1)])
def test_no_more_begin_than_there_is_room_for(
    scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    monkeypatch.setattr(scheduling, limit, value)
    requests = [ask(word, **TEXT) for word in WORDS[:4]]
    if limit == "LANES":
        requests = [swim(request) if at % 2 else request for at, request in enumerate(requests)]
    numbers = {scheduler.add("tiny", request) for request in requests}
    ended: set[int] = set()
    while scheduler.busy:
        ended |= last(scheduler.step()).keys()
        rows = [row for lane in scheduler._lanes.values() for row in lane.rows.values()]
        assert len(scheduler._lanes) <= scheduling.LANES and len(rows) <= 2
    assert ended == numbers


def test_what_is_too_long_for_the_room_is_read_alone(
    scheduler: Scheduler, read: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduling, "TOKENS", 5)
    for word in WORDS[:2]:
        scheduler.add("tiny", ask(word, **TEXT))
    ended = run(scheduler).values()
    assert len(ended) == 2 and all(isinstance(answer, Answer) for answer in ended) and set(read) == {1}


@pytest.mark.parametrize("older", [0, 1])
def test_a_long_prompt_is_read_in_parts_while_others_go_on(
    engine: Engine, scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch, older: int
) -> None:
    """Whether or not it is the oldest of those on their way."""
    long, short = ask("up and down " * 40, **TEXT), ask("hello", **TEXT | {"max_tokens": 4})
    requests = [ask("up", **TEXT)] * older + [long, short]
    expected = [engine.answer("tiny", [request])[0] for request in requests]
    monkeypatch.setattr(scheduling, "PASS", 20)
    numbers = [scheduler.add("tiny", request) for request in requests]
    ended: dict[int, Any] = {}
    while numbers[-1] not in ended:
        ended |= last(scheduler.step())
    (lane,) = scheduler._lanes.values()
    assert len(lane.rows[numbers[-2]].unread) > 100 and len(ended) == 1
    ended |= run(scheduler)
    assert [ended[number] for number in numbers] == expected


def test_a_long_prompt_gets_on_however_many_short_ones_come(
    scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduling, "PASS", 40)
    long = scheduler.add("tiny", ask("up and down " * 40, **TEXT))
    assert long in with_company(scheduler, lambda: ask("go up and then go down", **TEXT | {"max_tokens": 1}), each=4)


@pytest.mark.parametrize(("limit", "value"), [("LANES", 1), ("TOKENS", 150)])
def test_who_finds_no_room_waits_for_a_turn_at_most(
    scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    monkeypatch.setattr(scheduling, limit, value)
    monkeypatch.setattr(scheduling, "TURN", 0)
    words = "up " * 60 if limit == "TOKENS" else "up"
    for _ in range(2):
        scheduler.add("tiny", ask("up", **TEXT))
    scheduler.step()
    other = scheduler.add("tiny", (ask if limit == "TOKENS" else lambda *a, **b: swim(ask(*a, **b)))(words, **TEXT))
    assert other in with_company(scheduler, lambda: ask("go up", **TEXT), each=1)


def with_company(scheduler: Scheduler, another: Callable[[], ChatRequest], each: int) -> set[int]:
    """Who is answered in 100 passes while up to four others are always on their way, `each` new ones a pass."""
    ended: set[int] = set()
    company: set[int] = set()
    for _ in range(100):
        company |= {scheduler.add("tiny", another()) for _ in range(min(each, 4 - len(company)))}
        ended |= last(scheduler.step()).keys()
        company -= ended
    return ended


def test_a_pass_that_fails_fails_only_those_it_read(
    engine: Engine, scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, other = ask("hello", **TEXT), swim(ask("hello", **TEXT))
    expected = engine.answer("tiny", [kept])[0]
    engine.answer("tiny", [other])  # its prefix is known
    read = reading.Packed.read

    def full(self: reading.Packed, unread: dict[int, Any]) -> Any:
        if doomed in unread:
            raise MemoryError("no room")
        return read(self, unread)

    doomed, alive = scheduler.add("tiny", other), scheduler.add("tiny", kept)
    monkeypatch.setattr(reading.Packed, "read", full)
    ended = run(scheduler)
    assert isinstance(ended[doomed], MemoryError) and ended[alive] == expected


def test_what_goes_wrong_with_one_is_told_and_harms_no_other(
    engine: Engine, scheduler: Scheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose, good = Decoder.choose, ask("hello", **TEXT)
    expected = engine.answer("tiny", [good])[0]

    def broken(self: Decoder, row: Any, scores: Any) -> None:
        if "break" in row.request.messages[-1]["content"]:
            raise ValueError("a matcher that broke")
        choose(self, row, scores)

    monkeypatch.setattr(Decoder, "choose", broken)
    asked = [("nobody", good), ("tiny", ask("up and down " * 2000)), ("tiny", ask("break", **TEXT)), ("tiny", good)]
    numbers = [scheduler.add(model, request) for model, request in asked]
    ended = run(scheduler)
    kinds = [type(ended[number]) for number in numbers]
    assert kinds == [UnknownModel, PromptError, ValueError, Answer] and ended[numbers[-1]] == expected


def test_streams_run_side_by_side(engine: Engine, scheduler: Scheduler) -> None:
    request = ask(WORDS[0], **TEXT)
    text = engine.answer("tiny", [request])[0].text
    numbers = [scheduler.add("tiny", request, streamed=True) for _ in range(2)]
    pieces: list[News] = []
    while scheduler.busy:
        pieces += [news for news in scheduler.step() if news.text]
    assert ["".join(news.text for news in pieces if news.number == number) for number in numbers] == [text, text]
    assert len(pieces) > 4 and [news.number for news in pieces] == numbers * (len(pieces) // 2)


@pytest.mark.parametrize("steps", [0, 1])
def test_what_nobody_wants_any_more_takes_no_place(scheduler: Scheduler, read: list[int], steps: int) -> None:
    kept, dropped = (scheduler.add("tiny", ask(word, **TEXT)) for word in WORDS[:2])
    for _ in range(steps):
        scheduler.step()
    scheduler.drop(dropped)
    read.clear()
    assert [*run(scheduler)] == [kept] and set(read) == {1}
    scheduler.drop(kept)  # that has ended
    assert not scheduler.busy and not scheduler._lanes
