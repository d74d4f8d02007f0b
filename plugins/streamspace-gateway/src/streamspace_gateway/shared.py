"""What the connections of one tenure share."""

from dataclasses import dataclass, field

from streamspace_agent.gateway import GatewayContext
from streamspace_agent.runtime import SessionState
from streamspace_gateway.access import Access
from streamspace_gateway.counters import Counters
from streamspace_gateway.sessions import SessionServers, place_of
from streamspace_gateway.shape import Shape
from streamspace_gateway.use import Rhythm


@dataclass(slots=True)
class Shared:
    context: GatewayContext
    access: Access
    counters: Counters
    servers: SessionServers
    shape: Shape
    room: int
    """Connections that may be open at once."""
    rhythms: dict[str, Rhythm] = field(default_factory=dict)
    """How each session's page ticks."""

    def rhythm(self, session_id: str) -> Rhythm:
        return self.rhythms.setdefault(session_id, Rhythm())

    def sweep(self) -> None:
        """Forget what belongs to sessions that do not run any more."""
        running = [s for s in self.context.sessions.values() if s.state is SessionState.RUNNING]
        self.servers.sweep(map(place_of, running))
        self.rhythms = {s.session_id: self.rhythms[s.session_id] for s in running if s.session_id in self.rhythms}
