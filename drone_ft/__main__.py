"""The same stages from a terminal: python -m drone_ft VERB."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
import urllib.parse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from drone_ft.errors import DatasetError, DroneFTError, WorkCancelled


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; 0 when it worked, 1 with one sentence on stderr when it did not, 2 for words it does not know."""
    options = _parser().parse_args(arguments)
    # A kill asks politely: what was started (a job, a child) is then cancelled on the way out.
    signal.signal(signal.SIGTERM, _stop)
    try:
        return int(options.verb(options))
    except DroneFTError as error:
        _say(str(error))
        return 1
    except KeyboardInterrupt:
        _say("Stopped.")
        return 130
    except BrokenPipeError:
        # Whoever read our output has left (`| head`): that is no failure of ours.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        _say(f"{error.filename or 'The disk'} could not be used: {error.strerror or error}. Check it and try again.")
        return 1


def calls(options: argparse.Namespace) -> int:
    """Print every call as a line of JSON (what is still open under blanks, with its schema), or the counts."""
    from drone_ft import permutations

    catalog = _catalog(options.catalog)
    if options.count:
        counts = permutations.count_catalog(catalog)
        for name, number in counts.items():
            print(f"{number:>16,}  {name}")
        print(f"{sum(counts.values()):>16,}  in all")
        return 0
    for template in permutations.iterate_catalog(catalog):
        blanks = {".".join(path): schema for path, schema in template.blanks.items()}
        row = {"name": template.function, "arguments": template.fixed, **({"blanks": blanks} if blanks else {})}
        print(json.dumps(row, ensure_ascii=False))
    return 0


def prepare(options: argparse.Namespace) -> int:
    """Write train.jsonl and test.jsonl."""
    from drone_ft import dataset, synthesis

    catalog = _catalog(options.catalog)
    writing = synthesis.write_examples(catalog, options.seed)
    examples = dataset.split(writing.examples, seed=options.seed)
    for name in ("train", "test"):
        part = [example for example in examples if example.split == name]
        dataset.write_jsonl(options.out / f"{name}.jsonl", dataset.to_jsonl(part, catalog, options.form))
        rejected = sum(example.call.name == catalog.reject for example in part)
        print(f"{options.out / name}.jsonl: {len(part) - rejected} possible requests, {rejected} impossible ones")
    if writing.plain:
        _say(f"Only plain wordings for: {', '.join(writing.plain)}. People's own words would teach more.")
    return 0


def write(options: argparse.Namespace) -> int:
    """Have a model write train.jsonl and test.jsonl; what is left out is in ledger.jsonl, with its reasons."""
    from drone_ft import asking, composing, dataset, endpoints, ledger, pipeline, prices
    from drone_ft.store import Store
    from drone_ft.synthesis import by_model

    catalog, store, endpoint, told = _catalog(options.catalog), Store(), _endpoint(options.base_url), _Told()
    if options.base_url and not options.model:
        raise DatasetError("Which model should write? Name it with --model, as the server may have many.")
    model = options.model or pipeline.base_model(endpoints.client(endpoint))
    templates = tuple(by_model.choose(catalog, by_model.ALL, seed=options.seed))
    plan = by_model.Plan(catalog, templates, options.commands, options.impossible)
    how = composing.How(endpoint, model, options.at_once, seed=options.seed)
    expected = by_model.estimate(plan, model, where=asking.where(endpoint))
    tokens = expected.input_tokens + expected.output_tokens
    _say(f"{model} will be sent {prices.expected(expected.requests, tokens, expected.cost)}.")

    def tell(now: asking.Tally, note: str) -> None:
        told(f"{model}: of {expected.requests:,} or more, {composing.costs(now)}" + (f"; {note}" if note else ""))

    writing, tally = composing.compose(store, plan, how, tell)
    examples = dataset.split(writing.examples, seed=options.seed)
    parts = {name: [e for e in examples if e.split == name] for name in ("train", "test")}
    for name, part in parts.items():
        dataset.write_jsonl(options.out / f"{name}.jsonl", dataset.to_jsonl(part, catalog))
    ledger.write(options.out / "ledger.jsonl", writing.left_out)
    result = {**{name: len(part) for name, part in parts.items()}, "left_out": len(writing.left_out)}
    if options.json:
        asked = {"asked": tally.new, "kept": tally.kept, "unanswered": tally.unanswered, "cost": tally.spent}
        print(json.dumps({**result, **asked}))
    else:
        print(f"{options.out}: {result['train']:,} to train on, {result['test']:,} to test with")
        print(f"{len(writing.left_out):,} left out, each with its reason in ledger.jsonl; {composing.costs(tally)}")
    return 0


