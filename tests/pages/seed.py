"""A workspace as a person leaves it: examples, a finished training, a report; written straight into the store."""

from __future__ import annotations

import functools
import time

from drone_ft import dataset, evaluation, pipeline, synthesis, work
from drone_ft.catalog import Call, default_catalog
from drone_ft.evaluation import Answer, Case, Report
from drone_ft.fine_tuning import Job
from drone_ft.store import Store

BASE, TUNED = "smollm2-135m-instruct", "ft:smollm2-135m-instruct:local:drone-demo:a1b2c3"
HOSTED = "ft:gpt-4.1-mini:scripted:my-drone:7"
KEY = "sk-a-key-of-a-test-0815"
NOW = time.time()


def examples(store: Store, most: int | None = None) -> list[dataset.Example]:
    """The drone examples, split; `most` keeps only the first ones."""
    written = _written()[:most]
    store.replace_examples(written)
    return written


@functools.cache
def _written() -> list[dataset.Example]:
    return dataset.split(synthesis.write_examples(default_catalog()).examples)


def job(store: Store, status: str = "succeeded", suffix: str = "drone-demo", id: str = "job1") -> Job:
    """A training with a falling loss."""
    events = [
        {"id": f"e{step}", "created": NOW, "type": "metrics", "message": f"Step {step}/60", "data": metrics(step)}
        for step in range(1, 61)
    ]
    tuned = TUNED if status == "succeeded" else None
    message = "The training ran out of memory." if status == "failed" else ""
    over = None if status == "running" else NOW - 60
    made = Job(
        id=id,
        endpoint="this computer",
        endpoint_job_id=f"ftjob-{id}",
        model=BASE,
        suffix=suffix,
        epochs=3,
        status=status,
        created=NOW - 400,
        tuned_model=tuned,
        message=message,
        finished=over,
        seconds_left=120.0,
        last_loss=0.23,
        examples=446,
        events=events,
    )
    store.save_job(made, "{}\n" * 446, "{}\n" * 79)
    return made


def hosted_job(store: Store, status: str = "succeeded", endpoint_job_id: str = "ftjob-1") -> Job:
    """A training at a service, with what it cost."""
    made = Job(
        id="hosted",
        endpoint="OpenAI",
        endpoint_job_id=endpoint_job_id,
        model="gpt-4.1-mini",
        suffix="my-drone",
        epochs=3,
        status=status,
        created=NOW - 4000,
        tuned_model=HOSTED if status == "succeeded" else None,
        finished=NOW - 3000 if status == "succeeded" else None,
        examples=131,
        catalog="drone",
        seed=7,
        hyperparameters={"n_epochs": 3, "batch_size": 1},
        trained_tokens=562_000,
        cost=2.81,
    )
    store.save_job(made, '{"train": 1}\n', '{"test": 1}\n')
    return made


def metrics(step: int) -> dict[str, float]:
    """What a training tells at a step; validation at the end of each of three epochs."""
    point = {"step": step, "total_steps": 60, "train_loss": 0.15 + 2.2 * 0.93**step}
    return point | ({"valid_loss": 0.2 + 2.1 * 0.93**step} if step % 20 == 0 else {})


def report(store: Store, id: str = "report1") -> Report:
    """Base mostly wrong, tuned mostly right, on the drone cases."""
    cases = evaluation.read_cases(pipeline.CASES / "drone.jsonl")
    answers = {
        BASE: [Answer(c.prompt, _wrong(c, i), seconds=0.3) for i, c in enumerate(cases)],
        TUNED: [Answer(c.prompt, c.call if i % 12 else _wrong(c, i), seconds=0.2) for i, c in enumerate(cases)],
    }
    made = Report(id, "drone", "reject_request", cases, answers, {BASE: 40.0, TUNED: 30.0}, NOW)
    store.save_report(made)
    return made


def _wrong(case: Case, index: int) -> Call | None:
    others = [
        Call("takeoff_drone", {"altitude": 1}),
        Call("control_camera", {"mode": "photo"}),
        Call(case.call.name, {**case.call.arguments, "altitude": 999}),
        Call("reject_request"),
        None,
        case.call,
    ]
    return others[index % 6]


STEPS = (
    work.Step("calls", "List every call the catalog allows", "done", 16, 16, note="59 calls of 15 functions"),
    work.Step("examples", "Write requests for each call", "done", note="405 possible requests, 125 impossible ones"),
    work.Step("split", "Split into train and test, as JSONL", "done", note="446 to train on, 79 kept aside"),
    work.Step("server", "Start the model on this computer", "done"),
    work.Step("tune", "Fine-tune the model", "running", 36, 60, 140.0, "Step 36/60: training loss=0.31"),
    work.Step("base", "Ask the base model"),
    work.Step("tuned", "Ask the tuned model"),
)


def run(store: Store, kind: str = "demo", status: str = "running", error: str | None = None, **result: str) -> work.Run:
    """A run in a state; one under way lives in this process, so that it counts as alive."""
    import os

    import psutil

    alive = {"pid": os.getpid(), "pid_started": psutil.Process().create_time()}
    made = work.Run(f"{kind}1", kind, status, {}, STEPS, error, dict(result), NOW - 200, **alive)
    store.save_run(made)
    return made


def full(store: Store) -> None:
    """Everything a person has after the demo."""
    examples(store)
    job(store)
    report(store)
    run(store, "demo", "done", report_id="report1", job_id="job1", model=TUNED, base=BASE)
