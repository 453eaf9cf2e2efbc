"""Training on a tiny model: it learns, it survives being killed, it can be cancelled, and bad rows are named."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from drone_ft.local import cores, int8, lora, rows, training, weights
from drone_ft.local.engine import Engine
from drone_ft.local.grammar import Grammars
from drone_ft.local.int8 import Int8Matrices
from drone_ft.local.learner import Learner, Recipe
from drone_ft.local.prompt import ChatRequest
from tests.local.test_prompt import TOOLS, tool
from tests.local.tiny import make_other_model, make_tiny_model

SYSTEM = {"role": "system", "content": "You fly."}
FAST_NUMBERS = weights.fast_numbers
PAIRS = [
    ("go up ten", "takeoff", {"altitude": 10}),
    ("go up to twenty", "takeoff", {"altitude": 20}),
    ("photo now", "camera", {"mode": "photo"}),
    ("film for 5 s", "camera", {"mode": "video", "duration": 5}),
    ("what is the weather", "reject", {}),
    ("bake a cake", "reject", {}),
]


@pytest.fixture(autouse=True)
def _in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same on every machine, however busy; what chooses them has tests of its own."""
    monkeypatch.setattr(weights, "fast_numbers", lambda: "float32")


needs_int8 = pytest.mark.skipif(not int8.exact(), reason="int8 products overflow on this CPU, so nothing uses them")


