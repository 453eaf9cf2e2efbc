"""Stands before every route: only this computer may ask, with the token if there is one; bodies are bounded, and the
last request is remembered.
"""

from __future__ import annotations

import hmac
import re
import time

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from drone_ft.local.api import ApiError

LOCAL = re.compile(r"(localhost|127\.0\.0\.1|\[::1\])(:[0-9]{1,5})?", re.IGNORECASE)
LARGEST_UPLOAD = 512 * 1024 * 1024
LARGEST_BODY = 32 * 1024 * 1024
MULTIPART = 64 * 1024
"""Room for the parts of an upload that are not the file."""


class Activity:
    """How many requests are being answered, and when the last one was; asking for health counts for nothing."""

    def __init__(self) -> None:
        self.open = 0
        self.last = time.monotonic()

    @property
    def idle_seconds(self) -> float:
        """Seconds since anybody wanted something."""
        return 0.0 if self.open else time.monotonic() - self.last

    def touch(self) -> None:
        """Something is going on."""
        self.last = time.monotonic()


class Guard:
    """Middleware: checks Host, Origin and token, counts the body's bytes, notes activity."""

    def __init__(self, app: ASGIApp, activity: Activity, largest_upload: int, token: str) -> None:
        self._app, self._activity, self._largest_upload, self._token = app, activity, largest_upload, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or refuses it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        counts = scope["path"] != "/health"
        self._activity.open += counts
        try:
            limit = self._largest_upload + MULTIPART if scope["path"] == "/v1/files" else LARGEST_BODY
            headers = Headers(scope=scope)
            asked = self._token if counts else ""  # whether it lives is no secret
            if error := _stranger(headers) or _tokenless(headers, asked) or _too_large(headers, limit):
                await JSONResponse(error.body(), error.status)(scope, receive, send)
                return
            await self._app(scope, _bounded(receive, limit), send)
        finally:
            self._activity.open -= counts
            if counts:
                self._activity.touch()


def _stranger(headers: Headers) -> ApiError | None:
    # A page of any site may send requests to 127.0.0.1, under its own Origin, or under its own name as Host.
    if not LOCAL.fullmatch(headers.get("host", "")):
        return ApiError(
            403, "This server answers only to localhost. Use http://127.0.0.1 in the base URL.", code="wrong_host"
        )
    origin = headers.get("origin")
    if origin is not None and not LOCAL.fullmatch(origin.split("://", 1)[-1]):
        return ApiError(403, "This server answers no web page of another site.", code="wrong_origin")
    return None


def _tokenless(headers: Headers, token: str) -> ApiError | None:
    if not token or hmac.compare_digest(headers.get("authorization", "").encode(), f"Bearer {token}".encode()):
        return None
    message = "Incorrect API key provided. Send the token this server was started with (DRONE_FT_TOKEN) as the key."
    return ApiError(401, message, code="invalid_api_key")


def _too_large(headers: Headers, limit: int) -> ApiError | None:
    length = headers.get("content-length", "")
    return _too_many_bytes(limit) if length.isdigit() and int(length) > limit else None


def _too_many_bytes(limit: int) -> ApiError:
    message = f"The request is larger than the {limit / 1024**2:,.1f} MB this server takes. Send less."
    return ApiError(413, message, code="request_too_large")


def _bounded(receive: Receive, limit: int) -> Receive:
    seen = 0

    async def bounded() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > limit:
            raise _too_many_bytes(limit)
        return message

    return bounded
