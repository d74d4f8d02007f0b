"""The contract between the core and a runtime driver: what runs sessions.

The engine's own objects are the truth about sessions; a driver keeps nothing that a restart would lose. Nothing here
assumes that sessions run on the agent's own host.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar

from streamspace_agent.election import Problem


class SessionState(StrEnum):
    """The states the control plane knows."""

    PENDING = "pending"
    RUNNING = "running"
    HIBERNATED = "hibernated"
    TERMINATED = "terminated"
    FAILED = "failed"


class ReadyCheck(StrEnum):
    """What a session speaks on its port, and so what proves that it can be used.

    In a spec it is an expectation, and decides only what is tried first: whichever proof is seen first wins. In a session
    that is ready it is what was found: VNC, HTTP or NONE, never ANY.
    """

    VNC = "vnc"
    """RFB: the server's greeting was read."""
    HTTP = "http"
    """HTTP, plain or inside TLS: an answer with a status below 500 was read."""
    ANY = "any"
    """Not known: to be found out."""
    NONE = "none"
    """No port to ask: running is ready."""


@dataclass(frozen=True, slots=True)
class Port:
    """A port that a session's container listens on."""

    number: int
    name: str = ""
    protocol: str = "tcp"


@dataclass(frozen=True, slots=True)
class Mount:
    """A volume of the session's own, by name (``home`` or the template's name for it), at ``path``."""

    name: str
    path: str


@dataclass(frozen=True, slots=True)
class SessionSpec:
    """All a driver needs to start a session. Made by :mod:`streamspace_agent.commands.templates` from checked input.

    ``cpu`` in cores and ``memory`` in bytes, None for no limit. ``port`` is the one that has to prove the session
    usable: ``ready`` says what is expected there, ``path`` what is asked for over HTTP (see
    :func:`streamspace_agent.runtime.readiness.wait_ready`). All three are kept with the session, for a later proof.
    ``epoch`` and ``command_id`` go into the labels of everything made for the session.
    """

    session_id: str
    user: str
    template: str
    image: str
    command_id: str
    epoch: int
    cpu: float | None = None
    memory: int | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    ports: tuple[Port, ...] = ()
    mounts: tuple[Mount, ...] = ()
    ready: ReadyCheck = ReadyCheck.VNC
    port: int = 5900
    path: str = "/"
    idle_timeout: float | None = None
    """Seconds without a person's input until the session hibernates; None for never."""
    max_duration: float | None = None
    """Seconds from its first start until the session is stopped; None for never."""


@dataclass(frozen=True, slots=True)
class Session:
    """A session as the engine shows it now.

    ``place`` names where it runs (the control plane's ``podName``): for Docker the container's name. ``address``
    is the session's own network address or "". ``port`` is the VNC (or HTTP) port *inside* the session; 0 for none.
    ``ready`` says that it has been seen usable by this driver object, ``ready_check`` what it was then found to speak;
    before that, what was found last or is expected. ``reason`` explains ``failed``
    and any state that a user did not ask for. ``created_at`` is Unix time in seconds. ``details`` goes into ``platformMetadata`` and a result;
    ``details["paused"]`` is True of a hibernated session that keeps its memory (the mode ``pause``), which then still counts
    against the agent's capacity.
    """

    session_id: str
    state: SessionState
    place: str
    address: str = ""
    port: int = 0
    ready: bool = False
    reason: str = ""
    user: str = ""
    template: str = ""
    command_id: str = ""
    epoch: int = 0
    cpu: float | None = None
    memory: int | None = None
    ready_check: ReadyCheck = ReadyCheck.VNC
    idle_timeout: float | None = None
    max_duration: float | None = None
    created_at: float = 0.0
    details: Mapping[str, str | int | float | bool] = field(default_factory=dict)


class EventKind(StrEnum):
    """What a :class:`RuntimeEvent` reports."""

    ENDED = "ended"
    """The session ended though nobody asked: ``session`` is its state now, with the reason."""
    RESYNC = "resync"
    """Events may have been missed (the engine was away): compare with :meth:`RuntimeDriver.sessions`."""
    ENGINE_DOWN = "engine_down"
    """The engine does not answer: states are unknown until the next RESYNC. ``reason`` says why, and what an operator changes
    (the setting, the group); told once for each reason of an outage, not for each try."""


