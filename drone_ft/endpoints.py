"""Where models live: a base URL, its client, the retry policy; foreign errors are translated here, once."""

from __future__ import annotations

import email.utils
import hashlib
import json
import os
import re
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import httpx2
import openai
import psutil
import tenacity
from filelock import FileLock, Timeout

from drone_ft.errors import EndpointError, EndpointRefused, EndpointUnavailable, TrainingClosed

T = TypeVar("T")
Kind = Literal["local", "openai", "azure", "custom"]
LOCAL = "this computer"
OPENAI_URL = "https://api.openai.com/v1"
# The server the app starts goes away by itself; long enough not to reload the model between two coffees.
IDLE_EXIT_SECONDS = 1800
START_SECONDS = 180
READS, READ_EVERY = 150, 2.0  # looks at a file that its server still reads, and seconds between two
# However long a server asks us to wait: nobody watches a page that stands still for longer.
MOST_WAIT_SECONDS = 60.0
# What to do about a refusal, by its code or else by its status.
HINTS: dict[str | int | None, str] = {
    "insufficient_quota": "Add credit at the provider.",
    "DeploymentNotFound": "Azure lets a model answer, also one just tuned, only once it is deployed: deploy it in the "
    "Azure portal, then type the deployment's name in place of the model's.",
    401: "Check the key.",
    403: "Check what this key may do.",
    404: "Check the name.",
}
NO_MODEL_SERVER = "This address shows a web page, not a model server. Check the base URL; most end in /v1."
CLOSING = (
    "OpenAI takes no fine-tuning from organisations that never fine-tuned before (since 7 May 2026) or did not use a "
    "tuned model lately (since 2 July 2026), from 6 January 2027 on it takes none at all, and gpt-4.1 and gpt-4o, "
    "tuned or not, stop answering on 14 January 2027"
)


@dataclass(frozen=True)
class Endpoint:
    """A server that speaks OpenAI's API; keys are read from the environment when a client is made, and kept nowhere.

    `kind` says whose key it gets and what else is known of it, never how it is talked to. An empty `base_url` of this
    computer stands for the server that runs or will be started.
    """

    name: str
    base_url: str
    kind: Kind = "openai"

    def __post_init__(self) -> None:
        if self.name == LOCAL:
            object.__setattr__(self, "kind", "local")

    @property
    def is_local(self) -> bool:
        """Whether this is the server of this computer."""
        return self.kind == "local"


def from_environment() -> list[Endpoint]:
    """The endpoints known without any settings: this computer, OpenAI, and Azure where AZURE_OPENAI_ENDPOINT is set."""
    known = [Endpoint(LOCAL, "", "local"), Endpoint("OpenAI", os.environ.get("OPENAI_BASE_URL") or OPENAI_URL)]
    azure = os.environ.get("AZURE_OPENAI_ENDPOINT", "").strip().rstrip("/")
    if azure:
        known.append(Endpoint("Azure OpenAI", f"{azure.removesuffix('/openai/v1')}/openai/v1/", "azure"))
    return known


def key_variable(endpoint: Endpoint) -> str:
    """The environment variable that holds the endpoint's key; one for each host, so that no host sees another's key."""
    own = {known.base_url.rstrip("/") for known in from_environment()} if endpoint.kind == "azure" else set()
    if endpoint.kind == "custom" or (endpoint.kind == "azure" and endpoint.base_url.rstrip("/") not in own):
        # Names may look alike once they are letters; the address tells them apart.
        mark = hashlib.sha256(endpoint.base_url.encode()).hexdigest()[:6].upper()
        name = re.sub(r"[^A-Z0-9]+", "_", endpoint.name.upper()).strip("_")
        return "_".join(part for part in ("DRONE_FT_KEY", name, mark) if part)
    return {"local": "DRONE_FT_TOKEN", "azure": "AZURE_OPENAI_API_KEY"}.get(endpoint.kind, "OPENAI_API_KEY")


def workspace() -> Path:
    """The user's own folder: `DRONE_FT_WORKSPACE`, or data/workspace beside the package."""
    chosen = os.environ.get("DRONE_FT_WORKSPACE")
    return Path(chosen) if chosen else Path(__file__).resolve().parents[1] / "data" / "workspace"


