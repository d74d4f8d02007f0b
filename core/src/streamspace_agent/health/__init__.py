"""What a replica says of itself, and whether that is well.

The agent fills one :class:`Snapshot`; the status socket, the HTTP endpoint, the metrics and the commands ``status``
and ``healthcheck`` all read it.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

from streamspace_agent.logs import redact

MAX_TICK_AGE = 10.0
"""Seconds without a turn of the main loop after which a replica counts as dead (election documentation, section 4)."""


class Role(StrEnum):
    STARTING = "starting"
    STANDBY = "standby"
    LEADER = "leader"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True)
class Election:
    """``gained`` and ``lost`` count by reason; ``leader_seconds`` is all time as leader of this process, the running tenure included."""

    backend: str = "standalone"
    store_up: bool = True
    last_error: str = ""
    gained: Mapping[str, int] = field(default_factory=dict)
    lost: Mapping[str, int] = field(default_factory=dict)
    leader_seconds: float = 0.0
    renewed_age: float | None = None
    """Seconds since the lease was last renewed; None when not leading."""
    leader_silence: float = 0.0
    """Seconds since a standby last saw a sign of the leader; 0 when there is none to watch."""
    leader_frozen: bool = False
    """That silence is worth an alarm: the store keeps the leader in place, though it may be frozen."""


@dataclass(frozen=True, slots=True)
class Link:
    """The connection to the control plane; ``since`` and ages as elsewhere."""

    connected: bool = False
    since: str = ""
    reconnects: int = 0
    last_error: str = ""
    heartbeat_age: float | None = None
    """Seconds since a heartbeat was last sent; None before the first."""


@dataclass(frozen=True, slots=True)
class Engine:
    up: bool = False
    last_error: str = ""


@dataclass(frozen=True, slots=True)
class Gateway:
    """The web gateway of a replica that leads: where it listens, and what passes."""

    addresses: Mapping[str, str] = field(default_factory=dict)
    """``host:port`` as it was set, and why nothing listens there; "" where it listens. Empty while the replica does not lead."""
    connections: int = 0
    requests: Mapping[str, int] = field(default_factory=dict)
    """Requests ended since the process began, by outcome."""

    def problems(self) -> Iterator[str]:
        for address, error in self.addresses.items():
            if error:
                yield f"WEB_GATEWAY={address}: cannot listen there: {error}"


@dataclass(frozen=True, slots=True)
class Commands:
    """``running`` and ``open`` (received, no result yet) are counts now; ``done`` counts by action, then outcome
    (``completed``, ``failed``), since the process began.
    """

    running: int = 0
    open: int = 0
    done: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One replica at one moment. Ages in seconds, ``since`` fields RFC 3339 (for people), "" or None for unknown.

    ``pid_namespace`` is the inode of /proc/self/ns/pid: the way to tell a container's own replica from its
    neighbours'. ``leader`` names the instance that leads as far as this replica knows. ``epoch`` is the leadership it
    belongs to. ``loop_tick_age`` is how long ago the main loop last turned: it is read from another thread.
    """

    agent_id: str
    instance: str
    pid: int
    pid_namespace: int
    host: str
    version: str
    role: Role = Role.STARTING
    epoch: int | None = None
    leader: str = ""
    since: str = ""
    election: Election = field(default_factory=Election)
    link: Link = field(default_factory=Link)
    engine: Engine = field(default_factory=Engine)
    sessions: Mapping[str, int] = field(default_factory=dict)
    """Counts by state."""
    capacity: Mapping[str, int | str] = field(default_factory=dict)
    commands: Commands = field(default_factory=Commands)
    gateway: Gateway = field(default_factory=Gateway)
    outbox: int = 0
    """Messages that wait for the control plane to take them."""
    hindrance: str = ""
    """Why it gave leadership back when it last was elected, and stands back for a while; "" if it could lead."""
    loop_tick_age: float = 0.0
    plugins: Mapping[str, str] = field(default_factory=dict)
    """Distribution and version by kind of plugin."""
    health_address: str = ""
    """host:port of the HTTP endpoint; "" where there is none, or its ports are in use."""

    @property
    def alive(self) -> bool:
        return self.loop_tick_age <= MAX_TICK_AGE

    def unready(self) -> list[str]:
        """Why this replica does not serve its purpose now; empty when it does."""
        problems = []
        if not self.alive:
            problems.append(f"the main loop has not turned for {self.loop_tick_age:.0f} s")
        if self.role is Role.STARTING:
            problems.append("still starting")
        elif self.role is Role.DRAINING:
            problems.append("draining: finishing commands before it stops")
        elif self.role is Role.STANDBY:
            problems += self._standby_problems()
        elif self.role is Role.LEADER:
            if not self.link.connected:
                problems.append(_because("no connection to the control plane", self.link.last_error))
            if not self.engine.up:
                problems.append(_because("the container engine does not answer", self.engine.last_error))
            problems += self.gateway.problems()
        return problems

    def _standby_problems(self) -> Iterator[str]:
        if not self.election.store_up:
            yield _because("the election store does not answer", self.election.last_error)
        elif self.election.leader_frozen:
            silence = f"{self.election.leader_silence:.0f} s"
            yield f"the leader {self.leader} has shown no sign of life for {silence}: it may be frozen"
        if self.hindrance:
            yield f"cannot lead: {self.hindrance}"


def _because(what: str, error: str) -> str:
    return f"{what}: {error}" if error else what


Source = Callable[[], Snapshot]
"""Called from other threads than the main loop's, at any time: must neither block nor touch the loop."""


def document(snapshot: Snapshot) -> dict[str, Any]:
    """The snapshot as JSON objects, with ``alive``, ``ready`` and ``problems`` added."""
    problems = snapshot.unready()
    return {**asdict(snapshot), "alive": snapshot.alive, "ready": not problems, "problems": problems}


def to_json(snapshot: Snapshot) -> bytes:
    """The document as text; an error in it that quotes a secret loses it."""
    return redact(json.dumps(document(snapshot), default=str)).encode()
