"""The Batch API: submitted once, followed to its end, collected whole or in part."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from drone_ft import batches
from drone_ft.asking import Ask, ask_all, sender
from drone_ft.batches import Batch, Open
from drone_ft.endpoints import upload
from drone_ft.errors import EndpointRefused, EndpointUnavailable, WorkCancelled
from drone_ft.store import Store
from tests.scripted import Script, Server, running


def asks(server: Server, count: int = 10) -> list[Ask]:
    return [
        Ask(server.base_url, "gpt-4.1-mini", {"messages": [{"role": "user", "content": f"ask {n}"}]})
        for n in range(count)
    ]


def entry(wanted: list[Ask]) -> Open:
    """What is written down of a batch; nothing more is needed to collect it."""
    return Open("t", wanted[0].base_url, wanted[0].model, "write", tuple(ask.key for ask in wanted))


def sent(server: Server, wanted: list[Ask], tag: str = "t") -> tuple[openai.OpenAI, Batch]:
    client = server.client()
    return client, batches.submit(client, uploaded(client, wanted), tag)


def uploaded(client: openai.OpenAI, wanted: list[Ask]) -> str:
    return upload(client, "requests.jsonl", "".join(batches.lines(wanted, {})), "batch")


def follow(client: openai.OpenAI, batch: Batch, **more: Any) -> tuple[Batch, list[Batch]]:
    seen: list[Batch] = []
    return batches.follow(client, batch.id, seen.append, wait=lambda seconds: None, **more), seen


def test_a_batch_is_followed_collected_and_then_nothing_is_left_to_ask() -> None:
    store = Store()
    with running() as server:
        wanted = asks(server)
        client, batch = sent(server, wanted)
        over, seen = follow(client, batch)
        assert over.status == "completed" and (over.done, over.total) == (10, 10) and seen[-1] == over
        assert batches.collect(client, over, entry(wanted), store) == {}
        replies = list(ask_all(wanted, sender(client, store), store))
        assert all(reply.answer and reply.answer.by_batch and not reply.is_new for reply in replies)
        assert "POST /v1/chat/completions" not in server.state.requests


@pytest.mark.parametrize("ending", ["expired", "cancelled"])
def test_what_an_expired_or_cancelled_batch_had_done_is_kept_and_only_the_rest_is_asked(ending: str) -> None:
    store = Store()
    with running(Script(finishes=0.6)) as server:
        wanted = asks(server)
        client, batch = sent(server, wanted)
        over, _ = follow(client, batch, ends_early=ending == "cancelled")
        assert over.status == ending
        reasons = batches.collect(client, over, entry(wanted), store)
        done = 6 if ending == "expired" else 3
        assert len(reasons) == 10 - done and all(ending in reason for reason in reasons.values())
        replies = list(ask_all(wanted, sender(client, store), store))
        assert all(reply.answer for reply in replies)
        assert server.state.requests["POST /v1/chat/completions"] == 10 - done
        assert max(server.state.answered.values()) == 1, "none is paid for twice"


def test_single_failures_in_a_batch_have_their_own_reasons() -> None:
    store = Store()
    with running(Script(trouble=0.4, seed=3)) as server:
        wanted = asks(server)
        client, batch = sent(server, wanted)
        reasons = batches.collect(client, follow(client, batch)[0], entry(wanted), store)
        assert 0 < len(reasons) < 10 and all("status 500" in reason for reason in reasons.values())
        assert sum(store.answer(ask.key) is not None for ask in wanted) == 10 - len(reasons)


@pytest.mark.parametrize("tags", [True, False])
def test_a_batch_is_found_by_its_tag_or_its_file_and_not_finding_it_proves_nothing_to_another_key(tags: bool) -> None:
    with running() as server:
        client, first = sent(server, asks(server), "mine")
        file, later = server.state.batches[first.id]["input_file_id"], uploaded(client, asks(server))
        sent(server, asks(server), "newer")
        if not tags:
            server.state.batches[first.id]["metadata"] = None
        assert batches.find(client, "mine", file) == first and batches.find(client, "other", later) is None
        server.state.batches.clear()
        server.state.files.clear()
        with pytest.raises(EndpointRefused, match="404"):
            batches.find(client, "mine", file)


def test_a_server_that_cannot_say_how_a_batch_is_will_not_be_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: Any) -> Any:
        raise EndpointUnavailable("Not implemented.", 501)

    monkeypatch.setattr(batches, "look", refuse)
    with running() as server, pytest.raises(EndpointUnavailable, match="Not implemented"):
        batches.follow(server.client(), "b", lambda batch: None, lambda seconds: pytest.fail("it is waited for"))


@pytest.mark.parametrize(("made", "listed", "batches_there"), [(True, True, 1), (True, False, 1), (False, True, 0)])
def test_a_creation_without_a_word_is_looked_for_never_repeated(
    made: bool, listed: bool, batches_there: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running() as server:
        client = server.client()
        create = client.batches.create

        def lost(**given: Any) -> Any:
            if made:
                create(**given)
            server.script.key = None if listed else "another"
            raise openai.APITimeoutError(request=None)  # type: ignore[arg-type]

        monkeypatch.setattr(client.batches, "create", lost)
        file = uploaded(client, asks(server))
        if made and listed:
            assert batches.submit(client, file, "t").id == "batch_1"
        else:
            with pytest.raises(EndpointUnavailable):  # never a refusal: perhaps there is one
                batches.submit(client, file, "t")
        assert len(server.state.batches) == batches_there


def test_who_follows_may_be_stopped_and_the_batch_goes_on() -> None:
    def tell(batch: Batch) -> None:
        raise WorkCancelled("stop")

    with running() as server:
        client, batch = sent(server, asks(server))
        with pytest.raises(WorkCancelled):
            batches.follow(client, batch.id, tell)
        assert follow(client, batch)[0].status == "completed"


def test_a_server_that_is_away_is_waited_for_longer_each_time() -> None:
    with running() as server:
        client, batch = sent(server, asks(server))
        server.script.outages, seen, waits = 5, list[Batch](), [0]

        def tell(now: Batch) -> None:
            if not seen or seen[-1] is not now:
                waits.append(0)
            seen.append(now)

        def wait(seconds: float) -> None:
            waits[-1] += int(seconds)

        assert batches.follow(client, batch.id, tell, wait).status == "completed"
        assert waits[1:] == [5, 10, 20, 40, 60, 60, 0] and server.state.statuses["503"] == 5
        assert [now.message for now in dict.fromkeys(seen)] == [batches.AWAY, "", ""]


def test_who_stops_is_heard_while_the_server_is_away() -> None:
    def tell(now: Batch) -> None:
        if now.message == batches.AWAY:
            raise WorkCancelled("stop")

    with running(Script(outages=1000)) as server, pytest.raises(WorkCancelled):
        client, batch = sent(server, asks(server))
        batches.follow(client, batch.id, tell, lambda seconds: None)
    assert server.state.statuses["503"] == 1


def test_a_batch_that_is_over_is_not_asked_to_end_and_one_whose_files_are_gone_says_so() -> None:
    store = Store()
    with running() as server:
        wanted = asks(server)
        client, batch = sent(server, wanted)
        follow(client, batch)
        over, _ = follow(client, batch, ends_early=True)
        assert over.status == "completed" and f"POST /v1/batches/{batch.id}/cancel" not in server.state.requests
        del server.state.files[str(over.output_file)]
        reasons = batches.collect(client, over, entry(wanted), store)
        assert len(reasons) == 10 and all("holds no answer" in reason for reason in reasons.values())


def test_lines_carry_the_key_and_what_the_model_accepts() -> None:
    ask = Ask("http://x/v1", "m", {"messages": [], "max_tokens": 5})
    (line,) = batches.lines([ask, ask], {"max_tokens": "max_completion_tokens"}, {"seed": 1})
    assert json.loads(line) == {
        "custom_id": ask.key,
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": "m", "messages": [], "seed": 1, "max_completion_tokens": 5},
    }


@pytest.mark.parametrize(
    ("most", "most_bytes", "sizes"),
    [(10, 1000, [5]), (2, 1000, [2, 2, 1]), (10, 12, [3, 2]), (10, 2, [1] * 5)],
)
def test_files_are_as_large_as_the_server_takes_and_no_larger(most: int, most_bytes: int, sizes: list[int]) -> None:
    lines = [f"ä{n}\n" for n in range(5)]  # four bytes each
    made = list(batches.parts(iter(lines), most, most_bytes))
    assert [part.count("\n") for part in made] == sizes and "".join(made) == "".join(lines)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"error": {"message": "too late"}}, "too late"),
        ({"error": None, "response": {"status_code": 400, "body": {"error": {"message": "bad"}}}}, "(status 400): bad"),
        ({"error": None, "response": {"status_code": 400, "body": {"error": "bad"}}}, "bad"),
        ({}, "no reason is given"),
        ({"response": {"status_code": 200, "body": {"choices": []}}}, "without an answer"),
        ({"response": {"status_code": 200, "body": "text"}}, "no reason is given"),
    ],
)
def test_lines_without_an_answer_say_why(row: dict[str, Any], reason: str) -> None:
    class Content:
        @property
        def text(self) -> str:
            lines = [json.dumps({"custom_id": ask.key, **row}, ensure_ascii=False), json.dumps({"custom_id": "else"})]
            return "\n".join(["not json", "[]", *lines])

    class Files:
        def content(self, file_id: str) -> Content:
            return Content()

    class Client:
        files = Files()

    ask, store = Ask("http://x/v1", "m", {}), Store()
    done = Batch("b", "completed", output_file="f")
    reasons = batches.collect(Client(), done, entry([ask]), store)  # type: ignore[arg-type]
    assert reason in reasons[ask.key] and store.answer(ask.key) is None
