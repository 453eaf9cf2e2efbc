"""What works at an endpoint: reachable, key accepted, which models, whether it fine-tunes, what retires when."""

from __future__ import annotations

import datetime
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx2
import openai

from drone_ft.endpoints import CLOSING, NO_MODEL_SERVER, Endpoint, client, key_variable, patiently, translated
from drone_ft.errors import EndpointError, EndpointRefused, TrainingClosed

NO_NEW_JOBS = datetime.date(2027, 1, 6)  # at OpenAI
NO_CHAT = re.compile(
    r"embed|whisper|tts|dall-e|image|moderation|realtime|audio|transcri|davinci|babbage|sora|rerank|speech|guard"
)


@dataclass(frozen=True)
class Probe:
    """What a test of an endpoint found, and the one sentence that says it; `facts` are its parts, one a line.

    None means unknown. `chat` are those of `models` that seem made for chat; `retires` the days on which models stop
    answering, the soonest first; `closing` says it of the models that still answer.
    """

    sentence: str
    reachable: bool
    key_accepted: bool | None = None
    models: tuple[str, ...] = ()
    chat: tuple[str, ...] = ()
    can_tune: bool | None = None
    retires: tuple[tuple[str, datetime.date], ...] = ()
    facts: tuple[str, ...] = ()
    closing: tuple[str, ...] = ()


def probe(endpoint: Endpoint, key: str | None = None, today: datetime.date | None = None) -> Probe:
    """Ask an endpoint what works there, in requests that cost and change nothing; never raises."""
    try:
        asked = client(endpoint, timeout=10.0, key=key)
        known = listed(asked, attempts=2)
    except EndpointRefused as error:
        if error.status == 401:
            return Probe(key_wanted(endpoint, key), True, key_accepted=False)
        return Probe(f"{_title(endpoint)}: {error}", True)
    except EndpointError as error:
        return Probe(f"{_title(endpoint)}: {error}", False)
    except (ValueError, httpx2.InvalidURL):  # what the client says of an address that cannot be one
        return Probe(f"{_title(endpoint)}: {endpoint.base_url} is no base URL. Most look like https://…/v1.", False)
    models = tuple(model.id for model in known)
    chat = tuple(name for name in models if not NO_CHAT.search(name.lower()))
    days = [(model.id, day) for model in known if (day := _day(getattr(model, "shutdown_date", None)))]
    retires = tuple(sorted(days, key=lambda pair: (pair[1], pair[0])))
    today = today or datetime.date.today()
    can_tune, tuning = _tuning(endpoint, asked, today)
    taken = " and takes the key" if endpoint.kind in ("openai", "azure") else ""
    others = f", {_count(len(models) - len(chat))} for other things" if len(models) > len(chat) else ""
    facts = (f"{_title(endpoint)} answers{taken}", f"{_count(len(chat))} for chat{_named(chat)}{others}", tuning)
    closing = _closing([pair for pair in retires if pair[1] >= today])
    sentence = f"{facts[0]}: {'; '.join((*facts[1:], *closing))}."
    return Probe(sentence, True, True if taken else None, models, chat, can_tune, retires, facts, closing)


def key_wanted(endpoint: Endpoint, key: str | None) -> str:
    """What to do about a key that is missing or refused."""
    if key or os.environ.get(key_variable(endpoint)):
        return f"{_title(endpoint)} does not accept this key. Paste another one."
    return f"{_title(endpoint)} needs a key."


def listed(asked: openai.OpenAI, attempts: int = 4) -> list[Any]:
    """The models a server lists, each with its id and what else is told; raises EndpointError for no such list."""
    models = patiently(lambda: _rows(asked.models.list), attempts)
    if models is None:
        raise EndpointError(NO_MODEL_SERVER)
    return [model for model in models if isinstance(getattr(model, "id", None), str)]


def _rows(page: Callable[[], Any]) -> list[Any] | None:
    """The rows of a listing; None where the server sent something else."""
    try:
        rows = getattr(page(), "data", None)
    except AttributeError:  # the client takes whatever comes for a page
        return None
    return rows if isinstance(rows, list) else None


def _tuning(endpoint: Endpoint, asked: openai.OpenAI, today: datetime.date) -> tuple[bool | None, str]:
    """Whether it takes fine-tuning jobs, found out by listing them, and the same in words."""
    try:
        jobs = translated(lambda: _rows(lambda: asked.fine_tuning.jobs.list(limit=1)))
    except EndpointRefused as error:
        if error.status in (404, 405) or isinstance(error, TrainingClosed):
            return False, "it cannot fine-tune"
        return None, f"whether it can fine-tune is unknown ({error.said})"
    except EndpointError as error:
        if getattr(error, "status", None) == 501:
            return False, "it cannot fine-tune"
        return None, "whether it can fine-tune is unknown"
    if jobs is None:
        return False, "it cannot fine-tune"
    if asked.base_url.host != "api.openai.com":
        return True, "it can fine-tune"
    if today >= NO_NEW_JOBS:
        return False, f"it cannot fine-tune any more; {CLOSING}"
    # A closed organisation can list its jobs; one that never had any is refused for sure since May 2026.
    return (True, f"it can fine-tune as before; {CLOSING}") if jobs else (None, f"it never fine-tuned here; {CLOSING}")


def _title(endpoint: Endpoint) -> str:
    return endpoint.name[:1].upper() + endpoint.name[1:]


def _count(n: int) -> str:
    return f"{n} model" if n == 1 else f"{n or 'no'} models"


def _named(names: tuple[str, ...], most: int = 4) -> str:
    if not names:
        return ""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f" ({', '.join(names[:most])}{more})"


def _closing(coming: list[tuple[str, datetime.date]], most: int = 3) -> tuple[str, ...]:
    """Which models stop answering on which day, a sentence for each day."""
    days: dict[datetime.date, list[str]] = {}
    for name, day in coming:
        days.setdefault(day, []).append(name)
    told = [_stop(names, day) for day, names in list(days.items())[:most]]
    later = sum(len(names) for names in list(days.values())[most:])
    return (*told, *([f"{later} more later"] if later else []))


def _stop(names: list[str], day: datetime.date, most: int = 4) -> str:
    more = [f"{len(names) - most} more"] if len(names) > most else []
    *first, last = [*names[:most], *more]
    who = f"{', '.join(first)} and {last}" if first else last
    return f"{who} {'stop' if first else 'stops'} answering on {date(day)}"


def date(day: datetime.date) -> str:
    """A day as people write it: 14 January 2027."""
    return f"{day.day} {day:%B %Y}"


def _day(value: Any) -> datetime.date | None:
    """A day from an ISO date or Unix seconds; None for anything else."""
    try:
        if isinstance(value, str) and not value.isdigit():
            return datetime.date.fromisoformat(value[:10])
        return datetime.datetime.fromtimestamp(int(value), datetime.UTC).date()
    except (ValueError, TypeError, OverflowError, OSError):
        return None