def client(
    endpoint: Endpoint,
    timeout: float = 120.0,
    key: str | None = None,
    listen: Callable[[Mapping[str, str]], None] | None = None,
) -> openai.OpenAI:
    """An OpenAI client for the endpoint; its own retries are off, because `patiently` is the one policy.

    `key` goes before the environment's; `listen` gets the headers of every response, as rate limits are told there.
    Raises EndpointRefused without a usable key, EndpointUnavailable when this computer's server cannot be started.
    """
    url = endpoint.base_url or local_endpoint().base_url
    parts = urllib.parse.urlsplit(url)
    if parts.username or parts.password or parts.query:
        raise EndpointRefused(
            "A base URL is written down, so it must hold no password or key. Set the key apart from it.", 400
        )
    hooks = {"response": [lambda response: listen(response.headers)]} if listen else {}
    made = openai.OpenAI(
        base_url=url,
        api_key=_key(endpoint, key),
        max_retries=0,
        timeout=timeout,
        # A proxy set for the outside world must not swallow requests to this computer.
        http_client=openai.DefaultHttpxClient(trust_env=not endpoint.is_local, event_hooks=hooks),
    )
    if endpoint.kind != "openai":
        # The client takes these from OpenAI's variables; they are no other server's business.
        made.organization = made.project = None
    return made


def _key(endpoint: Endpoint, given: str | None) -> str:
    variable = key_variable(endpoint)
    key = (given or os.environ.get(variable) or "").strip()
    if not key and endpoint.kind in ("openai", "azure"):
        raise EndpointRefused(f"{endpoint.name} needs a key: {variable} is not set. Set it and try again.", 401)
    if any(not 32 < ord(letter) < 127 for letter in key):
        raise EndpointRefused(f"The key for {endpoint.name} has letters that no key has. Copy it again.", 401)
    return key or ("local" if endpoint.is_local else "none")


def patiently(call: Callable[[], T], attempts: int = 4, sleep: Callable[[float], None] = tenacity.nap.sleep) -> T:
    """The result of `call`, tried again while the server is away or busy.

    Waits are random and grow, on top of what the server itself asks for. Raises EndpointUnavailable when it stays
    away, EndpointRefused at once when it says no.
    """
    spread = tenacity.wait_random_exponential(multiplier=0.5, max=20)

    def wait(state: tenacity.RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        return spread(state) + (getattr(error, "wait", None) or 0.0)

    policy = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(EndpointUnavailable),
        wait=wait,
        stop=tenacity.stop_after_attempt(attempts),
        sleep=sleep,
        reraise=True,
    )
    result: T = policy(translated, call)
    return result


def upload(
    client: openai.OpenAI,
    name: str,
    text: str,
    purpose: Literal["fine-tune", "batch"],
    sleep: Callable[[float], None] = tenacity.nap.sleep,
) -> str:
    """The id of a file handed over, once its server has read it; raises EndpointError where it cannot."""
    file = patiently(lambda: client.files.create(file=(name, text.encode()), purpose=purpose), sleep=sleep)
    id, looks = file.id, 0
    # Some servers, Azure among them, read a file first, and refuse what is asked of one they have not read.
    while str(file.status) in ("pending", "running") and looks < READS:
        sleep(READ_EVERY)
        file, looks = patiently(lambda: client.files.retrieve(id), sleep=sleep), looks + 1
    if str(file.status) in ("error", "deleted"):
        why = getattr(file, "status_details", None) or "it gives no reason"
        raise EndpointRefused(f"The server took {name} and then could not use it: {why}. Check the file's lines.", 400)
    return id


def is_tuned(model: str) -> bool:
    """Whether an id names a tuned model: OpenAI's, and this computer's, begin with ft:, Azure's have .ft- in them."""
    return model.startswith("ft:") or ".ft-" in model


def translated(call: Callable[[], T]) -> T:
    """The result of `call`, with the client's exceptions turned into ours; no message repeats the key."""
    try:
        result = call()
    except openai.APITimeoutError as error:
        raise EndpointUnavailable("The server took too long to answer. Try again, or ask less at once.") from error
    except openai.APIConnectionError as error:
        url = _base(str(error.request.url.copy_with(userinfo=b"", query=None))) if error.request else "its address"
        raise EndpointUnavailable(f"No server answers at {url}. Start it, or check the base URL.") from _harmless(error)
    except openai.APIStatusError as error:
        raise _refusal(error) from _harmless(error)
    except openai.OpenAIError as error:
        raise EndpointError(f"The request failed: {_scrubbed(str(error), error)}. Try again.") from _harmless(error)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise EndpointUnavailable("The server's answer broke off or is damaged. Try again.") from error
    if isinstance(result, str):
        # The client hands on what is no JSON, such as a proxy's page, as plain text.
        raise EndpointUnavailable(
            NO_MODEL_SERVER
            if result.lstrip().startswith("<")
            else "The server sent a text that is no answer. Check the base URL (most end in /v1), or try again."
        )
    return result


