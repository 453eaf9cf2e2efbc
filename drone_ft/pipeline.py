"""The stages joined: what a button or a terminal verb starts, with progress at every step.

Each function takes the store, a Progress and its settings; it reads values, calls stages, saves what they return.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import openai

from drone_ft import dataset, endpoints, evaluation, fine_tuning, permutations, synthesis
from drone_ft.catalog import Catalog, default_catalog
from drone_ft.dataset import Example
from drone_ft.endpoints import Endpoint
from drone_ft.errors import DatasetError, DroneFTError, EndpointError, EndpointRefused, EndpointUnavailable
from drone_ft.evaluation import Case, Report
from drone_ft.fine_tuning import Job
from drone_ft.store import Store
from drone_ft.work import Progress

CASES = Path(__file__).resolve().parents[1] / "data" / "cases"
TEST_SPLIT = "test split"
LEAST_EXAMPLES = 10  # to learn from; hosted fine-tuning refuses fewer, too


def demo(store: Store, progress: Progress, epochs: int | None = None, seed: int = 0) -> None:
    """From the default catalog to the verdict; result: job_id, base, model, report_id."""
    progress.plan(
        ("calls", "List every call the catalog allows"),
        ("examples", "Write requests for each call"),
        ("split", "Split into train and test, as JSONL"),
        ("server", "Start the model on this computer"),
        ("tune", "Fine-tune the model"),
        ("base", "Ask the base model"),
        ("tuned", "Ask the tuned model"),
    )
    catalog = store.set_catalog(default_catalog())
    with progress.step("calls") as step:
        counts = permutations.count_catalog(catalog)
        step.update(len(counts), len(counts), f"{sum(counts.values()):,} kinds of call of {len(counts)} functions")
    with progress.step("examples") as step:
        written = store.examples(catalog.name)
        step.note(f"kept your {len(written):,} examples" if written else "")
        if not written:
            written = synthesis.write_examples(catalog, seed).examples
            step.note(_mix(written, catalog))
    with progress.step("split") as step:
        examples = _split(store, catalog, written, seed)
        train, test = _jsonl(examples, catalog)
        epochs = epochs or dataset.auto_epochs(_count(examples, "train"))
        step.note(f"{_count(examples, 'train'):,} to train on, {_count(examples, 'test'):,} kept aside")
    with progress.step("server"):
        endpoint = endpoints.local_endpoint()
        client = endpoints.client(endpoint)
        base = base_model(client)
    job = _tune(store, progress, endpoint, client, train, test, base, epochs, "drone-demo", catalog.name, seed)
    models = {"base": base, "tuned": str(job.tuned_model)}
    cases = evaluation.read_cases(CASES / "drone.jsonl", catalog)
    _evaluate(store, progress, client, catalog, "drone", cases, models)


def write(store: Store, progress: Progress, seed: int = 0) -> None:
    """Write examples for the current catalog in place of those there, which can be brought back."""
    progress.plan(("examples", "Write requests for each call"), ("split", "Split into train and test"))
    catalog = store.catalog()
    progress.remember(catalog=catalog.name)
    with progress.step("examples") as step:
        examples = synthesis.write_examples(catalog, seed).examples
        step.note(_mix(examples, catalog))
    with progress.step("split"):
        store.replace_examples(dataset.split(examples, seed=seed), catalog.name)


def tune(
    store: Store, progress: Progress, model: str | None = None, epochs: int | str = "auto", suffix: str = ""
) -> None:
    """Fine-tune on the approved examples of the current catalog; result: job_id, model."""
    progress.plan(("server", "Start the model on this computer"), ("tune", "Fine-tune the model"))
    catalog = store.catalog()
    progress.remember(catalog=catalog.name)
    examples = approved(store.examples(catalog.name))
    train, test = _jsonl(examples, catalog)
    with progress.step("server"):
        endpoint = endpoints.local_endpoint()
        client = endpoints.client(endpoint)
        model = model or base_model(client)
    _tune(store, progress, endpoint, client, train, test, model, epochs, suffix, catalog.name)


def evaluate(store: Store, progress: Progress, models: list[str], cases: str = "drone") -> None:
    """Ask `models` (base, tuned; an empty base is the server's own) the same cases; result: report_id."""
    roles = dict(zip(("base", "tuned"), dict.fromkeys(models), strict=False))  # a model is asked once
    titles = {"base": "Ask the base model", "tuned": "Ask the tuned model"}
    catalog = store.catalog()
    progress.remember(catalog=catalog.name)
    asked = choose_cases(store, catalog, cases)
    progress.plan(("server", "Start the model on this computer"), *((role, titles[role]) for role in roles))
    with progress.step("server"):
        client = endpoints.client(endpoints.local_endpoint())
        named = {role: model or base_model(client) for role, model in roles.items()}
    _evaluate(store, progress, client, catalog, cases, asked, named)


def export(store: Store, progress: Progress, model: str) -> None:
    """Write a tuned model of this computer as a folder others can load; result: model, folder."""
    progress.plan(("export", "Write the model's files"))
    folder = store.folder / "exports" / re.sub(r"[^\w.-]+", "-", model.split(":", 3)[-1])
    with progress.step("export") as step:
        if not folder.exists():  # it is moved there when it is whole
            # in a process of its own: what loads weights stays out of this one
            command = [sys.executable, "-m", "drone_ft", "export", model, "--out", str(folder)]
            environment = {**os.environ, "DRONE_FT_WORKSPACE": str(store.folder)}
            with tempfile.TemporaryFile("w+") as said:
                child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said, env=environment)
                try:
                    while child.poll() is None:
                        progress.check()
                        time.sleep(0.2)
                finally:
                    child.terminate()
                    child.wait()
                if child.returncode:
                    said.seek(0)
                    last = said.read().strip().splitlines()[-1:]
                    raise DroneFTError(last[0] if last else "The export ended without a word. Try again.")
        step.note(str(folder))
    progress.remember(model=model, folder=str(folder))


