"""Fine-tunes a base model with LoRA in a process of its own: `python -m drone_ft.local.training JOB_DIR`.

JOB_DIR holds job.json, train.jsonl and perhaps validation.jsonl; it gains events.jsonl, one checkpoint an epoch,
result.csv, and error.json if all goes wrong. The finished adapter goes to the job's output_dir. Killed at any
moment, it resumes from its last checkpoint and ends with the same weights, up to rounding, as if nothing had happened.
Exit codes: 0 done, 1 failed (error.json says why), 3 cancelled (SIGTERM, or its server is gone).
`accelerate launch -m drone_ft.local.training JOB_DIR` spreads it over devices.
"""

from __future__ import annotations

import errno
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

import psutil

from drone_ft.dataset import auto_epochs
from drone_ft.errors import DatasetError, DroneFTError, JobError, WeightsError, WorkCancelled
from drone_ft.local import cores, int8, weights
from drone_ft.local.grammar import Grammars
from drone_ft.local.job_folder import (
    FOLLOWER,
    UNDER_WAY,
    Journal,
    last_checkpoint,
    write_folder,
    write_results,
    write_text,
)
from drone_ft.local.learner import Learner, Recipe
from drone_ft.local.prompt import Settings
from drone_ft.local.rows import Row, Sample, read_rows, samples, shared

BATCH, RATE = 8, 2e-3  # what "auto" means
RANK, ALPHA, DROPOUT = 16, 32, 0.0
FROZEN = 0.34  # share of the layers, from below, that are not learnt: a sixth less time, as good in one run each
PACK_TOKENS = 800  # read in one pass, all as long as the longest: enough for fast products, few enough for 3 GB
WHOLE = 16  # one answer in so many is learnt to its end, so that it is also right where no grammar holds it
LEAST_WHOLE = 32  # as many are, if there are: a few would not teach that a call, not text, is wanted
WARM_UP = 0.06  # share of all steps
MIN_EXAMPLES = 10
MEASURED = 60  # examples of the validation file measured each time, at most: enough for a curve
LEAST_POINTS = 3  # times validation is measured in a training of few epochs
CHECKPOINTS_KEPT = 3
RECENT = 200  # steps by which the time left is told
CANCELLED = 3
NUMBERS = ("float32", "bfloat16", "int8")


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

    epoch: int = 0  # whole ones done
    batch: int = 0  # batches done of the one under way
    step: int = 0
    dtype: str = ""  # the numbers it multiplies: one of NUMBERS
    table: list[dict[str, Any]] = field(default_factory=list)


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
            epochs=int(wanted.get("n_epochs") or auto_epochs(examples)),
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
    admitted: list[int]  # tokens that open targets are chosen from


