"""What is known of one session's screen at the deployed relay: its greeting, and its viewer. One connection's worth."""

from dataclasses import dataclass, field
from enum import Enum, auto

from streamspace_agent.runtime import ReadyCheck, Session
from streamspace_agent.tunnel.channel import Channel
from streamspace_agent.tunnel.rfb import VERSION
from streamspace_agent.tunnel.server import Server

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
    answered: float
    """When it answered the greeting."""
    phase: Phase
    phase_since: float
    heard: float
    early: bytearray = field(default_factory=bytearray)
    """What it has said and nobody has been given yet."""
    head: bytes = b""
    """Its first words: the version that it speaks."""
    channel: Channel | None = None

    @property
    def flows(self) -> bool:
        """Its relay takes what is sent now at once."""
        return self.channel is None or self.channel.unread_bytes <= FLOWS

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
    server: Server | None
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
        self.announced = self.greeted = self.lies = False
        self.clear, self.greeted_at, self.said_at, self.probes = now, float("-inf"), float("-inf"), 0

    def freed(self, now: float, unnoticed: float) -> None:
        """The relay of its viewer has ended; see :attr:`.times.Times.unnoticed`."""
        came = max(now - unnoticed, self.viewer.heard if self.viewer else self.clear)
        self.clear = max(self.clear, came)
        self.viewer, self.greeted, self.lies = None, False, False
