"""OpenAI's cookbook notebook, step by step with the openai client: only the base URL and the models' names differ."""

import json
import os
from pathlib import Path

import pytest
from openai import OpenAI

from tests.local.test_serving import Process, wait_for
from tests.local.tiny import make_tiny_model

COOKBOOK = json.loads((Path(__file__).resolve().parents[2] / "data" / "catalogs" / "drone_cookbook.json").read_text())
DRONE_SYSTEM_PROMPT = COOKBOOK["system_prompt"]
function_list = [tool.get("function", tool) for tool in COOKBOOK["functions"]]
straightforward_prompts = [
    "Land the drone at the home base",
    "Take off the drone to 50 meters",
    "change speed to 15 kilometers per hour",
    "turn into an elephant!",
]
challenging_prompts = [
    "Play pre-recorded audio message",
    "Initiate live-streaming on social media",
    "Scan environment for heat signatures",
    "Enable stealth mode",
    "Change drone's paint job color",
]
reject_list = [
    "Translate broadcast message to another language",
    "Automatically capture photos when face is detected",
    "Detect nearby drones",
    "Measure wind resistance",
    "Capture slow motion video",
]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("notebook")
    with Process(folder, make_tiny_model(folder / "tiny")) as server:
        server.answering().close()
        yield server


def get_chat_completion(
    client, messages, model="gpt-3.5-turbo", max_tokens=500, temperature=1.0, stop=None, tools=None, functions=None
):
    params = {
        "model": model,
        "messages": messages,
        "max_tokens": max_tokens,
        "temperature": temperature,
        "stop": stop,
        "tools": tools,
    }
    if functions:
        params["functions"] = functions
    return client.chat.completions.create(**params).choices[0].message


def ask(client, prompt, **more):
    messages = []
    messages.append({"role": "system", "content": DRONE_SYSTEM_PROMPT})
    messages.append({"role": "user", "content": prompt})
    return get_chat_completion(client, messages, max_tokens=60, **more)  # a model without sense never ends by itself


def test_the_notebook_runs_as_it_is(server, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", server.told["base_url"])
    monkeypatch.setenv("OPENAI_API_KEY", "local")
    client = OpenAI(api_key=os.environ.get("OPENAI_API_KEY", "<your OpenAI API key if not set as env var>"))
    base = client.models.list().data[0].id
    for prompt in straightforward_prompts:
        completion = ask(client, prompt, model=base, functions=function_list)
        assert completion.tool_calls is None
        assert completion.function_call is None or completion.function_call.name in names(function_list)

    training_examples = []
    for altitude in range(10, 60, 10):
        call = {"name": "takeoff_drone", "arguments": json.dumps({"altitude": altitude})}
        training_examples.append(row(f"Take off the drone to {altitude} meters", call))
    reject_training_list = [row(prompt, {"name": "reject_request", "arguments": "{}"}) for prompt in reject_list]
    training_file = tmp_path / "drone_training.jsonl"
    with open(training_file, "w") as f:  # noqa: PTH123 - as the notebook has it
        for item in training_examples + reject_training_list:
            f.write(f"{json.dumps(item)}\n")

    with open(training_file, "rb") as opened:  # noqa: PTH123
        file = client.files.create(file=opened, purpose="fine-tune")
    ft = client.fine_tuning.jobs.create(model=base, training_file=file.id)
    done = wait_for(lambda: (now := client.fine_tuning.jobs.retrieve(ft.id)).finished_at and now)
    assert done.status == "succeeded", done.error

    for eval_question in challenging_prompts:
        completion = ask(client, eval_question, model=done.fine_tuned_model, functions=function_list)
        if completion.function_call:  # at temperature 1 a tiny model may also say something
            assert completion.function_call.name in names(function_list)
            json.loads(completion.function_call.arguments)
    tools = [{"type": "function", "function": function} for function in function_list]
    learnt = ask(client, reject_list[0], model=done.fine_tuned_model, tools=tools, temperature=0)
    assert [call.function.name for call in learnt.tool_calls] == ["reject_request"]


def row(prompt, call):
    return {
        "messages": [
            {"role": "system", "content": DRONE_SYSTEM_PROMPT},
            {"role": "user", "content": prompt},
            {"role": "assistant", "function_call": call},
        ],
        "functions": function_list,
    }


def names(functions):
    return {function["name"] for function in functions}
