"""The network that sessions share. It keeps them from reaching each other, and the agent may reach them through it."""

import asyncio
import ipaddress
import logging
import socket
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from streamspace_agent.config import Settings
from streamspace_agent.errors import CommandFailed
from streamspace_engine import Engine
from streamspace_engine.errors import Conflict, EngineError, NotFound
from streamspace_runtime_docker.containers import labels
from streamspace_runtime_docker.settings import DockerSettings

log = logging.getLogger(__name__)

ICC = "com.docker.network.bridge.enable_icc"
BRIDGE = "com.docker.network.bridge.name"


@dataclass(frozen=True, slots=True)
class NetworkInfo:
    """``isolated``: its containers cannot reach each other. ``bridge``: its interface on the engine's host.

    ``bridge`` is "" for an engine on this host, whose gateway addresses tell enough.
    """

    id: str
    isolated: bool
    gateways: tuple[str, ...]
    bridge: str = ""
    name: str = ""
    ipv6: bool = False

    @property
    def direct(self) -> bool:
        """Does this process reach containers by their address? May change: Podman adds the bridge late."""
        ours = not self.bridge or self.bridge in {name for _, name in socket.if_nameindex()}
        return ours and any(map(_local, self.gateways))


def read(body: Mapping[str, Any], docker_host: str) -> NetworkInfo:
    configs = (body.get("IPAM") or {}).get("Config") or []
    options = body.get("Options") or {}
    # Engines number their networks alike: this host may have a bridge with the gateway address of a remote engine's.
    bridge = "" if docker_host.startswith("unix://") else options.get(BRIDGE) or f"br-{body.get('Id', '')[:12]}"
    gateways = tuple(str(config.get("Gateway", "")) for config in configs)
    name, ipv6 = str(body.get("Name", "")), bool(body.get("EnableIPv6"))
    return NetworkInfo(str(body.get("Id", "")), options.get(ICC) == "false", gateways, bridge, name, ipv6)


def _local(gateway: str) -> bool:
    """Is the gateway an address of this host? Then there is a route to the containers.

    Not so with a remote or rootless engine, a virtual machine, or an agent in a container with a network of its own.
    """
    try:
        address = ipaddress.ip_address(gateway.partition("/")[0])
        with socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6) as probe:
            probe.bind((str(address), 0))
    except (OSError, ValueError):
        return False
    return True


class SessionNetwork:
    """``NETWORK_NAME`` on the engine; looked up once, and again after :meth:`forget`."""

    def __init__(self, engine: Engine, settings: Settings, own: DockerSettings) -> None:
        self._engine = engine
        self._settings = settings
        self._own = own
        self._known: NetworkInfo | None = None
        self._lock = asyncio.Lock()

    def forget(self) -> None:
        self._known = None

    async def ensure(self) -> NetworkInfo:
        """The network, created if it is missing. Raises CommandFailed."""
        async with self._lock:
            if self._known is None:
                await self._create_one()
                self._known = await self.find()
                if self._known is None:
                    name = self._settings.network_name
                    raise CommandFailed("network_failed", f"the network {name} vanished right after it was made")
                if not self._known.isolated:
                    log.warning("%s", not_isolated(self._known.name))
                for problem in not_filtered(await self._engine.info(), self._known):
                    log.warning("%s", problem)
            return self._known

    async def find(self) -> NetworkInfo | None:
        """The network as it is now; of several with the name the one to keep."""
        bodies = await self.find_all()
        return read(bodies[0], self._settings.docker_host) if bodies else None

    async def find_all(self) -> list[Mapping[str, Any]]:
        """Every network of that name, the one to keep first: engines up to 24 may create two at the same time."""
        name = self._settings.network_name
        try:
            body = await self._engine.find(f"/networks/{name}")
            return [body] if body else []
        except EngineError as error:
            if "ambiguous" not in error.text:
                raise
        return await self._listed()

    async def _listed(self) -> list[Mapping[str, Any]]:
        name = self._settings.network_name
        entries = await self._engine.get("/networks", {"filters": {"name": [name]}})
        # The engine's filter matches parts of names, too.
        bodies = [await self._engine.find(f"/networks/{each['Id']}") for each in entries if each["Name"] == name]
        found = [(not await self.in_use(b), str(b.get("Created", "")), str(b["Id"]), b) for b in bodies if b]
        # All agents choose the same one: one in use first, then the oldest.
        return [body for *_, body in sorted(found, key=lambda each: each[:3])]

    async def _create_one(self) -> None:
        """Reach exactly one network of the name, whatever other agents do at this moment."""
        bodies = await self.find_all()
        if not bodies:
            await self.create(self._settings.network_name)
            bodies = await self._listed()
        for spare in bodies[1:]:
            if await self.in_use(spare):
                raise CommandFailed("network_failed", f"{ambiguous(self._settings.network_name, bodies)}: {REMOVE_ONE}")
            with suppress(NotFound):
                await self._engine.delete(f"/networks/{spare['Id']}")
            log.warning("%s: removed %s", ambiguous(self._settings.network_name, bodies), spare["Id"][:12])

    async def in_use(self, body: Mapping[str, Any]) -> bool:
        """Is any container attached to the network, running or not? One that sleeps needs it again."""
        if body.get("Containers"):
            return True
        filters = {"network": [body["Id"]]}
        return bool(await self._engine.get("/containers/json", {"all": True, "filters": filters}))

    async def must_publish(self) -> bool:
        """Must ports be published for the agent to reach them?"""
        if self._own.publish_ports == "auto":
            return not (await self.ensure()).direct
        return self._own.publish_ports == "always"

    async def create(self, name: str) -> None:
        body = {"Name": name, "Driver": "bridge", "Options": {ICC: "false"}, "CheckDuplicate": True}
        try:
            await self._engine.post("/networks/create", body | {"Labels": labels.common(self._settings.agent_id)})
            log.info("created the network %s, whose sessions cannot reach each other", name)
        except Conflict:
            pass  # another agent was faster
        except EngineError as error:
            fix = "remove networks that nobody uses, or widen default-address-pools in the engine's daemon.json"
            hint = f": {fix}" if "address pool" in error.text else ""
            raise CommandFailed("network_failed", f"cannot create the network {name}: {error.text}{hint}") from error


REMOVE_ONE = "stop the sessions of one of them and remove it, `docker network rm ID`"


def ambiguous(name: str, bodies: Collection[Mapping[str, Any]]) -> str:
    ids = ", ".join(str(body["Id"])[:12] for body in bodies)
    return f"the engine has {len(bodies)} networks with the name {name} ({ids}), of which it takes none"


def not_isolated(name: str) -> str:
    return f"sessions on the network {name} can reach each other: it exists without {ICC}=false"


def not_filtered(info: Mapping[str, Any], network: NetworkInfo) -> list[str]:
    """Why the engine's host does not isolate sessions though their network asks for it; engines from 28 do not tell."""
    if not network.isolated:
        return []
    switches = {"BridgeNfIptables": "bridge-nf-call-iptables"}
    switches |= {"BridgeNfIp6tables": "bridge-nf-call-ip6tables"} if network.ipv6 else {}
    return [
        f"sessions on one network can reach each other: net.bridge.{switch} is 0 on the engine's host, "
        "so no rule of the firewall sees them"
        for key, switch in switches.items()
        if info.get(key) is False
    ]


FILTER = (
    "`modprobe br_netfilter && sysctl -w net.bridge.bridge-nf-call-iptables=1 net.bridge.bridge-nf-call-ip6tables=1`, "
    "and keep both in /etc/modules-load.d and /etc/sysctl.d"
)
