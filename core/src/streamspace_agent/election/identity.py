"""The identity of this replica, for stores and operators."""

import os
import re
import secrets
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Self

# Docker and Podman mount these files from the container's own folder, whatever its network and cgroup settings. Other
# mount points do not count: a host's table holds the folders of all its containers.
_OWN_FILES = frozenset({"/etc/hostname", "/etc/hosts", "/etc/resolv.conf"})
_MOUNT_ROOT = re.compile(r"containers/([0-9a-f]{64})/")
_CGROUP = re.compile(r"(?:/docker/|docker-|libpod-|crio-|cri-containerd-)([0-9a-f]{64})(?:\.scope)?$")


@dataclass(frozen=True, slots=True)
class Identity:
    """``instance`` is a readable name, unique among live replicas; ``nonce`` is new for each process.

    ``container_id`` is the full id, or "" outside a container.
    """

    agent_id: str
    instance: str
    nonce: str
    host: str
    container_id: str = ""

    @classmethod
    def discover(cls, agent_id: str, *, proc: Path = Path("/proc/self")) -> Self:
        """The identity of this process. Replicas may share a hostname (host networking) and a pid (containers)."""
        host, nonce, container = socket.gethostname(), secrets.token_hex(8), container_id(proc)
        place = container[:12] or str(os.getpid())
        name = place if host == place else f"{host}-{place}"
        return cls(agent_id, f"{name}-{nonce[:4]}", nonce, host, container)


def container_id(proc: Path = Path("/proc/self")) -> str:
    """The id of the container that this process runs in, according to the kernel; "" outside a container."""
    for line in _lines(proc / "mountinfo"):
        fields = line.split()  # proc(5): id, parent, device, root, mount point, ...
        if len(fields) > 4 and fields[4] in _OWN_FILES and (match := _MOUNT_ROOT.search(fields[3])):
            return match[1]
    for line in _lines(proc / "cgroup"):
        if match := _CGROUP.search(line):
            return match[1]
    return ""


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
