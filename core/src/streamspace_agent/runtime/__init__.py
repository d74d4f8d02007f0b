"""The contract between the core and a runtime driver, which runs the sessions on a container engine.

The engine's own objects are the only record of sessions: a driver keeps nothing that a restart would lose. Nothing here
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
    """The protocol on a session's port, and so what proves that the session can be used.

    In a spec it is an expectation, which only decides what is tried first: the first proof wins. In a session that is
    ready it is what was found: VNC, HTTP or NONE, never ANY.
    """

    VNC = "vnc"
    """RFB: the server's greeting was read."""
    HTTP = "http"
    """HTTP, plain or inside TLS: an answer with a status below 500 was read."""
    ANY = "any"
    """Not known yet."""
    NONE = "none"
    """There is no port to ask: a session that runs is ready."""


@dataclass(frozen=True, slots=True)
class Port:
    """A port that a session's container listens on."""

    number: int
    name: str = ""
    protocol: str = "tcp"


@dataclass(frozen=True, slots=True)
class Mount:
    """A volume of the session, by name (``home`` or the template's name for it), at ``path``."""

    name: str
    path: str


@dataclass(frozen=True, slots=True)
class SessionSpec:
    """All that a driver needs to start a session, made by :mod:`streamspace_agent.commands.templates`.

    ``cpu`` is in cores and ``memory`` in bytes; None is no limit. ``port`` is the one that proves the session usable:
    ``ready`` is the protocol expected there, ``path`` what is asked for over HTTP (see
    :func:`streamspace_agent.runtime.readiness.wait_ready`). A driver keeps all three with the session, for a later
    proof. ``epoch`` and ``command_id`` go into the labels of everything made for the session.
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

    ``place`` names where it runs (the control plane's ``podName``): for Docker the container's name. ``address`` is
    the session's own network address or "". ``port`` is the VNC (or HTTP) port *inside* the session; 0 for none.
    ``ready`` is True if this driver object has seen the session usable, and ``ready_check`` is the protocol that it
    then found; before that, the one found last or expected. ``reason`` explains ``failed`` and any state that a user
    did not ask for. ``created_at`` is Unix time in seconds. ``details`` goes into ``platformMetadata`` and the
    command's result; ``details["paused"]`` is True for a hibernated session that keeps its memory (the mode
    ``pause``), which still counts against the agent's capacity.
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
    """The session ended by itself: ``session`` is its state now, with the reason."""
    RESYNC = "resync"
    """Events may have been missed (the engine was away): compare with :meth:`RuntimeDriver.sessions`."""
    ENGINE_DOWN = "engine_down"
    """The engine does not answer: states are unknown until the next RESYNC. ``reason`` says why, and what an operator
    has to change (the setting, the group). Sent once for each reason of an outage, not for each try."""


@dataclass(frozen=True, slots=True)
class RuntimeEvent:
    """Something that happened on the engine without a call of ours."""

    kind: EventKind
    session: Session | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Progress:
    """A step of a start or wake, for people.

    ``phase`` is ``pulling``, ``creating``, ``starting`` or ``waiting``; the agent itself reports ``queued`` before it
    calls the driver. While pulling, ``current`` and ``total`` are bytes as far as the registry has reported them (0:
    not known).
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
    """An object with the agent's labels that no session needs. ``kind`` is ``container``, ``volume`` or ``network``."""

    kind: str
    name: str
    reason: str
    age: float
    """Seconds since it was made; 0 if the engine does not report that."""


