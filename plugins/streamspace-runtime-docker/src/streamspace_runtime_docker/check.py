"""Checks of the engine for `docker-agent check`: findings with their fixes; and the facts that registration sends."""

import ipaddress
import shutil
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from streamspace_agent.config import Settings
from streamspace_agent.election import Problem
from streamspace_agent.errors import EngineUnavailable, RuntimeDriverError
from streamspace_agent.units import format_bytes
from streamspace_engine import Engine
from streamspace_engine.errors import Unreachable
from streamspace_runtime_docker.networks import network as net
from streamspace_runtime_docker.settings import DockerSettings

LOW_DISK = 5 * 1024**3
"""Bytes that one usual desktop image takes while it is unpacked."""
SAFE = (
    "`docker image prune -a` takes images that no session uses, which are pulled again when needed "
    "(never `docker system prune` or `docker container prune`: they take sleeping sessions)"
)
warning = partial(Problem, fatal=False)
RISKY = {"SYS_ADMIN", "SYS_PTRACE", "SYS_MODULE", "NET_ADMIN", "DAC_READ_SEARCH", "BPF", "SYS_RAWIO"}


class Check:
    def __init__(self, engine: Engine, networks: net.SessionNetwork, settings: Settings, own: DockerSettings) -> None:
        self._engine = engine
        self._networks = networks
        self._settings = settings
        self._own = own
        self._host = settings.docker_host

    async def problems(self) -> list[Problem]:
        try:
            info = await self._engine.info()
        except Unreachable as error:
            return [Problem(error.message, error.fix)]
        except EngineUnavailable as error:
            return [Problem(str(error), "wait until it has started, or look at its log")]
        except RuntimeDriverError as error:
            return [Problem(str(error), "update the engine, or point DOCKER_HOST to another")]
        return [*engine_problems(info), *self._disk(info), *self._capabilities(), *await self._network(info)]

    def _disk(self, info: Mapping[str, Any]) -> Iterator[Problem]:
        root = Path(str(info.get("DockerRootDir", "")))
        if not self._host.startswith("unix://") or not root.is_dir():
            return  # not our disk to look at
        free = shutil.disk_usage(root).free
        if free < LOW_DISK:
            yield warning(
                f"{format_bytes(free)} free in the engine's folder {root}, "
                f"a desktop image needs about {format_bytes(LOW_DISK)}",
                f"free some: {SAFE}; or move data-root to a larger disk",
            )

    def _capabilities(self) -> Iterator[Problem]:
        if risky := sorted({*self._own.session_capabilities} & (RISKY | {"ALL"})):
            yield warning(
                f"SESSION_CAPABILITIES gives every session {', '.join(risky)}: its users may take over the host",
                "leave them out unless every user is trusted with the host",
            )

    async def _network(self, info: Mapping[str, Any]) -> list[Problem]:
        name, problems = self._settings.network_name, []
        bodies = await self._networks.find_all()
        if not bodies:
            return await self._address_pool()
        network = net.read(bodies[0], self._host)
        if len(bodies) > 1:
            fix = f"the agent removes those without sessions when it starts one; if all have some: {net.REMOVE_ONE}"
            problems.append(warning(net.ambiguous(name, bodies), fix))
        problems += [warning(text, net.FILTER) for text in net.not_filtered(info, network)]
        if not network.isolated:
            fix = f"stop the sessions, `docker network rm {name}` and let the agent create it, "
            problems.append(warning(net.not_isolated(name), f"{fix}or set another NETWORK_NAME"))
        publish = self._own.publish_ports
        if not network.direct and publish == "never":
            problems.append(
                Problem(
                    f"the agent has no route to the containers of {name} and PUBLISH_PORTS=never: "
                    "sessions start, but nobody reaches them",
                    "run the agent on the engine's host (in a container: with network_mode: host), "
                    "or set PUBLISH_PORTS=auto",
                )
            )
        if not network.direct and publish != "never" and self._unreachable_publish():
            problems.append(
                warning(
                    f"ports are published on PUBLISH_ADDRESS={self._settings.publish_address} of the engine's host, "
                    "which this agent does not run on",
                    "set PUBLISH_ADDRESS to an address of that host in a private network, "
                    "or run the agent there (in a container: with network_mode: host)",
                )
            )
        return problems

    def _unreachable_publish(self) -> bool:
        try:
            loopback = ipaddress.ip_address(self._settings.publish_address).is_loopback
        except ValueError:
            return False
        elsewhere = not self._host.startswith("unix://") or Path("/.dockerenv").exists()
        return loopback and elsewhere

    async def _address_pool(self) -> list[Problem]:
        """Before NETWORK_NAME exists: Docker's default address pools hold about 31 bridges."""
        networks = await self._engine.get("/networks", {"filters": {"driver": ["bridge"]}})
        if len(networks) < 28:
            return []
        return [
            warning(
                f"the engine has {len(networks)} bridge networks, its default address pools end at about 31: "
                f"{self._settings.network_name} may not fit",
                "remove networks that nobody needs by name "
                "(not `docker network prune`: it takes those of sleeping sessions), "
                "or widen default-address-pools in daemon.json",
            )
        ]

    async def facts(self) -> Mapping[str, str]:
        version = await self._engine.version()
        info = await self._engine.info()
        network = await self._networks.find()
        apart = network is None or (network.isolated and not net.not_filtered(info, network))
        if info.get("BridgeNfIptables") is False:
            apart = False
        return {
            "sessionsIsolated": "yes" if apart else "no",
            "engine": "podman" if await self._engine.is_podman() else "docker",
            "engineVersion": str(version.get("Version", "")),
            "apiVersion": str(version.get("ApiVersion", "")),
            "storageDriver": str(info.get("Driver", "")),
            "operatingSystem": str(info.get("OperatingSystem", "")),
            "architecture": str(info.get("Architecture", "")),
            "cgroupVersion": str(info.get("CgroupVersion", "")),
        }


def engine_problems(info: Mapping[str, Any]) -> Iterator[Problem]:
    """Limits that this engine cannot enforce. A missing key means supported: Podman leaves some out."""
    wanted = {"MemoryLimit": "memory", "PidsLimit": "processes (SESSION_PIDS_LIMIT)"}
    missing = [words for key, words in wanted.items() if info.get(key) is False]
    if info.get("CPUCfsQuota", info.get("CpuCfsQuota")) is False:
        missing.append("CPU")
    if missing:
        rootless = any("rootless" in str(option) for option in info.get("SecurityOptions") or [])
        fix = (
            "use cgroup v2 and delegate its controllers to the user (systemd: Delegate=cpu cpuset io memory pids)"
            if rootless
            else "enable the kernel's cgroup controllers (cgroup_enable=memory on the kernel command line)"
        )
        yield warning(f"the engine cannot limit a session's {', '.join(missing)}", fix)
    if info.get("OSType", "linux") != "linux":
        yield Problem(f"the engine runs {info.get('OSType')} containers, sessions need Linux", "switch the engine over")
