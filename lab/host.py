"""What engines borrow from the host: address ranges, network links, mounts."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import socket
import subprocess
from pathlib import Path

from lab.say import LabError


def ip(*args: str) -> str:
    done = subprocess.run(["ip", *args], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LabError(f"ip {' '.join(args)} failed: {done.stderr.strip()}")
    return done.stdout


def free_block() -> ipaddress.IPv4Network:
    """A private /16 that no route of this host touches."""
    routes = json.loads(ip("-json", "-4", "route", "show", "table", "all") or "[]")
    taken = [ipaddress.ip_network(route["dst"]) for route in routes if route["dst"] != "default"]
    for second in range(200, 250):
        block = ipaddress.IPv4Network(f"10.{second}.0.0/16")
        if not any(block.overlaps(network) for network in taken):
            return block
    raise LabError("no free /16 between 10.200.0.0 and 10.249.0.0 for a private engine: stop one, or remove a route")


def link_name(directory: Path) -> str:
    """A name for a bridge that only the owner of `directory` uses (the kernel allows 15 characters)."""
    return "sslab" + hashlib.sha256(str(directory).encode()).hexdigest()[:8]


def has_link(name: str) -> bool:
    return any(name == link for _, link in socket.if_nameindex())  # /sys would show the namespace it was mounted in


def delete_link(name: str) -> None:
    if has_link(name):
        ip("link", "delete", name)


def unmount_below(directory: Path) -> None:
    """What killed engines leave mounted, their data folders among them."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for point in reversed([point for point in points if point.startswith(f"{directory}/")]):
        subprocess.run(["umount", "--lazy", point], check=False)
