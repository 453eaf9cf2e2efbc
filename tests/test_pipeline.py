"""The stages joined: what is finished is not done again."""

from __future__ import annotations

import dataclasses
import json
import time
from typing import Any

import pytest

from drone_ft import endpoints, evaluation, pipeline, trainings
from drone_ft.catalog import Call, Catalog, Function, default_catalog
from drone_ft.dataset import Example, make_example
from drone_ft.errors import DatasetError, WorkCancelled
from drone_ft.evaluation import Answer, Case
from drone_ft.fine_tuning import Job
from drone_ft.pipeline import Asked
from drone_ft.store import Store
from drone_ft.work import Progress, Run
from tests.scripted import Script, running

CASES = [Case("up", Call("takeoff_drone", {"altitude": 5})), Case("sing", Call("reject_request", {}))]

HERE = endpoints.Endpoint(endpoints.LOCAL, "http://x/v1")
CLIENTS: Any = {"base": "the base's client", "tuned": "the tuned one's"}
ASKED = {role: Asked(HERE, client, role) for role, client in CLIENTS.items()}


@pytest.mark.parametrize(
    ("changed", "again"),
    [
        ("nothing", ["tuned: sing"]),
        ("catalog", ["base: sing", "base: up", "tuned: sing", "tuned: up"]),  # the same words may deserve another call
        ("cases", ["base: land", "tuned: land"]),
    ],
)
def test_an_evaluation_broken_off_asks_only_what_was_not_answered(
    changed: str, again: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def ask(client: Any, model: str, _catalog: Any, prompt: str, *, memory: Any) -> Answer:
        assert client == CLIENTS[model]
        breaks = f"{model}: {prompt}" == "tuned: sing" not in asked
        asked.append(f"{model}: {prompt}")
        if breaks:
            time.sleep(0.3)  # the other answer is there by then
            raise WorkCancelled("cancelled")
        return Answer(prompt, Call("reject_request", {}), seconds=0.5)

    monkeypatch.setattr(evaluation, "ask", ask)
    store, catalog, cases = Store(), default_catalog(), CASES
    progress = Progress(Run("r", "evaluate"), store.save_run, lambda: False)
    progress.plan(("base", "Base"), ("tuned", "Tuned"))
    with pytest.raises(WorkCancelled):
        pipeline._evaluate(store, progress, catalog, "cases", cases, ASKED)
    assert sorted(asked) == ["base: sing", "base: up", "tuned: sing", "tuned: up"]
    kept = store.run("r")
    assert kept and len(kept.result["answered"]["tuned"]["answers"]) == 1
    asked[:] = ["tuned: sing"]
    if changed == "catalog":
        catalog = dataclasses.replace(catalog, functions=catalog.functions[1:])
    elif changed == "cases":
        cases = [CASES[0], Case("land", Call("land_drone", {}))]
    report = pipeline._evaluate(store, progress, catalog, "cases", cases, ASKED)
    assert sorted(asked[1:]) == again
    assert store.report(report.id) == report and [a.prompt for a in report.answers["tuned"]] == [
        c.prompt for c in cases
    ]
    assert all(seconds > 0 for seconds in report.seconds.values())
    assert progress.run.result["report_id"] == report.id and not progress.run.result["answered"]
    assert report.endpoints == {"base": endpoints.LOCAL, "tuned": endpoints.LOCAL}


def test_one_name_at_two_endpoints_is_two_models_each_asked_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[str, list[Any]] = {"OpenAI": [], "Mine": []}
    store, name, up = Store(), "gpt-4.1-mini", Call("takeoff_drone", {"altitude": 5})
    store.replace_examples(examples(12, 3))

    def answer(place: str, call: Call) -> Any:
        return lambda body: told[place].append(body["tools"]) or call.to_json()

    refusing, rising = Script(answer=answer("OpenAI", CASES[1].call)), Script(answer=answer("Mine", up))
    with running(refusing) as openai_server, running(rising) as own:
        monkeypatch.setenv("OPENAI_BASE_URL", openai_server.base_url)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-of-a-test")
        store.save_endpoint(endpoints.Endpoint("Mine", own.base_url, "custom"))
        progress = Progress(Run("r", "evaluate"), store.save_run, lambda: False)
        pipeline.evaluate(store, progress, [name, name], pipeline.TEST_SPLIT, ["OpenAI", "Mine"])
    assert [step.status for step in progress.run.steps] == ["done"] * 3
    report = store.report(progress.run.result["report_id"])
    assert report and report.endpoints == {f"{name} (OpenAI)": "OpenAI", f"{name} (Mine)": "Mine"}
    assert [report.called(model) for model in report.models] == [name, name]
    assert [report.possible(model) for model in report.models] == [(0, 3), (3, 3)]
    learnt = pipeline.approved(store.examples())
    for place, target in (("OpenAI", "openai"), ("Mine", "custom")):
        row = json.loads(pipeline.training_files(learnt, default_catalog(), target)[0].split("\n")[0])
        assert told[place] == [row["tools"]] * 3, "sent the functions that a training there sends"
    assert '"if":' not in json.dumps(told["OpenAI"]) and '"if":' in json.dumps(told["Mine"])


def test_the_demo_hands_its_seed_and_catalog_to_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    handed: list[Any] = []

    def train(*given: Any) -> Job:
        handed.append(given[-4:-2])
        raise WorkCancelled("cancelled")

    store = Store()

    def start() -> endpoints.Endpoint:
        store.set_catalog(Catalog("coffee", "", (Function("brew", ""),)))  # loaded in another tab meanwhile
        return endpoints.Endpoint(endpoints.LOCAL, "http://x/v1")

    monkeypatch.setattr(endpoints, "local_endpoint", start)
    monkeypatch.setattr(pipeline, "base_model", lambda client: "base")
    monkeypatch.setattr(trainings, "train", train)
    with pytest.raises(WorkCancelled):
        pipeline.demo(store, Progress(Run("r", "demo"), store.save_run, lambda: False), seed=7)
    assert handed == [(7, "drone")]


UP = Call("takeoff_drone", {"altitude": 5})


def examples(learn: int, aside: int, status: str = "approved", call: Call = UP) -> list[Example]:
    """Examples without twins: some to learn from, not yet dealt out; some kept aside."""
    names = [f"{chr(97 + n // 26)}{chr(97 + n % 26)}" for n in range(learn + aside)]
    return [
        make_example(f"up {x}", call, status=status, split=None if n < learn else "test") for n, x in enumerate(names)
    ]


def test_examples_to_learn_from_are_those_approved_and_not_kept_aside() -> None:
    good = pipeline.approved([*examples(10, 4), *examples(3, 0, "draft")])
    assert [e.split for e in good] == ["train"] * 10 + ["test"] * 4
    assert pipeline.is_enough(good) and not pipeline.is_enough(good[1:])


@pytest.mark.parametrize(("learn", "aside"), [(0, 0), (9, 0), (9, 5)])
def test_too_few_examples_to_learn_from_are_named_with_what_to_do(learn: int, aside: int) -> None:
    words = f"learn from: {learn}, and {aside} kept aside.*at least 10.*write more, or approve drafts"
    with pytest.raises(DatasetError, match=words):
        pipeline.approved(examples(learn, aside))


def test_a_training_on_too_few_examples_never_reaches_the_server() -> None:
    store = Store()
    store.replace_examples(examples(9, 5))
    with pytest.raises(DatasetError, match="at least 10"):
        pipeline.tune(store, Progress(Run("r", "tune"), store.save_run, lambda: False))
