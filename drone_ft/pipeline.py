"""The stages joined: what a button or a terminal verb starts, with progress at every step.

Each function takes the store, a Progress and its settings; it reads values, calls stages, saves what they return.
"""

from __future__ import annotations

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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import openai

from drone_ft import (
    asking,
    checks,
    composing,
    dataset,
    endpoints,
    evaluation,
    fine_tuning,
    ledger,
    pacing,
    permutations,
    probing,
    synthesis,
    trainings,
)
from drone_ft.catalog import Catalog, default_catalog
from drone_ft.dataset import Example
from drone_ft.endpoints import Endpoint
from drone_ft.errors import (
    DatasetError,
    DroneFTError,
    EndpointError,
    TrainingClosed,
    WorkCancelled,
)
from drone_ft.evaluation import Case, Report
from drone_ft.fine_tuning import Job
from drone_ft.store import Store
from drone_ft.synthesis import by_model
from drone_ft.work import Progress, StepProgress

CASES = Path(__file__).resolve().parents[1] / "data" / "cases"
TEST_SPLIT = "test split"
MOST_LEFT_OUT = 300  # of a ledger, kept with its run; all of it is in a file


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
        train, test = training_files(examples, catalog)
        epochs = epochs or dataset.auto_epochs(_count(examples, "train"))
        step.note(f"{_count(examples, 'train'):,} to train on, {_count(examples, 'test'):,} kept aside")
    with progress.step("server"):
        endpoint = endpoints.local_endpoint()
        client = endpoints.client(endpoint)
        base = base_model(client)
    job = _tune(store, progress, endpoint, client, train, test, base, epochs, "drone-demo", catalog.name, seed)
    models = {"base": base, "tuned": str(job.answers_as)}
    cases = evaluation.read_cases(CASES / "drone.jsonl", catalog)
    asked = {role: Asked(endpoint, client, model) for role, model in models.items()}
    _evaluate(store, progress, catalog, "drone", cases, asked)


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


def compose(
    store: Store,
    progress: Progress,
    endpoint: str = endpoints.LOCAL,
    model: str | None = None,
    which: str = by_model.UNCOVERED,
    commands: int = 2,
    impossible: int = 3,
    at_once: int = pacing.AT_ONCE,
    batch: bool = False,
    prompts: dict[str, str] | None = None,
    seed: int = 0,
) -> None:
    """Have a model write for calls of the current catalog; its examples join those there.

    Result: model, written, left_out (the first of the ledger), ledger (its file), left_out_count (of which had,
    not_asked, unanswered), answered (requests, now), cost and cost_before in US dollars (None where a price is
    unknown). Stopped early, what is written by then is kept.
    """
    progress.plan(("server", _reaching(endpoint)), ("write", "Write commands and impossible requests"))
    catalog = store.catalog()
    progress.remember(catalog=catalog.name)
    with progress.step("server"):
        there = place(store, endpoint)
        model = model or base_model(endpoints.client(there))
        progress.remember(model=model)
    with progress.step("write") as step:
        among = tuple(store.examples(catalog.name))
        templates = tuple(by_model.choose(catalog, which, among, seed))
        plan = by_model.Plan(catalog, templates, commands, impossible, by_model.Prompts(**(prompts or {})), among)
        how = composing.How(there, model, at_once, batch, seed)
        writing, tally, stopped = _compose(store, step, plan, how)
        ids = {example.id for example in store.examples(catalog.name)}
        new = [example for example in writing.examples if example.id not in ids]
        store.add_examples(dataset.place(new, store.examples(catalog.name)), catalog.name)
        had = [by_model.LeftOut(e.call.to_json(), e.prompt, ledger.HAVE) for e in writing.examples if e.id in ids]
        left_out = [*writing.left_out, *had]
        not_asked = sum(one.reason.endswith(composing.STOPPED) for one in left_out)
        progress.remember(
            written=len(new),
            left_out=[dataclasses.asdict(one) for one in left_out[:MOST_LEFT_OUT]],
            ledger=ledger.keep(store.folder, progress.run.id, left_out),
            left_out_count=len(left_out),
            had=len(had),
            not_asked=not_asked,
            unanswered=tally.unanswered,
            answered=tally.new,
            cost=tally.spent,
            cost_before=tally.spent_before,
        )
        if stopped:
            raise WorkCancelled("The writing was stopped. Go on when you like: what was answered is not asked twice.")
        unfit = max(0, len(writing.left_out) - tally.unanswered)
        words = f"{_mix(new, catalog)}, {unfit:,} left out; {composing.costs(tally)}"
        step.update(tally.done, tally.done, words)


