"""Every error a user may meet; each message says what failed, what was received, what to do next.

DroneFTError
├── CatalogError            a catalog that cannot be read; names function and parameter
├── DatasetError            examples or JSONL that cannot be used; names line and field
├── EndpointError           a model's server said no or said nothing
│   ├── EndpointUnavailable   no answer: not running, timed out, overloaded (an outage is never a wrong answer)
│   └── EndpointRefused       an answer, and it is no; carries status and code
│       └── TrainingClosed      this organisation may not fine-tune there (any more)
├── WeightsError            a model whose files are missing or damaged
├── JobError                a fine-tuning job that failed
├── StoreError              the database or the disk refused
└── WorkCancelled           somebody pressed cancel; not a failure
"""

from __future__ import annotations


class DroneFTError(Exception):
    """Base of all errors whose message is fit to be shown to a person."""


class CatalogError(DroneFTError):
    """A catalog that cannot be read; nothing of it is loaded."""


class DatasetError(DroneFTError):
    """Examples or JSONL that cannot be used; the message names line and field."""


class EndpointError(DroneFTError):
    """A model's server refused or did not answer."""


class EndpointUnavailable(EndpointError):
    """No answer: the server is down, busy or too slow.

    `status` is the HTTP status where there was one; `wait` the seconds the server asked us to wait.
    """

    def __init__(self, message: str, status: int | None = None, wait: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.wait = wait


class EndpointRefused(EndpointError):
    """The server answered no; `status` is the HTTP status, `code` and `param` the API's own words for what and where.

    `said` is the server's message alone.
    """

    def __init__(
        self, message: str, status: int, code: str | None = None, param: str | None = None, said: str = ""
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param
        self.said = said


class TrainingClosed(EndpointRefused):
    """The server takes no fine-tuning job from this organisation; a normal state, not a fault."""


class WeightsError(DroneFTError):
    """A model's files are missing, damaged or of an unknown kind."""


class JobError(DroneFTError):
    """A fine-tuning job failed."""


class StoreError(DroneFTError):
    """The database or the disk refused to read or write."""


class WorkCancelled(DroneFTError):
    """The person who started the work cancelled it."""
