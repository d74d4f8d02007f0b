"""The network that sessions share: made so that they cannot reach each other; and whether we reach them directly."""

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from streamspace_agent.config import Settings
from streamspace_agent.errors import CommandFailed
from streamspace_runtime_docker import labels
from streamspace_runtime_docker.engine import Engine
from streamspace_runtime_docker.errors import Conflict, EngineError, NotFound
from streamspace_runtime_docker.settings import DockerSettings

log = logging.getLogger(__name__)

ICC = "com.docker.network.bridge.enable_icc"
BRIDGE = "com.docker.network.bridge.name"


@dataclass(frozen=True, slots=True)
class Network:
    """``isolated``: its containers cannot reach each other. ``bridge``: the interface that it is on the engine's host, where
    its gateway does not tell whether that host is ours.
    """

    id: str
    isolated: bool
    gateways: tuple[str, ...]
    bridge: str = ""

    @property
    def direct(self) -> bool:
        """Does this process reach containers by their address? Asked anew each time: Podman makes a bridge with its
        first container.
        """
        ours = not self.bridge or self.bridge in {name for _, name in socket.if_nameindex()}
        return ours and any(map(_local, self.gateways))


def read(body: Mapping[str, Any], docker_host: str) -> Network:
    configs = (body.get("IPAM") or {}).get("Config") or []
    options = body.get("Options") or {}
    # All engines number their networks alike: ours may have a bridge with the gateway of one on a remote engine.
    bridge = "" if docker_host.startswith("unix://") else options.get(BRIDGE) or f"br-{body.get('Id', '')[:12]}"
    gateways = tuple(str(config.get("Gateway", "")) for config in configs)
    return Network(str(body.get("Id", "")), options.get(ICC) == "false", gateways, bridge)


def _local(gateway: str) -> bool:
    """Is the bridge an interface of ours? Then there is a route to its containers; not with a remote or rootless engine,
    a virtual machine, or an agent in a container with a network of its own.
    """
    try:
        address = ipaddress.ip_address(gateway.partition("/")[0])
        with socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6) as probe:
            probe.bind((str(address), 0))
    except (OSError, ValueError):
        return False
    return True


class Networks:
    """``NETWORK_NAME`` on the engine, looked up once until the engine says that it is gone."""

    def __init__(self, engine: Engine, settings: Settings, own: DockerSettings) -> None:
        self._engine = engine
        self._settings = settings
        self._own = own
        self._known: Network | None = None
        self._lock = asyncio.Lock()

    def forget(self) -> None:
        self._known = None

    async def ensure(self) -> Network:
        """The network, made when missing."""
        async with self._lock:
            if self._known is None:
                self._known = await self.look() or await self._make()
                if not self._known.isolated:
                    log.warning("%s", not_isolated(self._settings.network_name))
            return self._known

    async def look(self) -> Network | None:
        name = self._settings.network_name
        try:
            body = await self._engine.read(lambda client: client.inspect_network(name))
            return read(body, self._settings.docker_host)
        except NotFound:
            return None

    async def users(self, body: Mapping[str, Any]) -> bool:
        """Is a container on the network, or was one when it ended? One that sleeps needs it again, whosever it is."""
        if body.get("Containers"):
            return True
        filters = {"network": [body["Id"]]}
        return bool(await self._engine.read(lambda client: client.containers(all=True, filters=filters)))

    async def publish(self) -> bool:
        """Must ports be published for the agent to reach them?"""
        if self._own.publish_ports == "auto":
            return not (await self.ensure()).direct
        return self._own.publish_ports == "always"

    async def _make(self) -> Network:
        name = self._settings.network_name
        marks = labels.common(self._settings.agent_id)
        try:
            await self._engine.change(
                lambda client: client.create_network(
                    name, driver="bridge", options={ICC: "false"}, labels=marks, check_duplicate=True
                )
            )
            log.info("created the network %s, whose sessions cannot reach each other", name)
        except Conflict:
            pass  # another agent was faster
        except EngineError as error:
            fix = "remove networks that nobody uses, or widen default-address-pools in the engine's daemon.json"
            hint = f": {fix}" if "address pool" in error.text else ""
            raise CommandFailed("network_failed", f"cannot create the network {name}: {error.text}{hint}") from error
        made = await self.look()
        if made is None:
            raise CommandFailed("network_failed", f"the network {name} vanished right after it was made")
        return made


def not_isolated(name: str) -> str:
    return f"sessions on the network {name} can reach each other: it exists without {ICC}=false"
