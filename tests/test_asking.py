"""Many requests at once: kept before they are used, none twice, each ending answered or explained."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest

from drone_ft import asking, endpoints
from drone_ft.asking import Answer, Ask, Reply, Tally, ask_all, make_answer
from drone_ft.errors import EndpointRefused, EndpointUnavailable, StoreError
from drone_ft.store import Store
from tests.clock import quick
from tests.scripted import Script, running

AWAY = EndpointUnavailable("The server is away.")


def body(text: str = "yes", cached: int = 0) -> dict[str, Any]:
    return {
        "choices": [{"message": {"role": "assistant", "content": text}}],
        "usage": {
            "prompt_tokens": 1000,
            "completion_tokens": 500,
            "prompt_tokens_details": {"cached_tokens": cached},
        },
    }


def asks(count: int, **more: Any) -> list[Ask]:
    return [
        Ask("http://x/v1", "gpt-4o-mini", {"messages": [{"role": "user", "content": f"ask {n}"}]}, **more)
        for n in range(count)
    ]


def words(ask: Ask) -> str:
    return str(ask.request["messages"][0]["content"])


class Kept:
    """Answers in memory."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}

    def answer(self, key: str) -> Answer | None:
        return self.answers.get(key)

    def keep_answers(self, answers: Sequence[Answer]) -> None:
        self.answers |= {answer.key: answer for answer in answers}


class Model:
    """A model that notes who asks, and how many at once; `fate` may raise."""

    def __init__(self, fate: Any = lambda ask: None, seconds: float = 0.0) -> None:
        self.asked: list[str] = []
        self.most = self.inside = 0
        self._fate, self._seconds, self._lock = fate, seconds, threading.Lock()

    def __call__(self, ask: Ask) -> dict[str, Any]:
        with self._lock:
            self.asked.append(words(ask))
            self.inside += 1
            self.most = max(self.most, self.inside)
        try:
            time.sleep(self._seconds)
            self._fate(ask)
            return body(words(ask))
        finally:
            with self._lock:
                self.inside -= 1


def test_every_answer_is_kept_before_it_is_handed_on_and_none_is_asked_twice() -> None:
    kept, model = Kept(), Model()
    for reply in ask_all(asks(30), model, kept):
        assert kept.answers[reply.ask.key] == reply.answer and reply.answer and reply.answer.text == words(reply.ask)
    assert sorted(model.asked) == sorted(words(ask) for ask in asks(30))
    again = list(ask_all(asks(40), model, kept))
    assert len(model.asked) == 40 and sum(reply.is_new for reply in again) == 10


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({}, {}, True),
        ({"base_url": "http://x/v1/"}, {"base_url": "http://x/v1"}, True),
        ({"purpose": "write"}, {"purpose": "again"}, True),
        ({"base_url": "http://y/v1"}, {}, False),
        ({"model": "other"}, {}, False),
        ({"request": {"n": 1}}, {"request": {"n": 2}}, False),
        ({"request": {"a": 1, "b": 2}}, {"request": {"b": 2, "a": 1}}, True),
        ({"salt": "1"}, {}, False),
    ],
)
def test_a_key_says_where_whom_and_what_was_asked(one: Any, other: Any, same: bool) -> None:
    plain: dict[str, Any] = {"base_url": "http://x/v1", "model": "m", "request": {}}
    assert (Ask(**{**plain, **one}).key == Ask(**{**plain, **other}).key) == same


def test_this_computer_has_the_same_keys_after_each_start() -> None:
    first, second = (endpoints.Endpoint(endpoints.LOCAL, f"http://127.0.0.1:{port}/v1") for port in (1, 2))
    assert asking.where(first) == asking.where(second)


def test_who_asks_the_same_while_it_is_on_the_wire_gets_the_same_answer() -> None:
    model = Model(seconds=0.02)
    replies = list(ask_all(asks(3) * 5, model, Kept()))
    assert len(replies) == 15 and sorted(model.asked) == ["ask 0", "ask 1", "ask 2"]
    assert sum(reply.is_new for reply in replies) == 3


@pytest.mark.parametrize("limit", [1, 5])
def test_the_limit_is_reached_and_never_passed(limit: int) -> None:
    model = Model(seconds=0.01)
    assert len(list(ask_all(asks(20), model, Kept(), limit=limit))) == 20
    assert model.most == limit


def test_the_gate_learns_from_answers_how_many_tokens_a_request_takes() -> None:
    gate = quick()
    list(ask_all(asks(3), Model(), Kept(), gate=gate))
    assert gate.tokens == 1000 + 500


