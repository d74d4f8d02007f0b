"""Counts of requests by outcome, over the life of the process."""

from dataclasses import dataclass, field
from enum import StrEnum


class Outcome(StrEnum):
    """The label of the metric; each request has one, counted when it ends."""

    PASSED = "passed"
    """The session's server answered, and the whole answer was passed on."""
    WEBSOCKET = "websocket"
    """It opened a WebSocket, which has ended."""
    NOT_FOUND = "not_found"
    UNAVAILABLE = "unavailable"
    """The session is not running now."""
    BAD_GATEWAY = "bad_gateway"
    """The session's server did not answer."""
    BROKEN = "broken"
    """The session's server broke off its answer."""
    TIME_LIMIT = "time_limit"
    """It was ended, or refused, because the control plane's proxy ends every request after 30 s."""
    LEFT = "left"
    """The client left before the answer was complete."""
    INVALID = "invalid"
    """It was not a valid request, or did not come in time."""
    FORBIDDEN = "forbidden"
    """It came from a network that is not allowed, or from a session."""


@dataclass(slots=True)
class Counters:
    connections: int = 0
    requests: dict[str, int] = field(default_factory=lambda: dict.fromkeys(map(str, Outcome), 0))

    def count(self, outcome: Outcome) -> None:
        self.requests[outcome] += 1
