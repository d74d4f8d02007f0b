"""The control plane's numbers; the defaults are the deployed ones, tests make them small."""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

Seconds = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(gt=0)]
BANNER = "development control plane: for development and tests only, not a StreamSpace installation"


@dataclass(frozen=True, slots=True)
class Settings:
    """All times in seconds, all sizes in bytes."""

    ping_interval: Seconds = 54.0
    pong_timeout: Seconds = 60.0
    """The link is dropped when neither a pong nor a ping of the agent arrived for so long."""
    stale_after: Seconds = 45.0
    """Without a `heartbeat` message for so long the agent is marked stale and its link closed."""
    stale_check: Seconds = 10.0
    sweep_interval: Seconds = 60.0
    stuck_after: Seconds = 300.0
    """A session that stays `pending` without a `status` for so long is set to `failed`."""
    max_message: Count = 524_288
    """A larger WebSocket message closes the connection (code 1009)."""
    viewer_queue: Count = 256
    """`vnc_data` messages held for one agent, shared by all its viewers; what does not fit is dropped in silence."""
    registrations_per_minute: Count = 60
    log_vnc_data: bool = True
    """Write each `vnc_data` to the event log (its data cut); counters are kept either way."""
    events_kept: Count | None = 100_000
    """How many messages the event log keeps, the newest, and beside them as many `vnc_data`; `None` is all."""
    seed: int | None = None
    """Seed of the fault switches' dice; `None` is unpredictable."""