def row(words: str, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    call = {"id": "1", "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}
    return {
        "messages": [SYSTEM, {"role": "user", "content": words}, {"role": "assistant", "tool_calls": [call]}],
        "tools": TOOLS,
    }


BEGINNING = "<|im_start|>system\n<|im_end|>\n<|im_start|>user\n"
ROWS = [row(*pair) for pair in PAIRS] * 2


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


def make_job(folder: Path, model: Path, lines: list[Any] | None = None, **hyperparameters: Any) -> Path:
    folder.mkdir(parents=True)
    job = {
        "id": "ftjob-1",
        "model": str(model),
        "suffix": "x",
        "seed": 3,
        "hyperparameters": {"n_epochs": 2, "batch_size": 4, "learning_rate_multiplier": 10, **hyperparameters},
        "output_model": "ft:tiny:local:x:abcd",
        "output_dir": str(folder.parent / "models" / folder.name),
    }
    (folder / "job.json").write_text(json.dumps(job))
    texts = [line if isinstance(line, str) else json.dumps(line) for line in (ROWS if lines is None else lines)]
    (folder / "train.jsonl").write_text("\n".join(texts) + "\n")
    return folder


def events(folder: Path) -> list[dict[str, Any]]:
    path = folder / "events.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def losses(folder: Path) -> list[float]:
    return [e["data"]["train_loss"] for e in events(folder) if e["message"].startswith("Step")]


@pytest.mark.parametrize(
    ("make", "epochs", "numbers"),
    [
        (make_tiny_model, 24, "float32"),
        pytest.param(make_tiny_model, 24, "int8", marks=needs_int8),
        (make_other_model, 40, "float32"),
    ],
)
def test_it_learns_a_handful_of_rows_by_heart(
    tmp_path: Path, make: Callable[[Path], Path], epochs: int, numbers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "fast_numbers", lambda: numbers)
    model = make(tmp_path / "tiny")
    folder = make_job(tmp_path / "job", model, n_epochs=epochs, learning_rate_multiplier=4)
    (folder / "validation.jsonl").write_text(json.dumps(ROWS[0]) + "\n")
    assert training.main([str(folder)]) == 0
    seen = losses(folder)
    assert seen[-1] < 0.1 < 1 < seen[0]
    assert not (folder / "error.json").exists()
    assert any("int8" in event["message"] for event in events(folder)) == (numbers == "int8")

    engine = Engine(tmp_path / "models", weights.Source("tiny", str(model), "folder"))
    asked = [ChatRequest([SYSTEM, {"role": "user", "content": words}], TOOLS, "required") for words, _, _ in PAIRS]
    answers = engine.answer("ft:tiny:local:x:abcd", asked)
    assert [(a.calls[0][0], json.loads(a.calls[0][1])) for a in answers] == [(n, args) for _, n, args in PAIRS]
    (path,) = (tmp_path / "models").glob("*/settings.json")
    settings = json.loads(path.read_text("utf-8"))
    assert (settings["base"], settings["form"], settings["calls"]) == ("tiny", "turns", "compact")


def test_events_results_and_checkpoints_are_what_the_server_reports(model: Path, tmp_path: Path) -> None:
    folder = make_job(tmp_path / "job", model, n_epochs=4)
    (folder / "validation.jsonl").write_text(json.dumps(ROWS[0]) + "\n")
    assert training.main([str(folder)]) == 0
    metrics = [event["data"] for event in events(folder) if event["type"] == "metrics"]
    steps = [data for data in metrics if "train_mean_token_accuracy" in data]
    assert [data["step"] for data in steps] == list(range(1, 13))
    assert all(data["total_steps"] == 12 and data["seconds_left"] >= 0 for data in metrics)
    assert [data["epoch"] for data in metrics if "valid_loss" in data] == [1, 2, 3, 4]
    lines = (folder / "result.csv").read_text().splitlines()
    assert lines[0] == "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy"
    assert len(lines) == 13
    kept = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert kept == ["epoch-2", "epoch-3", "epoch-4"]


def test_every_step_takes_the_cores_others_leave(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    step = Learner.step
    left = iter([2, *[1, 1], *[2, 1], *[1, 1]])  # while getting ready; for each step and the pause behind it
    monkeypatch.setattr(cores.Share, "threads", lambda self: next(left))
    monkeypatch.setattr(Learner, "step", lambda *args: taken.append(torch.get_num_threads()) or step(*args))
    assert training.main([str(make_job(tmp_path / "job", model, n_epochs=1))]) == 0
    assert taken == [1, 2, 1]


def start(folder: Path) -> subprocess.Popen[bytes]:
    root = Path(__file__).parents[2]
    return subprocess.Popen(
        [sys.executable, "-m", "drone_ft.local.training", str(folder)],
        cwd=root,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.DEVNULL,
    )


def wait_for(folder: Path, words: str, child: subprocess.Popen[bytes], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and child.poll() is None:
        if any(event["message"].startswith(words) for event in events(folder)):
            return
        time.sleep(0.05)
    raise AssertionError(f"no {words!r} among {[event['message'] for event in events(folder)]}")


def test_stopped_in_the_middle_it_resumes_and_ends_with_the_same_weights(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from safetensors.torch import load_file

    whole = make_job(tmp_path / "whole", model, n_epochs=3)
    assert training.main([str(whole)]) == 0
    folder = make_job(tmp_path / "killed", model, n_epochs=3)
    checkpoint = training.Training._checkpoint

    def cancel_after_two(self: training.Training, data: Any, learner: Any, progress: training.Progress) -> None:
        checkpoint(self, data, learner, progress)
        self.cancelled = progress.epoch == 2

    monkeypatch.setattr(training.Training, "_checkpoint", cancel_after_two)
    assert training.main([str(folder)]) == training.CANCELLED
    monkeypatch.setattr(training.Training, "_checkpoint", checkpoint)
    (folder / "checkpoints" / ".epoch-3.unfinished").mkdir()
    assert not (tmp_path / "models" / "killed").exists()
    assert training.main([str(folder)]) == 0
    assert any(event["message"].startswith("Going on after epoch 2") for event in events(folder))
    first, second = (tmp_path / "models" / name / "adapter_model.safetensors" for name in ("whole", "killed"))
    expected, found = load_file(first), load_file(second)
    assert all(torch.allclose(found[name], expected[name], atol=1e-5) for name in expected)
    assert losses(folder) == pytest.approx(losses(whole), rel=1e-3)


@pytest.mark.parametrize(("ends", "step"), [("killed", 4), ("stopped", 6)])
def test_within_its_only_epoch_it_goes_on_from_where_it_was_stopped_or_last_kept(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ends: str, step: int
) -> None:
    from safetensors.torch import load_file

    whole = make_job(tmp_path / "whole", model, n_epochs=1, batch_size=1)
    assert training.main([str(whole)]) == 0
    assert [path.name for path in (whole / "checkpoints").iterdir()] == ["epoch-1"]
    folder = make_job(tmp_path / "again", model, n_epochs=1, batch_size=1)
    report, steps = training.Training._report, []

    def end_at_six(self: training.Training, *more: Any) -> None:
        report(self, *more)
        steps.append(1)
        if len(steps) == 6 and ends == "killed":
            raise SystemExit
        self.cancelled = len(steps) == 6

    monkeypatch.setattr(training.Training, "_report", end_at_six)
    with pytest.raises(SystemExit) if ends == "killed" else contextlib.nullcontext():
        assert training.main([str(folder)]) == training.CANCELLED
    monkeypatch.setattr(training.Training, "_report", report)
    assert training.main([str(folder)]) == 0
    assert any(event["message"].startswith(f"Going on after epoch 0, step {step}") for event in events(folder))
    first, second = (tmp_path / "models" / name / "adapter_model.safetensors" for name in ("whole", "again"))
    expected, found = load_file(first), load_file(second)
    assert all(torch.allclose(found[name], expected[name], atol=1e-5) for name in expected)


def accelerator() -> Any:
    from accelerate import Accelerator

    return Accelerator()


def test_the_process_is_cancelled_by_sigterm_and_goes_on_when_started_again(model: Path, tmp_path: Path) -> None:
    folder = make_job(tmp_path / "job", model, n_epochs=400)
    child = start(folder)
    wait_for(folder, "Step 6/", child)
    child.send_signal(signal.SIGTERM)
    assert child.wait(30) == training.CANCELLED
    assert events(folder)[-1]["message"] == "Stopped"
    assert not (folder / "error.json").exists()
    assert not (tmp_path / "models" / "job").exists()
    child = start(folder)
    wait_for(folder, "Going on after epoch", child)
    child.kill()
    child.wait(30)


@pytest.mark.skipif(os.name == "nt", reason="the exchange between processes is tried on Unix only")
def test_two_processes_learn_as_one(model: Path, tmp_path: Path) -> None:
    one, two = (make_job(tmp_path / name, model, n_epochs=3) for name in ("one", "two"))
    assert training.main([str(one)]) == 0
    root = Path(__file__).parents[2]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    script = ["--main_process_port", "0", str(Path(__file__).with_name("float32_training.py")), str(two)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(root)}
    done = subprocess.run([*launch, *script], env=environment, cwd=root, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    assert losses(two) == pytest.approx(losses(one), rel=1e-3)


def test_it_ends_when_whoever_follows_it_is_gone(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_job(tmp_path / "job", model)
    monkeypatch.setenv(training.FOLLOWER, str(os.getppid()))
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert training.main([str(folder)]) == 0
    folder = make_job(tmp_path / "alone", model)
    monkeypatch.setenv(training.FOLLOWER, str(gone.pid))
    assert training.main([str(folder)]) == training.CANCELLED
    assert not (folder / "error.json").exists()


PLAIN = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]}


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ("{broken", "invalid_training_file", "Line 13 is not JSON"),
        ({"prompt": "x"}, "invalid_training_file", "Line 13, messages: found nothing"),
        ({"messages": [{"role": "user", "content": "hi"}]}, "invalid_training_file", "no assistant message"),
        ({"messages": [{"role": "boss", "content": "hi"}]}, "invalid_training_file", "messages[0].role"),
        (row("up", "fly", {}), "invalid_training_file", 'tool_calls[0].function.name: found "fly"'),
        (
            {"messages": [{"role": "assistant", "function_call": {"name": "f", "arguments": "{"}}]},
            "invalid_training_file",
            "messages[0].function_call.arguments",
        ),
        (
            {"messages": [{"role": "assistant", "content": "x", "weight": 2}]},
            "invalid_training_file",
            "messages[0].weight: found 2, expected 0 or 1",
        ),
        ({**PLAIN, "tools": [{"name": "f"}]}, "invalid_training_file", "tools[0].function"),
        (row("up " * 4000, "reject", {}), "invalid_training_file", "Line 13 is "),
    ],
)
def test_a_bad_row_fails_the_job_with_line_and_field(
    model: Path, tmp_path: Path, line: Any, code: str, words: str
) -> None:
    folder = make_job(tmp_path / "job", model, [*ROWS, line])
    assert training.main([str(folder)]) == 1
    error = json.loads((folder / "error.json").read_text())
    assert error["code"] == code
    assert words in error["message"]
    assert "Traceback" not in error["message"]


def test_too_few_rows_no_file_and_a_bad_validation_file_have_their_own_codes(model: Path, tmp_path: Path) -> None:
    few = make_job(tmp_path / "few", model, ROWS[:9])
    assert (training.main([str(few)]), error_code(few)) == (1, "invalid_n_examples")
    empty = make_job(tmp_path / "empty", model, [])
    assert (training.main([str(empty)]), error_code(empty)) == (1, "invalid_training_file")
    held_out = make_job(tmp_path / "held_out", model)
    (held_out / "validation.jsonl").write_text("[]\n")
    assert (training.main([str(held_out)]), error_code(held_out)) == (1, "invalid_validation_file")
    lost = make_job(tmp_path / "lost", Path("/nowhere"))
    assert (training.main([str(lost)]), error_code(lost)) == (1, "model_not_found")


def error_code(folder: Path) -> str:
    return str(json.loads((folder / "error.json").read_text())["code"])


def test_a_full_disk_fails_the_job_with_a_sentence(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(training, "write_folder", full)
    folder = make_job(tmp_path / "job", model)
    assert training.main([str(folder)]) == 1
    assert "No space left on device" in json.loads((folder / "error.json").read_text())["message"]


@pytest.fixture(scope="module")
def tokenizer(model: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(model)


def read(
    tmp_path: Path, tokenizer: Any, lines: list[dict[str, Any]], grammars: Grammars | None = None
) -> tuple[str, list[rows.Sample]]:
    path = tmp_path / "train.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines))
    found = rows.read_rows(path)
    form, key, system = rows.shared(found)
    settings = training.Settings("ft:x", "x", form, key, system, calls="compact")
    return form, [sample for line in found for sample in rows.samples(tokenizer, line, settings, 4096, grammars)]


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "out_of_memory", "ran out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "out_of_memory", "ran out of memory"),
        (SafetensorError("I/O error: No space left on device (os error 28)"), "disk_error", "No space left"),
        (SafetensorError("header too large"), "model_not_found", "damaged"),
        (RuntimeError("shapes do not match"), "training_failed", "unexpected error"),
    ],
)
def test_what_the_libraries_say_becomes_a_code_and_a_sentence(error: Exception, code: str, said: str) -> None:
    known = training.known(error)
    assert training.failure_code(known) == code and said in training.failure_message(known)


def test_a_model_whose_template_knows_tools_learns_rows_of_several_tools_in_its_own_way(tmp_path: Path) -> None:
    model = make_other_model(tmp_path / "tiny")
    lines = [*ROWS, {**row("look up", "reject", {}), "tools": TOOLS[1:]}]
    assert training.main([str(make_job(tmp_path / "job", model, lines, n_epochs=1))]) == 0
    engine = Engine(tmp_path / "models", weights.Source("tiny", str(model), "folder"))
    for name in ("tiny", "ft:tiny:local:x:abcd"):
        asked = ChatRequest([SYSTEM, {"role": "user", "content": "land"}], TOOLS[-1:], "required")
        answer = engine.answer(name, [asked])[0]
        assert answer.calls == (("reject", "{}"),)
    (path,) = (tmp_path / "models").glob("*/settings.json")
    settings = json.loads(path.read_text("utf-8"))
    assert (settings["form"], settings["calls"]) == ("full", "own")


def test_rows_that_share_everything_are_learnt_without_it_others_with_their_tools(
    tmp_path: Path, tokenizer: Any
) -> None:
    form, turns = read(tmp_path, tokenizer, ROWS)
    assert form == "turns"
    assert tokenizer.decode(turns[0].ids).startswith(BEGINNING + "go up ten<|im_end|>")
    form, full = read(tmp_path, tokenizer, [*ROWS, {**ROWS[0], "tools": TOOLS[:2]}])
    assert form == "full"
    assert "takeoff(altitude: integer 1..500)" in tokenizer.decode(full[0].ids)
    assert len(full[0].targets) == len(turns[0].targets)


def test_only_answers_are_learnt_in_either_form_and_weight_0_is_not(tmp_path: Path, tokenizer: Any) -> None:
    old = {
        "messages": [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": "hello", "weight": 0},
            {"role": "user", "content": "land"},
            {"role": "assistant", "function_call": {"name": "reject", "arguments": "{}"}},
        ],
        "functions": [tool["function"] for tool in TOOLS],
    }
    _, found = read(tmp_path, tokenizer, [old])
    assert len(found) == 1
    assert targets(tokenizer, found[0]) == '{"name":"reject","arguments":{}}<|im_end|>'
    _, plain = read(tmp_path, tokenizer, [PLAIN])
    assert targets(tokenizer, plain[0]) == "hello<|im_end|>"


def targets(tokenizer: Any, sample: rows.Sample) -> str:
    return str(tokenizer.decode([sample.ids[at] for at in sample.targets]))


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("camera", {"mode": "video", "duration": 5}, ["c", "v", "5", "}}"]),
        ("reject", {}, ["reject"]),
        ("takeoff", {"altitude": 500}, ["takeoff", "5", "0", "0", "}}"]),  # beyond its bound a number could go on
    ],
)
def test_with_the_grammar_only_what_it_leaves_open_is_learnt_and_nothing_is_read_behind_it(
    model: Path, tmp_path: Path, tokenizer: Any, name: str, arguments: dict[str, Any], expected: list[str]
) -> None:
    loaded, _ = weights.load(weights.Source("tiny", str(model), "folder"))
    line = {**row("please do", name, arguments), "parallel_tool_calls": False}
    _, (sample,) = read(tmp_path, tokenizer, [line], Grammars(loaded, tokenizer))
    assert sample.targets[-1] == len(sample.ids) - 1
    pieces = [tokenizer.decode([sample.ids[at]]) for at in sample.targets]
    assert pieces == expected


def test_of_several_calls_each_is_learnt_and_where_they_end(model: Path, tmp_path: Path, tokenizer: Any) -> None:
    loaded, _ = weights.load(weights.Source("tiny", str(model), "folder"))
    two = row("please do", "reject", {})
    two["messages"][2]["tool_calls"] *= 2
    _, (sample,) = read(tmp_path, tokenizer, [two], Grammars(loaded, tokenizer))
    assert [tokenizer.decode([sample.ids[at]]) for at in sample.targets] == ["reject", "\n", "reject", "<|im_end|>"]
    _, (alone,) = read(tmp_path, tokenizer, [{**two, "parallel_tool_calls": False}], Grammars(loaded, tokenizer))
    assert not alone.is_open, "more calls than allowed fit no grammar"


def test_tools_that_no_grammar_can_enforce_fail_the_job_and_name_the_line(model: Path, tmp_path: Path) -> None:
    odd = {**row("x", "takeoff", {"altitude": 5}), "tools": [tool("takeoff", {"type": "object", "propertyNames": {}})]}
    folder = make_job(tmp_path / "job", model, [*ROWS, odd])
    assert (training.main([str(folder)]), error_code(folder)) == (1, "invalid_training_file")
    assert "Line 13" in json.loads((folder / "error.json").read_text())["message"]


def test_an_answer_that_fits_no_grammar_is_learnt_whole(model: Path, tmp_path: Path, tokenizer: Any) -> None:
    loaded, _ = weights.load(weights.Source("tiny", str(model), "folder"))
    grammars = Grammars(loaded, tokenizer)
    for line in (PLAIN, row("too fast", "takeoff", {"speed": 5})):
        _, (whole,) = read(tmp_path, tokenizer, [line])
        _, (sample,) = read(tmp_path, tokenizer, [line], grammars)
        assert sample == whole


def learner_for(
    model: Path, found: list[rows.Sample], frozen: float = 0.5, admitted: Sequence[int] = (), *, int8: bool = False
) -> Learner:
    loaded, _ = weights.load(weights.Source("tiny", str(model), "folder"))
    recipe = Recipe(rank=16, alpha=32, dropout=0.0, frozen=frozen, pack_tokens=400, warm_up=0.1)
    given = {"rate": 1e-2, "steps": 10, "seed": 0, "again": found, "admitted": admitted, "int8": int8}
    return Learner(loaded, found, recipe, accelerator(), **given)  # type: ignore[arg-type]


def open_and_whole(model: Path, tmp_path: Path, tokenizer: Any) -> tuple[list[rows.Sample], list[int]]:
    loaded, _ = weights.load(weights.Source("tiny", str(model), "folder"))
    grammars = Grammars(loaded, tokenizer)
    _, whole = read(tmp_path, tokenizer, ROWS)
    _, open_ = read(tmp_path, tokenizer, ROWS, grammars)
    return [*whole[:2], *open_[2:]], grammars.admitted


def test_open_targets_are_chosen_among_what_the_grammar_admits_as_when_answering(
    model: Path, tmp_path: Path, tokenizer: Any
) -> None:
    import torch

    found, admitted = open_and_whole(model, tmp_path, tokenizer)
    assert 5 < len(admitted) < 100
    assert tokenizer.convert_tokens_to_ids("reject") in admitted
    sample = found[2]
    learner = learner_for(model, found, 0.0, admitted)
    plain, _ = weights.load(weights.Source("tiny", str(model), "folder"))
    scores = plain(torch.tensor([sample.ids[:-1]])).logits[0].log_softmax(-1)
    expected = sum(scores[at - 1][admitted].logsumexp(0) - scores[at - 1][sample.ids[at]] for at in sample.targets)
    assert float(learner.loss([sample])[0].detach()) == pytest.approx(float(expected.detach()), rel=1e-4)


def test_a_row_in_so_many_is_learnt_to_its_end_and_what_is_told_is_of_the_others(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_job(tmp_path / "job", model, [*ROWS, *ROWS])
    (folder / "validation.jsonl").write_text(json.dumps(ROWS[0]) + "\n")
    loaded, tokenizer = weights.load(weights.Source("tiny", str(model), "folder"))
    lines = rows.read_rows(folder / "train.jsonl")
    data = training.read_data(folder, lines, training.read_job(folder, 24), loaded, tokenizer)
    assert not any(sample.is_open for sample in data.train), "so few must show that a call is wanted, not text"
    monkeypatch.setattr(training, "LEAST_WHOLE", 1)
    data = training.read_data(folder, lines, training.read_job(folder, 24), loaded, tokenizer)
    assert [sample.is_open for sample in data.train] == [n % training.WHOLE != 0 for n in range(24)]
    assert data.valid[0].is_open
    learner = learner_for(model, data.train, 0.0, data.admitted)
    batch = data.train[:4]
    loss, _ = learner.step(batch, 0)
    told = learner_for(model, data.train, 0.0, data.admitted).measure(batch[1:])
    assert loss == pytest.approx(told[0], rel=1e-4)


@pytest.mark.parametrize("frozen", [0.0, 0.5])
def test_packing_rows_behind_their_common_beginning_gives_each_rows_own_loss_and_gradient(
    model: Path, tmp_path: Path, tokenizer: Any, frozen: float
) -> None:
    import torch

    found, admitted = open_and_whole(model, tmp_path, tokenizer)
    learner = learner_for(model, found[:6], frozen, admitted)
    assert tokenizer.decode(found[0].ids[: learner.shared]) == BEGINNING
    learner.step(found[:6], 0)  # LoRA starts with zero gradients for half its matrices
    together, tally = learner.loss(found[:6])
    together.backward()
    packed = {name: weight.grad.clone() for name, weight in learner.weights.items()}
    learner.optimizer.zero_grad()
    learner.shared = 0
    if learner.lower is not None:
        learner.lower._kept.clear()
    alone = [learner.loss([sample]) for sample in found[:6]]
    for loss, _ in alone:
        loss.backward()
    assert float(together.detach()) == pytest.approx(sum(float(loss.detach()) for loss, _ in alone), rel=1e-4)
    assert tally == pytest.approx([sum(figures) for figures in zip(*(t for _, t in alone), strict=True)], rel=1e-4)
    assert tally[2] and tally[5], "both kinds of targets are there"
    for name, weight in learner.weights.items():
        assert torch.allclose(weight.grad, packed[name], rtol=1e-3, atol=1e-3 * float(weight.grad.abs().max()))


def test_the_short_way_through_lora_is_pefts_own(model: Path, tmp_path: Path, tokenizer: Any) -> None:
    import torch

    _, found = read(tmp_path, tokenizer, ROWS)
    learner = learner_for(model, found)
    learner.step(found[:6], 0)
    gradients = []
    for _ in ("short", "long"):
        loss, _ = learner.loss(found[:6])
        learner.optimizer.zero_grad()
        loss.backward()
        gradients.append({name: weight.grad.clone() for name, weight in learner.weights.items()})
        for module in learner.plain.modules():
            module.__dict__.pop("forward", None)  # peft's own way from here on
    assert lora.speed_up(learner.plain) == len(gradients[0]) // 2
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], rtol=1e-3, atol=1e-5)