def check(options: argparse.Namespace) -> int:
    """Say what is wrong with a JSONL file, by line and field; warnings and notes alone are no failure."""
    from drone_ft import checks

    found = checks.check(_read(options.file), target=options.target)
    for finding in found:
        mark = "" if finding.severity == "error" else f"{finding.severity}: "
        print(f"{mark}{options.file.name}, {_placed(finding)}")
    if any(finding.severity == "error" for finding in found):
        return 1
    print(f"{options.file.name} can be trained on.")
    return 0


def serve(options: argparse.Namespace) -> int:
    """Run this computer's OpenAI-compatible server until it is stopped."""
    from drone_ft.endpoints import workspace
    from drone_ft.local import server

    server.serve(port=options.port, workspace=workspace(), idle_exit=options.idle_exit)
    return 0


def export(options: argparse.Namespace) -> int:
    """Write a tuned model as a folder for transformers, and as GGUF for Ollama where that is possible."""
    from drone_ft.endpoints import workspace
    from drone_ft.local.engine import Engine
    from drone_ft.local.export import export as write

    folder = workspace() / "engine"
    for path in write(options.model, Engine(folder / "models", jobs_dir=folder / "jobs"), options.out):
        print(path)
    return 0


def tune(options: argparse.Namespace) -> int:
    """Fine-tune on a JSONL file, wait, print the tuned model's id."""
    from drone_ft import endpoints, fine_tuning, pipeline, trainings
    from drone_ft.store import Store

    train, validation, is_less = _training_files(options)
    store, endpoint = Store(), _endpoint(options.base_url)
    client = endpoints.client(endpoint)
    if options.base_url and not options.model:
        raise DatasetError("Which model should be tuned? Name it with --model, as the server may have many.")
    model = options.model or pipeline.base_model(client)
    if is_less:
        _say(
            f"{endpoint.name} takes no rules such as “this value only with that one”: they are left out of the "
            "functions it is sent. Your files stay as they are."
        )
    told = _Told()

    def tell(now: fine_tuning.Job) -> None:
        told(f"{now.status}: {now.message}", now.seconds_left)

    job = trainings.train(store, endpoint, client, train, validation, model, options.epochs, options.suffix, tell)
    print(json.dumps({"model": job.answers_as, "job": job.endpoint_job_id}) if options.json else job.answers_as)
    return 0


def _training_files(options: argparse.Namespace) -> tuple[str, str | None, bool]:
    """The training and validation rows as the endpoint takes them, and whether it takes less than the files have."""
    from drone_ft import checks, pipeline

    target = pipeline.target(_endpoint(options.base_url)) if options.base_url else "local"
    train, validation = _read(options.train), _read(options.validation) if options.validation else None
    found = checks.check(train, validation, target)
    fix = next((one.fix for one in found if one.rule == "unknown to target"), None)
    if fix and checks.TARGETS[target].is_strict:
        train, validation = checks.FIXES[fix](train, validation, target)
        found = checks.check(train, validation, target)
    # here a person may want to train in spite of these; and what a server of one's own is sent is the user's choice
    passed = {"local": ("leak", "conflict"), "custom": ("unknown to target",)}.get(target, ())
    for one in found:
        if one.severity == "error" and one.rule not in passed:
            path = options.train if one.file == "training" else options.validation
            raise DatasetError(
                f"{path.name} cannot be trained on. {_placed(one)} See all with: check {path} --for {target}"
            )
    return train, validation, bool(fix) and checks.TARGETS[target].is_strict


