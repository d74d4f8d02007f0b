"""A container as the engine describes it, from an entry of a list or from an inspection."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from streamspace_engine.events import timestamp
from streamspace_runtime_docker.containers import labels


@dataclass(frozen=True, slots=True)
class ContainerInfo:
    """``state`` is the engine's: created, running, paused, restarting, removing, exited, dead.

    Podman's further states are mapped to these. ``started_at`` is the engine's text, "" from a list. ``published`` maps
    a port to the address and port where the engine publishes it. ``networks`` maps a network's name to its id, which is
    "" before the container's first start. ``network_mode`` is the network that the container was created for.
    """

    id: str
    name: str
    labels: Mapping[str, str]
    state: str
    image: str
    created_at: float
    address: str = ""
    networks: Mapping[str, str] = field(default_factory=dict)
    network_mode: str = ""
    volumes: tuple[str, ...] = ()
    """Names of the mounted volumes, without anonymous ones."""
    user: str = ""
    published: Mapping[int, tuple[str, int]] = field(default_factory=dict)
    started_at: str = ""
    finished_at: str = ""
    exit_code: int = 0
    oom: bool = False
    """Some process in it was killed for lack of memory at some time; the container may have run on."""
    oom_ended: bool | None = None
    """Did lack of memory end it? None: unknown."""
    error: str = ""
    stop_signal: str = "SIGTERM"
    environment: frozenset[str] = frozenset()

    @property
    def run(self) -> str:
        """Identifies one run of one container."""
        return f"{self.id} {self.started_at}"

    @property
    def session_id(self) -> str:
        return self.labels.get(labels.SESSION, "")

    @property
    def command_id(self) -> str:
        return self.labels.get(labels.COMMAND, "")


_STATES = {"configured": "created", "initialized": "created", "stopped": "exited", "stopping": "running"}


def listed(entry: Mapping[str, Any], network: str) -> ContainerInfo:
    """From an entry of a list; ``network`` is the one whose address is the session's."""
    published = {
        int(port["PrivatePort"]): (str(port.get("IP", "")), int(port["PublicPort"]))
        for port in entry.get("Ports") or []
        if port.get("PublicPort")
    }
    state = str(entry.get("State", "")).lower()
    mode = str((entry.get("HostConfig") or {}).get("NetworkMode", ""))
    networks = (entry.get("NetworkSettings") or {}).get("Networks") or {}
    return ContainerInfo(
        id=entry["Id"],
        name=(entry.get("Names") or [""])[0].lstrip("/"),
        labels=entry.get("Labels") or {},
        state=_STATES.get(state, state),
        image=entry.get("Image", ""),
        created_at=float(entry.get("Created") or 0),
        address=_address(networks, network, mode),
        networks=_ids(networks),
        network_mode=mode,
        volumes=_volumes(entry),
        published=published,
    )


def inspected(body: Mapping[str, Any], network_name: str) -> ContainerInfo:
    """From an inspection; ``network_name`` as in :func:`listed`."""
    state, config = body["State"], body["Config"]
    mode = str((body.get("HostConfig") or {}).get("NetworkMode", ""))
    status = str(state.get("Status", "")).lower()
    network = body.get("NetworkSettings") or {}
    published = {
        int(port.partition("/")[0]): (bindings[0].get("HostIp", ""), int(bindings[0]["HostPort"]))
        for port, bindings in (network.get("Ports") or {}).items()
        if bindings and bindings[0].get("HostPort")
    }
    return ContainerInfo(
        id=body["Id"],
        name=body["Name"].lstrip("/"),
        labels=config.get("Labels") or {},
        state=_STATES.get(status, status),
        image=config.get("Image", ""),
        created_at=timestamp(body.get("Created", "")),
        address=_address(network.get("Networks") or {}, network_name, mode),
        networks=_ids(network.get("Networks") or {}),
        network_mode=mode,
        volumes=_volumes(body),
        user=str(config.get("User") or ""),
        published=published,
        started_at=state.get("StartedAt", ""),
        finished_at=state.get("FinishedAt", ""),
        exit_code=int(state.get("ExitCode") or 0),
        oom=bool(state.get("OOMKilled")),
        error=state.get("Error", ""),
        stop_signal=str(config.get("StopSignal") or "SIGTERM"),
        environment=frozenset(config.get("Env") or ()),
    )


def _address(networks: Mapping[str, Any], *names: str) -> str:
    """The address on the first of the networks ``names``.

    An operator may have connected the container to others, which are ignored unless there is only one: Podman does not
    tell the network that a container was created for.
    """
    only = list(networks) if len(networks) == 1 else []
    for name in (*names, *only):
        network = networks.get(name) or {}
        if address := network.get("IPAddress") or network.get("GlobalIPv6Address"):
            return str(address)
    return ""


def _volumes(body: Mapping[str, Any]) -> tuple[str, ...]:
    mounts = (mount for mount in body.get("Mounts") or [] if mount.get("Type") == "volume")
    return tuple(str(mount["Name"]) for mount in mounts if str(mount.get("Name", "")).startswith("streamspace-"))


def _ids(networks: Mapping[str, Any]) -> dict[str, str]:
    return {name: str((network or {}).get("NetworkID", "")) for name, network in networks.items()}
