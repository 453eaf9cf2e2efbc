"""The terminal verbs as a person types them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from drone_ft import checks, dataset, fine_tuning
from drone_ft.__main__ import main
from drone_ft.catalog import default_catalog
from drone_ft.dataset import make_example
from drone_ft.endpoints import Endpoint
from drone_ft.store import Store
from tests.scripted import Script, running
from tests.test_pipeline import examples

ROOT = Path(__file__).parents[1]


def test_calls_are_counted_and_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calls", "--catalog", "data/catalogs/drone_cookbook.json", "--count"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].split() == ["56", "in", "all"]
    assert main(["calls"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len({json.dumps(line, sort_keys=True) for line in lines}) == len(lines) == 49


def test_prepare_then_check_and_the_same_seed_gives_the_same_bytes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("a", "b"):
        assert main(["prepare", "--out", str(tmp_path / folder), "--seed", "5"]) == 0
    for name in ("train.jsonl", "test.jsonl"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
        assert main(["check", str(tmp_path / "a" / name)]) == 0
    assert main(["prepare", "--out", str(tmp_path / "c"), "--seed", "6", "--form", "functions"]) == 0
    assert '"function_call"' in (tmp_path / "c" / "train.jsonl").read_text()
    assert main(["check", str(tmp_path / "c" / "train.jsonl")]) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["check", "missing.jsonl"], "missing.jsonl was not read"),
        (["calls", "--catalog", "missing.json"], "missing.json"),
        (["tune", "bad.jsonl"], "bad.jsonl cannot be trained on. line 1"),
        (["tune", "missing.jsonl"], "missing.jsonl was not read"),
        (["evaluate", "--cases", "missing.jsonl", "--models", "a"], "missing.jsonl"),
        (["prepare", "--out", "bad.jsonl/below"], "was not written"),
        (["tune", "good.jsonl", "--base-url", "https://api.example.com/v1"], "OPENAI_API_KEY is not set"),
    ],
)
def test_trouble_is_one_sentence_and_exit_code_1(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    main(["prepare", "--out", str(tmp_path)])
    (tmp_path / "train.jsonl").rename(tmp_path / "good.jsonl")
    (tmp_path / "bad.jsonl").write_text('{"messages": []}\n' * 12)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("drone_ft.endpoints.local_endpoint", lambda: Endpoint("this computer", "http://127.0.0.1:9/v1"))
    capsys.readouterr()
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert words in error and "Traceback" not in error and len(error.strip().splitlines()) == 1


@pytest.mark.parametrize(("model", "cost"), [("gpt-4.1-mini", "about $0.0"), ("llama-plain", "price unknown.")])
def test_write_says_what_it_takes_before_it_asks_anything(
    model: str, cost: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-no-such-key-0123456789")
    with running(Script(key="another")) as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        more = ["--model", model, "--base-url", server.base_url, "--commands", "1"]
        assert main(["write", "--out", str(tmp_path / "out"), *more]) == 1
    first, *_, last = capsys.readouterr().err.strip().splitlines()
    assert re.match(rf"{model} will be sent about \d+ requests, about [\d,]+ tokens, {re.escape(cost)}", first)
    assert "status 401" in last, "and then nothing was written"


def test_check_names_every_line_in_trouble(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.jsonl").write_text('{"messages": []}\nnonsense\n')
    assert main(["check", str(tmp_path / "x.jsonl")]) == 1
    out = capsys.readouterr().out
    assert "x.jsonl, line 1, messages" in out and "x.jsonl, line 2, column 1" in out


@pytest.mark.parametrize("target", checks.TARGETS)
def test_check_fails_on_errors_of_the_target_and_not_on_warnings(
    target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["prepare", "--out", str(tmp_path)])
    capsys.readouterr()
    code = main(["check", str(tmp_path / "test.jsonl"), "--for", target])
    lines = capsys.readouterr().out.splitlines()
    warnings = [line for line in lines if line.startswith("warning: test.jsonl, line ")]
    assert "control_gimbal has tilt -90" in warnings[0]
    if target == "local":
        assert code == 0 and [*warnings, "test.jsonl can be trained on."] == lines
    else:
        assert code == 1 and lines[0].startswith("test.jsonl, line 1, tools[1].function.parameters: land_drone uses if")
        assert not lines[-1].endswith("can be trained on.")


LEFT_OUT = "takes no rules such as “this value only with that one”: they are left out"


def test_openai_is_sent_no_rules_it_refuses_neither_in_training_nor_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train, told = tmp_path / "train.jsonl", list[str]()
    train.write_text(dataset.to_jsonl(examples(12, 0), default_catalog()))
    before = train.read_bytes()
    (tmp_path / "cases.jsonl").write_text('{"prompt": "sing", "call": {"name": "reject_request", "arguments": {}}}\n')
    monkeypatch.setattr(fine_tuning, "follow", lambda client, job, *given: job)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-a-test-0815")

    def answer(body: dict[str, Any]) -> dict[str, Any]:
        told.append(json.dumps(body["tools"]))
        return {"name": "reject_request", "arguments": {}}

    with running(Script(answer=answer)) as server:
        capsys.readouterr()
        there = ["--base-url", server.base_url]
        assert main(["tune", str(train), "--model", "gpt-4o-mini", *there]) == 0
        assert capsys.readouterr().err.count(LEFT_OUT) == 1 and train.read_bytes() == before
        sent = server.state.files["file-1"][1].decode()
        asked = ["--cases", str(tmp_path / "cases.jsonl"), "--models", "gpt-reasoning", *there]
        assert main(["evaluate", *asked]) == 0
    assert Store().get(server.base_url, "gpt-reasoning"), "what a model takes is remembered"
    assert '"if"' in before.decode() and '"if"' not in sent
    assert told and {json.dumps(json.loads(sent.split("\n")[0])["tools"])} == set(told)


@pytest.mark.parametrize(("key", "words"), [("sk-of-a-test-0815", "--for openai"), ("", "")])
def test_what_a_service_cannot_use_stops_before_the_upload(
    key: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train = tmp_path / "train.jsonl"
    rows = examples(12, 0)
    if key:
        rows[3] = make_example("up " * 120_000, rows[3].call)
    train.write_text(dataset.to_jsonl(rows, default_catalog()))
    monkeypatch.setattr(fine_tuning, "follow", lambda client, job, *given: job)
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with running() as server:
        code = main(["tune", str(train), "--model", "gpt-4o-mini", "--base-url", server.base_url])
        assert (code, len(server.state.files)) == ((1, 0) if key else (0, 1))
        uploaded = [content for _, content in server.state.files.values()]
    error = capsys.readouterr().err
    assert words in error and LEFT_OUT not in error
    assert key or uploaded == [train.read_bytes()], "a server of one's own is sent the file as it is"


def test_a_reader_that_leaves_early_is_no_failure() -> None:
    command = f"{sys.executable} -m drone_ft calls | head -1"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, env=dict(os.environ))
    assert done.stderr == "" and len(done.stdout.splitlines()) == 1


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    out = capsys.readouterr().out
    assert ended.value.code == 0
    assert all(verb in out for verb in ("calls", "prepare", "check", "serve", "tune", "evaluate", "demo"))
