"""The exceptions of the dev control plane. Only `PlaneError` reaches those who use it from Python."""

from typing import Any


class PlaneError(Exception):
    """The control plane refused a request, cannot be reached, or did not get into the state waited for."""


class Unreadable(Exception):
    """A message that the control plane ignores as a whole; `str()` is the diagnostics counter it is counted under."""


class Refused(Exception):
    """Why an agent may not register or connect: the HTTP status and the JSON body of the answer."""

    def __init__(self, status: int, error: str, details: str | list[str], **more: Any) -> None:
        super().__init__(error)
        self.status = status
        self.body = {"error": error, "details": details, **more}


class WriteFailed(Exception):
    """A viewer's socket can no longer be written to; `str()` says why."""


class TooLong(Exception):
    """A compressed answer is longer than its Content-Length allows."""


class InvalidTemplate(Exception):
    """A file is not a template; `str()` says why."""