def test_requests_are_read_as_they_are_needed() -> None:
    read: list[int] = []

    def endless() -> Any:
        for n, ask in enumerate(asks(1000)):
            read.append(n)
            yield ask

    replies = ask_all(endless(), Model(), Kept(), limit=2)
    for _ in range(3):
        next(replies)
    time.sleep(0.1)
    assert len(read) < 20
    replies.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("error", [AWAY, EndpointRefused("Too long.", 400), EndpointRefused("Too large.", 413)])
def test_one_that_fails_is_explained_and_the_others_go_on(error: Exception) -> None:
    def fate(ask: Ask) -> None:
        if words(ask) == "ask 3":
            raise error

    model, told = Model(fate), list[Tally]()
    replies = {words(r.ask): r for r in ask_all(asks(20), model, Kept(), tell=told.append, gate=quick())}
    assert len(replies) == 20 and replies["ask 3"].answer is None and replies["ask 3"].reason == str(error)
    assert (told[-1].new, told[-1].unanswered, told[-1].done) == (19, 1, 20)
    assert model.asked.count("ask 3") == (4 if error is AWAY else 1), "an outage is waited for, a refusal is not"


def test_a_server_that_was_away_for_a_moment_has_answered_in_the_end() -> None:
    failed: list[str] = []

    def fate(ask: Ask) -> None:
        if words(ask) not in failed:
            failed.append(words(ask))
            raise AWAY

    assert all(reply.answer for reply in ask_all(asks(10), Model(fate), Kept(), gate=quick()))


@pytest.mark.parametrize("status", [401, 403, 404, 429])
def test_a_refusal_that_would_meet_every_request_stops_at_once(status: int) -> None:
    def fate(ask: Ask) -> None:
        raise EndpointRefused("No.", status)

    model = Model(fate)
    with pytest.raises(EndpointRefused, match="No"):
        list(ask_all(asks(100), model, Kept(), limit=4))
    assert len(model.asked) <= 8


def test_a_server_that_is_away_for_all_is_not_asked_a_thousand_times() -> None:
    def fate(ask: Ask) -> None:
        raise AWAY

    model = Model(fate)
    with pytest.raises(EndpointUnavailable, match=r"20 requests in a row.*is away.*start again"):
        list(ask_all(asks(1000), model, Kept(), gate=quick(4)))
    assert len(model.asked) < 200


def test_who_stops_begins_nothing_new_and_loses_nothing_paid_for() -> None:
    kept, model = Kept(), Model(seconds=0.3)
    started = time.monotonic()
    replies = list(ask_all(asks(100), model, kept, limit=4, stopped=lambda: bool(model.asked)))
    assert time.monotonic() - started < 5
    assert len(kept.answers) == len(model.asked) < 20 and len(replies) <= len(model.asked)


def test_a_word_of_progress_may_raise_and_what_is_on_the_wire_is_kept_all_the_same() -> None:
    kept, model = Kept(), Model(seconds=0.3)

    def tell(tally: Tally) -> None:
        if model.asked:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(ask_all(asks(100), model, kept, limit=4, tell=tell))
    assert len(kept.answers) == len(model.asked) == 4


def test_a_disk_that_refuses_ends_it_all() -> None:
    class Full(Kept):
        def keep_answers(self, answers: Sequence[Answer]) -> None:
            raise StoreError("The disk is full.")

    model = Model()
    with pytest.raises(StoreError, match="full"):
        list(ask_all(asks(100), model, Full(), limit=4))
    assert len(model.asked) <= 12


# Answers and costs


@pytest.mark.parametrize(
    "garbage",
    [{}, {"choices": []}, {"choices": None}, {"choices": [{}]}, {"choices": [{"message": "text"}]}, {"error": "x"}],
)
def test_a_reply_without_an_answer_is_none(garbage: dict[str, Any]) -> None:
    with pytest.raises(EndpointUnavailable, match="without an answer"):
        make_answer(asks(1)[0], garbage)