def _compose(
    store: Store, step: StepProgress, plan: by_model.Plan, how: composing.How
) -> tuple[by_model.Writing, asking.Tally, bool]:
    """What was written; whoever presses cancel gets what there is by then."""
    expected = by_model.estimate(plan, how.model).requests
    stopped = False

    def tell(tally: asking.Tally, note: str) -> None:
        nonlocal stopped
        pace = f", {tally.at_once} at once" if tally.at_once else ""
        words = f"{how.model}: {composing.costs(tally)}" + (f"; {note}" if note else pace)
        try:
            step.update(tally.done, max(expected, tally.done + 1), words)
        except WorkCancelled:
            stopped = True

    tell(asking.Tally(), "")
    writing, tally = composing.compose(store, plan, how, tell, lambda: stopped)
    return writing, tally, stopped


def tune(
    store: Store,
    progress: Progress,
    model: str | None = None,
    epochs: int | str = "auto",
    suffix: str = "",
    endpoint: str = endpoints.LOCAL,
    seed: int | None = None,
    validate: bool = True,
    fixes: Sequence[str] = (),
) -> None:
    """Fine-tune at an endpoint on the approved examples of the current catalog; result: job_id, model.

    The examples kept aside are sent along for validation unless told otherwise; `fixes` names changes of
    `checks.FIXES`. What a hosted endpoint would refuse, or take money for in vain, raises DatasetError before it.
    """
    progress.plan(("check", "Check the examples"), ("server", _reaching(endpoint)), ("tune", "Fine-tune the model"))
    catalog = store.catalog()
    progress.remember(catalog=catalog.name, closed=False)
    with progress.step("check"):
        examples = approved(store.examples(catalog.name))
        rules = "local" if endpoint == endpoints.LOCAL else target(known_place(store, endpoint))
        train, test = training_files(examples, catalog, rules, fixes)
        if endpoint != endpoints.LOCAL:
            _preflight(train, test if validate else None, rules, catalog)
    with progress.step("server"):
        there = place(store, endpoint)
        client = endpoints.client(there)
        model = model or base_model(client)
    _tune(store, progress, there, client, train, test if validate else "", model, epochs, suffix, catalog.name, seed)


def evaluate(
    store: Store, progress: Progress, models: list[str], cases: str = "drone", places: list[str] | None = None
) -> None:
    """Ask `models` (base, tuned; an empty base is the server's own) the same cases; result: report_id.

    `places` names the endpoint of each model; without it all are on this computer.
    """
    where = dict.fromkeys(zip(places or [endpoints.LOCAL] * len(models), models, strict=True))
    roles = dict(zip(("base", "tuned"), where, strict=False))  # a model is asked once
    titles = {"base": "Ask the base model", "tuned": "Ask the tuned model"}
    catalog = store.catalog()
    progress.remember(catalog=catalog.name)
    asked = choose_cases(store, catalog, cases)
    progress.plan(("server", _reaching(*(name for name, _ in where))), *((role, titles[role]) for role in roles))
    with progress.step("server"):
        known = {name: place(store, name) for name, _ in where}
        clients = {name: endpoints.client(there) for name, there in known.items()}
        found = {
            role: Asked(known[name], clients[name], model or base_model(clients[name]))
            for role, (name, model) in roles.items()
        }
    _evaluate(store, progress, catalog, cases, asked, found)


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
    "compose": compose,
}


