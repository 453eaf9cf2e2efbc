"""The models of one workspace: the base, the tuned ones, checkpoints of jobs; loaded when asked for."""

from __future__ import annotations

import copy
import json
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drone_ft.errors import WeightsError
from drone_ft.local import packing, weights
from drone_ft.local.decoding import Decoder
from drone_ft.local.prompt import Settings

TUNED_KEPT = 1  # merged tuned models in memory, 430 MB each for the default base


class UnknownModel(WeightsError):
    """No base or tuned model has the id asked for."""


@dataclass
class Loaded:
    """A model in memory with the prefixes it has read."""

    model: Any
    settings: Settings | None
    prefixes: OrderedDict[Sequence[int], Any] = field(default_factory=OrderedDict)


class Shelf:
    """The base model, the tuned models in `models_dir`, and the checkpoints of the jobs in `jobs_dir`.

    Whoever uses a model holds the `lock`. All of them share a `tokenizer`, there once one is loaded, and a decoder.
    """

    def __init__(self, models_dir: Path, source: weights.Source, jobs_dir: Path | None = None) -> None:
        self.models_dir, self.source, self.jobs_dir = Path(models_dir), source, jobs_dir
        self.lock = threading.RLock()
        self.tokenizer: Any = None
        self._decoder: Decoder
        self._base: Loaded | None = None
        self._tuned: OrderedDict[str, Loaded] = OrderedDict()

    def ids(self) -> list[str]:
        """The base model and every finished tuned model."""
        return [self.source.name, *sorted(self._finished())]

    def is_base(self, model_id: str) -> bool:
        """Whether this is the base model's id."""
        return model_id == self.source.name

    def has(self, model_id: str) -> bool:
        """Whether a model answers under this id: one of `ids`, or a checkpoint of a job."""
        return model_id in self.ids() or model_id in self._checkpoints()

    def settings(self, model_id: str) -> Settings:
        """What a tuned model remembers of its training. Raises UnknownModel, for the base model too."""
        loaded = self._tuned.get(model_id)
        found = loaded.settings if loaded else self._read_settings(self._folder(model_id))
        assert found is not None
        return found

    @property
    def decoder(self) -> Decoder:
        """What writes their answers. Raises WeightsError."""
        with self.lock:
            self._loaded_base()
            return self._decoder

    def merged(self, model_id: str) -> Any:
        """A tuned model with its adapter merged in, for somebody else to keep. Raises UnknownModel, WeightsError."""
        with self.lock:
            return _merged(self._loaded_base().model, self._folder(model_id), model_id)

    def load(self, model_id: str) -> Loaded:
        """A model in memory. Raises UnknownModel, WeightsError."""
        with self.lock:
            base = self._loaded_base()
            if self.is_base(model_id):
                return base
            if model_id not in self._tuned:
                settings = self.settings(model_id)
                while len(self._tuned) >= TUNED_KEPT:
                    self._tuned.popitem(last=False)
                self._tuned[model_id] = Loaded(self.merged(model_id), settings)
            self._tuned.move_to_end(model_id)
            return self._tuned[model_id]

    def forget(self, model_id: str) -> None:
        """Drop a tuned model from memory, for instance before its folder is deleted."""
        with self.lock:
            self._tuned.pop(model_id, None)

    def _loaded_base(self) -> Loaded:
        if self._base is None:
            model, self.tokenizer = weights.load(self.source)
            model = model.to(_device())
            if packing.can_pack(model):
                packing.pack(model)
            self._decoder = Decoder(self.tokenizer, model)
            self._base = Loaded(model, None)
        return self._base

    def _finished(self) -> dict[str, Path]:
        return self._folders(self.models_dir.glob("*/settings.json"))

    def _checkpoints(self) -> dict[str, Path]:
        return self._folders(self.jobs_dir.glob("*/checkpoints/epoch-*/settings.json")) if self.jobs_dir else {}

    def _folders(self, settings_files: Iterable[Path]) -> dict[str, Path]:
        found = {}
        for path in sorted(settings_files):
            settings = self._read_settings(path.parent)
            # an adapter fits the base it was learnt with, and no other
            if settings is not None and settings.base == self.source.name:
                found[settings.id] = path.parent
        return found

    @staticmethod
    def _read_settings(folder: Path) -> Settings | None:
        try:
            return Settings.from_json(json.loads((folder / "settings.json").read_text("utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def _folder(self, model_id: str) -> Path:
        folder = self._finished().get(model_id) or self._checkpoints().get(model_id)
        if folder is None:
            known = ", ".join(self.ids())
            raise UnknownModel(f"There is no model {model_id!r} here; there is: {known}. Check the model's name.")
        return folder


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _merged(base: Any, folder: Path, model_id: str) -> Any:
    """A copy of the base with the adapter merged in; what no adapter touches is shared, not copied."""
    from peft import PeftModel

    embeddings = base.get_input_embeddings().weight
    try:
        twin = copy.deepcopy(base, {id(embeddings): embeddings})
        return PeftModel.from_pretrained(twin, str(folder)).merge_and_unload().eval()
    except Exception as error:
        raise WeightsError(
            f"The tuned model {model_id} cannot be loaded: its adapter in {folder} is missing or damaged "
            f"({type(error).__name__}). Train it again."
        ) from error