@pytest.mark.parametrize(
    ("ask", "by_batch", "cached", "cost"),
    [
        (Ask(endpoints.OPENAI_URL, "gpt-4o-mini", {}), False, 0, 0.0009),
        (Ask(endpoints.OPENAI_URL, "gpt-4o-mini", {}), True, 0, 0.00045),
        (Ask(endpoints.OPENAI_URL, "gpt-4o-mini", {}), False, 1000, 0.00075),
        (Ask(endpoints.OPENAI_URL, "nobody-knows", {}), False, 0, None),
        (Ask("http://x/v1", "gpt-4o-mini", {}), False, 0, None),
        (Ask(endpoints.LOCAL, "smollm2", {}), False, 0, 0.0),
    ],
)
def test_what_an_answer_cost(ask: Ask, by_batch: bool, cached: int, cost: float | None) -> None:
    answer = make_answer(ask, body(cached=cached), by_batch)
    assert answer.cost == (None if cost is None else pytest.approx(cost))


def test_costs_of_now_and_of_before_are_told_apart_and_one_unknown_price_makes_the_sum_unknown() -> None:
    ask, unknown = (Ask(endpoints.OPENAI_URL, model, {}) for model in ("gpt-4o-mini", "nobody-knows"))
    tally = Tally().counting(Reply(ask, make_answer(ask, body()), is_new=True))
    tally = tally.counting(Reply(ask, make_answer(ask, body()))).counting(Reply(ask, None, "away"))
    assert (tally.spent, tally.spent_before) == (pytest.approx(0.0009), pytest.approx(0.0009))
    assert (tally.new, tally.kept, tally.unanswered) == (1, 1, 1)
    assert tally.counting(Reply(unknown, make_answer(unknown, body()), is_new=True)).spent is None


def test_a_refusal_in_words_is_the_text() -> None:
    refused = {"choices": [{"message": {"content": None, "refusal": "I can't help with that."}}]}
    assert make_answer(asks(1)[0], refused).text == "I can't help with that."


# A real server


def test_against_a_server_with_trouble_every_request_ends_answered_once_or_explained() -> None:
    store = Store()
    with running(Script(trouble=0.1, hang=5.0, at_once=8)) as server:
        gate = quick(8)
        endpoint = endpoints.Endpoint("scripted", server.base_url, "custom")
        client = endpoints.client(endpoint, timeout=0.5, listen=gate.hear)
        wanted = [Ask(server.base_url, "gpt-4.1-mini", ask.request) for ask in asks(150)]
        replies = list(ask_all(wanted, asking.sender(client, store), store, gate=gate))
        counters = server.state.counters()
        assert counters["troubles"].keys() >= {"429", "500", "garbage", "timeout"}, "there was trouble of every kind"
        assert len(replies) == 150 and all(reply.answer or reply.reason for reply in replies)
        assert sum(reply.answer is not None for reply in replies) >= 148
        assert max(counters["answered"].values()) == 1 and counters["most_under_way"] <= 8
        # Not promised: a request whose answer was lost on the way is asked again, and a real server bills each try.
        assert 1 < max(counters["billed"].values()) <= asking.TRIES
        lost = counters["troubles"]["timeout"] + counters["troubles"]["garbage"]
        assert sum(counters["billed"].values()) == sum(counters["answered"].values()) + lost
        list(ask_all([r.ask for r in replies if r.answer], asking.sender(client, store), store))
        assert server.state.counters()["asked"] == counters["asked"], "what was answered is not asked again"


def test_what_a_model_does_not_accept_is_learned_once() -> None:
    store = Store()
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
    with running() as server:
        client = server.client()
        wanted = [Ask(server.base_url, "llama-plain", {**ask.request, "response_format": form}) for ask in asks(20)]
        assert all(r.answer for r in ask_all(wanted, asking.sender(client, store), store, limit=1))
        assert server.state.statuses["400"] == 2, "one refusal for json_schema, one for json_object"
        assert store.get(server.base_url, "llama-plain")


@pytest.mark.parametrize(
    ("content", "kept"),
    [
        ("half \ud83d of one", "half \ufffd of one"),
        ("whole 😀", "whole 😀"),
        ('{"commands": ["\\ud83d"]}', None),
        ('["\\ud83d\\ude00"]', '["\\ud83d\\ude00"]'),
    ],
    ids=["a half", "a whole one", "a half within the answer's own JSON", "a whole one there"],
)
def test_half_an_emoji_is_kept_as_something_a_database_takes(content: str, kept: str | None) -> None:
    ask = Ask("http://x/v1", "m", {"messages": []})
    body = {"choices": [{"message": {"role": "assistant", "content": content}}]}
    answer = asking.make_answer(ask, body)
    said = answer.text
    assert said.encode() and (kept is None or said == kept)
    if kept is None:
        assert json.loads(said)["commands"][0].encode(), "also once it is read as JSON"