def _base(url: str) -> str:
    """The base URL of what was asked, as people know it."""
    return re.sub(r"/(models|chat|completions|fine_tuning|files|batches)(/.*)?$", "", url)


def _refusal(error: openai.APIStatusError) -> EndpointError:
    body = error.body if isinstance(error.body, dict) else {}
    said = _scrubbed(_message(error), error)
    code = str(body["code"]) if body.get("code") else None
    status = error.status_code
    broke = "insufficient_quota" in (code, body.get("type"))
    if (status in (408, 409, 429) and not broke) or status >= 500:
        return EndpointUnavailable(
            f"The server could not answer now (status {status}): {said}. Try again later.",
            status,
            _asked_to_wait(error.response.headers, status),
        )
    param = str(body["param"]) if body.get("param") else None
    if status == 403 and code == "training_not_available":
        words = f"Fine-tuning is closed to this organisation ({said}). {CLOSING}: train on this computer instead."
        return TrainingClosed(words, status, code, param, said)
    hint = HINTS.get("insufficient_quota" if broke else code) or HINTS.get(status, "Change the request and try again.")
    return EndpointRefused(f"The server refused (status {status}): {said}. {hint}", status, code, param, said)


def _message(error: openai.APIStatusError) -> str:
    """What the server said, in whichever of the shapes that servers use."""
    body = error.body
    said = (body.get("message") or body.get("detail") or error.message) if isinstance(body, dict) else body
    said = said if isinstance(said, str) else json.dumps(said) if said else error.message
    return (error.message if said.lstrip().startswith("<") else said[:1000]).strip().rstrip(".")


def _secret(error: openai.OpenAIError) -> str:
    request = getattr(error, "request", None)
    key = request.headers.get("authorization", "").removeprefix("Bearer ") if request else ""
    return key if len(key) >= 8 else ""  # "none" and "local" are words, not secrets


def _scrubbed(words: str, error: openai.OpenAIError) -> str:
    secret = _secret(error)
    return words.replace(secret, "[the key]") if secret else words


def _harmless(error: openai.OpenAIError) -> openai.OpenAIError | None:
    """The error as the cause of ours, unless its words repeat the key: tracebacks end up in logs."""
    secret, link = _secret(error), error.__cause__ or error.__context__
    told = f"{error} {getattr(error, 'body', '')} {link}"
    return None if secret and secret in told else error


def _asked_to_wait(headers: httpx2.Headers, status: int, now: float | None = None) -> float | None:
    """Seconds the server asks us to wait, at most MOST_WAIT_SECONDS; None when it asks for nothing."""
    given = headers.get("retry-after-ms"), headers.get("retry-after")
    asked = seconds(f"{given[0]}ms", now) if given[0] else seconds(given[1] or "", now)
    if asked is None and status == 429:
        resets = {what: seconds(headers.get(f"x-ratelimit-reset-{what}", ""), now) for what in ("requests", "tokens")}
        known = {what: wait for what, wait in resets.items() if wait is not None}
        spent = [wait for what, wait in known.items() if headers.get(f"x-ratelimit-remaining-{what}") == "0"]
        asked = max(spent) if spent else min(known.values(), default=None)
    return None if asked is None else min(asked, MOST_WAIT_SECONDS)


def seconds(text: str, now: float | None = None) -> float | None:
    """Seconds in "2", "20ms", "1m30s" or until an HTTP date, 0 where that is over; None for anything else."""
    units = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
    if re.fullmatch(r"(\d+(\.\d+)?(ms|[smhd]|$))+", text.strip()):
        return sum(float(n) * units[unit] for n, _, unit in re.findall(r"(\d+(\.\d+)?)(ms|[smhd]|$)", text.strip()))
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - (time.time() if now is None else now))
    except ValueError:
        return None


def spawn(
    command: list[str], log: Path, folder: Path, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """A process of its own that outlives us: closing the app's terminal must not end work that is under way.

    `environment` adds variables, such as a key: they go from memory to memory.
    """
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
            env={**os.environ, **(environment or {}), "DRONE_FT_WORKSPACE": str(folder.resolve())},
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