KINDS: dict[str, Callable[..., None]] = {
    "demo": demo,
    "write": write,
    "tune": tune,
    "evaluate": evaluate,
    "export": export,
}


def base_model(client: openai.OpenAI) -> str:
    """The endpoint's own model; the first that is not a tuned one."""
    for model in endpoints.patiently(lambda: client.models.list()).data:
        if not model.id.startswith("ft:"):
            return model.id
    raise EndpointError("The server lists no base model. Check its settings.")


def ready(examples: list[Example]) -> list[Example]:
    """The approved examples, each given to train or test."""
    return dataset.complete_split([example for example in examples if example.status == "approved"])


def is_enough(ready: list[Example]) -> bool:
    """Whether a model can learn from them; those kept aside teach it nothing and do not count."""
    return _count(ready, "train") >= LEAST_EXAMPLES


def approved(examples: list[Example]) -> list[Example]:
    """The approved examples, each given to train or test; raises DatasetError when too few are left to learn from."""
    good = ready(examples)
    if not is_enough(good):
        raise DatasetError(
            f"Approved examples to learn from: {_count(good, 'train')}, and {_count(good, 'test')} kept aside for "
            f"testing. Training needs at least {LEAST_EXAMPLES} to learn from: write more, or approve drafts, on the "
            "examples page."
        )
    return good


def choose_cases(store: Store, catalog: Catalog, name: str) -> list[Case]:
    """The cases of a name: a file in data/cases, or the test split of the catalog's own examples."""
    if name == TEST_SPLIT:
        kept = [Case(e.prompt, e.call, e.accept) for e in store.examples(catalog.name) if e.split == "test"]
        if not kept:
            raise DatasetError(
                "No examples are kept aside for testing. Write examples first; some are then kept aside."
            )
        return kept
    return evaluation.read_cases(CASES / f"{name}.jsonl", catalog)


def _split(store: Store, catalog: Catalog, written: list[Example], seed: int) -> list[Example]:
    """The examples with their splits; examples that had them keep them."""
    if any(example.split for example in written):
        return approved(written)
    examples = dataset.split(written, seed=seed)
    store.replace_examples(examples, catalog.name)
    return approved(examples)


def _jsonl(examples: list[Example], catalog: Catalog) -> tuple[str, str]:
    parts = ([e for e in examples if e.split == "train"], [e for e in examples if e.split == "test"])
    return dataset.to_jsonl(parts[0], catalog), dataset.to_jsonl(parts[1], catalog)


def train(
    store: Store,
    endpoint: Endpoint,
    client: openai.OpenAI,
    train_jsonl: str,
    validation_jsonl: str | None,
    model: str,
    epochs: int | str,
    suffix: str,
    tell: Callable[[Job], None],
    seed: int | None = None,
    catalog: str = "",
) -> Job:
    """Start a job, with its data kept in the store, and follow it to its end; `tell` may raise WorkCancelled."""
    job = fine_tuning.start(client, endpoint.name, train_jsonl, validation_jsonl or None, model, epochs, suffix, seed)
    job = dataclasses.replace(job, catalog=catalog)
    store.save_job(job, train_jsonl, validation_jsonl)
    return fine_tuning.follow(client, job, store.save_job, tell)


def catch_up(store: Store) -> None:
    """Bring jobs nobody follows any more (an app that was killed) to where the local server sees them, if it runs."""
    forgotten = [job for job in store.jobs() if not job.is_over and job.endpoint == endpoints.LOCAL]
    if not forgotten:
        return
    with contextlib.suppress(EndpointUnavailable):
        client = endpoints.client(endpoints.local_endpoint(start=False), timeout=5)
        for job in forgotten:
            try:
                # A job of the list has no events; with those it has, only the new ones are fetched.
                store.save_job(fine_tuning.refresh(client, store.job(job.id) or job))
            except EndpointRefused as error:
                if error.status != 404:
                    raise
                lost = "The server no longer knows this training. Start it again."
                store.save_job(dataclasses.replace(job, status="failed", message=lost, seconds_left=None))


