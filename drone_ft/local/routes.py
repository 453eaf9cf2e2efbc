"""What the local server answers: models, chat, files and fine-tuning jobs, in the API's own shapes."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from openai.types import FileDeleted, Model, ModelDeleted
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from drone_ft.local import api, replies
from drone_ft.local.api import ApiError, bad
from drone_ft.local.batching import Batcher, Engine
from drone_ft.local.chat import Chat, read_chat
from drone_ft.local.decoding import Answer
from drone_ft.local.files import PURPOSES, FileStore
from drone_ft.local.job_checks import read_settings
from drone_ft.local.jobs import UNDER_WAY, JobStore, trained_settings
from drone_ft.local.openapi import describe
from drone_ft.local.runner import Runner

T = TypeVar("T")


class Routes:
    """What the server answers; holds the engine, the files and the jobs of one workspace."""

    def __init__(
        self, engine: Engine, workspace: Path, command: Sequence[str], fewest_examples: int, grace: float
    ) -> None:
        self.folder = (workspace / "engine").resolve()
        for leftover in self.folder.glob("deleted-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        self.engine = engine
        self.batcher = Batcher(engine)
        self.files = FileStore(self.folder / "files")
        self.jobs = JobStore(self.folder / "jobs")
        self.models = self.folder / "models"
        self.runner = Runner(
            self.jobs, self.files, self.models, command=command, fewest_examples=fewest_examples, grace=grace
        )

    @asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncIterator[None]:
        """Answers and trains while the server runs."""
        self.batcher.start()
        await run_in_threadpool(self.runner.start)
        yield
        await run_in_threadpool(self.runner.stop)
        await run_in_threadpool(self.batcher.stop)

    @property
    def busy(self) -> bool:
        """Whether a job is under way."""
        return self.jobs.oldest(*UNDER_WAY) is not None

    async def health(self, request: Request) -> Response:
        """Alive; never waits for a model or a job."""
        return JSONResponse({"status": "ok", "training": self.jobs.oldest("running") is not None})

    def openapi(self, request: Request) -> Response:
        """What this server answers, described for programs."""
        return JSONResponse(describe(self.routes(), self.engine.models()))

    def list_models(self, request: Request) -> Response:
        """All models, the base first."""
        return JSONResponse({"object": "list", "data": [self._model(id) for id in self.engine.models()]})

    def get_model(self, request: Request) -> Response:
        """One model."""
        return JSONResponse(self._model(self._known(request.path_params["model"])))

    def delete_model(self, request: Request) -> Response:
        """Removes a tuned model."""
        id = self._known(request.path_params["model"])
        if not id.startswith("ft:"):
            raise ApiError(
                403, f"{id} is the base model and cannot be deleted.", param="model", code="model_not_deletable"
            )
        if ":ckpt-step-" in id:
            message = f"{id} is a checkpoint of its job and cannot be deleted alone."
            raise ApiError(403, message, param="model", code="model_not_deletable")
        folder = self.models / id.rsplit(":", 1)[-1]
        if trained_settings(folder).get("id") != id:
            message = f"{id} was not trained by this server; delete its folder in {self.models} by hand."
            raise ApiError(403, message, param="model", code="model_not_deletable")
        self.engine.forget(id)
        doomed = self.folder / api.new_id("deleted-", 8)
        folder.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)
        return JSONResponse(api.dump(ModelDeleted(id=id, deleted=True, object="model")))

    async def chat(self, request: Request) -> Response:
        """A chat completion, whole or streamed."""
        chat = read_chat(api.read_json(await request.body()))
        await run_in_threadpool(self._known, chat.model)
        if chat.stream:
            return _event_stream(replies.events(chat, await self._texts(chat, request)))
        return JSONResponse(replies.completion(chat, await self._answers(chat, request)))

    async def _texts(self, chat: Chat, request: Request) -> list[replies.Text]:
        """One a choice, the first of them begun: until then a refusal can still be a status."""
        texts: list[replies.Text] = []
        try:
            for choice in chat.choices:
                texts.append(replies.Text(self.batcher, chat.model, choice))
            await _while_there(request, texts[0].begin())
        except BaseException:
            for text in texts:
                text.drop()
            raise
        return texts

    async def _answers(self, chat: Chat, request: Request) -> list[Answer]:
        """One a choice."""
        promises: list[asyncio.Future[Answer]] = []

        async def all_of_them() -> list[Answer]:
            return await asyncio.gather(*promises)

        try:
            for choice in chat.choices:
                promises.append(asyncio.wrap_future(self.batcher.ask(chat.model, choice)))
            return await _while_there(request, all_of_them())
        finally:
            for promise in promises:
                promise.cancel()

    async def create_file(self, request: Request) -> Response:
        """Keeps an uploaded file."""
        try:
            form = await request.form(max_files=1, max_fields=20)
        except (HTTPException, ValueError, LookupError) as error:
            detail = error.detail if isinstance(error, HTTPException) else error
            raise bad(f"The upload could not be read as multipart/form-data: {detail}", "file") from error
        try:
            upload, purpose = form.get("file"), form.get("purpose")
            if not isinstance(upload, UploadFile):
                message = "Missing required parameter: 'file'. Send it as multipart/form-data."
                raise bad(message, "file", "missing_required_parameter")
            if purpose not in PURPOSES:
                message = f"Invalid 'purpose': {str(purpose)[:50]!r}. Supported values are: {', '.join(PURPOSES)}."
                raise bad(message, "purpose", "invalid_value")
            file = await run_in_threadpool(self.files.create, upload.file, upload.filename or "", str(purpose))
        finally:
            await form.close()
        return JSONResponse(api.dump(file))

    def list_files(self, request: Request) -> Response:
        """Files, newest first unless `order=asc`."""
        query = request.query_params
        files = [file for file in self.files.all() if query.get("purpose") in (None, "", file.purpose)]
        if query.get("order") != "asc":
            files.reverse()
        return JSONResponse(api.page(files, query, 10_000))

    def get_file(self, request: Request) -> Response:
        """One file's record."""
        return JSONResponse(api.dump(self.files.get(request.path_params["id"])))

    def file_content(self, request: Request) -> Response:
        """One file's bytes."""
        return FileResponse(self.files.path(request.path_params["id"]), media_type="application/octet-stream")

    def delete_file(self, request: Request) -> Response:
        """Removes a file."""
        id = request.path_params["id"]
        self.files.delete(id)
        return JSONResponse(api.dump(FileDeleted(id=id, deleted=True, object="file")))

    async def create_job(self, request: Request) -> Response:
        """A new fine-tuning job."""
        body = api.read_json(await request.body())

        def create() -> Any:
            bases = [id for id in self.engine.models() if not id.startswith("ft:")]
            return api.dump(self.jobs.add(read_settings(body, self.files, bases)).reply())

        return JSONResponse(await run_in_threadpool(create))

    def list_jobs(self, request: Request) -> Response:
        """Jobs, newest first; `metadata[key]=value` keeps those so tagged."""
        tags = {key[9:-1]: value for key, value in request.query_params.items() if key.startswith("metadata[")}
        jobs = [job for job in self.jobs.all() if tags.items() <= (job.metadata or {}).items()]
        return JSONResponse(
            api.page([job.reply(self.jobs.estimated_finish(job)) for job in jobs], request.query_params, 20)
        )

    def get_job(self, request: Request) -> Response:
        """One job as it is now; looking changes nothing."""
        job = self.jobs.get(request.path_params["id"])
        return JSONResponse(api.dump(job.reply(self.jobs.estimated_finish(job))))

    def cancel_job(self, request: Request) -> Response:
        """Cancels a job."""
        return JSONResponse(api.dump(self.runner.cancel(request.path_params["id"]).reply()))

    def pause_job(self, request: Request) -> Response:
        """Pauses a job."""
        return JSONResponse(api.dump(self.runner.pause(request.path_params["id"]).reply()))

    def resume_job(self, request: Request) -> Response:
        """Lets a paused job go on."""
        return JSONResponse(api.dump(self.runner.resume(request.path_params["id"]).reply()))

    def list_events(self, request: Request) -> Response:
        """What happened to a job, newest first."""
        job = self.jobs.get(request.path_params["id"])
        return JSONResponse(api.page(self.jobs.events(job), request.query_params, 20))

    def list_checkpoints(self, request: Request) -> Response:
        """A job's checkpoints, newest first."""
        job = self.jobs.get(request.path_params["id"])
        return JSONResponse(api.page(self.jobs.checkpoints(job), request.query_params, 10))

    def routes(self) -> list[Route]:
        """Paths and what answers them."""
        job = "/v1/fine_tuning/jobs/{id}"
        return [
            Route("/health", self.health),
            Route("/openapi.json", self.openapi),
            Route("/v1/models", self.list_models),
            Route("/v1/models/{model:path}", self.get_model, methods=["GET"]),
            Route("/v1/models/{model:path}", self.delete_model, methods=["DELETE"]),
            Route("/v1/chat/completions", self.chat, methods=["POST"]),
            Route("/v1/files", self.list_files, methods=["GET"]),
            Route("/v1/files", self.create_file, methods=["POST"]),
            Route("/v1/files/{id}", self.get_file, methods=["GET"]),
            Route("/v1/files/{id}", self.delete_file, methods=["DELETE"]),
            Route("/v1/files/{id}/content", self.file_content),
            Route("/v1/fine_tuning/jobs", self.list_jobs, methods=["GET"]),
            Route("/v1/fine_tuning/jobs", self.create_job, methods=["POST"]),
            Route(job, self.get_job),
            Route(f"{job}/cancel", self.cancel_job, methods=["POST"]),
            Route(f"{job}/pause", self.pause_job, methods=["POST"]),
            Route(f"{job}/resume", self.resume_job, methods=["POST"]),
            Route(f"{job}/events", self.list_events),
            Route(f"{job}/checkpoints", self.list_checkpoints),
        ]

    def _known(self, id: str) -> str:
        if not self.engine.has(id):
            message = f"The model {id[:200]!r} does not exist or you do not have access to it."
            raise ApiError(404, message, param="model", code="model_not_found")
        return id

    def _model(self, id: str) -> Any:
        folder = self.models / id.rsplit(":", 1)[-1]
        created = folder.stat().st_mtime if id.startswith("ft:") and folder.is_dir() else 0
        return api.dump(Model(id=id, object="model", created=int(created), owned_by="local"))


async def _while_there(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """What comes of some work; it is given up when the client leaves. Raises ClientDisconnect."""

    async def wait_until_gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    task, gone = asyncio.create_task(work), asyncio.create_task(wait_until_gone())
    try:
        await asyncio.wait([task, gone], return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)  # or asyncio complains that nobody looked


def _event_stream(events: AsyncIterator[str]) -> Response:
    return StreamingResponse(events, media_type="text/event-stream", headers={"cache-control": "no-cache"})
