"""The gateway as the core sees it. A standby imports only this: the server and its parser are loaded by the leader."""

from typing import ClassVar

from streamspace_agent.addresses import listening, networks
from streamspace_agent.gateway import Gateway, GatewayContext, GatewayStatus
from streamspace_gateway.access import Access
from streamspace_gateway.counters import Counters
from streamspace_gateway.listeners import Listeners


class WebGateway(Gateway):
    name: ClassVar[str] = "gateway"

    def __init__(self, listen: str, allow: str, relay: str) -> None:
        """The values of the settings, which the core has checked."""
        self._addresses = listening(listen)
        self._allowed = networks(allow)
        self._relay = relay
        self._listeners = Listeners(self._addresses)
        self._counters = Counters()

    async def serve(self, context: GatewayContext) -> None:
        from streamspace_gateway.proxy_rules import rules_for  # noqa: PLC0415 - a standby does without
        from streamspace_gateway.server import Server  # noqa: PLC0415

        access = Access(self._allowed, lambda: (s.address for s in context.sessions.values() if s.address))
        server = Server(context, access, self._counters, rules_for(self._relay))
        try:
            await self._listeners.run(server.protocol)
        finally:
            await server.aclose()

    def status(self) -> GatewayStatus:
        counters = self._counters
        return GatewayStatus(dict(self._listeners.state), counters.connections, dict(counters.requests))