def compare(
    store: Store,
    catalog: Catalog,
    name: str,
    cases: list[Case],
    models: list[str],
    ask: Callable[[str], tuple[list[evaluation.Answer], float]],
) -> Report:
    """Every model's answers to the same cases, as a saved report; `ask` gives a model's, with the seconds it took."""
    found = {model: ask(model) for model in models}
    answers = {model: answers for model, (answers, _) in found.items()}
    seconds = {model: seconds for model, (_, seconds) in found.items()}
    report = Report(uuid.uuid4().hex[:12], name, catalog.reject, cases, answers, seconds, time.time(), catalog.name)
    store.save_report(report)
    return report


def _tune(
    store: Store,
    progress: Progress,
    endpoint: Endpoint,
    client: openai.OpenAI,
    train_jsonl: str,
    validation: str,
    model: str,
    epochs: int | str,
    suffix: str,
    catalog: str,
    seed: int | None = None,
) -> Job:
    with progress.step("tune") as step:
        step.update(0, 0, "Handing over the examples")

        def tell(now: Job) -> None:
            if progress.run.result.get("job_id") != now.id:
                progress.remember(job_id=now.id)
            done, total = fine_tuning.progress(now)
            step.update(done, total, now.message, now.seconds_left)

        job = _job_to_go_on_with(store, progress, client, train_jsonl, model)
        if job is None:
            job = train(store, endpoint, client, train_jsonl, validation, model, epochs, suffix, tell, seed, catalog)
        else:
            job = fine_tuning.follow(client, job, store.save_job, tell)
        step.note(f"{job.tuned_model}")
    progress.remember(model=job.tuned_model)
    return job


def _job_to_go_on_with(store: Store, progress: Progress, client: openai.OpenAI, train: str, model: str) -> Job | None:
    """The job an earlier, broken-off run had started on this model and data, unless it ended badly or was lost."""
    job = store.job(progress.run.result.get("job_id", ""))
    if job is None or job.status in ("failed", "cancelled"):
        return None
    if job.model != model or store.job_data(job.id)[0] != train:
        return None
    try:
        job = fine_tuning.refresh(client, job)
    except EndpointRefused:
        return None
    return None if job.status in ("failed", "cancelled") else job


def _evaluate(
    store: Store,
    progress: Progress,
    client: openai.OpenAI,
    catalog: Catalog,
    name: str,
    cases: list[Case],
    models: dict[str, str],
) -> Report:
    roles = {model: role for role, model in models.items()}
    # Keys in their order: the model reads them so.
    digest = hashlib.sha256(json.dumps(catalog.to_json()).encode()).hexdigest()

    def ask(model: str) -> tuple[list[evaluation.Answer], float]:
        with progress.step(roles[model]) as step:
            step.update(0, len(cases), model)
            kept = _answered(progress, model, digest, cases)
            if kept:
                step.update(len(cases), len(cases), f"{model}, answered before")
                return kept
            prompts = [case.prompt for case in cases]
            answers, seconds = evaluation.ask_all(
                client, model, catalog, prompts, lambda done: step.update(done, len(cases))
            )
        before = progress.run.result.get("answered", {})
        rows = [dataclasses.asdict(answer) for answer in answers]
        now = {"catalog": digest, "answers": rows, "seconds": seconds}
        progress.remember(answered={**before, model: now})
        return answers, seconds

    report = compare(store, catalog, name, cases, list(roles), ask)
    progress.remember(report_id=report.id, base=next(iter(roles)), answered={})
    return report


def _answered(
    progress: Progress, model: str, digest: str, cases: list[Case]
) -> tuple[list[evaluation.Answer], float] | None:
    """What a model answered in an earlier, broken-off run, when it had this catalog and cases and all answers came.

    `digest` is the catalog's: the same words under another catalog may deserve another call.
    """
    kept = progress.run.result.get("answered", {}).get(model)
    if not kept or kept.get("catalog") != digest:
        return None
    if [row["prompt"] for row in kept["answers"]] != [case.prompt for case in cases]:
        return None
    answers = [evaluation.Answer.from_json(row) for row in kept["answers"]]
    return None if any(answer.error for answer in answers) else (answers, kept["seconds"])


def _mix(examples: list[Example], catalog: Catalog) -> str:
    rejected = sum(example.call.name == catalog.reject for example in examples)
    return f"{len(examples) - rejected:,} possible requests, {rejected:,} impossible ones"


def _count(examples: list[Example], split: str) -> int:
    return sum(example.split == split for example in examples)
