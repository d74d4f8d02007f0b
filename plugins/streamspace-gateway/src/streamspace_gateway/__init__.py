"""The web gateway: HTTP and WebSockets from the control plane's reverse proxy to the sessions' web desktops.

A standby imports only this: the server and its parser are loaded by the leader.
"""

from collections.abc import Mapping
from typing import ClassVar

from streamspace_agent import hookimpl
from streamspace_agent.addresses import listening, networks
from streamspace_agent.config import Settings
from streamspace_agent.gateway import Gateway, GatewayContext, GatewayStatus
from streamspace_gateway.access import Access
from streamspace_gateway.counters import Counters
from streamspace_gateway.listeners import Listeners


class WebGateway(Gateway):
    name: ClassVar[str] = "gateway"

    def __init__(self, listen: str, allow: str, relay: str) -> None:
        """The values of the settings, which the core has checked."""
        self._allowed = networks(allow)
        self._relay = relay
        self._listeners = Listeners(listening(listen))
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


@hookimpl
def create_gateway(settings: Settings, environ: Mapping[str, str]) -> Gateway:
    del environ
    return WebGateway(settings.web_gateway or "", settings.web_gateway_allow, settings.viewer_relay)
