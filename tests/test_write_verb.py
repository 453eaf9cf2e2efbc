"""`write` from a terminal: whole, with trouble, killed in the middle and started again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from drone_ft import asking, checks
from drone_ft.__main__ import main
from drone_ft.catalog import default_catalog
from drone_ft.synthesis.by_model import choose
from tests import people
from tests.scripted import Script, Server, running

ROOT = Path(__file__).parents[1]
KEY = "sk-of-a-test-0123456789"
CALLS, FUNCTIONS, BLANKS = 49, 15, 12
REQUESTS = CALLS + FUNCTIONS + BLANKS  # when every answer is good at once


def arguments(server: Server, out: Path, *more: str) -> list[str]:
    given = ["write", "--model", "gpt-4.1-mini", "--base-url", server.base_url, "--out", str(out), "--json"]
    return [*given, "--at-once", "16", *more]


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def test_a_model_writes_the_files_and_a_second_time_nothing_is_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(Script(answer=people.answer, key=KEY)) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        assert main(arguments(server, tmp_path / "a")) == 0
        told = json.loads(capsys.readouterr().out)
        assert told["asked"] == REQUESTS == sum(server.state.asked.values()) and told["cost"] > 0
        assert told["train"] + told["test"] + told["left_out"] == 2 * CALLS + 3 * FUNCTIONS and told["left_out"] == 0
        assert main(arguments(server, tmp_path / "b")) == 0
        assert json.loads(capsys.readouterr().out) == {**told, "asked": 0, "kept": REQUESTS, "cost": 0.0}
        assert sum(server.state.asked.values()) == REQUESTS
        assert main(arguments(server, tmp_path / "c", "--seed", "1")) == 0
        assert sum(server.state.asked.values()) == 2 * REQUESTS, "another seed asks anew"
    for name in ("train.jsonl", "test.jsonl", "ledger.jsonl"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    found = checks.check((tmp_path / "a" / "train.jsonl").read_text())
    assert [finding for finding in found if finding.severity == "error"] == []
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert KEY.encode() not in written, "no key in a file or the database"


def test_with_trouble_every_call_ends_written_or_explained_and_no_answer_is_asked_for_twice(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tenacity.wait_random_exponential.__call__", lambda self, state: 0.0)
    with running(Script(answer=people.answer, trouble=0.1, hang=0.2)) as server:
        assert main(arguments(server, tmp_path)) == 0
        assert len(server.state.troubles) == 4 and max(server.state.answered.values()) == 1
        # Not promised: a request whose answer was lost on the way is asked again, and a real server bills each try.
        assert 1 < max(server.state.billed.values()) <= asking.TRIES
        assert server.state.most_under_way <= 16
    rows = [json.loads(line) for name in ("train", "test") for line in (tmp_path / f"{name}.jsonl").open()]
    called = [row["messages"][-1]["tool_calls"][0]["function"] for row in rows]
    ledger = [json.loads(line) for line in (tmp_path / "ledger.jsonl").open()]
    assert all(left["reason"] for left in ledger)
    for template in choose(default_catalog(), "all"):
        fixed = template.fixed.items()
        mine = [json.loads(call["arguments"]) for call in called if call["name"] == template.function]
        mine += [left["call"]["arguments"] for left in ledger if left["call"]["name"] == template.function]
        assert any(fixed <= {**made}.items() for made in map(_flat, mine)), f"{template.sentence()} is lost"


def _flat(arguments: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in arguments.items() if not isinstance(value, dict)}


@pytest.mark.skipif(os.name == "nt", reason="kill -9 is a Unix matter")
def test_killed_in_the_middle_it_asks_only_what_is_missing(tmp_path: Path) -> None:
    with running(Script(answer=people.answer, latency=0.1)) as server:
        command = [sys.executable, "-m", "drone_ft", *arguments(server, tmp_path, "--at-once", "4")]
        child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + 60
        while sum(server.state.answered.values()) < 30 and time.monotonic() < until:
            time.sleep(0.01)
        child.send_signal(signal.SIGKILL)
        child.wait()
        before = sum(server.state.answered.values())
        assert 30 <= before < REQUESTS and not (tmp_path / "train.jsonl").exists()
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        told = json.loads(done.stdout)
        assert told["kept"] >= before - 4, "at most the answers still on the wire are lost"
        assert told["kept"] + told["asked"] == REQUESTS and told["left_out"] == 0
        twice = [words for words, count in server.state.answered.items() if count > 1]
        assert len(twice) <= 4 and max(server.state.answered.values()) <= 2


@pytest.mark.parametrize(
    ("script", "more", "words"),
    [
        (Script(key="another-key-entirely"), [], "status 401"),
        (Script(), ["--model", "nobody"], "nobody"),
        (Script(), ["--model", ""], "Name it with --model"),
        (Script(answer=lambda body: "no"), ["--catalog", "missing.json"], "missing.json"),
    ],
)
def test_trouble_that_meets_everything_is_one_sentence(
    script: Script, more: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with running(script) as server:
        assert main(arguments(server, tmp_path / "out", *more)) == 1
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert words in said and KEY not in said and sum(server.state.asked.values()) <= 20
    assert not (tmp_path / "out").exists()
