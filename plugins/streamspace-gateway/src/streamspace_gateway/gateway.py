"""The gateway as the core knows it. Light: what serves is imported by the replica that leads."""

from typing import ClassVar

from streamspace_agent.addresses import listening, networks
from streamspace_agent.gateway import Gateway, GatewayContext
from streamspace_agent.health import Gateway as Status
from streamspace_gateway.access import Access
from streamspace_gateway.counters import Counters
from streamspace_gateway.listeners import Listeners


class WebGateway(Gateway):
    name: ClassVar[str] = "gateway"

    def __init__(self, listen: str, allow: str, relay: str) -> None:
        """All as the settings hold them, which are checked by then."""
        self._addresses = listening(listen)
        self._allowed = networks(allow)
        self._relay = relay
        self._listeners = Listeners(self._addresses)
        self._counters = Counters()

    async def serve(self, context: GatewayContext) -> None:
        from streamspace_gateway import shape  # noqa: PLC0415 - a standby does without
        from streamspace_gateway.server import Server  # noqa: PLC0415

        access = Access(self._allowed, lambda: (s.address for s in context.sessions.values() if s.address))
        server = Server(context, access, self._counters, shape.of(self._relay))
        try:
            await self._listeners.run(server.protocol)
        finally:
            await server.aclose()

    def status(self) -> Status:
        counted = self._counters
        return Status(dict(self._listeners.state), counted.connections, dict(counted.requests))