def place(store: Store, name: str) -> Endpoint:
    """The endpoint of a name: this computer's server, started if need be, or one of the settings page.

    Raises EndpointError when there is none of that name, EndpointUnavailable when ours cannot be started.
    """
    if name == endpoints.LOCAL:
        return endpoints.local_endpoint()
    return known_place(store, name)


def places(store: Store) -> list[Endpoint]:
    """Every endpoint there is: this computer, those of the environment, those the user added."""
    return [*endpoints.from_environment(), *store.endpoints()]


def known_place(store: Store, name: str) -> Endpoint:
    """The one of `places` with a name; raises EndpointError where it is gone."""
    for known in places(store):
        if known.name == name:
            return known
    raise EndpointError(
        f"There is no connection named {name} any more. Add it on the settings page, or choose another."
    )


def target(endpoint: Endpoint) -> str:
    """The one of `checks.TARGETS` whose rules the files for an endpoint must keep."""
    return endpoint.kind


def sent(catalog: Catalog, endpoint: Endpoint) -> Catalog:
    """The catalog as an endpoint is sent it: the same when its models are trained and when they are asked."""
    return checks.sent(catalog, target(endpoint))


def _reaching(*names: str) -> str:
    """The title of the step that gets hold of the models' servers."""
    local = "Start the model on this computer"
    return local if set(names) == {endpoints.LOCAL} else "Reach the models"


def base_model(client: openai.OpenAI) -> str:
    """The endpoint's own model; the first that is not a tuned one."""
    for model in probing.listed(client):
        if not endpoints.is_tuned(model.id):
            return str(model.id)
    raise EndpointError("The server lists no base model. Check its settings.")


def ready(examples: list[Example]) -> list[Example]:
    """The approved examples, each given to train or test."""
    return dataset.complete_split([example for example in examples if example.status == "approved"])


def is_enough(ready: list[Example]) -> bool:
    """Whether a model can learn from them; those kept aside teach it nothing and do not count."""
    return _count(ready, "train") >= checks.LEAST_EXAMPLES


