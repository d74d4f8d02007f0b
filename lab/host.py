"""What engines borrow from the host: address ranges, network links, mounts."""

from __future__ import annotations

import fcntl
import hashlib
import ipaddress
import json
import socket
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lab.say import LabError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


def ip(*args: str) -> str:
    done = subprocess.run(["ip", *args], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LabError(f"ip {' '.join(args)} failed: {done.stderr.strip()}")
    return done.stdout


@contextmanager
def addresses_lock() -> Iterator[None]:
    """Held from the choice of a block until a link carries it: from then on others see that it is taken."""
    with Path("/run/streamspace-lab.addresses").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def in_use(mine: Callable[[str], bool] = lambda _link: False) -> list[ipaddress.IPv4Network]:
    """What this network namespace has routes or addresses for, but for links that are `mine`.

    A link that is down has no routes, yet its addresses are somebody's who may come back.
    """
    routes = json.loads(ip("-json", "-4", "route", "show", "table", "all") or "[]")
    links = json.loads(ip("-json", "-4", "address", "show") or "[]")
    targets = [route["dst"] for route in routes if route["dst"] != "default" and not mine(route.get("dev", ""))]
    addresses = [a for link in links if not mine(link.get("ifname", "")) for a in link.get("addr_info", [])]
    own = [ipaddress.IPv4Interface(f"{address['local']}/{address['prefixlen']}").network for address in addresses]
    return [*map(ipaddress.IPv4Network, targets), *own]


def free_block(directory: Path, taken: list[ipaddress.IPv4Network]) -> ipaddress.IPv4Network:
    """A private /16 that overlaps nothing taken; for each directory another one first, so that who is down may find
    his again."""
    first = int(_digest(directory), 16)
    for number in range(50):
        block = ipaddress.IPv4Network(f"10.{200 + (first + number) % 50}.0.0/16")
        if not any(block.overlaps(network) for network in taken):
            return block
    raise LabError("no free /16 between 10.200.0.0 and 10.249.0.0 for a private engine: stop one, or remove a route")


def _digest(directory: Path) -> str:
    return hashlib.sha256(str(directory).encode()).hexdigest()[:8]


def link_name(directory: Path) -> str:
    """A name for a bridge that only the owner of `directory` uses (the kernel allows 15 characters)."""
    return "sslab" + _digest(directory)


def links() -> list[str]:
    return [name for _, name in socket.if_nameindex()]  # /sys would show the namespace it was mounted in


def has_link(name: str) -> bool:
    return name in links()


def delete_link(name: str) -> None:
    if has_link(name):
        ip("link", "delete", name)


def unmount_below(directory: Path) -> None:
    """What killed engines leave mounted, their data folders among them."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    for point in reversed([point for point in points if point.startswith(f"{directory}/")]):
        subprocess.run(["umount", "--lazy", point], check=False)
