"""What a create request and its files must look like before a job is made of them."""

from __future__ import annotations

import json
import random
import re
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from drone_ft.local import api
from drone_ft.local.api import Json, bad
from drone_ft.local.files import FileStore

LARGEST_SEED = 2_147_483_647
HYPERPARAMETERS = ("n_epochs", "batch_size", "learning_rate_multiplier")
SETTINGS = (
    "model", "training_file", "validation_file", "suffix", "seed",
    "method", "hyperparameters", "metadata", "integrations",
)  # fmt: skip


def read_settings(body: Json, files: FileStore, base_models: Sequence[str]) -> Json:
    """The fields of a Job from a create request; ApiError 400 names what is wrong with it."""
    api.known_only(body, SETTINGS)
    model = api.text(body, "model", required=True) or ""
    if model not in base_models:
        names = ", ".join(base_models)
        message = f"Model {model[:100]} is not available for fine-tuning or does not exist. Choose one of: {names}."
        raise bad(message, "model", "model_not_available")
    if body.get("integrations"):
        raise bad(
            "Integrations are not supported on this computer; leave them out.", "integrations", "unsupported_value"
        )
    suffix = _suffix(api.text(body, "suffix", longest=64))
    seed = api.whole(body, "seed", 0, LARGEST_SEED)
    return {
        "model": model,
        "training_file": _file(body, "training_file", files),
        "validation_file": _file(body, "validation_file", files) if body.get("validation_file") else None,
        "suffix": suffix,
        "seed": random.randrange(LARGEST_SEED) if seed is None else seed,
        "hyperparameters": _hyperparameters(body),
        "metadata": _metadata(body.get("metadata")),
        "output_model": f"ft:{model}:local:{suffix}:{api.new_id('', 8)}",
    }


def check_examples(path: Path, param: str, fewest: int) -> dict[str, str | None] | None:
    """What is wrong with a file of examples, as a job's error: code, param and a message naming line and field."""
    what, count = param.replace("_", " "), 0
    with path.open("rb") as file:
        for line, raw in enumerate(file, 1):
            if not raw.strip():
                continue
            count += 1
            if trouble := _example_trouble(raw):
                return _error(f"invalid_{param}", param, f"Invalid {what}. Line {line}: {trouble}")
    if count < fewest:
        message = f"The {what} has {count} example(s), but must have at least {fewest} examples. Add more examples."
        return _error("invalid_n_examples", param, message)
    return None


def _error(code: str, param: str | None, message: str) -> dict[str, str | None]:
    return {"code": code, "param": param, "message": message}


def _example_trouble(raw: bytes) -> str | None:
    try:
        example = json.loads(raw)
    except (ValueError, RecursionError):
        return "not valid JSON. Every line must be one JSON object."
    if not isinstance(example, dict):
        return f"expected a JSON object, found {api.kind(example)}."
    messages = example.get("messages")
    if not isinstance(messages, list) or not messages:
        return 'field "messages" must be a list with at least one message.'
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            return f'field "messages[{index}].role" is missing.'
    last = messages[-1]
    if last["role"] != "assistant":
        return f'field "messages[{len(messages) - 1}].role" must be "assistant" in the last message.'
    if not (last.get("content") or last.get("tool_calls") or last.get("function_call")):
        return f'field "messages[{len(messages) - 1}]" needs "content", "tool_calls" or "function_call".'
    return None


def _file(body: Json, key: str, files: FileStore) -> str:
    id = api.text(body, key, required=True) or ""
    try:
        file = files.get(id)
    except api.ApiError:
        message = f"invalid {key}: {id[:100]}. No such file; upload it first with purpose fine-tune."
        raise bad(message, key, f"invalid_{key}") from None
    if file.purpose != "fine-tune":
        message = f"invalid {key}: {id}. It was uploaded with purpose {file.purpose}, not fine-tune."
        raise bad(message, key, f"invalid_{key}")
    return id


def _suffix(given: str | None) -> str:
    if given is None:
        return ""
    plain = unicodedata.normalize("NFKD", given).encode("ascii", "ignore").decode()
    suffix = re.sub(r"[^A-Za-z0-9._-]+", "-", plain).strip("-")
    if not suffix:
        raise bad(
            "Invalid 'suffix': it needs at least one letter or digit of the Latin alphabet.", "suffix", "invalid_value"
        )
    return suffix


def _hyperparameters(body: Json) -> dict[str, Any]:
    method = _object(body, "method")
    if method:
        api.known_only(method, ("type", "supervised", "dpo", "reinforcement"))
        if method.get("type") != "supervised":
            message = (
                f"Invalid 'method.type': only supervised works on this computer, got {str(method.get('type'))[:50]!r}."
            )
            raise bad(message, "method.type", "unsupported_value")
        if body.get("hyperparameters"):
            raise bad("Give either 'method' or the older 'hyperparameters', not both.", "hyperparameters")
        supervised = _object(method, "supervised", "method.supervised")
        given, where = _object(supervised, "hyperparameters", "method.supervised.hyperparameters"), "method.supervised."
    else:
        given, where = _object(body, "hyperparameters"), ""
    api.known_only(given, HYPERPARAMETERS)
    checks: dict[str, Callable[[str], float | None]] = {
        "n_epochs": lambda name: api.whole(given, "n_epochs", 1, 50, name),
        "batch_size": lambda name: api.whole(given, "batch_size", 1, 256, name),
        "learning_rate_multiplier": lambda name: api.number(given, "learning_rate_multiplier", 1e-6, 1e6, name),
    }
    chosen: dict[str, Any] = {}
    for key, check in checks.items():
        value = None if given.get(key) == "auto" else check(f"{where}hyperparameters.{key}")
        chosen[key] = "auto" if value is None else value
    return chosen


def _object(body: Json, key: str, name: str = "") -> Json:
    value = body.get(key)
    if value is not None and not isinstance(value, dict):
        raise api.wrong_type(name or key, "an object", value)
    return value or {}


def _metadata(value: object) -> dict[str, str] | None:
    if value is None:
        return None
    if not isinstance(value, dict) or len(value) > 16:
        raise bad("Invalid 'metadata': expected an object of at most 16 pairs.", "metadata", "invalid_value")
    for key, entry in value.items():
        if len(key) > 64 or not isinstance(entry, str) or len(entry) > 512:
            message = (
                f"Invalid 'metadata.{key[:64]}': keys hold at most 64 characters, values are strings of at most 512."
            )
            raise bad(message, "metadata", "invalid_value")
    return value
