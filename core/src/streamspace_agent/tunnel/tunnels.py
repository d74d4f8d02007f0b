"""The contract of a leadership's tunnels, whichever viewer relay the control plane has."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from streamspace_agent.clock import Clock
from streamspace_agent.controlplane.link import Link
from streamspace_agent.runtime import Session, SessionState
from streamspace_agent.tunnel.multiplexer import Multiplexer
from streamspace_agent.tunnel.session_server import Connect, SessionServer, has_server

MAX_EARLY = 1024 * 1024
"""Bytes that a viewer may send before it is connected to its session."""
RENEWED = "the connection to the session is being renewed: try again"


class Tunnels(ABC):
    """Opens and closes tunnels as sessions come and go, and passes on what viewers send."""

    def __init__(self, connect: Connect, multiplexer: Multiplexer, clock: Clock) -> None:
        self._connect, self._multiplexer, self._clock = connect, multiplexer, clock
        self._last_input: dict[str, float] = {}
        """When a person last touched each session's keyboard or mouse."""

    @abstractmethod
    def note(self, session: Session, *, fresh: bool = False) -> None:
        """Learn a session's state. ``fresh``: this leadership started or woke it, so nobody can be viewing it."""

    @abstractmethod
    async def serve(self, carrier: Link) -> None:
        """Serve one connection to the control plane until it is gone. Returns to ask for a new one in its place."""

    @abstractmethod
    async def data(self, payload: Mapping[str, Any]) -> None:
        """Handle a ``vnc_data`` message: what a viewer sent."""

    @abstractmethod
    def closed(self, payload: Mapping[str, Any]) -> None:
        """Handle a ``vnc_close`` message: a viewer left."""

    @abstractmethod
    async def aclose(self) -> None:
        """Close all tunnels."""

    @abstractmethod
    def _server_of(self, session_id: str) -> SessionServer | None: ...

    def works(self, session: Session) -> bool:
        """Whether a person can use the session now, as far as its data path goes."""
        if session.state is not SessionState.RUNNING or not session.ready:
            return False
        server = self._server_of(session.session_id)
        return server.working if server else not has_server(session)

    def idle_for(self, session_id: str) -> float:
        """Seconds since a person last used the session through a viewer, or since this was first asked."""
        now = self._clock.now()
        return now - self._last_input.setdefault(session_id, now)

    def _saw_input(self, session_id: str) -> None:
        self._last_input[session_id] = self._clock.now()

    def _forget_input(self, session_id: str) -> None:
        """Begin anew when the session runs again."""
        self._last_input.pop(session_id, None)
