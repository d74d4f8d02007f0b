"""The control plane's numbers; the defaults are the deployed ones, tests make them small."""

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
    """All times in seconds, all sizes in bytes."""

    ping_interval: Seconds = 54.0
    pong_timeout: Seconds = 60.0
    """The link is dropped when neither a pong nor a ping of the agent arrived for so long."""
    stale_after: Seconds = 45.0
    """Without a `heartbeat` message for so long the agent is marked stale and its link closed."""
    stale_check: Seconds = 10.0
    sweep_interval: Seconds = 60.0
    stuck_after: Seconds = 300.0
    """A session that is `pending` or `terminating` for so long is looked at by the sweep: a stop is sent again."""
    gone_after: Seconds = 600.0
    """Where it has been so for so long and its agent is not connected, the sweep ends it by itself."""
    keep_commands: bool = False
    """Commands for an agent that is not connected wait for it, as with Redis; else they are failed at once."""
    late_sent: Annotated[float, Field(ge=0, le=1)] = 0.35
    """How many of the commands of a burst, by the dice, are written `sent` only after `late_sent_by`, over any answer that
    was faster; a command is of a burst when it is sent sooner than that after another.
    """
    late_sent_by: Seconds = 0.05
    close_second: bool = True
    """A second connection of an agent is closed too, by the cleanup of the first, which it replaced."""
    hand_out_keys: bool = False
    """An approved agent that registers with the bootstrap key gets a key of its own, and the bootstrap key opens no
    link. The deployed one hands out none, and its bootstrap key stays good.
    """
    max_message: Count = 524_288
    """A larger WebSocket message closes the connection (code 1009)."""
    viewer_queue: Count = 256
    """Messages for viewers held for one agent's connection, shared by all its sessions; what does not fit is dropped in silence."""
    send_buffer: Count = 256
    """Messages held for one agent that does not take them; the deployed relay gives up on a viewer that meets it full."""
    relay: Literal["deployed", "repaired"] = "deployed"
    """Which kind of viewer relay it has; the agent's setting VIEWER_RELAY has to say the same."""
    viewer_ping_interval: Seconds = 54.0
    """Of the deployed relay, as all that follow: each ping sets a deadline for all writes to the viewer."""
    viewer_write_wait: Seconds = 10.0
    """How long after a ping, of either side, that deadline is; only the next ping puts it off."""
    viewer_activity_interval: Seconds = 30.0
    viewer_read_wait: Seconds = 120.0
    """A viewer that sent neither data nor a pong for so long is read no more."""
    web_time_limit: Seconds = 30.0
    """How long a request to a web session may take, WebSockets too; then it is cut."""
    crash_file: str | None = None
    """Gets a line of JSON where the deployed control plane would have died; `None`: STREAMSPACE_DEVPLANE_CRASHES names it."""
    web_gateway: Annotated[str, Field(pattern=ADDRESS)] | None = None
    """`HOST` or `HOST:PORT` that is asked for web sessions; `None`: SESSION.streamspace.svc.cluster.local, as it resolves."""
    registrations_per_minute: Count = 60
    """Requests of agents from one address, to register and to connect together."""
    log_vnc_data: bool = True
    """Write each `vnc_data` to the event log (its data cut); counters are kept either way."""
    events_kept: Count | None = 100_000
    """How many messages the event log keeps, the newest, and beside them as many `vnc_data`; `None` is all."""
    seed: int | None = None
    """Seed of the fault switches' dice; `None` is unpredictable."""
