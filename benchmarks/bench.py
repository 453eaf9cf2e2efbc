"""What the local engine costs on this machine: training, answering, memory; written to RESULTS.md beside this file.

Every figure is taken in this one run, and told as a ratio to something measured in the same run where that is possible:
the machine's own matrix products, or TRL's trainer on the same rows. Run it on a quiet machine: `make bench`.
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
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[1]
CASES = 100
TRL_ROWS = 8


@dataclass(frozen=True)
class Figure:
    """One line of the results."""

    name: str
    value: str
    wanted: str = ""


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=520, help="rows to train on")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--without-trl", action="store_true", help="leave out the slow comparison")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = [*peaks(), *training(Path(folder), options), *answering(Path(folder))]
    text = table(figures, options)
    (Path(__file__).parent / "RESULTS.md").write_text(text, "utf-8")
    print(text)


# The machine


def peaks() -> list[Figure]:
    """Matrix products of the shapes a small model has, in GFLOP/s."""
    import torch

    found = []
    for dtype in (torch.float32, torch.bfloat16):
        left, right = torch.randn(512, 1536).to(dtype), torch.randn(1536, 1536).to(dtype)
        seconds = best(lambda left=left, right=right: left @ right, 30)
        speed = 2 * 512 * 1536 * 1536 / seconds / 1e9
        found.append(Figure(f"matrix products, {str(dtype).removeprefix('torch.')}", f"{speed:,.0f} GFLOP/s"))
    return found


def best(work: Callable[[], object], times: int) -> float:
    """Seconds of the quickest of several goes."""
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


# Training


def training(folder: Path, options: argparse.Namespace) -> list[Figure]:
    """A training as the server starts it; then TRL's trainer with the same LoRA on some of its rows."""
    lines = data(options.rows)
    job = folder / "job"
    job.mkdir()
    (job / "train.jsonl").write_text("".join(lines), "utf-8")
    spec = {
        "id": "ftjob-bench",
        "model": base(),
        "suffix": "bench",
        "seed": 0,
        "hyperparameters": {"n_epochs": options.epochs, "batch_size": "auto", "learning_rate_multiplier": "auto"},
        "output_model": "ft:bench:local::bench",
        "output_dir": str(folder / "engine" / "models" / "bench"),
    }
    (job / "job.json").write_text(json.dumps(spec))
    start = time.perf_counter()
    child = subprocess.Popen([sys.executable, "-m", "drone_ft.local.training", str(job)], cwd=ROOT)
    peak = watched(child)
    if child.returncode:
        raise SystemExit((job / "error.json").read_text())
    seconds = time.perf_counter() - start
    a_row = seconds / options.rows / options.epochs
    settings = json.loads((folder / "engine" / "models" / "bench" / "settings.json").read_text("utf-8"))
    learning = settings["metrics"]["seconds"]
    found = [
        Figure(f"training, {options.rows} rows, {options.epochs} epochs", f"{seconds:,.0f} s", "180 s"),
        Figure("of it learning steps", f"{learning:,.0f} s, {learning / options.rows / options.epochs:.3f} s a row"),
        Figure("memory while training", f"{peak / 1e9:.1f} GB", "3 GB"),
    ]
    if not options.without_trl:
        theirs = trl_seconds(lines[:TRL_ROWS]) / TRL_ROWS
        found.append(Figure("TRL's SFTTrainer, the same LoRA, full prompts", f"{theirs:.1f} s a row"))
        found.append(Figure("rate against TRL's", f"{theirs / a_row:,.0f}×", "100×"))
    return found