def approved(examples: list[Example]) -> list[Example]:
    """The approved examples, each given to train or test; raises DatasetError when too few are left to learn from."""
    good = ready(examples)
    if not is_enough(good):
        raise DatasetError(
            f"Approved examples to learn from: {_count(good, 'train')}, and {_count(good, 'test')} kept aside for "
            f"testing. Training needs at least {checks.LEAST_EXAMPLES} to learn from: write more, or approve drafts, "
            "on the examples page."
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


def training_files(
    examples: Sequence[Example], catalog: Catalog, target: str = "local", fixes: Sequence[str] = ()
) -> tuple[str, str]:
    """(training, validation) JSONL of approved examples, "" for a part without any; changed by `fixes` for a target."""
    told = checks.sent(catalog, target)
    train, test = (dataset.to_jsonl([e for e in examples if e.split == part], told) for part in ("train", "test"))
    for name in fixes:
        train, kept = checks.FIXES[name](train, test or None, target, catalog)
        test = kept or ""
    return train, test


def _preflight(train: str, validation: str | None, target: str, catalog: Catalog) -> None:
    errors = [f for f in checks.check(train, validation or None, target, catalog) if f.severity == "error"]
    if errors:
        raise DatasetError(
            f"Nothing was uploaded. {errors[0]} To correct in all: {len(errors)}; check them on the fine-tune page."
        )


def compare(
    store: Store,
    catalog: Catalog,
    name: str,
    cases: list[Case],
    models: list[str],
    ask: Callable[[str], tuple[list[evaluation.Answer], float]],
    where: dict[str, str] | None = None,
) -> Report:
    """Every model's answers to the same cases, as a saved report; `ask` gives a model's, with the seconds it took.

    `where` names the endpoint of each model.
    """
    found = {model: ask(model) for model in models}
    answers = {model: answers for model, (answers, _) in found.items()}
    seconds = {model: seconds for model, (_, seconds) in found.items()}
    about = (time.time(), catalog.name, where or {})
    report = Report(uuid.uuid4().hex[:12], name, catalog.reject, cases, answers, seconds, *about)
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
            is_counted = now.events and now.events[-1]["type"] == "metrics" and now.events[-1]["message"] == now.message
            step.update(done, total, "" if is_counted else now.message, now.seconds_left)

        def waiting() -> bool:
            step.update(0, 0, "Another training is being handed over; this one follows")
            return False

        settings = (model, epochs, suffix, tell, seed, catalog, str(progress.run.result.get("job_id", "")))
        try:
            job = trainings.train(store, endpoint, client, train_jsonl, validation, *settings, waiting)
        except TrainingClosed:
            progress.remember(closed=True)
            raise
        step.note(f"{job.answers_as}")
    progress.remember(model=job.answers_as)
    return job


@dataclass(frozen=True)
class Asked:
    """A model to ask: its endpoint, a client of it, and its name there."""

    endpoint: Endpoint
    client: openai.OpenAI
    model: str


def _evaluate(
    store: Store, progress: Progress, catalog: Catalog, name: str, cases: list[Case], asked: dict[str, Asked]
) -> Report:
    """Ask the model of each role (base, tuned), each with the catalog as it is sent to its endpoint."""
    names = [model for _, model in dict.fromkeys((one.endpoint.name, one.model) for one in asked.values())]
    keys = {evaluation.key(one.model, one.endpoint.name, among=names): role for role, one in asked.items()}

    def ask(key: str) -> tuple[list[evaluation.Answer], float]:
        one, role = asked[keys[key]], keys[key]
        shown = sent(catalog, one.endpoint)
        # Keys in their order: the model reads them so.
        digest = hashlib.sha256(json.dumps(shown.to_json()).encode()).hexdigest()
        rows, spent = _answered(progress, key, digest, cases)
        before, began = [evaluation.Answer.from_json(row) for row in rows], time.monotonic()

        def remember(urgent: bool) -> None:
            now = {"catalog": digest, "answers": rows, "seconds": spent + time.monotonic() - began}
            progress.remember(urgent, answered={**progress.run.result.get("answered", {}), key: now})

        def keep(answer: evaluation.Answer) -> None:
            if not answer.error:
                rows.append(dataclasses.asdict(answer))
                remember(urgent=False)

        with progress.step(role) as step:
            told = f"{one.model}, {len(before):,} answered before" if before else one.model
            step.update(len(before), len(cases), told)
            prompts, tell = [case.prompt for case in cases], partial(step.update, total=len(cases))
            try:
                answers, seconds = evaluation.ask_all(
                    one.client, one.model, shown, prompts, tell, memory=store, before=before, keep=keep
                )
            finally:
                remember(urgent=True)
        return answers, spent + seconds

    where = {key: asked[role].endpoint.name for key, role in keys.items()}
    report = compare(store, catalog, name, cases, list(keys), ask, where)
    progress.remember(report_id=report.id, base=asked["base"].model, answered={})
    return report


def _answered(progress: Progress, key: str, digest: str, cases: list[Case]) -> tuple[list[dict[str, Any]], float]:
    """What a model answered to these cases in an earlier, broken-off run, and the seconds that took.

    `key` is the model's in a report, `digest` its catalog's: the same words under another may deserve another call.
    """
    kept = progress.run.result.get("answered", {}).get(key)
    if not kept or kept.get("catalog") != digest:
        return [], 0.0
    wanted = {case.prompt for case in cases}
    return [row for row in kept["answers"] if row["prompt"] in wanted and not row["error"]], kept["seconds"]


def _mix(examples: list[Example], catalog: Catalog) -> str:
    rejected = sum(example.call.name == catalog.reject for example in examples)
    return f"{len(examples) - rejected:,} possible requests, {rejected:,} impossible ones"


def _count(examples: list[Example], split: str) -> int:
    return sum(example.split == split for example in examples)
