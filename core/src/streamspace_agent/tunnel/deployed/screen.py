"""What is known of one session's screen at the deployed relay: its greeting, and its viewer. One connection's worth."""

from dataclasses import dataclass, field
from enum import Enum, auto

from streamspace_agent.runtime import ReadyCheck, Session
from streamspace_agent.tunnel.channel import Channel
from streamspace_agent.tunnel.rfb import VERSION
from streamspace_agent.tunnel.session_server import SessionServer

VERSION_3_8 = b"RFB 003.008\n"
MAX_EARLY = 1024 * 1024
"""Bytes that a viewer may say before it is served."""
FLOWS = 64 * 1024
"""Unread bytes that the sockets on the way to a viewer hold at the least: with no more than these unread, its relay is not stuck."""


class Phase(Enum):
    PARKED = auto()
    """It waits: another viewer's relay is there."""
    SERVED = auto()
    LEAVING = auto()
    """Nothing more is said to it; whether its relay is still there is being found out."""


@dataclass(eq=False, slots=True)
class Viewer:
    """One viewer, from its first word until its relay is known to have ended."""

    since: float
    """The earliest moment at which it can have come. Like all times here by the agent's clock."""
    came: float
    """The moment from which on it probably was there: it would have answered an earlier greeting."""
    phase: Phase
    phase_since: float
    heard: float
    early: bytearray = field(default_factory=bytearray)
    """What it has said and nobody has been given yet."""
    head: bytes = b""
    """Its first words: the version that it speaks."""
    channel: Channel | None = None
    sole: bool = True
    """No other viewer of this session can be there: the control plane closes an older one, unless a relay's end made it forget it."""

    def enter(self, phase: Phase, now: float) -> None:
        self.phase, self.phase_since = phase, now

    def refusal(self, why: str) -> bytes:
        """What ends it: a refusal while it waits for the security types (RFC 6143, 7.1.2), else a message type that does not exist."""
        if self.channel is not None and self.channel.spoken:
            return b"\x7f"
        reason = why.encode()
        none = bytes(4) if self.head.startswith(b"RFB 003.003") else b"\0"
        return none + len(reason).to_bytes(4) + reason


@dataclass(eq=False, slots=True)
class Screen:
    """One session's. ``clear`` is the last moment at which no relay of this session can have been there."""

    session: Session
    server: SessionServer | None
    clear: float
    orphan: bool
    """A viewer of an earlier connection, or leader, may be there: that it left may still be told."""
    greeting: bytes = VERSION_3_8
    announced: bool = False
    """The control plane was told of this session over this connection."""
    greeted: bool = False
    """A greeting was sent that no viewer has answered."""
    lies: bool = False
    """That greeting is believed to lie in the queue."""
    greeted_at: float = float("-inf")
    first_greeted_at: float = float("inf")
    """When the first greeting was sent since a relay of this session ended."""
    greeted_before: float = float("-inf")
    """When the greeting before that was sent, where somebody else's relay was there."""
    closed_at: float = float("-inf")
    """When a relay of this session last ended, as far as was told."""
    last_since: float = float("inf")
    """Of the viewer whose relay was last said to have ended: see :attr:`Viewer.since`."""
    haunted: bool = False
    """A viewer whose relay was said to have ended may still be there: it was another one's."""
    said_at: float = float("-inf")
    """When a message for this session was last sent."""
    probes: int = 0
    """Empty messages sent behind the greeting that lies there."""
    viewer: Viewer | None = None

    @property
    def session_id(self) -> str:
        return self.session.session_id

    @property
    def silent(self) -> bool:
        """Its server waits for its client: there is no greeting."""
        return self.session.ready_check is not ReadyCheck.VNC

    def begins(self, data: bytes) -> bool:
        """Whether these can be a new viewer's first words."""
        return self.server is not None and (self.silent or (self.greeted and data.startswith(VERSION)))

    def connected(self, now: float) -> None:
        """A new connection to the control plane: all that the last one held is gone."""
        self.orphan = self.orphan or self.viewer is not None
        self.viewer = None
        self.announced = self.greeted = self.lies = self.haunted = False
        self.greeted_at = self.greeted_before = self.closed_at = self.said_at = float("-inf")
        self.clear, self.probes, self.first_greeted_at = now, 0, float("inf")

    def freed(self, came: float, *, sole: bool) -> None:
        """A relay has ended, that of its viewer or of one that never spoke; another viewer can have come at ``came`` at the earliest."""
        if sole:
            self.clear = max(self.clear, came, self.viewer.heard if self.viewer else 0.0)
        else:
            self.haunted = True
        if self.viewer:
            self.last_since = self.viewer.since
        self.viewer, self.greeted, self.lies, self.first_greeted_at = None, False, False, float("inf")

    def overheard(self) -> None:
        """Somebody spoke who is no new viewer. If a relay's end was told, it was another's: the viewer is there still."""
        if self.closed_at > float("-inf") and not self.haunted:
            self.haunted, self.clear = True, min(self.clear, self.last_since)
