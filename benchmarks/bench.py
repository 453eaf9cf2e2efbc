"""What the local engine costs on this machine: training, answering, memory; written to RESULTS.md beside this file.

Every figure is taken in this one run and told, where that is possible, as a ratio to something measured in the same
run: the machine's own matrix products, or TRL's trainer on the same rows. Run it on a quiet machine: `make bench`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]
TUNED = "ft:bench:local::bench"
CASES = 100
TRL_ROWS = 6
COUNTED_STEPS = 6
LOOKS = 100


@dataclass(frozen=True)
class Figure:
    """One line of the results: what, how much, and the aim."""

    name: str
    value: str
    aim: str = ""


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=520, help="rows to train on")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--without-trl", action="store_true", help="leave out the slow comparison")
    options = parser.parse_args()
    _as_the_server_starts_it()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DRONE_FT_WORKSPACE"] = folder
        figures = [*training(Path(folder), options), *answering(Path(folder))]
    text = table(figures)
    (Path(__file__).parent / "RESULTS.md").write_text(text, "utf-8")
    print(text)


def _as_the_server_starts_it() -> None:
    """Begin anew in the surroundings a training gets from its server, so that all that is compared has the same.

    Processors only; nothing of the user's own settings leaks in.
    """
    from drone_ft.local.runner import ALLOCATOR

    wanted = {**ALLOCATOR, "GOMP_SPINCOUNT": "16000", "CUDA_VISIBLE_DEVICES": ""}
    own = [name for name in os.environ if name.startswith("DRONE_FT_")]
    if own or any(os.environ.get(name) != value for name, value in wanted.items()):
        kept = {name: value for name, value in os.environ.items() if name not in own}
        os.execve(sys.executable, [sys.executable, "-m", "benchmarks.bench", *sys.argv[1:]], kept | wanted)


def best(work: Callable[[], object], times: int) -> float:
    """Seconds of the quickest of several goes."""
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


# Training


def training(folder: Path, options: argparse.Namespace) -> Iterator[Figure]:
    """A training as the server starts it, beside what this machine can multiply and what TRL needs."""
    from drone_ft.local import weights

    source = weights.resolve()
    weights.prepare(source)
    lines = rows(options.rows)
    job = folder / "job"
    job.mkdir()
    (job / "train.jsonl").write_text("".join(lines), "utf-8")
    spec = {
        "id": "ftjob-bench",
        "model": source.name,
        "seed": 0,
        "hyperparameters": {"n_epochs": options.epochs, "batch_size": "auto", "learning_rate_multiplier": "auto"},
        "output_model": TUNED,
        "output_dir": str(folder / "engine" / "models" / "bench"),
    }
    (job / "job.json").write_text(json.dumps(spec))
    start = time.perf_counter()
    command = [sys.executable, "-m", "drone_ft.local.training", str(job)]
    child = subprocess.Popen(command, cwd=ROOT)
    most = watched(child)
    seconds = time.perf_counter() - start
    if child.returncode:
        raise SystemExit(f"Training ended with exit code {child.returncode}; {job / 'error.json'} may say why.")
    settings = json.loads((folder / "engine" / "models" / "bench" / "settings.json").read_text("utf-8"))
    steps = settings["metrics"]["seconds"]
    yield Figure(f"training on {len(lines)} rows, {options.epochs} epochs", f"{seconds:,.0f} s", "≤ 180 s")
    yield Figure("of it steps", f"{steps:,.0f} s: {steps / len(lines) / options.epochs:.3f} s a row")
    yield Figure("memory while training", f"{most / 1e9:.1f} GB", "≤ 3 GB")
    yield from against_the_peak(job)
    if not options.without_trl:
        theirs = trl_seconds(lines[: TRL_ROWS + 1])
        yield Figure("TRL's SFTTrainer, the same LoRA, functions in every prompt, float32", f"{theirs:.1f} s a row")
        yield Figure(
            "rows a second, of TRL's", f"{theirs / (seconds / len(lines) / options.epochs):,.0f} times", "≥ 100 times"
        )


def rows(count: int) -> list[str]:
    """Lines of the default data's training split, spread evenly over it."""
    from drone_ft import dataset, synthesis
    from drone_ft.catalog import default_catalog

    catalog = default_catalog()
    examples = [e for e in dataset.split(synthesis.write_examples(catalog).examples) if e.split == "train"]
    chosen = [examples[at * len(examples) // count] for at in range(count)]
    return [f"{line}\n" for line in dataset.to_jsonl(chosen, catalog).split("\n") if line]


def against_the_peak(job: Path) -> Iterator[Figure]:
    """The multiplications of a few steps, counted and timed, beside what the machine reaches on large matrices."""
    import torch
    from accelerate import Accelerator

    from drone_ft.local import cores, weights
    from drone_ft.local import training as t
    from drone_ft.local.job_folder import last_checkpoint
    from drone_ft.local.learner import Learner, Recipe
    from drone_ft.local.rows import read_rows

    numbers = json.loads((last_checkpoint(job) / "progress.json").read_text("utf-8"))["dtype"]
    dtype = torch.bfloat16 if numbers == "bfloat16" else torch.float32
    cores.use(cores.physical())
    exact = [torch.randn(2048, 2048) for _ in range(2)]
    short, whole = ([part.to(kind) for part in exact] for kind in (torch.bfloat16, torch.int8))
    products = {
        "float32": lambda: exact[0] @ exact[1],
        "bfloat16": lambda: short[0] @ short[1],
        "int8": lambda: torch._int_mm(whole[0], whole[1]),
    }
    peaks = {kind: 2 * 2048**3 / best(products[kind], 5) for kind in dict.fromkeys(("float32", "bfloat16", numbers))}
    found = read_rows(job / "train.jsonl")
    described = t.read_job(job, len(found))
    model, tokenizer = weights.load(weights.resolve(), dtype)
    data = t.read_data(job, found, described, model, tokenizer)
    learner = Learner(
        model,
        data.train,
        Recipe(t.RANK, t.ALPHA, t.DROPOUT, t.FROZEN, t.PACK_TOKENS, t.WARM_UP),
        Accelerator(cpu=True),
        rate=described.rate,
        steps=100,
        seed=0,
        admitted=data.admitted,
        int8=numbers == "int8",
    )
    learner.plain.train()
    batches = [[data.train[at] for at in batch] for batch in t.batches(len(data.train), described.batch, 0)]
    batches = batches[:COUNTED_STEPS]

    def steps() -> None:
        for number, batch in enumerate(batches):
            learner.step(batch, number)

    steps()
    reached, alone = counted(steps) / best(steps, 2), products_alone(steps)
    for kind, peak in peaks.items():
        yield Figure(f"matrix products of this machine, {kind}", f"{peak / 1e9:,.0f} GFLOP/s")
    yield Figure(f"products of a learning step, in {numbers}", f"{reached / 1e9:,.0f} GFLOP/s")
    for kind, peak in peaks.items():
        aim = "≥ 40% where it is fast, else of float32" if kind == "bfloat16" else ""
        yield Figure(f"that, of {kind}'s", f"{reached / peak:.0%}", aim)
    share = f"{alone / peaks[numbers]:.0%} of {numbers}'s"
    yield Figure("the same products alone, with nothing between them", f"{alone / 1e9:,.0f} GFLOP/s: {share}")


def counted(work: Callable[[], object]) -> int:
    """Floating point operations in the products of some work."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    # what it does not count by itself
    more = {
        torch.ops.aten._int_mm: lambda left, right, *_, **__: 2 * left[0] * left[1] * right[1],
        torch.ops.aten.addmm_: lambda _, left, right, *__, **___: 2 * left[0] * left[1] * right[1],
    }
    with FlopCounterMode(display=False, custom_mapping=more) as counter:
        work()
    return counter.get_total_flops()


def products_alone(work: Callable[[], object]) -> float:
    """Operations a second of the matrix products some work makes, made again on numbers that lie ready in the cache.

    What a step could reach at most if all else took no time.
    """
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_map_only

    aten, made = torch.ops.aten, []

    class Noted(TorchDispatchMode):  # type: ignore[misc]
        """Notes each product, with the shapes of what it multiplies."""

        def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if op.overloadpacket in (aten.mm, aten.addmm, aten.addmm_, aten._int_mm):
                made.append((op, *tree_map_only(torch.Tensor, _layout, (args, kwargs or {}))))
            return op(*args, **(kwargs or {}))

    with Noted():
        work()
    ready: dict[_Layout, Any] = {}

    def like(layout: _Layout) -> Any:
        if layout not in ready:
            ready[layout] = torch.empty_strided(layout.shape, layout.strides, dtype=layout.kind).zero_()
        return ready[layout]

    again = [(op, *tree_map_only(_Layout, like, (args, kwargs))) for op, args, kwargs in made]

    def products() -> None:
        with torch.no_grad():
            for op, args, kwargs in again:
                op(*args, **kwargs)

    return counted(products) / best(products, 3)


@dataclass(frozen=True)
class _Layout:
    """How a tensor lies in memory."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    kind: Any


def _layout(tensor: Any) -> _Layout:
    return _Layout(tuple(tensor.shape), tuple(tensor.stride()), tensor.dtype)


def trl_seconds(lines: list[str]) -> float:
    """Seconds a row TRL needs, with every function in every prompt as is usual; the first row only warms up."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from drone_ft.local import calls, weights
    from drone_ft.local import training as t
    from drone_ft.local.learner import target_modules
    from drone_ft.local.prompt import ChatRequest, plain_message, texts
    from drone_ft.local.rows import read_rows

    class Clock(TrainerCallback):  # type: ignore[misc]
        """How long each step took."""

        def __init__(self) -> None:
            self.seconds: list[float] = []

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.began = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.seconds.append(time.perf_counter() - self.began)

    system = "{system}\n\nFunctions you can call, as JSON Schema:\n{tools}"
    model, tokenizer = weights.load(weights.resolve())
    layers = len(model.get_decoder().layers)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        path.write_text("".join(lines), "utf-8")
        examples = []
        for row in read_rows(path):
            told = system.format(system=row.messages[0]["content"], tools="\n".join(map(json.dumps, row.tools)))
            prefix, text = texts(tokenizer, ChatRequest([{"role": "system", "content": told}, *row.messages[1:-1]]))
            answer = plain_message(row.messages[-1], row.tools, calls.JSON)["content"]
            examples.append({"prompt": prefix + text, "completion": answer + tokenizer.eos_token})
        config = SFTConfig(
            output_dir=folder,
            per_device_train_batch_size=1,
            num_train_epochs=1,
            max_length=4096,
            report_to=[],
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        lora = LoraConfig(
            r=t.RANK,
            lora_alpha=t.ALPHA,
            target_modules=target_modules(model, int(t.FROZEN * layers)),
            task_type="CAUSAL_LM",
        )
        trainer = SFTTrainer(
            model, config, train_dataset=Dataset.from_list(examples), processing_class=tokenizer, peft_config=lora
        )
        clock = Clock()
        trainer.add_callback(clock)
        trainer.train()
        return statistics.mean(clock.seconds[1:])


def watched(child: subprocess.Popen[bytes], every: float = 0.5) -> float:
    """Wait for a process; the most memory it held, in bytes."""
    most, process = 0.0, psutil.Process(child.pid)
    while child.poll() is None:
        most = max(most, memory(process))
        time.sleep(every)
    return most


def memory(process: psutil.Process) -> float:
    """Bytes a process holds, those it shares in proportion where the system tells."""
    try:
        info = process.memory_full_info()
    except psutil.Error:
        return 0.0
    return float(getattr(info, "pss", 0) or info.rss)


# Answering


def answering(folder: Path) -> Iterator[Figure]:
    """A server with the base and the model just trained: how soon it answers, one request, a hundred, its memory."""
    from drone_ft.catalog import default_catalog
    from drone_ft.evaluation import read_cases
    from drone_ft.local import weights

    catalog = default_catalog()
    prompts = [case.prompt for case in read_cases(ROOT / "data" / "cases" / "drone.jsonl", catalog)][:CASES]
    names = {"base": weights.resolve().name, "tuned": TUNED}
    start = time.perf_counter()
    with served(folder) as (server, client):

        def ask(prompt: str, model: str) -> float:
            """Seconds for a case, asked as an evaluation does."""
            began = time.perf_counter()
            client.chat.completions.create(
                model=model,
                messages=[{"role": "system", "content": catalog.system_prompt}, {"role": "user", "content": prompt}],
                tools=catalog.tools(),
                tool_choice="required",
                parallel_tool_calls=False,  # where it may, the base model makes up to eight
            )
            return time.perf_counter() - began

        ask(prompts[0], names["base"])
        yield Figure("first answer after the start", f"{time.perf_counter() - start:.1f} s", "≤ 8 s")
        for role, model in names.items():
            ask(prompts[0], model)
            alone = statistics.median(ask(prompt, model) for prompt in prompts[:15])
            yield Figure(f"a single request, {role}", f"{alone:.2f} s", "≤ 0.5 s")
            with ThreadPoolExecutor(CASES) as pool:
                began = time.perf_counter()
                list(pool.map(ask, prompts, [model] * len(prompts)))
                each = (time.perf_counter() - began) / len(prompts)
            yield Figure(f"each of {CASES} requests at once, {role}", f"{each:.3f} s", "≤ 0.08 s")
        held = memory(psutil.Process(server.pid))
        yield Figure("memory of the server with both", f"{held / 1e9:.1f} GB", "≤ 2 GB")
        slowest, middle = while_training(client, folder / "job" / "train.jsonl", names["base"])
        looks = f"slowest of {2 * LOOKS} looks at health and job while it trains"
        yield Figure(looks, f"{slowest * 1e3:,.0f} ms, half of them within {middle * 1e3:,.0f} ms", "< 200 ms")


def while_training(client: Any, rows: Path, model: str) -> tuple[float, float]:
    """Seconds of the slowest and the middle look at the server's health and at a job while this trains."""
    file = client.files.create(file=rows, purpose="fine-tune")
    job = client.fine_tuning.jobs.create(model=model, training_file=file.id)
    while client.fine_tuning.jobs.list_events(job.id, limit=1).data[0].type != "metrics":
        if client.fine_tuning.jobs.retrieve(job.id).status in ("failed", "cancelled"):
            raise SystemExit("The training ended before it began to learn; the server's log says why.")
        time.sleep(1)
    seconds = []
    for _ in range(LOOKS):
        for look in (
            lambda: client.get("/../health", cast_to=object),
            lambda: client.fine_tuning.jobs.retrieve(job.id),
        ):
            seconds.append(best(look, 1))
            time.sleep(0.05)
    client.fine_tuning.jobs.cancel(job.id)
    return max(seconds), statistics.median(seconds)


@contextmanager
def served(folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], Any]]:
    """A server over a workspace, and an OpenAI client of it."""
    import openai

    command = [sys.executable, "-m", "drone_ft", "serve", "--port", "0"]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    note = folder / "engine" / "server.json"
    try:
        while not note.exists():
            if server.poll() is not None:
                raise SystemExit(f"The server ended with exit code {server.returncode}; its words are above.")
            time.sleep(0.02)
        address = json.loads(note.read_text("utf-8"))["base_url"]
        yield server, openai.OpenAI(base_url=address, api_key="local", max_retries=0)
    finally:
        server.terminate()
        server.wait(30)


def table(figures: list[Figure]) -> str:
    """The results as a page."""
    import torch

    from drone_ft.local import cores

    lines = [
        "# What the local engine costs",
        "",
        f"`make bench` on {time.strftime('%Y-%m-%d')}: {cores.physical()} cores ({platform.machine()}), "
        f"{psutil.virtual_memory().total / 2**30:.0f} GiB, Python {platform.python_version()}, "
        f"torch {torch.__version__}.",
        "",
        "| | measured | aim |",
        "|---|---|---|",
        *(f"| {figure.name} | {figure.value} | {figure.aim} |" for figure in figures),
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
