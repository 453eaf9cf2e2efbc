"""The base model, the tuned ones, and their answers: what the server, the export and a script of one's own need."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from drone_ft.local import cores, weights
from drone_ft.local.decoding import Answer
from drone_ft.local.prompt import ChatRequest, Settings
from drone_ft.local.scheduling import Scheduler
from drone_ft.local.shelf import Shelf


class Engine:
    """The base model, the tuned models in `models_dir`, and the checkpoints of the jobs in `jobs_dir`.

    Safe to use from several threads; each needs a scheduler of its own.
    """

    def __init__(self, models_dir: Path, source: weights.Source | None = None, jobs_dir: Path | None = None) -> None:
        self.source = source or weights.resolve()
        self._shelf = Shelf(models_dir, self.source, jobs_dir)
        self._cores = cores.Share(cores.physical())

    def models(self) -> list[str]:
        """Ids of the base model and of every finished tuned model."""
        return self._shelf.ids()

    def has(self, model_id: str) -> bool:
        """Whether a model answers under this id: one of `models`, or a checkpoint of a job."""
        return self._shelf.has(model_id)

    def settings(self, model_id: str) -> Settings:
        """What a tuned model remembers of its training. Raises UnknownModel, for the base model too."""
        return self._shelf.settings(model_id)

    def whole(self, model_id: str) -> tuple[Any, Any]:
        """A tuned model with its adapter merged in, and the tokenizer. Raises UnknownModel, WeightsError."""
        return self._shelf.merged(model_id), self._shelf.tokenizer

    def forget(self, model_id: str) -> None:
        """Drop a tuned model from memory, for instance before its folder is deleted."""
        self._shelf.forget(model_id)

    def scheduler(self) -> Scheduler:
        """A new one, over these models."""
        return Scheduler(self._shelf, self._cores)

    def answer(self, model_id: str, requests: Sequence[ChatRequest]) -> list[Answer]:
        """One answer a request, in order, from one model. Raises UnknownModel, PromptError, WeightsError."""
        scheduler = self.scheduler()
        numbers = [scheduler.add(model_id, request) for request in requests]
        answers: dict[int, Answer] = {}
        while scheduler.busy:
            for news in scheduler.step():
                if news.error is not None:
                    raise news.error
                if news.answer is not None:
                    answers[news.number] = news.answer
        return [answers[number] for number in numbers]
