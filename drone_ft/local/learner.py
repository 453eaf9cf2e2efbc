"""What learns: a model with LoRA matrices, its optimizer, and one step over a batch of samples."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drone_ft.local import lora, packing
from drone_ft.local.int8 import round_frozen
from drone_ft.local.lower import LowerLayers
from drone_ft.local.rows import Sample
from drone_ft.local.targets import Targets, told


@dataclass(frozen=True)
class Recipe:
    """How to learn, whatever the data: LoRA's size, what stays as it is, how much is read in one pass."""

    rank: int
    alpha: int
    dropout: float
    frozen: float  # share of the layers, from below
    pack_tokens: int
    warm_up: float  # share of all steps


def common_beginning(found: Sequence[Sample]) -> int:
    """How many tokens all samples begin with, short of the last one before any target."""
    first = found[0].ids
    shared = min(sample.targets[0] - 1 for sample in found)
    for sample in found:
        while sample.ids[:shared] != first[:shared]:
            shared -= 1
    return max(0, shared)


def packs(batch: Sequence[Sample], tokens: int, shared: int = 0) -> list[list[Sample]]:
    """A batch in pieces, longest samples first: what is read in one pass, at most `tokens` tokens or one sample.

    Attention holds every row of a pass as long as its longest, so that is what counts against memory; the `shared`
    tokens all samples begin with are read once a pass and do not.
    """
    found: list[list[Sample]] = []
    for sample in sorted(batch, key=lambda sample: -len(sample.ids)):
        longest = len(found[-1][0].ids) - shared if found else 0
        if found and longest * (len(found[-1]) + 1) <= tokens:
            found[-1].append(sample)
        else:
            found.append([sample])
    return found


class Learner:
    """A model with LoRA matrices, its optimizer, and one step of learning.

    `found` is every sample it will ever see, `again` those it sees more than once, `admitted` the tokens that open
    targets are chosen from; with `int8` frozen matrices are multiplied in whole numbers, `rounded` of them.
    """

    def __init__(
        self,
        model: Any,
        found: Sequence[Sample],
        recipe: Recipe,
        accelerator: Any,
        *,
        rate: float,
        steps: int,
        seed: int,
        again: Collection[Sample] = (),
        admitted: Sequence[int] = (),
        int8: bool = False,
    ) -> None:
        import torch
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(seed)
        self.packable = packing.can_pack(model)
        self.pack_tokens = recipe.pack_tokens if self.packable else 1
        self.shared = common_beginning(found) if self.packable else 0
        count = int(recipe.frozen * len(model.get_decoder().layers)) if self.packable else 0
        self.lower = LowerLayers(model, count, again) if count else None
        if self.packable:
            packing.pack(model)
        config = LoraConfig(
            r=recipe.rank,
            lora_alpha=recipe.alpha,
            lora_dropout=recipe.dropout,
            target_modules=target_modules(model, count),
            task_type="CAUSAL_LM",
        )
        self.plain = get_peft_model(model, config)
        quick = lora.speed_up(self.plain, int8=int8)
        frozen = list(model.get_decoder().layers)[:count] if count else []
        self.rounded = quick + round_frozen(frozen) if int8 else 0
        self.accelerator = accelerator
        self.targets = Targets(self.plain, admitted)
        self.weights = {name: p for name, p in self.plain.named_parameters() if p.requires_grad}
        optimizer = torch.optim.AdamW(self.weights.values(), lr=rate, weight_decay=0.0, betas=(0.9, 0.99), fused=True)
        self.model, self.optimizer = accelerator.prepare(self.plain, optimizer)
        self.rate, self.steps, self.warm_up = rate, steps, recipe.warm_up

    def loss(self, pack: Sequence[Sample]) -> tuple[Any, list[float]]:
        """(summed loss, its tally) over the targets of a pack."""

        def run() -> Any:
            if self.lower is not None:
                self.lower.feed([None, *pack], lambda rows: self._inputs(rows, pack[0]))
            return self.model(**self._inputs(pack, pack[0]))

        return self.targets.loss(pack, self.shared, run)

    def _inputs(self, pack: Sequence[Sample], any_sample: Sample) -> dict[str, Any]:
        """What the model reads: the beginning all samples share, then the rest of each."""
        import torch

        shared, device = self.shared, self.accelerator.device
        ids = [*any_sample.ids[:shared], *(token for sample in pack for token in sample.ids[shared:-1])]
        positions = [*range(shared), *(at for sample in pack for at in range(shared, len(sample.ids) - 1))]
        rows = {"row_lengths": [len(sample.ids) - 1 - shared for sample in pack], "shared_length": shared}
        if self.packable:
            filler = [0] * (packing.filled(len(ids)) - len(ids))
            ids, positions = ids + filler, positions + filler
        return {
            "input_ids": torch.tensor([ids], device=device),
            "position_ids": torch.tensor([positions], device=device),
            "use_cache": False,
            **(rows if self.packable else {}),
        }

    def step(self, batch: Sequence[Sample], number: int) -> tuple[float, float]:
        """Learn from a batch; what to tell of it: (mean loss, share of targets right) over all processes."""
        import torch

        processes = self.accelerator.num_processes
        mine = batch[self.accelerator.process_index :: processes]
        weight = 1.0 if mine else 0.0  # a process without a row must still take part in the exchange
        tokens = sum(len(sample.targets) for sample in batch)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * _schedule(number, self.steps, self.warm_up)
        tally = torch.zeros(6, device=self.accelerator.device)
        pieces = packs(mine or batch[:1], self.pack_tokens, self.shared)
        for place, pack in enumerate(pieces):
            last = place == len(pieces) - 1
            with contextlib.nullcontext() if last else self.accelerator.no_sync(self.model):
                loss, counted = self.loss(pack)
                # gradients are averaged over processes, so the mean over all targets needs the factor
                self.accelerator.backward(loss * (weight * processes / tokens))
            tally += weight * torch.tensor(counted, device=tally.device)
        self.accelerator.clip_grad_norm_(list(self.weights.values()), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return told(self.accelerator.reduce(tally, reduction="sum").tolist())

    def measure(self, held_out: Sequence[Sample]) -> tuple[float, float]:
        """(mean loss, share of targets right) on samples that are not learnt from."""
        import torch

        tally = torch.zeros(6)
        self.model.eval()
        with torch.no_grad():
            for pack in packs(held_out, self.pack_tokens, self.shared):
                tally += torch.tensor(self.loss(pack)[1])
        self.model.train()
        return told(tally.tolist())

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


def target_modules(model: Any, lower: int) -> list[str]:
    """Names of the matrices that get LoRA: all in the layers from number `lower` on."""
    import torch

    layers = {id(layer) for layer in list(model.get_decoder().layers)[lower:]}
    above = [name for name, module in model.named_modules() if id(module) in layers]
    return [
        name
        for name, module in model.named_modules()
        if type(module) is torch.nn.Linear and any(name.startswith(f"{layer}.") for layer in above)
    ]


def _schedule(step: int, steps: int, warm_up: float) -> float:
    """Share of the full learning rate: a short rise, then a straight way down."""
    rise = max(1, round(warm_up * steps))
    return min((step + 1) / rise, max(0.02, (steps - step) / max(1, steps - rise)))