@needs_int8
def test_in_int8_losses_and_gradients_are_nearly_those_of_float32(model: Path, tmp_path: Path, tokenizer: Any) -> None:
    import torch

    _, found = read(tmp_path, tokenizer, ROWS)
    losses, gradients = [], []
    for whole in (False, True):
        learner = learner_for(model, found, int8=whole)
        assert learner.rounded == (2 * 7 if whole else 0), "the matrices of a frozen layer and of one with LoRA"
        learner.step(found[:6], 0)
        loss, _ = learner.loss(found[:6])
        loss.backward()
        losses.append(float(loss.detach()))
        gradients.append(torch.cat([weight.grad.flatten() for weight in learner.weights.values()]))
    assert losses[0] != losses[1] and losses[1] == pytest.approx(losses[0], rel=0.02)
    assert float(torch.nn.functional.cosine_similarity(*gradients, dim=0)) > 0.99


@needs_int8
@pytest.mark.parametrize("shape", [(1, 16, 8), (5, 64, 48), (33, 24, 200)], ids=str)
def test_int8_products_are_the_matrixs_but_for_rounding_row_by_row(shape: tuple[int, int, int]) -> None:
    import torch

    rows_, wide, out = shape
    torch.manual_seed(0)
    x, weight, grad = torch.randn(rows_, wide), torch.randn(out, wide), torch.randn(rows_, out)
    matrix = Int8Matrices([weight])
    (forward,), backward = matrix.forward(x), matrix.backward([grad])
    assert torch.linalg.norm(forward - x @ weight.T) < 0.02 * torch.linalg.norm(x @ weight.T)
    assert torch.linalg.norm(backward - grad @ weight) < 0.02 * torch.linalg.norm(grad @ weight)
    x[0] *= 1e4  # an outlier takes nothing from the other rows, nor from rows of nothing
    assert torch.equal(matrix.forward(x)[0][1:], forward[1:])
    assert torch.equal(matrix.forward(torch.zeros(2, wide))[0], torch.zeros(2, out))