def evaluate(options: argparse.Namespace) -> int:
    """Ask models the same cases and print what came of it."""
    from drone_ft import endpoints, evaluation, pipeline
    from drone_ft.store import Store

    catalog, store, told = _catalog(options.catalog), Store(), _Told()
    cases = evaluation.read_cases(options.cases, catalog)
    models = list(dict.fromkeys(name.strip() for name in options.models.split(",") if name.strip()))
    if not models:
        raise DatasetError("No model was named. Name one or more: --models A,B")
    endpoint, prompts = _endpoint(options.base_url), [case.prompt for case in cases]
    client, shown = endpoints.client(endpoint), pipeline.sent(catalog, endpoint)

    def ask(model: str) -> tuple[list[evaluation.Answer], float]:
        def tell(done: int) -> None:
            told(f"{model}: {done} of {len(cases)} cases")

        return evaluation.ask_all(client, model, shown, prompts, tell, memory=store)

    report = pipeline.compare(store, catalog, options.cases.stem, cases, models, ask)
    _print_report(report, options.json)
    return 0


def demo(options: argparse.Namespace) -> int:
    """The whole pipeline on the default catalog, ending on the verdict."""
    from drone_ft import work
    from drone_ft.store import Store

    store, told = Store(), _Told()

    def changed(run: work.Run) -> None:
        running = [step for step in run.steps if step.status == "running"]
        for step in running:
            share = f" {step.done} of {step.total}" if step.total else ""
            told(f"{step.title}:{share} {step.note}".rstrip(), step.seconds_left)

    run = work.begin_here(store, "demo", {"epochs": options.epochs, "seed": options.seed}, changed)
    if run.status == "cancelled":
        raise WorkCancelled("The demo was cancelled. Start it again; it goes on from the last finished step.")
    report = store.report(run.result.get("report_id", ""))
    if run.status != "done" or report is None:
        raise DroneFTError(run.error or "The demo ended without a report. Start it again.")
    _print_report(report, options.json)
    return 0


def _print_report(report: Any, as_json: bool) -> None:
    if as_json:
        print(json.dumps(report.to_json(), ensure_ascii=False))
        return
    for model in report.models:
        (right, of), (rejected, of_impossible) = report.possible(model), report.impossible(model)
        print(
            f"{model}: {right} of {of} possible requests right, {rejected} of {of_impossible} impossible ones rejected"
        )
        print(
            "  " + ", ".join(f"{count} {outcome.words}" for outcome, count in report.outcomes(model).items() if count)
        )
    if len(report.models) > 1:
        print(report.verdict(report.models[0], report.models[-1]).sentence)


class _Told:
    """Progress for people, on stderr: a line that rewrites itself in a terminal, a line now and then elsewhere."""

    def __init__(self) -> None:
        self._last, self._when = "", 0.0

    def __call__(self, words: str, seconds_left: float | None = None) -> None:
        line = words + (f" (about {seconds_left:.0f} s left)" if seconds_left else "")
        topic = words.split(":")[0]
        if sys.stderr.isatty():
            end = "\n" if self._last and topic != self._last else ""
            sys.stderr.write(f"{end}\r\033[K{line[:110]}")
            sys.stderr.flush()
        elif topic != self._last or time.monotonic() - self._when > 10:
            _say(line)
            self._when = time.monotonic()
        self._last = topic


def _placed(finding: Any) -> str:
    """A finding as line and field tell it, without the name of its file."""
    line = f"line {finding.line}, " if finding.line else ""
    return f"{line}{finding.message.partition(', ')[2]}"


def _catalog(path: Path | None) -> Any:
    from drone_ft.catalog import default_catalog, read_catalog

    return read_catalog(path) if path else default_catalog()


def _endpoint(base_url: str | None) -> Any:
    from drone_ft.endpoints import Endpoint, local_endpoint

    if not base_url:
        return local_endpoint()
    # a server on this computer may need no key, such as Ollama's or ours
    is_near = urllib.parse.urlsplit(base_url).hostname in ("localhost", "127.0.0.1", "::1")
    return Endpoint(base_url, base_url, "custom" if is_near and not os.environ.get("OPENAI_API_KEY") else "openai")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetError(f"{path} is not UTF-8 text (byte {error.start}). Save it as UTF-8 and try again.") from error
    except OSError as error:
        raise DatasetError(f"{path} was not read: {error.strerror}. Name a JSONL file.") from error


