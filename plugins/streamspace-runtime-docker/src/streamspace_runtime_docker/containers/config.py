"""The configuration of a session's container: checks its spec, and makes the body of the engine's create call."""

import re
from collections.abc import Mapping
from posixpath import normpath
from typing import Any

from streamspace_agent.config import Settings
from streamspace_agent.errors import CommandFailed
from streamspace_agent.runtime import ReadyCheck, SessionSpec
from streamspace_runtime_docker.containers import labels
from streamspace_runtime_docker.images.references import checked
from streamspace_runtime_docker.settings import DockerSettings

# The names that Docker allows, but shorter, so that prefixes and volume names fit into Docker's limit.
_SESSION_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
STATE_FILE = "/.streamspace-state"
"""The file in a container that says why it stopped (see :mod:`.stop_marker`)."""
_MINIMUM_MEMORY = 6 * 1024**2
"""Bytes; the engine refuses less."""


def container_name(session_id: str) -> str:
    return f"streamspace-{session_id}"


def volume_name(session_id: str, name: str) -> str:
    return f"streamspace-{session_id}-{name}"


def valid_id(session_id: str) -> bool:
    return _SESSION_ID.fullmatch(session_id) is not None


def check_spec(spec: SessionSpec) -> None:
    """Raise CommandFailed for a spec that no engine could run."""
    if not valid_id(spec.session_id):
        raise CommandFailed(
            "invalid_session",
            f"session id {spec.session_id[:60]!r} cannot name a container: "
            "letters, digits, dots, dashes and underscores, at most 128",
        )
    checked(spec.image)
    for mount in spec.mounts:
        if not valid_id(mount.name) or not mount.path.startswith("/"):
            raise CommandFailed(
                "invalid_template", f"volume {mount.name!r} at {mount.path!r} needs a plain name and an absolute path"
            )
        if (normpath(mount.path.lstrip("/")) + "/").startswith(f"{STATE_FILE[1:]}/"):
            raise CommandFailed(
                "invalid_template", f"volume {mount.name!r} cannot be at {STATE_FILE}, which is the agent's"
            )
    if spec.memory is not None and spec.memory < _MINIMUM_MEMORY:
        raise CommandFailed(
            "invalid_template", f"memory of {spec.memory} bytes is less than the engine's minimum of 6Mi"
        )


def create_body(
    spec: SessionSpec,
    settings: Settings,
    own: DockerSettings,
    *,
    creation_labels: Mapping[str, str],
    publish: bool,
    host_cpus: int,
    podman: bool,
) -> dict[str, Any]:
    ports = [f"{port.number}/{port.protocol.lower()}" for port in spec.ports]
    if spec.ready is not ReadyCheck.NONE and (screen := f"{spec.port}/tcp") not in ports:
        ports.append(screen)
    bindings = {port: [{"HostIp": settings.publish_address, "HostPort": ""}] for port in ports}
    return {
        "Image": spec.image,
        # A browser's profile lock in the home volume names the host: with a random hostname it would lock users out.
        "Hostname": re.sub(r"[^A-Za-z0-9-]", "-", spec.session_id)[:63].strip("-") or "session",
        "Env": [f"{name}={value}" for name, value in spec.environment.items()],
        "Labels": labels.of_container(settings.agent_id, spec) | dict(creation_labels),
        "ExposedPorts": {port: {} for port in ports},
        "HostConfig": {
            "NetworkMode": settings.network_name,
            "Mounts": [
                {"Type": "volume", "Source": volume_name(spec.session_id, mount.name), "Target": mount.path}
                for mount in spec.mounts
            ],
            "PortBindings": bindings if publish else {},
            "PublishAllPorts": False,
            # The agent alone decides what runs: the engine must not restart sessions by itself.
            "RestartPolicy": {"Name": "no"},
            # Init stays at the engine's default: images built on s6 must run as process 1.
            "CapDrop": ["ALL"],
            "CapAdd": list(own.session_capabilities),
            "SecurityOpt": ["no-new-privileges:true"],
            # On cgroup v1 the engine's default would show a session its place in the host's cgroup tree.
            "CgroupnsMode": "private",
            # No core files: one of a browser is large. Other limits are the engine's default-ulimits, which Podman
            # drops as soon as one limit is given.
            **({} if podman else {"Ulimits": [{"Name": "core", "Soft": 0, "Hard": 0}]}),
            "PidsLimit": own.session_pids_limit,
            "ShmSize": own.session_shm_size,
            # Whatever the engine's default is: a log that can be read back and cannot fill the disk.
            "LogConfig": {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "2"}},
            **_limits(spec, host_cpus),
        },
    }


def _limits(spec: SessionSpec, host_cpus: int) -> Mapping[str, int]:
    limits: dict[str, int] = {}
    if spec.memory is not None:
        # Without MemorySwap the engine allows as much swap on top, which no capacity accounts for.
        limits |= {"Memory": spec.memory, "MemorySwap": spec.memory}
    if spec.cpu is not None:
        # The engine refuses a limit above the host's cores, though it would limit nothing.
        cpu = min(spec.cpu, host_cpus) if host_cpus else spec.cpu
        limits["NanoCpus"] = round(max(cpu, 0.01) * 1e9)
    return limits
