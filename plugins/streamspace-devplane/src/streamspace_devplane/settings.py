"""The control plane's settings. The defaults are those of the deployed one; tests use smaller numbers."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

Seconds = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(gt=0)]
ADDRESS = r"^(\[[0-9a-fA-F:.]+\]|[^\s:/\[\]]+)(:\d{1,5})?$"
LABEL = "x-streamspace-devplane"
"""The header by which a client recognises a dev plane."""
BANNER = "development control plane: for development and tests only, not a StreamSpace installation"


@dataclass(frozen=True, slots=True)
class Settings:
    """Times are in seconds, sizes in bytes."""

    ping_interval: Seconds = 54.0
    pong_timeout: Seconds = 60.0
    """A link is dropped when neither a pong nor a ping of the agent arrived for so long."""
    stale_after: Seconds = 45.0
    """An agent that sends no `heartbeat` for so long is marked stale, and its link closed."""
    stale_check: Seconds = 10.0
    sweep_interval: Seconds = 60.0
    stuck_after: Seconds = 300.0
    """The sweep deals with sessions that are `pending` or `terminating` for so long: a stop is sent again."""
    gone_after: Seconds = 600.0
    """The sweep ends such a session by itself after so long, if its agent is not connected."""
    keep_commands: bool = False
    """Commands for an agent that is not connected wait for it, as with Redis; else they fail at once."""
    late_sent: Annotated[float, Field(ge=0, le=1)] = 0.35
    """The share of the commands in a burst that are marked `sent` only after `late_sent_by`, over a faster answer.

    A command belongs to a burst if it is sent less than `late_sent_by` after another.
    """
    late_sent_by: Seconds = 0.05
    close_second: bool = True
    """A second connection of an agent is closed as well, by the cleanup of the first, which it replaced."""
    hand_out_keys: bool = False
    """An approved agent that registers with the bootstrap key gets its own key, and has to connect with that.

    The deployed one hands out no key, and its bootstrap key stays valid.
    """
    max_message: Count = 524_288
    """A larger WebSocket message closes the connection (code 1009)."""
    viewer_queue: Count = 256
    """Messages for viewers held for one agent's connection, for all its sessions; more are dropped silently."""
    send_buffer: Count = 256
    """Messages held for one agent; the deployed relay gives up a viewer when there is no room."""
    relay: Literal["deployed", "repaired"] = "deployed"
    """The kind of viewer relay; the agent's setting VIEWER_RELAY has to be the same."""
    viewer_ping_interval: Seconds = 54.0
    """Of the deployed relay, as the next three: each ping sets a deadline for all writes to the viewer."""
    viewer_write_wait: Seconds = 10.0
    """The deadline is so long after a ping of either side; only the next ping moves it."""
    viewer_activity_interval: Seconds = 30.0
    viewer_read_wait: Seconds = 120.0
    """A viewer that sent neither data nor a pong for so long is not read any more."""
    web_time_limit: Seconds = 30.0
    """A request to a web session, or a WebSocket, is cut after so long."""
    crash_file: str | None = None
    """Gets a line of JSON for each crash of the deployed one; `None`: as STREAMSPACE_DEVPLANE_CRASHES says."""
    web_gateway: Annotated[str, Field(pattern=ADDRESS)] | None = None
    """`HOST[:PORT]` that is asked for web sessions; `None`: SESSION.streamspace.svc.cluster.local."""
    registrations_per_minute: Count = 60
    """Requests of agents from one address, registrations and connections together."""
    log_vnc_data: bool = True
    """Log each `vnc_data` as an event (its data cut); it is counted either way."""
    events_kept: Count | None = 100_000
    """The event log keeps so many of the newest messages, and as many `vnc_data` besides; `None`: all."""
    seed: int | None = None
    """The seed of the fault switches' dice; `None`: random."""
