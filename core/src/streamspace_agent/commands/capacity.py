"""The capacity that the sessions of this agent share: admits a session, or refuses it with numbers."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from streamspace_agent.config import Settings
from streamspace_agent.errors import CommandFailed
from streamspace_agent.runtime import Session, SessionState
from streamspace_agent.units import format_bytes

GIB = 1024**3


@dataclass(frozen=True, slots=True)
class Demand:
    """``cpu`` in cores, ``memory`` in bytes."""

    cpu: float = 0.0
    memory: int = 0


@dataclass(slots=True)
class Capacity:
    """Admits sessions up to ``MAX_SESSIONS``, ``MAX_CPU`` (cores) and ``MAX_MEMORY`` (bytes here).

    Running and pending sessions count; hibernated ones that freed their memory do not. A start or wake in progress
    holds a reservation, so that several at once cannot pass where only one fits.
    """

    max_sessions: int
    max_cpu: float
    max_memory: int
    _reserved: dict[str, Demand] = field(default_factory=dict)

    @classmethod
    def of(cls, settings: Settings) -> "Capacity":
        return cls(settings.max_sessions, settings.max_cpu, int(settings.max_memory * GIB))

    def held(self) -> Mapping[str, Demand]:
        """The reservations that are held now. Ask for them before asking the engine for its sessions."""
        return dict(self._reserved)

    @contextmanager
    def reserve(
        self, session_id: str, demand: Demand, sessions: Iterable[Session], held: Mapping[str, Demand]
    ) -> Iterator[None]:
        """Hold room for one session while it starts.

        ``sessions`` is what the engine shows; a start that ended meanwhile may be missing there, so ``held`` has the
        reservations from before the engine was asked.

        Raises CommandFailed with code ``max_sessions``, ``insufficient_cpu`` or ``insufficient_memory``.
        """
        shown = {s.session_id: Demand(s.cpu or 0.0, s.memory or 0) for s in sessions if occupies(s)}
        used = {**shown, **held, **self._reserved}
        used.pop(session_id, None)
        cpu, memory = sum(d.cpu for d in used.values()), sum(d.memory for d in used.values())
        room = f"sessions {len(used)}/{self.max_sessions}"
        if len(used) + 1 > self.max_sessions:
            raise CommandFailed(
                "max_sessions", f"{room}: no room for another session, MAX_SESSIONS is {self.max_sessions}"
            )
        if cpu + demand.cpu > self.max_cpu + 1e-9:
            raise CommandFailed(
                "insufficient_cpu",
                f"needs {demand.cpu:g} cores, {max(0.0, self.max_cpu - cpu):g} free of {self.max_cpu:g}; {room}",
            )
        if memory + demand.memory > self.max_memory:
            raise CommandFailed(
                "insufficient_memory",
                f"needs {format_bytes(demand.memory)}, {format_bytes(max(0, self.max_memory - memory))} free "
                f"of {format_bytes(self.max_memory)}; {room}",
            )
        self._reserved[session_id] = demand
        try:
            yield
        finally:
            self._reserved.pop(session_id, None)

    def as_payload(self) -> dict[str, int | str]:
        """The wire form: ``cpu`` and ``memory`` are strings there."""
        return {
            "maxSessions": self.max_sessions,
            "cpu": f"{self.max_cpu:g} cores",
            "memory": f"{self.max_memory / GIB:g}Gi",
        }


def occupies(session: Session) -> bool:
    """Whether the session holds memory now. A paused one does: drivers report that in ``details``."""
    if session.state is SessionState.HIBERNATED:
        return bool(session.details.get("paused"))
    return session.state in {SessionState.RUNNING, SessionState.PENDING}
