"""The state of one session's screen at the deployed relay: its greeting and its viewer, for one connection."""

from dataclasses import dataclass, field
from enum import Enum, auto

from streamspace_agent.runtime import ReadyCheck, Session
from streamspace_agent.tunnel.channel import Channel
from streamspace_agent.tunnel.rfb import VERSION
from streamspace_agent.tunnel.session_server import SessionServer

VERSION_3_8 = b"RFB 003.008\n"
FLOWS = 64 * 1024
"""Bytes that the sockets to a viewer hold at least: while no more are unread, its relay is not stuck in a write."""


class Phase(Enum):
    WAITING = auto()
    """It waits, because another viewer's relay is there."""
    SERVED = auto()
    LEAVING = auto()
    """It has been ended; its relay may still be there."""


@dataclass(eq=False, slots=True)
class Viewer:
    """One viewer, from its first bytes until its relay is known to have ended."""

    since: float
    """The earliest time at which it can have come. All times here are of the agent's clock."""
    came: float
    """The time from which it was probably there: it would have answered an earlier greeting."""
    phase: Phase
    phase_since: float
    heard: float
    early: bytearray = field(default_factory=bytearray)
    """Bytes from it that have not been passed on yet."""
    head: bytes = b""
    """Its first bytes, which hold its RFB version."""
    channel: Channel | None = None
    sole: bool = True
    """No other viewer of this session can be there. The control plane closes an older one, unless it has forgotten
    that one at the end of a relay."""

    def enter(self, phase: Phase, now: float) -> None:
        self.phase, self.phase_since = phase, now

    def refusal(self, why: str) -> bytes:
        """Bytes that end it: a refusal instead of security types (RFC 6143, 7.1.2), later an unknown message type."""
        if self.channel is not None and self.channel.spoken:
            return b"\x7f"
        reason = why.encode()
        none = bytes(4) if self.head.startswith(b"RFB 003.003") else b"\0"
        return none + len(reason).to_bytes(4) + reason


@dataclass(eq=False, slots=True)
class Screen:
    """One session's screen. ``clear``: the last time at which certainly no relay of this session was there."""

    session: Session
    server: SessionServer | None
    clear: float
    orphan: bool
    """A viewer of an earlier connection or leader may be there; its ``vnc_close`` may still come."""
    greeting: bytes = VERSION_3_8
    announced: bool = False
    """The session was announced over this connection."""
    greeted: bool = False
    """A greeting was sent that no viewer has answered."""
    greeting_queued: bool = False
    """That greeting is presumed to be in the queue still."""
    greeted_at: float = float("-inf")
    first_greeted_at: float = float("inf")
    """When the first greeting after the end of this session's last relay was sent."""
    greeted_before: float = float("-inf")
    """When the previous greeting was sent, if another session's relay was there."""
    closed_at: float = float("-inf")
    """When a relay of this session was last reported to have ended."""
    last_since: float = float("inf")
    """:attr:`Viewer.since` of the viewer whose relay was last reported to have ended."""
    maybe_viewed: bool = False
    """A viewer may still be there although a relay was reported to have ended: that may have been another viewer's."""
    sent_at: float = float("-inf")
    """When a message for this session was last sent."""
    probes: int = 0
    """Number of probes (empty messages) sent after the current greeting."""
    viewer: Viewer | None = None

    @property
    def session_id(self) -> str:
        return self.session.session_id

    @property
    def client_first(self) -> bool:
        """Whether its server waits for its client, so that there is no greeting."""
        return self.session.ready_check is not ReadyCheck.VNC

    def begins(self, data: bytes) -> bool:
        """Whether these can be a new viewer's first bytes."""
        return self.server is not None and (self.client_first or (self.greeted and data.startswith(VERSION)))

    def connected(self, now: float) -> None:
        """Reset for a new connection to the control plane."""
        self.orphan = self.orphan or self.viewer is not None
        self.viewer = None
        self.announced = self.greeted = self.greeting_queued = self.maybe_viewed = False
        self.greeted_at = self.greeted_before = self.closed_at = self.sent_at = float("-inf")
        self.clear, self.probes, self.first_greeted_at = now, 0, float("inf")

    def freed(self, came: float, *, sole: bool) -> None:
        """A relay of this session has ended. ``came``: the earliest time at which the next viewer can have come."""
        if sole:
            self.clear = max(self.clear, came, self.viewer.heard if self.viewer else 0.0)
        else:
            self.maybe_viewed = True
        if self.viewer:
            self.last_since = self.viewer.since
        self.viewer, self.greeted, self.greeting_queued, self.first_greeted_at = None, False, False, float("inf")

    def overheard(self) -> None:
        """Data came from a viewer that is not new. If a relay ended, it was another viewer's."""
        if self.closed_at > float("-inf") and not self.maybe_viewed:
            self.maybe_viewed, self.clear = True, min(self.clear, self.last_since)
