"""The OpenAI-compatible server of this computer: puts routes and guard together, runs them on 127.0.0.1, says where."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import logging
import os
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import uvicorn
from filelock import FileLock, Timeout
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from drone_ft.errors import DroneFTError
from drone_ft.local import runner, weights
from drone_ft.local.api import ApiError, refusal
from drone_ft.local.batching import Engine
from drone_ft.local.files import write_json
from drone_ft.local.guard import LARGEST_UPLOAD, Activity, Guard
from drone_ft.local.routes import Routes

log = logging.getLogger(__name__)
DEFAULT_PORT = 8642
TOKEN = "DRONE_FT_TOKEN"
CANNOT_START = 2
"""The exit code when the server cannot start: the port is taken, the model is missing."""
KEEP_ALIVE = 60
"""Seconds a connection may rest. OpenAI's client lets go after 5; a server that does so too breaks some requests."""


def create_app(
    engine: Engine,
    workspace: Path,
    *,
    command: Sequence[str] = runner.TRAINING,
    fewest_examples: int = 10,
    largest_upload: int = LARGEST_UPLOAD,
    grace: float = runner.GRACE,
    token: str = "",
) -> Starlette:
    """The server as an ASGI app; its files, jobs and models live in `workspace`/engine.

    `command` trains (a job's folder is added to it), `largest_upload` is in bytes, `grace` in seconds; `token` is the
    key every request must bring, "" for none.
    """
    routes, activity = Routes(engine, workspace, command, fewest_examples, grace), Activity()
    app = Starlette(
        routes=routes.routes(),
        middleware=[
            Middleware(Guard, activity=activity, largest_upload=largest_upload, token=token),
            # among the handlers below it would end the connection, under a client's next request
            Middleware(ExceptionMiddleware, handlers={Exception: _refused}),
        ],
        exception_handlers={
            HTTPException: _no_route,
            ClientDisconnect: _left,
            ApiError: _refused,
            DroneFTError: _refused,
            OSError: _refused,
        },
        lifespan=routes.lifespan,
    )
    app.state.routes, app.state.activity = routes, activity
    return app


async def _refused(request: Request, error: Exception) -> Response:
    told = refusal(error)
    if told.status == 500:
        log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return JSONResponse(told.body(), told.status)


async def _left(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # what servers note for a client that closed its request


async def _no_route(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    told = ApiError(status, f"Invalid URL or method ({request.method} {request.url.path})", code="unknown_url")
    return JSONResponse(told.body(), told.status)


def serve(
    host: str = "127.0.0.1",
    port: int = DEFAULT_PORT,
    workspace: Path = Path("data/workspace"),
    idle_exit: float | None = None,
) -> None:
    """Serves until stopped, or until `idle_exit` seconds pass without requests and jobs; port 0 is any free one.

    While it answers, `workspace`/engine/server.json says where. Raises SystemExit(2) when it cannot start.
    """
    folder = workspace / "engine"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder), _listen(host, port) as listener:
            # Bars that show a model being loaded would fill the log; whoever reads it wants the last sentence.
            os.environ.setdefault("TQDM_DISABLE", "1")
            from drone_ft.local.engine import Engine as LocalEngine

            engine = LocalEngine(folder / "models", jobs_dir=folder / "jobs")
            weights.prepare(engine.source)  # not in the middle of somebody's first training
            app = create_app(engine, workspace, token=os.environ.get(TOKEN, ""))
            config = uvicorn.Config(
                app,
                log_level="warning",
                access_log=False,
                lifespan="on",
                timeout_graceful_shutdown=5,
                timeout_keep_alive=KEEP_ALIVE,
            )
            with contextlib.suppress(KeyboardInterrupt):
                _Server(config, app, folder, idle_exit).run([listener])
    except (DroneFTError, OSError) as error:
        print(error, file=sys.stderr, flush=True)
        raise SystemExit(CANNOT_START) from error


class _Server(uvicorn.Server):
    """uvicorn that says where it answers once it does, and ends by itself when nobody needs it."""

    def __init__(self, config: uvicorn.Config, app: Starlette, folder: Path, idle_exit: float | None) -> None:
        super().__init__(config)
        self._app, self._note, self._idle_exit = app, folder / "server.json", idle_exit

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listens, then writes server.json."""
        await super().startup(sockets)
        host, port = (sockets or [])[0].getsockname()[:2]
        routes: Routes = self._app.state.routes
        url, model = f"http://{host}:{port}/v1", routes.engine.models()[0]
        asked = os.environ.get("DRONE_FT_MODEL", "")
        write_json(self._note, {"port": port, "pid": os.getpid(), "base_url": url, "model": model, "asked": asked})
        print(_welcome(url, model), flush=True)
        if self._idle_exit is not None:
            self._watch = asyncio.create_task(self._end_when_idle(self._idle_exit, routes))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Takes server.json away first: nobody new shall come."""
        with contextlib.suppress(OSError, ValueError, KeyError):
            if json.loads(self._note.read_bytes())["pid"] == os.getpid():
                self._note.unlink()
        await super().shutdown(sockets)

    async def _end_when_idle(self, seconds: float, routes: Routes) -> None:
        activity: Activity = self._app.state.activity
        while not self.should_exit:
            await asyncio.sleep(min(5.0, seconds / 4))
            if routes.busy:
                activity.touch()
            self.should_exit = self.should_exit or activity.idle_seconds > seconds


def _welcome(url: str, model: str) -> str:
    return (
        f"The model {model} answers at {url}. Point any OpenAI client at it:\n"
        f"  export OPENAI_BASE_URL={url}\n"
        f"  export OPENAI_API_KEY={f'${TOKEN}' if os.environ.get(TOKEN) else 'local'}\n"
        f"Stop it with Ctrl-C."
    )


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket; DroneFTError when the port is taken."""
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        if os.name != "nt":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(256)
    except (OSError, OverflowError) as error:
        listener.close()
        taken = isinstance(error, OSError) and error.errno == errno.EADDRINUSE
        reason = (
            "it is in use by another program" if taken else getattr(error, "strerror", "") or "there is no such port"
        )
        message = f"The server cannot listen on {host} port {port}: {reason}. Choose another with --port, or 0 for any."
        raise DroneFTError(message) from error
    return listener


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Holds the workspace: two servers would train the same jobs. The system lets go of it however the server ends."""
    lock = FileLock(folder / "server.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        where = ""
        with contextlib.suppress(OSError, ValueError, KeyError):
            where = f" at {json.loads((folder / 'server.json').read_bytes())['base_url']}"
        raise DroneFTError(f"A server already runs for the workspace {folder.parent}{where}. Use that one.") from error
    with lock:
        yield
