"""What the connections of one leadership share."""

from dataclasses import dataclass, field

from streamspace_agent.gateway import GatewayContext
from streamspace_agent.runtime import SessionState
from streamspace_gateway.access import Access
from streamspace_gateway.activity import Heartbeats
from streamspace_gateway.counters import Counters
from streamspace_gateway.proxy_rules import ProxyRules
from streamspace_gateway.upstreams import Upstreams, address_of


@dataclass(slots=True)
class Shared:
    context: GatewayContext
    access: Access
    counters: Counters
    upstreams: Upstreams
    rules: ProxyRules
    max_connections: int
    _heartbeats: dict[str, Heartbeats] = field(default_factory=dict)

    def heartbeats(self, session_id: str) -> Heartbeats:
        """What the session's page has been sending by itself."""
        return self._heartbeats.setdefault(session_id, Heartbeats())

    def sweep(self) -> None:
        """Forget what belongs to sessions that no longer run."""
        running = {
            s.session_id: address_of(s) for s in self.context.sessions.values() if s.state is SessionState.RUNNING
        }
        self.upstreams.sweep(running.values())
        self._heartbeats = {id_: beats for id_, beats in self._heartbeats.items() if id_ in running}
