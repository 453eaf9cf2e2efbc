"""Fine-tunes a base model with LoRA in a process of its own: `python -m drone_ft.local.training JOB_DIR`.

JOB_DIR holds job.json, train.jsonl and perhaps validation.jsonl; it gains events.jsonl, one checkpoint an epoch,
result.csv, and error.json if all goes wrong. The finished adapter goes to the job's output_dir. Killed at any
moment, it resumes from its last checkpoint and ends with the same weights as if nothing had happened.
Exit codes: 0 done, 1 failed (error.json says why), 3 cancelled (SIGTERM).
`accelerate launch -m drone_ft.local.training JOB_DIR` spreads it over devices.
"""

from __future__ import annotations

import contextlib
import csv
import json
import logging
import math
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from drone_ft.errors import DatasetError, DroneFTError, JobError, WeightsError, WorkCancelled
from drone_ft.local import lora, packing, weights
from drone_ft.local.lower import LowerLayers
from drone_ft.local.prompt import Settings
from drone_ft.local.rows import Sample, read_rows, samples, shared

EPOCHS, BATCH, RATE = 4, 16, 1.5e-3  # what "auto" means
RANK, ALPHA, DROPOUT = 16, 32, 0.0
NOT_LEARNT = 0.4  # share of the layers, from below, that stay as they are: a third of the time, no accuracy
PACK_TOKENS = 400  # read in one pass: enough for fast matrix products, few enough to stay under 2.5 GB
WARM_UP = 0.06  # share of all steps
MIN_EXAMPLES = 10
CHECKPOINTS_KEPT = 3
CANCELLED = 3
COLUMNS = ("step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy")


@dataclass(frozen=True)
class JobFile:
    """job.json with "auto" resolved; paths as given."""

    id: str
    model: str
    output_model: str
    output_dir: Path
    seed: int
    epochs: int
    batch: int
    rate: float


@dataclass
class Progress:
    """How far training is; what a checkpoint keeps beside the weights."""

    epoch: int = 0
    step: int = 0
    dtype: str = ""
    table: list[dict[str, Any]] = field(default_factory=list)


class Journal:
    """Appends events to events.jsonl, one flushed line each, from the main process only."""

    def __init__(self, path: Path, main: bool) -> None:
        self.path, self.main = path, main

    def write(self, message: str, data: dict[str, Any] | None = None, level: str = "info") -> None:
        """One event: a metrics event when it has data, else a message."""
        if not self.main:
            return
        event = {
            "created_at": int(time.time()),
            "level": level,
            "type": "message" if data is None else "metrics",
            "message": message,
            "data": data or {},
        }
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(event, ensure_ascii=False) + "\n")


