"""What every route shares: the API's error shape, pages of lists, reading a JSON body field by field."""

from __future__ import annotations

import errno
import json
import math
import secrets
import string
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from drone_ft.errors import CatalogError, DroneFTError
from drone_ft.local.prompt import PromptError
from drone_ft.local.shelf import UnknownModel

Json = dict[str, Any]
Item = TypeVar("Item")
ALPHABET = string.ascii_letters + string.digits
LARGEST_PAGE = 10_000
DEEPEST = 100


class ApiError(DroneFTError):
    """A refusal in the API's own shape: an HTTP status and `{"error": {message, type, param, code}}`."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        type: str = "invalid_request_error",
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code, self.type = status, param, code, type

    def body(self) -> Json:
        """The JSON a client receives."""
        error = {"message": str(self), "type": self.type, "param": self.param, "code": self.code}
        return {"error": error}


def bad(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """A 400: the request itself is wrong."""
    return ApiError(400, message, param=param, code=code)


def not_found(what: str, id: str, param: str = "id") -> ApiError:
    """A 404 for an id that nobody knows."""
    return ApiError(404, f"No such {what}: {id[:200]!r}. List the {what}s to see which exist.", param=param)


def disk_error(error: OSError) -> ApiError:
    """A disk that refused, as a sentence: full, read-only, or something else."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    message = (
        "The disk is full, nothing was saved. Free some space and send the request again."
        if full
        else f"The disk refused: {error.strerror or error}. Check the workspace folder and send the request again."
    )
    return ApiError(507, message, type="server_error", code="disk_full" if full else "disk_error")


def refusal(error: Exception) -> ApiError:
    """Any exception as what a client is told: wrong requests are 400, the server's own troubles are 5xx."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, PromptError):
        return bad(str(error), error.param, "invalid_value")
    if isinstance(error, CatalogError):
        return bad(str(error), "tools", "invalid_function_parameters")
    if isinstance(error, UnknownModel):
        return ApiError(404, str(error), param="model", code="model_not_found")
    if isinstance(error, OSError):
        return disk_error(error)
    if isinstance(error, DroneFTError):
        return ApiError(500, str(error), type="server_error")
    message = f"The server failed while answering: {type(error).__name__}: {error}. What it was doing is in its log."
    return ApiError(500, message, type="server_error")


def new_id(prefix: str, length: int = 24) -> str:
    """A fresh id such as `file-3k…`; letters and digits only, so it is a safe file name."""
    return prefix + "".join(secrets.choice(ALPHABET) for _ in range(length))


def read_json(body: bytes) -> Json:
    """The body as a JSON object that can be written again as UTF-8; ApiError 400 otherwise."""
    try:
        value = json.loads(body)
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise bad(f"We could not parse the JSON body of your request: {str(error)[:200]}.") from error
    if _deeper_than(value, DEEPEST):
        raise bad(f"The JSON body of your request is nested deeper than {DEEPEST} levels.")
    if not isinstance(value, dict):
        raise bad(f"The request body must be a JSON object, received {kind(value)}.")
    return value


def known_only(body: Json, known: Sequence[str]) -> None:
    """Refuses arguments the API does not have, instead of ignoring a misspelt one."""
    for key in body:
        if key not in known:
            raise bad(
                f"Unrecognized request argument supplied: {key[:100]}. Check its spelling or leave it out.",
                key[:100],
                "unknown_parameter",
            )


def kind(value: object) -> str:
    """The JSON name of a value's type, with its article."""
    names = {
        bool: "a boolean",
        int: "an integer",
        float: "a decimal",
        str: "a string",
        list: "an array",
        dict: "an object",
    }
    return names.get(type(value), "null")


def text(body: Json, key: str, *, required: bool = False, longest: int | None = None) -> str | None:
    """A string field, or None when it is absent and may be."""
    value = body.get(key)
    if value is None and not required:
        return None
    if value is None:
        raise bad(f"Missing required parameter: '{key}'.", key, "missing_required_parameter")
    if not isinstance(value, str):
        raise wrong_type(key, "a string", value)
    if not value or (longest is not None and len(value) > longest):
        most = f" and at most {longest}" if longest else ""
        raise bad(f"Invalid '{key}': expected at least 1{most} characters, got {len(value)}.", key, "invalid_value")
    return value


def flag(body: Json, key: str) -> bool:
    """A boolean field; absent and null are False."""
    value = body.get(key)
    if value is not None and not isinstance(value, bool):
        raise wrong_type(key, "a boolean", value)
    return bool(value)


def number(body: Json, key: str, low: float, high: float, name: str = "") -> float | None:
    """A finite number from `low` to `high`, or None when absent."""
    value, name = body.get(key), name or key
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise wrong_type(name, "a decimal", value)
    return _in_range(value, low, high, name, "decimal")


def whole(body: Json, key: str, low: int, high: int, name: str = "") -> int | None:
    """A whole number from `low` to `high`, or None when absent."""
    value, name = body.get(key), name or key
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise wrong_type(name, "an integer", value)
    return int(_in_range(value, low, high, name, "integer"))


def wrong_type(name: str, expected: str, value: object) -> ApiError:
    """The API's sentence for a field of the wrong type."""
    message = f"Invalid type for '{name}': expected {expected}, but got {kind(value)} instead."
    return bad(message, name, "invalid_type")


def query_number(query: Mapping[str, str], key: str, default: int, largest: int = LARGEST_PAGE) -> int:
    """A page size from the query string, at least 1; more than `largest` gets `largest`."""
    raw = query.get(key)
    if raw is None:
        return default
    if not (raw.isascii() and raw.isdigit() and len(raw) < 10 and int(raw) > 0):
        raise bad(f"Invalid '{key}': expected a whole number of at least 1, got {raw[:50]!r}.", key, "invalid_value")
    return min(int(raw), largest)


def page(items: Sequence[Item], query: Mapping[str, str], default_limit: int) -> Json:
    """One page of `items` (each with an `id`) by `after` and `limit`, in the API's list shape."""
    limit = query_number(query, "limit", default_limit)
    ids = [str(getattr(item, "id", "")) for item in items]
    after = query.get("after")
    if after and after not in ids:
        raise bad(f"Invalid 'after': no item {after[:200]!r} in this list.", "after", "invalid_value")
    start = ids.index(after) + 1 if after else 0
    chosen, chosen_ids = items[start : start + limit], ids[start : start + limit]
    return {
        "object": "list",
        "data": [dump(item) for item in chosen],
        "first_id": chosen_ids[0] if chosen_ids else None,
        "last_id": chosen_ids[-1] if chosen_ids else None,
        "has_more": start + limit < len(items),
    }


def dump(value: Any) -> Any:
    """One of the openai package's values as plain JSON; only what was set, as the API does."""
    return value.model_dump(mode="json", exclude_unset=True)


def _in_range(value: float, low: float, high: float, name: str, sort: str) -> float:
    finite = isinstance(value, int) or math.isfinite(value)
    if finite and low <= value <= high:
        return value
    below = not finite or value < low
    edge, sign, bound = ("below_min", ">=", low) if below else ("above_max", "<=", high)
    message = f"Invalid '{name}': expected a value {sign} {bound}, but got {str(value)[:40]} instead."
    raise bad(message, name, f"{sort}_{edge}_value")


def _deeper_than(value: object, levels: int) -> bool:
    layer = [value]
    for _ in range(levels):
        layer = [part for whole in layer if isinstance(whole, (dict, list)) for part in _parts(whole)]
    return bool(layer)


def _parts(whole: dict[str, object] | list[object]) -> Iterable[object]:
    return whole.values() if isinstance(whole, dict) else whole
