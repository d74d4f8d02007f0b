"""The state of one replica, and whether it is healthy.

The agent makes a :class:`Snapshot`; the status socket, the HTTP endpoint, the metrics and the commands ``status`` and
``healthcheck`` all read it.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from streamspace_agent.election.role import Role
from streamspace_agent.logs import redact

if TYPE_CHECKING:  # the commands "status" and "healthcheck" read documents only, and start fast
    from streamspace_agent.controlplane.link import LinkStatus
    from streamspace_agent.election.status import ElectionStatus
    from streamspace_agent.gateway import GatewayStatus
    from streamspace_agent.sessions.reconciler import EngineStatus

MAX_TICK_AGE = 10.0
"""Seconds without a turn of the main loop after which a replica counts as dead."""


@dataclass(frozen=True, slots=True)
class Commands:
    """The commands of one replica, counted."""

    running: int = 0
    open: int = 0
    """Received, and without a result yet."""
    done: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Ended since the process began: by action, then by outcome (``completed``, ``failed``)."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One replica at one moment. Ages are in seconds; "" and None stand for unknown."""

    agent_id: str
    instance: str
    pid: int
    pid_namespace: int
    """The inode of /proc/self/ns/pid, which tells the replicas of one container from all others."""
    host: str
    version: str
    backend: str
    role: Role
    """The election's, or draining once the agent was told to stop."""
    election: "ElectionStatus"
    link: "LinkStatus"
    engine: "EngineStatus"
    gateway: "GatewayStatus"
    heartbeat_age: float | None = None
    """None before the first heartbeat."""
    sessions: Mapping[str, int] = field(default_factory=dict)
    """Counts by state."""
    capacity: Mapping[str, int | str] = field(default_factory=dict)
    commands: Commands = field(default_factory=Commands)
    outbox: int = 0
    """Messages that the control plane has not acknowledged."""
    hindrance: str = ""
    """Why it gave leadership back and stands back for a while; "" if it can lead."""
    loop_tick_age: float = 0.0
    """Since the main loop last turned; another thread reads it."""
    plugins: Mapping[str, str] = field(default_factory=dict)
    """Distribution and version by kind of plugin."""
    health_address: str = ""
    """host:port of the HTTP endpoint; "" if there is none, or if its ports are in use."""

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
            election = self.election
            if election.store_error:
                problems.append(_because("the election store does not answer", election.store_error))
            elif election.leader_frozen:
                silence = f"{election.leader_silence:.0f} s"
                frozen = f"the leader {election.leader} has shown no sign of life for {silence}: it may be frozen"
                problems.append(frozen)
            if self.hindrance:
                problems.append(f"cannot lead: {self.hindrance}")
        elif self.role is Role.LEADER:
            if not self.link.connected:
                problems.append(_because("no connection to the control plane", self.link.last_error))
            if not self.engine.up:
                problems.append(_because("the container engine does not answer", self.engine.last_error))
            problems += self.gateway.problems()
        return problems


def _because(what: str, error: str) -> str:
    return f"{what}: {error}" if error else what


Source = Callable[[], Snapshot]
"""Makes a snapshot. Called from other threads at any time: must neither block nor touch the main loop."""


def document(snapshot: Snapshot) -> dict[str, Any]:
    """The snapshot as JSON objects. Their names are an interface: ``/status`` and ``status --json`` show them."""

    def as_they_are(*names: str) -> dict[str, Any]:
        return {name: getattr(snapshot, name) for name in names}

    election, link, problems = snapshot.election, snapshot.link, snapshot.unready()
    return {
        **as_they_are("agent_id", "instance", "pid", "pid_namespace", "host", "version", "role"),
        "epoch": election.epoch or None,
        "leader": election.leader,
        "since": _rfc3339(election.since),
        "election": {
            "backend": snapshot.backend,
            "store_up": not election.store_error,
            "last_error": election.store_error,
            "gained": election.gained,
            "lost": election.lost,
            "leader_seconds": election.seconds_as_leader,
            "renewed_age": election.renewed_age,
            "leader_silence": election.leader_silence,
            "leader_frozen": election.leader_frozen,
        },
        "link": {
            "connected": link.connected,
            "since": _rfc3339(link.since),
            "reconnects": link.reconnects,
            "last_error": link.last_error,
            "heartbeat_age": snapshot.heartbeat_age,
        },
        "engine": asdict(snapshot.engine),
        **as_they_are("sessions", "capacity"),
        "commands": asdict(snapshot.commands),
        "gateway": asdict(snapshot.gateway),
        **as_they_are("outbox", "hindrance", "loop_tick_age", "plugins", "health_address", "alive"),
        "ready": not problems,
        "problems": problems,
    }


def _rfc3339(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z") if seconds else ""


def to_json(snapshot: Snapshot) -> bytes:
    """The document as text. An error in it that quotes a secret is shown without it."""
    return redact(json.dumps(document(snapshot), default=str)).encode()