def _say(words: str) -> None:
    print(words, file=sys.stderr)


def _stop(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _epochs(text: str) -> int | str:
    if text == "auto":
        return text
    if not text.isdecimal() or not 1 <= int(text) <= 50:
        raise argparse.ArgumentTypeError("epochs are a whole number from 1 to 50, or auto")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m drone_ft", description="Teach a language model your own functions."
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")

    def verb(run: Callable[[argparse.Namespace], int], words: str) -> argparse.ArgumentParser:
        added = verbs.add_parser(run.__name__, help=words, description=words)
        added.set_defaults(verb=run)
        return added

    catalog: dict[str, Any] = {"type": Path, "metavar": "F", "help": "a catalog file (the drone's is the default)"}
    one = verb(calls, "every call a catalog allows, one JSON object a line")
    one.add_argument("--catalog", **catalog)
    one.add_argument("--count", action="store_true", help="only how many, per function")
    one = verb(prepare, "write train.jsonl and test.jsonl")
    one.add_argument("--out", type=Path, required=True, metavar="DIR")
    one.add_argument("--catalog", **catalog)
    one.add_argument("--seed", type=int, default=0, metavar="S")
    one.add_argument(
        "--form", choices=("tools", "functions"), default="tools", help="functions is the cookbook's older form"
    )
    one = verb(write, "have a model write train.jsonl and test.jsonl, and a ledger of what is left out")
    one.add_argument("--out", type=Path, required=True, metavar="DIR")
    one.add_argument("--catalog", **catalog)
    one.add_argument("--model", metavar="M", help="who writes (the server's own is the default)")
    one.add_argument("--commands", type=int, choices=range(1, 21), default=2, metavar="N", help="for each call")
    one.add_argument(
        "--impossible", type=int, choices=range(21), default=3, metavar="N", help="requests close to each function"
    )
    one.add_argument("--at-once", type=int, choices=range(1, 65), default=8, metavar="N", help="requests on their way")
    one.add_argument("--seed", type=int, default=0, metavar="S", help="another one asks anew what was answered")
    one = verb(check, "what is wrong with a JSONL file (exit 1 on trouble)")
    one.add_argument("file", type=Path, metavar="FILE")
    targets = ("openai", "azure", "custom", "local")
    one.add_argument("--for", dest="target", choices=targets, default="local", help="whose rules (default: local)")
    one = verb(serve, "this computer's OpenAI-compatible server")
    one.add_argument("--port", type=int, default=8642, metavar="P", help="0 takes a free one")
    one.add_argument("--idle-exit", type=float, default=None, metavar="S", help="stop after S seconds without work")
    one = verb(tune, "fine-tune on a JSONL file, wait, print the model's id")
    one.add_argument("train", type=Path, metavar="TRAIN")
    one.add_argument("--validation", type=Path, metavar="F")
    one.add_argument("--epochs", type=_epochs, default="auto", metavar="N")
    one.add_argument("--suffix", default="", metavar="S")
    one.add_argument("--model", metavar="M", help="the base model (the server's own is the default)")
    one = verb(evaluate, "ask models the same cases and compare them")
    one.add_argument("--cases", type=Path, required=True, metavar="F")
    one.add_argument("--models", required=True, metavar="A,B", help="the base first")
    one.add_argument("--catalog", **catalog)
    for name in ("tune", "evaluate", "write"):
        verbs.choices[name].add_argument("--base-url", metavar="U", help="another server (its key: OPENAI_API_KEY)")
        verbs.choices[name].add_argument("--json", action="store_true")
    one = verb(export, "write a tuned model as a folder for transformers, and as GGUF for Ollama")
    one.add_argument("model", metavar="MODEL", help="the tuned model's id, ft:…")
    one.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder")
    one = verb(demo, "the whole pipeline on the default catalog, ending on the verdict")
    one.add_argument("--epochs", type=int, choices=range(1, 51), metavar="N")
    one.add_argument("--seed", type=int, default=0, metavar="S")
    one.add_argument("--json", action="store_true")
    return parser


if __name__ == "__main__":
    sys.exit(main())
