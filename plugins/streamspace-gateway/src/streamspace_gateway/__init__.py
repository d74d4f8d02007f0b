"""The web gateway: HTTP and WebSockets from the control plane's reverse proxy to the sessions' web desktops."""

from collections.abc import Mapping

from streamspace_agent import hookimpl
from streamspace_agent.config import Settings
from streamspace_agent.gateway import Gateway
from streamspace_gateway.gateway import WebGateway


@hookimpl
def create_gateway(settings: Settings, environ: Mapping[str, str]) -> Gateway:
    del environ
    return WebGateway(settings.web_gateway or "", settings.web_gateway_allow, settings.viewer_relay)