def read_job(folder: Path, examples: int) -> JobFile:
    """job.json of a job's folder; "auto" depends on the number of examples. Raises JobError."""
    try:
        data = json.loads((folder / "job.json").read_text("utf-8"))
        wanted = {key: None if value == "auto" else value for key, value in data.get("hyperparameters", {}).items()}
        batch = int(wanted.get("batch_size") or min(BATCH, max(1, examples // 10)))
        return JobFile(
            id=str(data["id"]),
            model=str(data["model"]),
            output_model=str(data["output_model"]),
            output_dir=Path(data["output_dir"]),
            seed=int(data.get("seed") or 0),
            epochs=int(wanted.get("n_epochs") or EPOCHS),
            batch=batch,
            rate=RATE * float(wanted.get("learning_rate_multiplier") or 1.0),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise JobError(f"The job's file {folder / 'job.json'} cannot be read ({error}). Start the job anew.") from error


# Data


@dataclass(frozen=True)
class Data:
    """What is learnt from and what is only measured, as samples, with the settings a tuned model will need."""

    train: list[Sample]
    valid: list[Sample]
    settings: Settings


def read_data(folder: Path, job: JobFile, tokenizer: Any, limit: int) -> Data:
    """Both files as samples. Raises DatasetError naming file, line and field."""
    rows = read_rows(folder / "train.jsonl")
    form, key, system = shared(rows)
    settings = Settings(
        id=job.output_model,
        base=weights.resolve(job.model).name,
        form=form,
        tools_key=key,
        system=system,
        created=int(time.time()),
        hyperparameters={
            "n_epochs": job.epochs,
            "batch_size": job.batch,
            "learning_rate_multiplier": job.rate / RATE,
            "seed": job.seed,
        },
    )
    train = [sample for row in rows for sample in samples(tokenizer, row, settings, limit)]
    if not train:
        raise DatasetError("Every assistant message has weight 0, so there is nothing to learn. Set some to 1.")
    path = folder / "validation.jsonl"
    try:
        held_out = read_rows(path) if path.exists() else []
        valid = [sample for row in held_out for sample in samples(tokenizer, row, settings, limit)]
    except DatasetError as error:
        raise ValidationFileError(f"Validation file: {error}") from error
    return Data(train, valid, settings)


class ValidationFileError(DatasetError):
    """Trouble in the validation file rather than the training file."""


def batches(count: int, size: int, seed: int) -> list[list[int]]:
    """Indices 0…count-1 in random batches. Batches of like length would be batches of like answers: they mislead."""
    order = list(range(count))
    random.Random(seed).shuffle(order)
    return [order[start : start + size] for start in range(0, count, size)]


def common_beginning(found: Sequence[Sample]) -> int:
    """How many tokens all samples begin with, short of the last one before any answer."""
    first = found[0].ids
    shared = min(len(sample.ids) - sample.answer - 1 for sample in found)
    for sample in found:
        while sample.ids[:shared] != first[:shared]:
            shared -= 1
    return max(0, shared)


def packs(batch: Sequence[Sample], tokens: int, shared: int = 0) -> list[list[Sample]]:
    """A batch in pieces of at most `tokens` tokens, one sample at least: what is read in one pass, to bound memory.

    The `shared` tokens all samples begin with are read once a pass and do not count.
    """
    found: list[list[Sample]] = [[]]
    room = tokens
    for sample in batch:
        if found[-1] and len(sample.ids) - shared > room:
            found.append([])
            room = tokens
        found[-1].append(sample)
        room -= len(sample.ids) - shared
    return found


# Model


class Learner:
    """A model with LoRA matrices, its optimizer, and one step of learning."""

    def __init__(self, model: Any, job: JobFile, data: Data, accelerator: Any) -> None:
        import torch
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(job.seed)
        self.packable = packing.can_pack(model)
        self.pack_tokens = PACK_TOKENS if self.packable else 1
        self.shared = common_beginning([*data.train, *data.valid]) if self.packable else 0
        count = int(NOT_LEARNT * len(model.get_decoder().layers)) if self.packable else 0
        self.lower = LowerLayers(model, count) if count else None
        if self.packable:
            packing.pack(model)
        config = LoraConfig(
            r=RANK,
            lora_alpha=ALPHA,
            lora_dropout=DROPOUT,
            target_modules=_learnt(model, count),
            task_type="CAUSAL_LM",
        )
        self.plain = get_peft_model(model, config)
        lora.speed_up(self.plain)
        self.accelerator = accelerator
        self._chosen: Any = None
        self.plain.get_output_embeddings().register_forward_pre_hook(self._answers_only)
        self.weights = {name: p for name, p in self.plain.named_parameters() if p.requires_grad}
        optimizer = torch.optim.AdamW(self.weights.values(), lr=job.rate, weight_decay=0.0, betas=(0.9, 0.99))
        self.model, self.optimizer = accelerator.prepare(self.plain, optimizer)
        self.rate, self.steps = job.rate, math.ceil(len(data.train) / job.batch) * job.epochs

    def _answers_only(self, _module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """Project onto the vocabulary only where an answer is to be written: the rest has no loss."""
        return (inputs[0][:, self._chosen],)

    def loss(self, pack: Sequence[Sample]) -> tuple[Any, int]:
        """(summed loss, tokens got right) over the answers of a pack."""
        import torch

        chosen: list[int] = []
        end = self.shared
        for sample in pack:
            end += len(sample.ids) - 1 - self.shared
            chosen += range(end - sample.answer, end)
        device = self.accelerator.device
        self._chosen = torch.tensor(chosen, device=device)
        wanted = [token for sample in pack for token in sample.ids[-sample.answer :]]
        if self.lower is not None:
            self.lower.feed([None, *pack], lambda rows: self._inputs(rows, pack[0]))
        output = self.model(**self._inputs(pack, pack[0]))
        logits = output.logits[0].float()
        target = torch.tensor(wanted, device=device)
        loss = torch.nn.functional.cross_entropy(logits, target, reduction="sum")
        return loss, int((logits.argmax(-1) == target).sum())

    def _inputs(self, pack: Sequence[Sample], any_sample: Sample) -> dict[str, Any]:
        """What the model reads: the beginning all samples share, then the rest of each."""
        import torch

        shared, device = self.shared, self.accelerator.device
        ids = [*any_sample.ids[:shared], *(token for sample in pack for token in sample.ids[shared:-1])]
        positions = [*range(shared), *(at for sample in pack for at in range(shared, len(sample.ids) - 1))]
        rows = {"row_lengths": [len(sample.ids) - 1 - shared for sample in pack], "shared_length": shared}
        return {
            "input_ids": torch.tensor([ids], device=device),
            "position_ids": torch.tensor([positions], device=device),
            "use_cache": False,
            **(rows if self.packable else {}),
        }

    def step(self, batch: Sequence[Sample], number: int) -> tuple[float, float]:
        """Learn from a batch; (mean loss, share of answer tokens got right) over all processes."""
        import torch

        processes = self.accelerator.num_processes
        mine = batch[self.accelerator.process_index :: processes]
        weight = 1.0 if mine else 0.0  # a process without a row must still take part in the exchange
        tokens = sum(sample.answer for sample in batch)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * _schedule(number, self.steps)
        total, right = 0.0, 0.0
        pieces = packs(mine or batch[:1], self.pack_tokens, self.shared)
        for place, pack in enumerate(pieces):
            last = place == len(pieces) - 1
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.model):
                loss, hits = self.loss(pack)
                # gradients are averaged over processes, so the mean over all answer tokens needs the factor
                self.accelerator.backward(loss * (weight * processes / tokens))
            total, right = total + float(loss.detach()) * weight, right + hits * weight
        self.accelerator.clip_grad_norm_(list(self.weights.values()), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        sums = self.accelerator.reduce(torch.tensor([total, right], device=self.accelerator.device), reduction="sum")
        return float(sums[0]) / tokens, float(sums[1]) / tokens

    def measure(self, held_out: Sequence[Sample]) -> tuple[float, float]:
        """(mean loss, share of tokens right) on samples that are not learnt from."""
        import torch

        total, right = 0.0, 0
        self.model.eval()
        with torch.no_grad():
            for pack in packs(held_out, self.pack_tokens, self.shared):
                loss, hits = self.loss(pack)
                total, right = total + float(loss), right + hits
        self.model.train()
        tokens = sum(sample.answer for sample in held_out)
        return total / tokens, right / tokens

    def save(self, folder: Path) -> None:
        """The adapter, in peft's own format."""
        self.plain.save_pretrained(folder)

    def save_optimizer(self, path: Path) -> None:
        """Both moments of every weight, as safetensors: nothing of ours is ever unpickled."""
        from safetensors.torch import save_file

        state = self._raw_optimizer().state
        tensors = {}
        for name, weight in self.weights.items():
            for key in ("exp_avg", "exp_avg_sq", "step"):
                tensors[f"{key}:{name}"] = state[weight][key]
        save_file(tensors, path)

    def restore(self, folder: Path) -> None:
        """Weights and optimizer of a checkpoint."""
        from peft import set_peft_model_state_dict
        from safetensors.torch import load_file

        set_peft_model_state_dict(self.plain, load_file(folder / "adapter_model.safetensors"))
        tensors = load_file(folder / "optimizer.safetensors")
        state = self._raw_optimizer().state
        for name, weight in self.weights.items():
            moments = {key: tensors[f"{key}:{name}"].to(weight.device) for key in ("exp_avg", "exp_avg_sq")}
            state[weight] = {**moments, "step": tensors[f"step:{name}"]}

    def _raw_optimizer(self) -> Any:
        return getattr(self.optimizer, "optimizer", self.optimizer)


def _learnt(model: Any, lower: int) -> list[str]:
    """Names of the matrices that get LoRA: all in the layers from number `lower` on."""
    import torch

    layers = {id(layer) for layer in list(model.get_decoder().layers)[lower:]}
    above = [name for name, module in model.named_modules() if id(module) in layers]
    return [
        name
        for name, module in model.named_modules()
        if type(module) is torch.nn.Linear and any(name.startswith(f"{layer}.") for layer in above)
    ]


def _schedule(step: int, steps: int) -> float:
    """Share of the full learning rate: a short rise, then a straight way down."""
    rise = max(1, round(WARM_UP * steps))
    return min((step + 1) / rise, max(0.02, (steps - step) / max(1, steps - rise)))


# Files


def write_folder(folder: Path, fill: Any) -> None:
    """Make `folder` complete or not at all: filled under another name, synced, renamed."""
    temporary = folder.with_name(f".{folder.name}.unfinished")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    fill(temporary)
    for path in sorted(temporary.rglob("*")):
        if path.is_file():
            _sync(path)
    _sync(temporary)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)
    _sync(folder.parent)


def _sync(path: Path) -> None:
    if path.is_dir() and os.name == "nt":
        return
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Replace a file at once."""
    temporary = path.with_name(f".{path.name}.unfinished")
    temporary.write_text(text, "utf-8")
    _sync(temporary)
    temporary.replace(path)


def last_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint of a job."""
    found = [path for path in (folder / "checkpoints").glob("epoch-*") if (path / "progress.json").exists()]
    return max(found, key=lambda path: int(path.name.split("-")[1]), default=None)


def write_results(folder: Path, table: Sequence[dict[str, Any]]) -> None:
    """result.csv: one line a step, as the hosted API has it."""
    path = folder / ".result.csv.unfinished"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="")
        writer.writeheader()
        writer.writerows(table)
    path.replace(folder / "result.csv")


# The process


class Training:
    """One job from its files to its adapter."""

    def __init__(self, folder: Path, accelerator: Any) -> None:
        self.folder, self.accelerator = folder, accelerator
        self.journal = Journal(folder / "events.jsonl", accelerator.is_main_process)
        self.cancelled = False
        self.durations: list[float] = []

    def run(self) -> None:
        """Train to the end. Raises DroneFTError, WorkCancelled."""
        job, data, model = self._prepare()
        if (job.output_dir / "settings.json").exists():
            self.journal.write(f"The tuned model {job.output_model} is already there")
            return
        learner = Learner(model, job, data, self.accelerator)
        progress = self._resume(learner)
        learner.model.train()
        while progress.epoch < job.epochs:
            self._epoch(job, data, learner, progress)
        self._finish(job, data, learner, progress)

    def _prepare(self) -> tuple[JobFile, Data, Any]:
        count = len(read_rows(self.folder / "train.jsonl"))
        if count < MIN_EXAMPLES:
            raise TooFewExamples(
                f"The training file has {count} examples; fine-tuning needs at least {MIN_EXAMPLES}. Add some."
            )
        job = read_job(self.folder, count)
        dtype = self._dtype()
        model, tokenizer = weights.load(weights.resolve(job.model), dtype)
        limit = getattr(model.config, "max_position_embeddings", None) or 1 << 20
        data = read_data(self.folder, job, tokenizer, limit)
        self.journal.write(
            f"Learning from {len(data.train)} examples, {job.epochs} times over, {job.batch} a step, in "
            f"{str(dtype).removeprefix('torch.')}"
        )
        return job, data, model

    def _dtype(self) -> Any:
        """The type of number to learn in: the fastest here, or the one a resumed job began with."""
        import torch

        checkpoint = last_checkpoint(self.folder)
        if checkpoint is None:
            return weights.fast_dtype()
        return getattr(torch, json.loads((checkpoint / "progress.json").read_text("utf-8"))["dtype"])

    def _resume(self, learner: Learner) -> Progress:
        checkpoint = last_checkpoint(self.folder)
        if checkpoint is None:
            return Progress(dtype=str(learner.plain.dtype).removeprefix("torch."))
        learner.restore(checkpoint)
        progress = Progress(**json.loads((checkpoint / "progress.json").read_text("utf-8")))
        self.journal.write(f"Going on after epoch {progress.epoch}, step {progress.step}")
        return progress

    def _epoch(self, job: JobFile, data: Data, learner: Learner, progress: Progress) -> None:
        import torch

        torch.manual_seed(job.seed + progress.epoch)  # the same draws whether or not the run was interrupted
        for indices in batches(len(data.train), job.batch, job.seed * 1000 + progress.epoch):
            self._stop_if_cancelled()
            start = time.perf_counter()
            loss, right = learner.step([data.train[index] for index in indices], progress.step)
            self.durations.append(time.perf_counter() - start)
            if not math.isfinite(loss):
                raise JobError("The loss became infinite. Lower learning_rate_multiplier and start again.")
            progress.step += 1
            progress.table.append({"step": progress.step, "train_loss": loss, "train_accuracy": right})
            self._report(job, learner, progress)
        progress.epoch += 1
        self._end_epoch(job, data, learner, progress)

    def _report(self, job: JobFile, learner: Learner, progress: Progress) -> None:
        row = progress.table[-1]
        recent = sorted(self.durations[-40:])
        left = (learner.steps - progress.step) * recent[len(recent) // 2]
        self.journal.write(
            f"Step {progress.step}/{learner.steps}: training loss={row['train_loss']:.4f}",
            {
                "step": progress.step,
                "total_steps": learner.steps,
                "train_loss": row["train_loss"],
                "train_mean_token_accuracy": row["train_accuracy"],
                "epoch": round(progress.step * job.epochs / learner.steps, 3),
                "seconds_left": round(left, 1),
            },
        )

    def _end_epoch(self, job: JobFile, data: Data, learner: Learner, progress: Progress) -> None:
        row = progress.table[-1]
        if data.valid:
            row["valid_loss"], row["valid_mean_token_accuracy"] = learner.measure(data.valid)
            self.journal.write(
                f"Epoch {progress.epoch}/{job.epochs}: validation loss={row['valid_loss']:.4f}",
                {
                    "step": progress.step,
                    "total_steps": learner.steps,
                    "train_loss": row["train_loss"],
                    "valid_loss": row["valid_loss"],
                    "valid_mean_token_accuracy": row["valid_mean_token_accuracy"],
                    "epoch": progress.epoch,
                    "seconds_left": round((learner.steps - progress.step) * self.durations[-1], 1),
                },
            )
        if self.accelerator.is_main_process:
            self._checkpoint(data, learner, progress)
            write_results(self.folder, progress.table)
        self.accelerator.wait_for_everyone()

    def _checkpoint(self, data: Data, learner: Learner, progress: Progress) -> None:
        name = f"{data.settings.id}:ckpt-step-{progress.step}"

        def fill(folder: Path) -> None:
            learner.save(folder)
            learner.save_optimizer(folder / "optimizer.safetensors")
            settings = replace(data.settings, id=name, metrics=progress.table[-1])
            (folder / "settings.json").write_text(json.dumps(settings.to_json(), ensure_ascii=False, indent=1), "utf-8")
            (folder / "progress.json").write_text(json.dumps(progress.__dict__), "utf-8")

        root = self.folder / "checkpoints"
        write_folder(root / f"epoch-{progress.epoch}", fill)
        for old in range(1, progress.epoch):
            (root / f"epoch-{old}" / "optimizer.safetensors").unlink(missing_ok=True)
            if old <= progress.epoch - CHECKPOINTS_KEPT:
                shutil.rmtree(root / f"epoch-{old}", ignore_errors=True)

    def _finish(self, job: JobFile, data: Data, learner: Learner, progress: Progress) -> None:
        if not self.accelerator.is_main_process:
            return
        metrics = dict(progress.table[-1], seconds=round(sum(self.durations), 1))

        def fill(folder: Path) -> None:
            learner.save(folder)
            settings = replace(data.settings, metrics=metrics)
            (folder / "settings.json").write_text(json.dumps(settings.to_json(), ensure_ascii=False, indent=1), "utf-8")

        job.output_dir.parent.mkdir(parents=True, exist_ok=True)
        write_folder(job.output_dir, fill)
        self.journal.write(f"Done: the tuned model is {job.output_model}")

    def _stop_if_cancelled(self) -> None:
        if self.cancelled:
            raise WorkCancelled("Fine-tuning was cancelled.")


class TooFewExamples(DatasetError):
    """Fewer examples than fine-tuning takes."""


def failure_code(error: BaseException) -> str:
    """The API's code for an error."""
    table: list[tuple[type[BaseException], str]] = [
        (TooFewExamples, "invalid_n_examples"),
        (ValidationFileError, "invalid_validation_file"),
        (DatasetError, "invalid_training_file"),
        (WeightsError, "model_not_found"),
        (MemoryError, "out_of_memory"),
        (OSError, "disk_error"),
    ]
    return next((code for kind, code in table if isinstance(error, kind)), "training_failed")


def failure_message(error: BaseException) -> str:
    """What to tell a person; our own errors speak for themselves."""
    if isinstance(error, DroneFTError):
        return str(error)
    if isinstance(error, MemoryError):
        return "The computer ran out of memory. Use a smaller batch_size or close other programs."
    if isinstance(error, OSError):
        return f"A file could not be read or written ({error.strerror or error}). Free some disk and start again."
    return f"Training stopped on an unexpected error ({type(error).__name__}). The job's training.log has the details."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job of a folder; the exit code."""
    folder = Path((arguments or sys.argv[1:])[0])
    (folder / "error.json").unlink(missing_ok=True)
    # threads that sleep while they wait leave the cores to the server and to whoever uses the computer
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import torch
    from accelerate import Accelerator

    # only cuda is known to work: other accelerators would hold the weights where the optimizer is not restored to
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    _use_cores(accelerator.num_processes)
    training = Training(folder, accelerator)
    signal.signal(signal.SIGTERM, lambda *_: setattr(training, "cancelled", True))
    try:
        training.run()
    except WorkCancelled:
        training.journal.write("Cancelled", level="warn")
        return CANCELLED
    except Exception as error:
        return _fail(folder, training, error)
    return 0


def _use_cores(processes: int) -> None:
    import torch

    torch.set_num_threads(max(1, weights.physical_cores() // processes))


def _fail(folder: Path, training: Training, error: Exception) -> int:
    """Say why in error.json and the events; the traceback goes to training.log only."""
    logging.basicConfig(filename=folder / "training.log")
    logging.getLogger(__name__).error("job failed", exc_info=error)
    message = failure_message(error)
    if training.accelerator.is_main_process:
        write_text(folder / "error.json", json.dumps({"code": failure_code(error), "message": message}))
        training.journal.write(message, level="error")
    return 1


if __name__ == "__main__":
    sys.exit(main())
