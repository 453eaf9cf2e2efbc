"""`python -m drone_ft serve` as a process: real engine and training on a tiny model, ports, signals, idling."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import openai
import pytest

from tests.local.tiny import make_tiny_model

ROOT = Path(__file__).resolve().parents[2]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "takeoff_drone",
            "description": "Start the drone.",
            "parameters": {
                "type": "object",
                "properties": {"altitude": {"type": "integer", "minimum": 1, "maximum": 500}},
                "required": ["altitude"],
            },
        },
    },
    {"type": "function", "function": {"name": "reject_request", "description": "", "parameters": {"type": "object"}}},
]  # fmt: skip


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


class Process:
    """A server process and its workspace."""

    def __init__(self, workspace: Path, model: Path, *options: str, port: int = 0) -> None:
        self.note = workspace / "engine" / "server.json"
        self.note.unlink(missing_ok=True)
        self.child = subprocess.Popen(
            [sys.executable, "-m", "drone_ft", "serve", "--port", str(port), *options],
            cwd=ROOT,
            env={**os.environ, "DRONE_FT_WORKSPACE": str(workspace), "DRONE_FT_MODEL": str(model)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.child.kill()
        self.child.communicate()

    def answering(self) -> openai.OpenAI:
        wait_for(lambda: self.note.exists() or self.child.poll() is not None)
        self.told = json.loads(self.note.read_text())
        return openai.OpenAI(base_url=self.told["base_url"], api_key="local", max_retries=0)

    def ended(self):
        out, err = self.child.communicate(timeout=20)
        return self.child.returncode, out, err


def wait_for(check, seconds=60.0):
    deadline = time.monotonic() + seconds
    while not (found := check()):
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)
    return found


def rows(count=12):
    for altitude in range(1, count + 1):
        function = {"name": "takeoff_drone", "arguments": json.dumps({"altitude": altitude})}
        call = {"id": "c", "type": "function", "function": function}
        messages = [
            {"role": "user", "content": f"take off to {altitude} metres"},
            {"role": "assistant", "tool_calls": [call]},
        ]
        yield json.dumps({"messages": messages, "tools": TOOLS, "parallel_tool_calls": False})


def test_from_rows_to_a_tuned_model_that_answers_even_when_the_server_is_killed_on_the_way(tiny, tmp_path):
    def ask(client, model):
        message = [{"role": "user", "content": "take off to 7 metres"}]
        return client.chat.completions.create(model=model, messages=message, tools=TOOLS, tool_choice="required")

    with Process(tmp_path, tiny) as first:
        client, base = first.answering(), first.told["model"]
        assert [model.id for model in client.models.list()] == [base]
        sent = client.files.create(file=("train.jsonl", "\n".join(rows()).encode()), purpose="fine-tune")
        settings = {"n_epochs": 3, "batch_size": 4}
        job = client.fine_tuning.jobs.create(model=base, training_file=sent.id, suffix="demo", hyperparameters=settings)
        reply = ask(client, base)
        call = reply.choices[0].message.tool_calls[0].function
        assert call.name in ("takeoff_drone", "reject_request") and isinstance(json.loads(call.arguments), dict)
        assert reply.usage.prompt_tokens > 10 and reply.usage.completion_tokens > 1
        words = client.chat.completions.create(
            model=base,
            messages=[{"role": "user", "content": "drone"}],
            max_tokens=5,
            stream=True,
            stream_options={"include_usage": True},
        )
        assert list(words)[-1].usage.completion_tokens <= 5
        wait_for(lambda: client.fine_tuning.jobs.checkpoints.list(job.id).data)
        first.child.send_signal(signal.SIGKILL)
        first.ended()
    with Process(tmp_path, tiny) as second:
        client = second.answering()
        done = wait_for(lambda: (now := client.fine_tuning.jobs.retrieve(job.id)).finished_at and now)
        assert (done.status, done.error) == ("succeeded", None)
        assert [checkpoint.step_number for checkpoint in client.fine_tuning.jobs.checkpoints.list(job.id)] == [9, 6, 3]
        assert ask(client, done.fine_tuned_model).choices[0].message.tool_calls
        kept = client.fine_tuning.jobs.checkpoints.list(job.id).data[0].fine_tuned_model_checkpoint
        assert ask(client, kept).choices[0].message.tool_calls
        assert client.models.delete(done.fine_tuned_model).deleted
        second.child.send_signal(signal.SIGTERM)
        second.ended()
        assert not second.note.exists()


def test_a_port_in_use_and_a_second_server_are_one_sentence_and_exit_code_2(tiny, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with Process(tmp_path, tiny, port=taken.getsockname()[1]) as server:
            code, _, said = server.ended()
    assert code == 2 and "in use" in said and "--port" in said and len(said.splitlines()) == 1
    with Process(tmp_path, tiny) as server:
        url = server.answering().base_url
        note = server.note.read_text()
        second = Process(tmp_path / ".", tiny)
        server.note.write_text(note)
        with second:
            code, _, said = second.ended()
        assert code == 2 and "already runs" in said and str(url).rstrip("/") in said and len(said.splitlines()) == 1


def test_a_missing_model_is_one_sentence_and_exit_code_2(tmp_path):
    with Process(tmp_path, tmp_path / "nothing") as server:
        code, _, said = server.ended()
    assert code == 2 and "There is no model at" in said and len(said.splitlines()) == 1


def test_it_says_how_to_point_a_client_at_it_and_ends_when_nobody_needs_it(tiny, tmp_path):
    with Process(tmp_path, tiny, "--idle-exit", "1") as server:
        server.answering()
        with pytest.raises(httpx2.TransportError):  # it does not live for those who only look
            for _ in range(100):
                httpx2.get(server.told["base_url"].replace("/v1", "/health"))
                time.sleep(0.1)
        code, said, errors = server.ended()
    assert code == 0 and f"OPENAI_BASE_URL={server.told['base_url']}" in said and errors == ""
    assert not server.note.exists()