def read_data(folder: Path, rows: list[Row], job: JobFile, model: Any, tokenizer: Any) -> Data:
    """The rows of the training file, and the validation file, as samples. Raises DatasetError naming file and line."""
    limit = getattr(model.config, "max_position_embeddings", None) or 1 << 20
    grammars = Grammars(model, tokenizer)
    form, key, system = shared(rows)
    settings = Settings(
        id=job.output_model,
        base=weights.resolve(job.model).name,
        form=form,
        tools_key=key,
        system=system,
        calls="compact" if form == "turns" else "own",
        created=int(time.time()),
        hyperparameters={
            "n_epochs": job.epochs,
            "batch_size": job.batch,
            "learning_rate_multiplier": job.rate / RATE,
            "seed": job.seed,
        },
    )
    whole = max(1, min(WHOLE, len(rows) // LEAST_WHOLE))
    train = [
        sample
        for number, row in enumerate(rows)
        for sample in samples(tokenizer, row, settings, limit, grammars, whole=number % whole == 0)
    ]
    if not train:
        raise DatasetError("Every assistant message has weight 0, so there is nothing to learn. Set some to 1.")
    path = folder / "validation.jsonl"
    try:
        held_out = read_rows(path) if path.exists() else []
        # the same ones each time, from the whole file: it may be sorted by function
        held_out = random.Random(0).sample(held_out, min(MEASURED, len(held_out)))
        valid = [sample for row in held_out for sample in samples(tokenizer, row, settings, limit, grammars)]
    except DatasetError as error:
        raise ValidationFileError(f"Validation file: {error}") from error
    return Data(train, valid, settings, grammars.admitted)


class ValidationFileError(DatasetError):
    """Trouble in the validation file rather than the training file."""


def batches(count: int, size: int, seed: int) -> list[list[int]]:
    """Indices 0…count-1 in random batches. Batches of like length would be batches of like answers: they mislead."""
    order = list(range(count))
    random.Random(seed).shuffle(order)
    return [order[start : start + size] for start in range(0, count, size)]


class Training:
    """One job from its files to its adapter."""

    def __init__(self, folder: Path, accelerator: Any) -> None:
        self.folder, self.accelerator = folder, accelerator
        self.journal = Journal(folder / "events.jsonl", accelerator.is_main_process)
        self.cancelled = False
        self.follower = int(os.environ.get(FOLLOWER, 0))  # the server's process, where a server started this
        self.durations: list[float] = []
        self.share = cores.Share(cores.physical() // accelerator.num_processes)
        self._take_cores()

    def run(self) -> None:
        """Train to the end. Raises DroneFTError, WorkCancelled."""
        job, data, model, numbers = self._prepare()
        if (job.output_dir / "settings.json").exists():
            self.journal.write(f"The tuned model {job.output_model} is already there")
            return
        recipe = Recipe(RANK, ALPHA, DROPOUT, FROZEN, PACK_TOKENS, WARM_UP)
        steps = math.ceil(len(data.train) / job.batch) * job.epochs
        known = [*data.train, *data.valid]
        learner = Learner(
            model,
            known,
            recipe,
            self.accelerator,
            rate=job.rate,
            steps=steps,
            seed=job.seed,
            again=known if job.epochs > 1 else data.valid,
            admitted=data.admitted,
            int8=numbers == "int8",
        )
        self.journal.write(
            f"Learning from {len(data.train):,} examples, {_times(job.epochs)}, {job.batch} a step"
            + (", frozen matrices in int8" if learner.rounded else "")
        )
        progress = self._resume(learner, numbers)
        learner.model.train()
        while progress.epoch < job.epochs:
            self._epoch(job, data, learner, progress)
        self._finish(job, data, learner, progress)

    def _prepare(self) -> tuple[JobFile, Data, Any, str]:
        import torch

        self.journal.write("Getting the examples ready; the first step follows within a minute or so")
        rows = read_rows(self.folder / "train.jsonl")
        if len(rows) < MIN_EXAMPLES:
            raise TooFewExamples(
                f"The training file has {len(rows)} examples; fine-tuning needs at least {MIN_EXAMPLES}. Add some."
            )
        job = read_job(self.folder, len(rows))
        numbers = self._numbers()
        dtype = torch.bfloat16 if numbers == "bfloat16" else torch.float32
        model, tokenizer = weights.load(weights.resolve(job.model), dtype)
        data = read_data(self.folder, rows, job, model, tokenizer)
        return job, data, model, numbers

    def _numbers(self) -> str:
        """The numbers to multiply: the fastest here, or those a resumed job began with, if they are to be had here."""
        checkpoint = last_checkpoint(self.folder)
        if checkpoint is None:
            return self._agreed(weights.fast_numbers())
        began = json.loads((checkpoint / "progress.json").read_text("utf-8"))["dtype"]
        if began not in NUMBERS:
            raise JobError(f"The checkpoint {checkpoint} names numbers {began!r}; known are {', '.join(NUMBERS)}.")
        possible = began != "int8" or (self.accelerator.device.type == "cpu" and int8.exact())
        return str(began) if possible else "float32"

    def _agreed(self, numbers: str) -> str:
        """What the main process found: others may measure otherwise."""
        from accelerate.utils import broadcast_object_list

        return str(broadcast_object_list([numbers])[0]) if self.accelerator.num_processes > 1 else numbers

    def _resume(self, learner: Learner, numbers: str) -> Progress:
        checkpoint = last_checkpoint(self.folder)
        if checkpoint is None:
            return Progress(dtype=numbers)
        learner.restore(checkpoint)
        progress = Progress(**json.loads((checkpoint / "progress.json").read_text("utf-8")))
        self.journal.write(f"Going on after epoch {progress.epoch}, step {progress.step}")
        return progress

    def _epoch(self, job: JobFile, data: Data, learner: Learner, progress: Progress) -> None:
        import torch

        order = batches(len(data.train), job.batch, job.seed * 1000 + progress.epoch)
        parts = math.ceil(LEAST_POINTS / job.epochs)
        pauses = {len(order) * part // parts for part in range(1, parts)}
        for indices in order[progress.batch :]:
            if self._is_over():
                self._stop(data, learner, progress)
            self._take_cores()
            torch.manual_seed(job.seed + progress.step)  # the same draws whether or not the run was interrupted
            start = time.perf_counter()
            loss, right = learner.step([data.train[index] for index in indices], progress.step)
            self.durations.append(time.perf_counter() - start)
            if not math.isfinite(loss):
                raise JobError("The loss became infinite. Lower learning_rate_multiplier and start again.")
            progress.step, progress.batch = progress.step + 1, progress.batch + 1
            progress.table.append({"step": progress.step, "train_loss": loss, "train_accuracy": right})
            self._report(job, learner, progress)
            if progress.batch in pauses:
                self._pause(job, data, learner, progress, f"Step {progress.step}/{learner.steps}")
        progress.epoch, progress.batch = progress.epoch + 1, 0
        self._pause(job, data, learner, progress, f"Epoch {progress.epoch}/{job.epochs}")

    def _pause(self, job: JobFile, data: Data, learner: Learner, progress: Progress, when: str) -> None:
        """Measure, and keep what a killed training goes on from."""
        self._take_cores()
        if data.valid:
            self._measure(job, data, learner, progress, when)
        if self.accelerator.is_main_process:
            self._checkpoint(data, learner, progress)
            write_results(self.folder, progress.table)
        self.accelerator.wait_for_everyone()

    def _take_cores(self) -> None:
        """As many as others leave: they come and go while this trains."""
        cores.use(self.share.threads())

    def _report(self, job: JobFile, learner: Learner, progress: Progress) -> None:
        row = progress.table[-1]
        figures = self._figures(job, learner, progress)
        self.journal.write(
            f"Step {progress.step}/{learner.steps}: training loss={row['train_loss']:.4f}",
            figures | {"train_mean_token_accuracy": row["train_accuracy"]},
        )

    def _measure(self, job: JobFile, data: Data, learner: Learner, progress: Progress, when: str) -> None:
        row = progress.table[-1]
        row["valid_loss"], row["valid_mean_token_accuracy"] = learner.measure(data.valid)
        measured = {name: row[name] for name in ("valid_loss", "valid_mean_token_accuracy")}
        figures = self._figures(job, learner, progress) | measured
        self.journal.write(f"{when}: validation loss={row['valid_loss']:.4f}", figures)

    def _figures(self, job: JobFile, learner: Learner, progress: Progress) -> dict[str, Any]:
        """What every metrics event tells."""
        # Steps take turns in being quick and slow where others use the cores, too; the slowest tell nothing.
        recent = sorted(self.durations[-RECENT:])
        usual = recent[: max(1, len(recent) - max(1, len(recent) // 10))]
        pace = sum(usual) / len(usual)
        return {
            "step": progress.step,
            "total_steps": learner.steps,
            "train_loss": progress.table[-1]["train_loss"],
            "epoch": round(progress.step * job.epochs / learner.steps, 3),
            "seconds_left": round((learner.steps - progress.step) * pace, 1),
        }

    def _checkpoint(self, data: Data, learner: Learner, progress: Progress) -> None:
        name = f"{data.settings.id}:ckpt-step-{progress.step}"

        def fill(folder: Path) -> None:
            learner.save(folder)
            learner.save_optimizer(folder / "optimizer.safetensors")
            settings = replace(data.settings, id=name, metrics=progress.table[-1])
            (folder / "settings.json").write_text(json.dumps(settings.to_json(), ensure_ascii=False, indent=1), "utf-8")
            (folder / "progress.json").write_text(json.dumps(progress.__dict__), "utf-8")

        root = self.folder / "checkpoints"
        if progress.batch:
            write_folder(root / UNDER_WAY, fill)
            return
        write_folder(root / f"epoch-{progress.epoch}", fill)
        shutil.rmtree(root / UNDER_WAY, ignore_errors=True)
        for old in range(1, progress.epoch):
            (root / f"epoch-{old}" / "optimizer.safetensors").unlink(missing_ok=True)
            if old <= progress.epoch - CHECKPOINTS_KEPT:
                shutil.rmtree(root / f"epoch-{old}", ignore_errors=True)

    def _finish(self, job: JobFile, data: Data, learner: Learner, progress: Progress) -> None:
        if not self.accelerator.is_main_process:
            return
        read = sum(len(sample.ids) for sample in data.train) * job.epochs
        metrics = dict(progress.table[-1], seconds=round(sum(self.durations), 1), trained_tokens=read)

        def fill(folder: Path) -> None:
            learner.save(folder)
            settings = replace(data.settings, metrics=metrics)
            (folder / "settings.json").write_text(json.dumps(settings.to_json(), ensure_ascii=False, indent=1), "utf-8")

        job.output_dir.parent.mkdir(parents=True, exist_ok=True)
        write_folder(job.output_dir, fill)
        self.journal.write(f"Done: the tuned model is {job.output_model}")

    def _is_over(self) -> bool:
        """Whether to end here, told by a signal, or by the end of whoever followed; all processes say the same."""
        import torch

        # a server that was killed takes the job up again when it is back
        over = self.cancelled or bool(self.follower and not _lives(self.follower))
        if self.accelerator.num_processes > 1:
            over = bool(self.accelerator.reduce(torch.tensor(float(over), device=self.accelerator.device)).item())
        return over

    def _stop(self, data: Data, learner: Learner, progress: Progress) -> None:
        """End here; whoever only paused the job goes on from this very step."""
        if progress.batch and self.accelerator.is_main_process:
            self._checkpoint(data, learner, progress)
        raise WorkCancelled("Fine-tuning was stopped.")


def _lives(process: int) -> bool:
    try:
        return bool(psutil.Process(process).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _times(epochs: int) -> str:
    return {1: "once", 2: "twice"}.get(epochs, f"{epochs} times over")


class TooFewExamples(DatasetError):
    """Fewer examples than fine-tuning takes."""


def known(error: Exception) -> Exception:
    """The libraries' own ways to say "no memory", "no disk" and "damaged file" as Python's and ours."""
    said = str(error)
    if type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in said:
        return MemoryError(said)
    if type(error).__name__ != "SafetensorError":
        return error
    if "No space left" in said:
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return WeightsError(f"A file of weights is damaged ({said}). Delete this job and start it anew.")


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
    # Threads that wait awake between two matrix products train twice as fast as threads that sleep. So many turns are
    # half a millisecond or so: enough for nearly every wait, and little is lost where somebody else needs the core.
    os.environ.setdefault("GOMP_SPINCOUNT", "16000")
    import torch
    from accelerate import Accelerator

    # only cuda is known to work: other accelerators would hold the weights where the optimizer is not restored to
    accelerator = Accelerator(cpu=not torch.cuda.is_available())
    training = Training(folder, accelerator)
    signal.signal(signal.SIGTERM, lambda *_: setattr(training, "cancelled", True))
    try:
        training.run()
    except WorkCancelled:
        training.journal.write("Stopped", level="warn")
        return CANCELLED
    except Exception as error:
        return _fail(folder, training, known(error))
    return 0


def _fail(folder: Path, training: Training, error: Exception) -> int:
    """Say why in error.json and the events; the traceback goes to training.log only."""
    logging.basicConfig(filename=folder / "training.log")
    logging.getLogger(__name__).error("job failed", exc_info=True)
    message = failure_message(error)
    if training.accelerator.is_main_process:
        write_text(folder / "error.json", json.dumps({"code": failure_code(error), "message": message}))
        training.journal.write(message, level="error")
    return 1


if __name__ == "__main__":
    sys.exit(main())
