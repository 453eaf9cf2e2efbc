"""Where models live: a base URL, its client, the retry policy; foreign errors are translated here, once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import openai
import psutil
from filelock import FileLock, Timeout
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from drone_ft.errors import EndpointError, EndpointRefused, EndpointUnavailable

T = TypeVar("T")
LOCAL = "this computer"
# The server the app starts goes away by itself; long enough not to reload the model between two coffees.
IDLE_EXIT_SECONDS = 1800
START_SECONDS = 180


@dataclass(frozen=True)
class Endpoint:
    """A server that speaks OpenAI's API; keys are read from the environment when a client is made, and kept nowhere."""

    name: str
    base_url: str

    @property
    def is_local(self) -> bool:
        """Whether this is the server of this computer."""
        return self.name == LOCAL


def workspace() -> Path:
    """The user's own folder: `DRONE_FT_WORKSPACE`, or data/workspace beside the package."""
    chosen = os.environ.get("DRONE_FT_WORKSPACE")
    return Path(chosen) if chosen else Path(__file__).resolve().parents[1] / "data" / "workspace"


def client(endpoint: Endpoint, timeout: float = 120.0) -> openai.OpenAI:
    """An OpenAI client for the endpoint; its own retries are off, because `patiently` is the one policy."""
    if endpoint.is_local:
        # A proxy set for the outside world must not swallow requests to this computer.
        local = openai.DefaultHttpxClient(trust_env=False)
        return openai.OpenAI(
            base_url=endpoint.base_url,
            api_key=os.environ.get("DRONE_FT_TOKEN") or "local",
            max_retries=0,
            timeout=timeout,
            http_client=local,
        )
    key = os.environ.get("OPENAI_API_KEY")
    if not key:
        raise EndpointRefused(f"No key for {endpoint.base_url}: OPENAI_API_KEY is not set. Set it and try again.", 401)
    return openai.OpenAI(base_url=endpoint.base_url, api_key=key, max_retries=0, timeout=timeout)


def patiently(call: Callable[[], T], attempts: int = 4) -> T:
    """The result of `call`, tried again with random exponential waits while the server is away or busy.

    Raises EndpointUnavailable when it stays away, EndpointRefused at once when it says no.
    """
    policy = Retrying(
        retry=retry_if_exception_type(EndpointUnavailable),
        wait=wait_random_exponential(multiplier=0.5, max=20),
        stop=stop_after_attempt(attempts),
        reraise=True,
    )
    result: T = policy(translated, call)
    return result


def translated(call: Callable[[], T]) -> T:
    """The result of `call`, with the client's exceptions turned into ours."""
    try:
        return call()
    except openai.APITimeoutError as error:
        raise EndpointUnavailable("The server took too long to answer. Try again, or ask less at once.") from error
    except openai.APIConnectionError as error:
        url = str(error.request.url) if error.request else "its address"
        raise EndpointUnavailable(f"No server answers at {url}. Start it, or check the base URL.") from error
    except openai.APIStatusError as error:
        raise _refusal(error) from error
    except openai.OpenAIError as error:
        raise EndpointError(f"The request failed: {error}. Try again.") from error


def _refusal(error: openai.APIStatusError) -> EndpointError:
    body = error.body if isinstance(error.body, dict) else {}
    message = str(body.get("message") or error.message).strip().rstrip(".")
    code = str(body["code"]) if body.get("code") else None
    busy = error.status_code == 429 and code != "insufficient_quota"
    if busy or error.status_code in (408, 409) or error.status_code >= 500:
        return EndpointUnavailable(
            f"The server could not answer now (status {error.status_code}): {message}. Try again later."
        )
    hints = {401: "Check the key.", 403: "Check what this key may do.", 404: "Check the name."}
    hint = hints.get(error.status_code, "Change the request and try again.")
    return EndpointRefused(
        f"The server refused (status {error.status_code}): {message}. {hint}", error.status_code, code
    )


def spawn(command: list[str], log: Path, folder: Path) -> subprocess.Popen[bytes]:
    """A process of its own that outlives us: closing the app's terminal must not end work that is under way."""
    alone: dict[str, Any] = {"start_new_session": True}
    if sys.platform == "win32":
        alone = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
    with log.open("ab") as out:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            cwd=Path(__file__).resolve().parents[1],
            env={**os.environ, "DRONE_FT_WORKSPACE": str(folder.resolve())},
            **alone,
        )


def local_endpoint(start: bool = True) -> Endpoint:
    """This computer's server, found by the note it leaves in the workspace, or started.

    Raises EndpointUnavailable when it does not run and cannot be started.
    """
    folder = workspace() / "engine"
    found = _running(folder)
    if found and start:
        _check_model(folder)
    if found or not start:
        if not found:
            raise EndpointUnavailable("The local server does not run. Start it with: python -m drone_ft serve")
        return found
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "start.lock", timeout=START_SECONDS):
            return _running(folder) or _start(folder)
    except (Timeout, OSError) as error:
        raise EndpointUnavailable(
            f"The local server could not be started: {error}. Free the disk or try again."
        ) from error


def _running(folder: Path) -> Endpoint | None:
    try:
        note = json.loads((folder / "server.json").read_text(encoding="utf-8"))
        if not psutil.pid_exists(int(note["pid"])):
            return None
        with httpx2.Client(trust_env=False, timeout=5.0) as http:
            http.get(f"http://127.0.0.1:{int(note['port'])}/health").raise_for_status()
    except (OSError, ValueError, KeyError, TypeError, httpx2.HTTPError):
        return None
    return Endpoint(LOCAL, f"http://127.0.0.1:{int(note['port'])}/v1")


def _check_model(folder: Path) -> None:
    """A server started with another DRONE_FT_MODEL goes on with that one; nobody should tune it by mistake."""
    note = json.loads((folder / "server.json").read_text(encoding="utf-8"))
    wanted = os.environ.get("DRONE_FT_MODEL", "")
    if note.get("asked", wanted) != wanted:
        raise EndpointUnavailable(
            f"The local server runs with another model, {note['model']}, than DRONE_FT_MODEL names now. "
            f"Stop it (process {note['pid']}) and try again."
        )


def _start(folder: Path) -> Endpoint:
    log = folder / "server.log"
    command = [sys.executable, "-m", "drone_ft", "serve", "--port", "0", "--idle-exit", str(IDLE_EXIT_SECONDS)]
    log.write_bytes(b"")
    child = spawn(command, log, workspace())
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        if child.poll() is not None:
            lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
            said = lines[-1] if lines else f"exit code {child.returncode}"
            raise EndpointUnavailable(f"The local server could not start. {said}")
        found = _running(folder)
        if found:
            return found
        time.sleep(0.2)
    child.terminate()
    raise EndpointUnavailable(f"The local server did not answer within {START_SECONDS} seconds. Its log is {log}.")