@needs_int8
def test_int8_products_of_several_matrices_are_those_of_each() -> None:
    torch.manual_seed(0)
    x, weights_ = torch.randn(5, 16), [torch.randn(out, 16) * out for out in (8, 24)]
    grads = [torch.randn(5, len(weight)) / len(weight) for weight in weights_]
    matrices = Int8Matrices(weights_)
    for result, weight in zip(matrices.forward(x), weights_, strict=True):
        assert torch.linalg.norm(result - x @ weight.T) < 0.02 * torch.linalg.norm(x @ weight.T)
    total = sum(grad @ weight for grad, weight in zip(grads, weights_, strict=True))
    assert torch.linalg.norm(matrices.backward(grads) - total) < 0.03 * torch.linalg.norm(total)


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ({"float32": 1.0, "bfloat16": 0.9, "int8": 0.8}, "float32"),
        ({"float32": 1.0, "bfloat16": 0.5, "int8": 0.9}, "bfloat16"),
        ({"float32": 1.0, "bfloat16": 1.9, "int8": 0.3}, "int8"),
        ({"float32": 1.0, "bfloat16": 1.9, "int8": 0.5}, "float32"),
        ({"float32": 1.0, "bfloat16": 0.2, "int8": 0.15}, "bfloat16"),
        ({"float32": 1.0, "bfloat16": 99.0, "int8": 99.0}, "float32"),
    ],
    ids=str,
)
def test_numbers_are_the_fastest_here_where_that_is_worth_their_rounding(
    seconds: dict[str, float], chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(weights, "_products", lambda: {kind: partial(tried.append, kind) for kind in seconds})
    monkeypatch.setattr(weights, "_seconds", lambda product: (product(), seconds[tried[-1]])[1])
    assert FAST_NUMBERS() == chosen
    assert all(tried.count(kind) == 3 for kind in seconds if seconds[kind] == 99.0), "a hopeless one is not repeated"


@pytest.mark.parametrize("result", [127 * 127 * 64, 65280])
def test_a_cpu_whose_int8_products_overflow_does_not_get_them(result: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "_int_mm", lambda left, right: torch.full((64, 64), result, dtype=torch.int32))
    assert int8.exact() == (result == 127 * 127 * 64) == ("int8" in weights._products())


@pytest.mark.parametrize(
    ("began", "exact", "then"), [("int8", True, "int8"), ("int8", False, "float32"), ("float32", True, "float32")]
)
def test_a_resumed_training_keeps_the_numbers_it_began_with_where_it_can(
    began: str, exact: bool, then: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_job(tmp_path / "job", model, n_epochs=2)
    checkpoint = training.Training._checkpoint

    def cancel_at_once(self: training.Training, data: Any, learner: Any, progress: training.Progress) -> None:
        checkpoint(self, data, learner, progress)
        self.cancelled = True

    used = []
    init = Learner.__init__
    monkeypatch.setattr(
        training.Learner, "__init__", lambda self, *a, **k: (used.append(k["int8"]), init(self, *a, **k))[1]
    )
    monkeypatch.setattr(weights, "fast_numbers", lambda: began)
    monkeypatch.setattr(training.Training, "_checkpoint", cancel_at_once)
    assert training.main([str(folder)]) == training.CANCELLED
    monkeypatch.setattr(weights, "fast_numbers", lambda: "bfloat16")
    monkeypatch.setattr(int8, "exact", lambda: exact)
    monkeypatch.setattr(training.Training, "_checkpoint", checkpoint)
    assert training.main([str(folder)]) == 0
    assert used == [began == "int8", then == "int8"]


def test_lower_layers_that_are_not_learnt_run_once_a_row(model: Path, tmp_path: Path, tokenizer: Any) -> None:
    _, found = read(tmp_path, tokenizer, ROWS[:6])
    losses = []
    for share in (0.0, 0.5):
        learner = learner_for(model, found, share)
        losses.append([float(learner.loss(found)[0].detach()) for _ in range(2)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    assert learner.lower is not None
    calls: list[int] = []
    learner.lower.layers[0]._forward = lambda *_: calls.append(1)
    learner.loss(found[2:4])
    assert calls == []
    assert all(".layers.1." in name for name in learner.weights)
