"""A Docker Engine of one's own: own data, socket, bridge and addresses, beside whatever else runs here."""

from __future__ import annotations

import http.client
import ipaddress
import json
import shutil
import signal
import socket
from typing import TYPE_CHECKING, Any

from lab import apt, host, process
from lab.say import LabError, say

if TYPE_CHECKING:
    from pathlib import Path


def answers(docker_host: str, timeout: float = 3.0) -> bool:
    """True when a Docker API answers at `docker_host` (unix:// or tcp://)."""
    scheme, _, address = docker_host.partition("://")
    name, _, port = address.partition(":")
    connection = (
        _UnixConnection(address, timeout)
        if scheme == "unix"
        else http.client.HTTPConnection(name, int(port or 2375), timeout=timeout)
    )
    try:
        connection.request("GET", "/_ping")
        return connection.getresponse().read(2) == b"OK"
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class PrivateEngine:
    """A dockerd under `directory`, for root only.

    `iptables=True` belongs to one engine in a network namespace: dockerd wipes the DOCKER chains when it starts,
    whoever wrote them. So the lab's main engine has them, and engines that tests start beside it run without: the host
    reaches
    their containers (by address and by ports published on loopback), but these reach neither each other nor the
    outside. With `namespace`, the name of a network namespace all its own, it has a network like that of a host.
    """

    def __init__(self, directory: Path, *, iptables: bool = False, namespace: str = "") -> None:
        self.directory = directory.resolve()
        self.iptables = iptables
        self.namespace = namespace
        self.socket = self.directory / "docker.sock"
        self.host = f"unix://{self.socket}"
        self.log = self.directory / "dockerd.log"
        self.pidfile = self.directory / "dockerd.pid"
        self.bridge = host.link_name(self.directory)
        self.options: list[str] = []
        """More for dockerd's command line, from the next start on."""
        longest = self.directory / "exec/containerd/containerd.sock.ttrpc"
        if len(str(longest)) > 104:  # containerd's limit; past it, it dies without a word
            raise LabError(f"the path of a private engine's folder is too long for its sockets: {self.directory}")

    @property
    def pid(self) -> int | None:
        """The running dockerd's pid, None when there is none of ours."""
        try:
            pid = int(self.pidfile.read_text())
        except (OSError, ValueError):
            return None
        return pid if process.ours(pid, str(self.pidfile)) and process.alive(pid) else None

    def start(self) -> None:
        """Idempotent; returns when the API answers."""
        apt.require("docker.io", "iptables", "iproute2")
        self.directory.mkdir(parents=True, exist_ok=True)
        pid = self.pid
        if pid is None:
            self.pidfile.unlink(missing_ok=True)
            self._forget_dead_containerd()
            self.log.unlink(missing_ok=True)
            pid = process.spawn([*self._command(), *self._network()], self.log)
        process.wait_until(lambda: answers(self.host), "dockerd", pid=pid, log=self.log, timeout=90)

    def stop(self) -> None:
        """Stops dockerd and, as dockerd does, every container of it; what it stores stays."""
        if (pid := self.pid) is not None:
            process.stop(pid, str(self.pidfile), grace=60)
        host.delete_link(self.bridge)

    def kill(self) -> None:
        """SIGKILL, as a crash would: containers live on until the next start takes them over or stops them."""
        if (pid := self.pid) is not None:
            process.stop(pid, str(self.pidfile), sig=signal.SIGKILL)

    def restart(self) -> None:
        self.stop()
        self.start()

    def destroy(self) -> None:
        """Stop it and delete all it stored. After a kill, dockerd is started once more: only it can find its
        leftovers."""
        if self.pid is None and (self.directory / "exec/containerd/containerd.sock").exists():
            self.start()
        bridges = self._bridges()
        self.stop()
        for bridge in bridges:
            host.delete_link(bridge)
        host.unmount_below(self.directory)
        shutil.rmtree(self.directory)

    def load(self, image: str, source: str) -> None:
        """Copy an image from the engine at `source` (a DOCKER_HOST)."""
        load(image, source, self.host)

    def _bridges(self) -> list[str]:
        """Links of the networks made in it: dockerd leaves them behind. In a namespace they go with that."""
        if self.namespace or self.pid is None:
            return []
        connection = _UnixConnection(self.host.removeprefix("unix://"), 10)
        try:
            connection.request("GET", "/networks")
            networks = json.loads(connection.getresponse().read())
        except (OSError, http.client.HTTPException, ValueError):
            return []
        finally:
            connection.close()
        return [f"br-{network['Id'][:12]}" for network in networks if network["Driver"] == "bridge"]

    def _command(self) -> list[str]:
        # `ip netns exec` would hide the cgroup mounts, and dockerd would die of it.
        enter = ["nsenter", f"--net=/var/run/netns/{self.namespace}"] if self.namespace else []
        return [
            *enter,
            "dockerd",
            f"--host={self.host}",
            f"--data-root={self.directory / 'data'}",
            f"--exec-root={self.directory / 'exec'}",
            f"--pidfile={self.pidfile}",
            f"--iptables={'true' if self.iptables else 'false'}",
            "--ip6tables=false",
            "--shutdown-timeout=5",
            *self.options,
        ]

    def _network(self) -> list[str]:
        """The bridge and addresses, where they must not collide with those of others."""
        if self.namespace:
            return []
        with host.addresses_lock():
            block = self._block()
            self._make_bridge(block)
        # Small networks: Docker's own pools run out at about 31.
        return [f"--bridge={self.bridge}", f"--default-address-pool=base={next(block.subnets())},size=24"]

    def _forget_dead_containerd(self) -> None:
        """A containerd that died with its dockerd may stay a zombie for long; dockerd takes that for a living one."""
        note = self.directory / "exec/containerd/containerd.pid"
        if note.exists() and not process.alive(int(note.read_text())):
            note.unlink()

    def _block(self) -> ipaddress.IPv4Network:
        """The /16 of this engine: its bridge in the upper half, its networks' pool the lower half.

        Kept over restarts, since its networks have addresses of it, unless somebody else took it while this engine was
        down."""
        note = self.directory / "addresses"
        taken = host.in_use(self._is_mine)
        if note.exists():
            block = ipaddress.IPv4Network(note.read_text().strip())
            if not any(block.overlaps(network) for network in taken):
                return block
            say(
                f"{block} is in use by somebody else: the engine in {self.directory} gets other addresses, "
                f"without the networks made in it"
            )
            self._forget_networks()
        block = host.free_block(self.directory, taken)
        note.write_text(f"{block}\n")
        return block

    def _is_mine(self, link: str) -> bool:
        """What dockerd keeps of its networks holds their ids, which name their bridges, and the names of other
        links."""
        if link == self.bridge:
            return True
        store = self._networks / "files/local-kv.db"
        return bool(link) and store.exists() and link.removeprefix("br-").encode() in store.read_bytes()

    def _forget_networks(self) -> None:
        for link in host.links():
            if link == self.bridge or (link.startswith("br-") and self._is_mine(link)):
                host.delete_link(link)
        shutil.rmtree(self._networks, ignore_errors=True)

    @property
    def _networks(self) -> Path:
        return self.directory / "data/network"

    def _make_bridge(self, block: ipaddress.IPv4Network) -> None:
        """A bridge that dockerd did not make is one that no dockerd deletes."""
        if not host.has_link(self.bridge):
            host.ip("link", "add", self.bridge, "type", "bridge")
            host.ip("address", "add", f"{block[-2]}/24", "dev", self.bridge)
        host.ip("link", "set", self.bridge, "up")


def load(image: str, source: str, target: str) -> None:
    """Copy an image from one engine to another (both given as a DOCKER_HOST)."""
    import docker  # noqa: PLC0415  # not there yet when the lab sets the environment up

    giver, taker = docker.DockerClient(base_url=source), docker.DockerClient(base_url=target)
    try:
        stream: Any = giver.images.get(image).save(named=True)  # the SDK takes iterables, its stubs do not say so
        taker.images.load(stream)
    finally:
        giver.close()
        taker.close()
