"""What happened to requests, over the process's life."""

from dataclasses import dataclass, field
from enum import StrEnum


class Outcome(StrEnum):
    """The metric's label; one for each request, when it ends."""

    PASSED = "passed"
    """The session's server answered, and all of its answer was passed on."""
    WEBSOCKET = "websocket"
    """A WebSocket that was open, and ended."""
    NOT_FOUND = "not_found"
    UNAVAILABLE = "unavailable"
    """The session does not run now."""
    BAD_GATEWAY = "bad_gateway"
    """The session's server did not answer."""
    BROKEN = "broken"
    """The session's server broke off in the middle of its answer."""
    TIME_LIMIT = "time_limit"
    """It was ended, or refused, because the control plane's proxy ends everything after 30 s."""
    LEFT = "left"
    """Whoever asked left before the answer was whole."""
    INVALID = "invalid"
    """What came was no request, or not in time."""
    FORBIDDEN = "forbidden"
    """A request from a network that is not allowed, or from a session."""


@dataclass(slots=True)
class Counters:
    connections: int = 0
    requests: dict[str, int] = field(default_factory=lambda: dict.fromkeys(map(str, Outcome), 0))

    def count(self, outcome: Outcome) -> None:
        self.requests[outcome] += 1