@dataclass(frozen=True, slots=True)
class RuntimeEvent:
    """Something that happened on the engine without a call of ours."""

    kind: EventKind
    session: Session | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Progress:
    """A step of a start or wake, for people: ``phase`` is ``pulling``, ``creating``, ``starting`` or ``waiting``; the agent's
    own ``queued`` comes before a driver is asked.

    While pulling, ``current`` and ``total`` are bytes as far as the registry has told them (0: not known).
    """

    phase: str
    current: int = 0
    total: int = 0
    detail: str = ""

    @property
    def percent(self) -> int | None:
        return min(100, self.current * 100 // self.total) if self.total else None


Report = Callable[[Progress], None]
"""Called by a driver on its event loop as often as it likes; never blocks."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a driver can do."""

    hibernate_modes: frozenset[str]
    """``stop`` (keeps disk, frees memory), ``pause`` (keeps memory, wakes at once)."""
    pull_progress: bool
    many_hosts: bool
    """Sessions may run on other hosts than the engine's."""


@dataclass(frozen=True, slots=True)
class Leftover:
    """Something under our labels that no session needs. ``kind`` is ``container``, ``volume`` or ``network``."""

    kind: str
    name: str
    reason: str
    age: float
    """Seconds since it was made, 0 where the engine does not tell."""


def _allowed() -> None:
    """The guard of a driver that nobody elected: everything is allowed."""


class RuntimeDriver(ABC):
    """Runs the sessions of one agent id. Every method is idempotent by session id.

    Called on the agent's main event loop, many at a time for different sessions, one at a time for one session.
    Nothing here may block the loop. Cancelling a call must leave the engine in a state that the same call, made
    again, completes. Errors: :exc:`~streamspace_agent.errors.CommandFailed` for what the user can mend,
    :exc:`~streamspace_agent.errors.EngineUnavailable` when the engine is away,
    :exc:`~streamspace_agent.errors.SessionNotFound` where a session is needed and absent.
    """

    name: ClassVar[str]

    guard: Callable[[], None] = staticmethod(_allowed)
    """Called by the driver immediately before every side effect on the engine, from whatever thread makes it.

    Raises :exc:`~streamspace_agent.errors.LeaseLost` when this agent may not act; the driver then leaves the effect
    out and lets the error through. Set by the agent; must be quick and safe to call from any thread.
    """

    @property
    @abstractmethod
    def capabilities(self) -> Capabilities: ...

    @abstractmethod
    async def start(self, spec: SessionSpec, report: Report) -> Session:
        """Make the session run and return once it can be used, with what it was found to speak (see :class:`ReadyCheck`).

        One that speaks neither RFB nor HTTP in time is a CommandFailed whose message says what was tried on which port. A session that already runs is returned as it is; one half made by an interrupted start is completed; a
        hibernated one is woken; a dead one is made anew on its old volumes. Each of them only for the user whose it is
        (else CommandFailed), and no other agent's. On failure nothing of this start stays behind except
        volumes that existed before it.
        """

    @abstractmethod
    async def stop(self, session_id: str, *, delete_volumes: bool = False) -> None:
        """Remove the session, and with ``delete_volumes`` its data. Absent is success."""

    @abstractmethod
    async def hibernate(self, session_id: str) -> Session:
        """Free what the session uses while keeping its state, by the configured mode. Hibernated is success."""

    @abstractmethod
    async def wake(self, session_id: str, report: Report) -> Session:
        """Bring a hibernated (or stopped) session back and return once it can be used. Running is success.

        What it speaks is found out anew: its image may have changed since.
        """

    @abstractmethod
    async def prove(self, session_id: str) -> Session:
        """See whether a running session can be used, and what it speaks (see :class:`ReadyCheck`): ``ready`` and
        ``ready_check`` tell, of this driver object from then on.

        Only looks: it has no effect on the engine, needs no lease, and may run beside any other verb for the session. Waits as
        long as a start would for the session to become usable; one that does not run, or no longer runs, is returned as
        it is, at once. Never raises CommandFailed because a session cannot be used.
        """

    @abstractmethod
    async def inspect(self, session_id: str) -> Session | None:
        """The session as the engine shows it, or None."""

    @abstractmethod
    async def sessions(self) -> list[Session]:
        """Every session of this agent id, whatever its state."""

    @abstractmethod
    def events(self) -> AsyncIterator[RuntimeEvent]:
        """Endless; reconnects by itself with back-off; begins with RESYNC once the engine answers."""

    @abstractmethod
    async def connect(self, session_id: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a byte stream to a TCP port inside the session, from wherever the agent runs.

        The caller may give the streams' transport a protocol of its own.
        OSError where nothing listens, CommandFailed (``not_running``) for a session that does not run.
        """

    @abstractmethod
    async def leftovers(self, known: frozenset[str]) -> list[Leftover]:
        """What lies about under this agent's labels that neither a session nor a command of ``known`` (session ids) needs."""

    @abstractmethod
    async def remove(self, leftover: Leftover) -> None:
        """Remove one finding of :meth:`leftovers`; absent is success."""

    @abstractmethod
    async def stats(self, session_id: str) -> tuple[float, int] | None:
        """CPU in cores (average since the last call, or 0.0 at first) and memory in bytes of a running session; else None."""

    async def received(self, session_id: str) -> int | None:
        """Bytes that a running session has received from outside its container since that was started; None where it cannot be told.

        Whether anybody uses a web desktop is judged by it where no gateway sees that: one of which it cannot be told is never
        hibernated as idle.
        """
        del session_id
        return None

    @abstractmethod
    async def check(self) -> list[Problem]:
        """Everything an operator should know: engine, API version, disk, address pools, network. Changes and creates nothing.

        With the engine away: one fatal Problem that names the setting and what to do about it. (An EngineUnavailable that is
        raised instead is shown with general advice.)
        """

    @abstractmethod
    async def describe(self) -> Mapping[str, str]:
        """Facts for registration: engine name and version, storage driver, operating system. Names and texts that are not empty.

        Raises EngineUnavailable with the engine away; the agent asks again once it answers.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """Free the client; sessions run on."""