class RuntimeDriver(ABC):
    """Runs the sessions of one agent id. Every method is idempotent by session id.

    Called on the agent's main event loop, many at a time for different sessions, one at a time for one session.
    Nothing here may block the loop. Cancelling a call must leave the engine in a state that the same call, made
    again, completes. Errors: :exc:`~streamspace_agent.errors.CommandFailed` for what the user can correct,
    :exc:`~streamspace_agent.errors.EngineUnavailable` when the engine is away,
    :exc:`~streamspace_agent.errors.SessionNotFound` where a session is needed and absent.
    """

    name: ClassVar[str]

    guard: Callable[[], None] = staticmethod(lambda: None)
    """Called by the driver immediately before every side effect on the engine, from whatever thread makes it.

    Raises :exc:`~streamspace_agent.errors.LeaseLost` if this agent may not act; the driver then skips the effect and
    lets the error through. Set by the agent at the beginning of each leadership; before that, everything is
    allowed. Quick, and safe to call from any thread.
    """

    @property
    @abstractmethod
    def capabilities(self) -> Capabilities: ...

    @abstractmethod
    async def start(self, spec: SessionSpec, report: Report) -> Session:
        """Make the session run, and return it once it can be used, with its protocol (see :class:`ReadyCheck`).

        A session that already runs is returned as it is; one that an interrupted start left incomplete is completed;
        a hibernated one is woken; a dead one is made anew on its old volumes. Any of them must belong to the same
        user and the same agent (else CommandFailed). A session that speaks neither RFB nor HTTP in time is a
        CommandFailed whose message says what was tried on which port. After a failure nothing of this start stays
        behind, except volumes that existed before it.
        """

    @abstractmethod
    async def stop(self, session_id: str, *, delete_volumes: bool = False) -> None:
        """Remove the session, and with ``delete_volumes`` its data. A session that does not exist is a success."""

    @abstractmethod
    async def hibernate(self, session_id: str) -> Session:
        """Free the session's resources and keep its state, by the configured mode. A hibernated one is a success."""

    @abstractmethod
    async def wake(self, session_id: str, report: Report) -> Session:
        """Bring a hibernated or stopped session back, and return once it can be used. A running one is a success.

        Its protocol is found out anew, since its image may have changed.
        """

    @abstractmethod
    async def prove(self, session_id: str) -> Session:
        """Find out whether a running session can be used, and its protocol (see :class:`ReadyCheck`).

        The session that is returned, and later ones of this driver object, have the outcome in ``ready`` and
        ``ready_check``. It only reads: it has no effect on the engine, needs no lease, and may run beside any other
        call for the session. It waits as long as a start would for the session to become usable; a session that does
        not run, or stops running, is returned as it is, at once. Never raises CommandFailed because a session cannot
        be used.
        """

    @abstractmethod
    async def inspect(self, session_id: str) -> Session | None:
        """The session as the engine shows it; None if there is none."""

    @abstractmethod
    async def sessions(self) -> list[Session]:
        """Every session of this agent id, whatever its state."""

    @abstractmethod
    def events(self) -> AsyncIterator[RuntimeEvent]:
        """The engine's events, without end. Reconnects by itself; begins with RESYNC once the engine answers."""

    @abstractmethod
    async def connect(self, session_id: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a byte stream to a TCP port inside the session, from wherever the agent runs.

        The caller may give the streams' transport a protocol of its own. Raises OSError if nothing listens there, and
        CommandFailed (``not_running``) for a session that does not run.
        """

    @abstractmethod
    async def leftovers(self, known: frozenset[str]) -> list[Leftover]:
        """Objects with this agent's labels that no session needs, nor a command about one of ``known`` (ids)."""

    @abstractmethod
    async def remove(self, leftover: Leftover) -> None:
        """Remove one finding of :meth:`leftovers`. One that does not exist is a success."""

    @abstractmethod
    async def stats(self, session_id: str) -> tuple[float, int] | None:
        """CPU in cores (average since the last call, or 0.0) and memory in bytes of a running session; else None."""

    async def received(self, session_id: str) -> int | None:
        """Bytes that a running session's container has received since its start; None if they cannot be counted.

        They decide whether a web desktop is idle where no gateway sees its use; one without a count is never
        hibernated as idle.
        """
        del session_id
        return None

    @abstractmethod
    async def check(self) -> list[Problem]:
        """Problems that an operator should know: engine, API version, disk, address pools, network. Changes nothing.

        With the engine away: one fatal Problem that names the setting and what to do about it. (An EngineUnavailable
        that is raised instead is shown with general advice.)
        """

    @abstractmethod
    async def describe(self) -> Mapping[str, str]:
        """Facts for the registration, as non-empty texts by name: engine and version, storage driver, operating system.

        Raises EngineUnavailable with the engine away; the agent asks again once the engine answers.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """Close the client; sessions run on."""