def data(rows: int) -> list[str]:
    """Lines of the default data's training split, every so many of them."""
    from drone_ft import dataset, synthesis
    from drone_ft.catalog import default_catalog

    catalog = default_catalog()
    examples = [e for e in dataset.split(synthesis.write_examples(catalog).examples) if e.split == "train"]
    chosen = examples[:: max(1, len(examples) // rows)][:rows]
    return dataset.to_jsonl(chosen, catalog).splitlines(keepends=True)


def base() -> str:
    """The default base model's name."""
    from drone_ft.local import weights

    return weights.resolve().name


def trl_seconds(lines: list[str]) -> float:
    """Seconds TRL needs to read rows once, with every function in every prompt, as its documentation shows."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    from drone_ft.local import calls, rows, weights
    from drone_ft.local.prompt import ChatRequest, plain_message, texts
    from drone_ft.local.training import ALPHA, RANK

    model, tokenizer = weights.load(weights.resolve())
    examples = []
    for number, line in enumerate(lines, 1):
        row = rows._row(line, number)
        prefix, text = texts(tokenizer, ChatRequest(row.messages[:-1], row.tools))
        answer = plain_message(row.messages[-1], row.tools, calls.JSON)["content"]
        examples.append({"prompt": prefix + text, "completion": answer + tokenizer.eos_token})
    with tempfile.TemporaryDirectory() as folder:
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
        lora = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM")
        trainer = SFTTrainer(
            model, config, train_dataset=Dataset.from_list(examples), processing_class=tokenizer, peft_config=lora
        )
        start = time.perf_counter()
        trainer.train()
        return time.perf_counter() - start


def watched(child: subprocess.Popen[bytes], every: float = 0.5) -> float:
    """Wait for a process; the most memory it held, in bytes (proportional set size where the system tells)."""
    most = 0.0
    process = psutil.Process(child.pid)
    while child.poll() is None:
        most = max(most, memory(process))
        time.sleep(every)
    return most


def memory(process: psutil.Process) -> float:
    """Bytes a process holds, shared ones in proportion where the system tells."""
    try:
        info = process.memory_full_info()
    except psutil.Error:
        return 0.0
    return float(getattr(info, "pss", 0) or info.rss)


# Answering


def answering(folder: Path) -> list[Figure]:
    """A server with the base and the model just trained: how soon it answers, one request, a hundred, and its memory."""
    import openai

    from drone_ft.catalog import default_catalog
    from drone_ft.evaluation import read_cases

    catalog = default_catalog()
    prompts = [case.prompt for case in read_cases(ROOT / "data" / "cases" / "drone.jsonl", catalog)][:CASES]
    environment = {**os.environ, "DRONE_FT_WORKSPACE": str(folder)}
    start = time.perf_counter()
    server = subprocess.Popen(
        [sys.executable, "-m", "drone_ft", "serve", "--port", "0"], cwd=ROOT, env=environment, stdout=subprocess.DEVNULL
    )
    try:
        note = folder / "engine" / "server.json"
        while not note.exists():
            time.sleep(0.05)
        client = openai.OpenAI(base_url=json.loads(note.read_text())["base_url"], api_key="local", max_retries=0)

        def ask(prompt: str, model: str) -> float:
            began = time.perf_counter()
            client.chat.completions.create(
                model=model,
                messages=[{"role": "system", "content": catalog.system_prompt}, {"role": "user", "content": prompt}],
                tools=catalog.tools(),  # type: ignore[arg-type]
                tool_choice="required",
            )
            return time.perf_counter() - began

        def together(model: str) -> float:
            threads = [threading.Thread(target=ask, args=(prompt, model)) for prompt in prompts]
            began = time.perf_counter()
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            return (time.perf_counter() - began) / len(prompts)

        names = {"base": base(), "tuned": "ft:bench:local::bench"}
        found = []
        ask(prompts[0], names["base"])
        found.append(Figure("first answer after the start", f"{time.perf_counter() - start:.1f} s", "8 s"))
        for role, model in names.items():
            ask(prompts[0], model)
            alone = statistics.median(ask(prompt, model) for prompt in prompts[:15])
            found.append(Figure(f"a single request, {role}", f"{alone:.2f} s", "0.5 s"))
            found.append(Figure(f"{CASES} requests at once, {role}", f"{together(model):.3f} s each", "0.08 s"))
        found.append(Figure("memory of the server, base and tuned", f"{memory(psutil.Process(server.pid)) / 1e9:.1f} GB", "2 GB"))
        return found
    finally:
        server.terminate()
        server.wait(30)


def table(figures: list[Figure], options: Any) -> str:
    """The results as a page."""
    import torch

    cores = psutil.cpu_count(logical=False)
    lines = [
        "# What the local engine costs",
        "",
        f"Measured by `make bench` on {time.strftime('%Y-%m-%d')}: {cores} cores ({platform.machine()}), "
        f"{psutil.virtual_memory().total / 2**30:.0f} GiB, Python {platform.python_version()}, torch {torch.__version__}.",
        "",
        "| | measured | wanted at most (× at least) |",
        "|---|---|---|",
        *(f"| {figure.name} | {figure.value} | {figure.wanted} |" for figure in figures),
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
