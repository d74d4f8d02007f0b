"""Several Docker hosts on one machine: an engine each, in network namespaces that a switch joins.

The switch is a bridge in a namespace of its own, so that nothing of it (addresses, firewall rules, names) meets the
machine's network, and all of it goes with the namespaces.
"""

from __future__ import annotations

import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import docker

from lab import apt, host
from lab.dockerd import PrivateEngine
from lab.say import LabError

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Host:
    """One Docker host: `name` is its namespace and the port of the switch, `address` where other hosts reach it."""

    name: str
    address: str
    engine: PrivateEngine

    @property
    def docker_host(self) -> str:
        return self.engine.host

    def client(self, **options: Any) -> docker.DockerClient:
        return docker.DockerClient(base_url=self.docker_host, **options)


class Hosts:
    """`count` hosts under `directory`, for root only. They see each other and nothing else.

    A context manager; leaving it removes engines, containers, namespaces and the directory, also after a failed start.

    With `tls`, a folder with ca.pem, server-cert.pem and server-key.pem, every engine serves its host's address and
    port 2376, for those who show a certificate of that CA.
    """

    def __init__(self, count: int, directory: Path, *, tls: Path | None = None) -> None:
        self.directory = directory.resolve()
        prefix = host.link_name(self.directory)
        self._switch = f"{prefix}s"
        self.all = [
            Host(
                f"{prefix}{number}",
                f"10.99.0.{number}",
                PrivateEngine(self.directory / f"h{number}", iptables=True, namespace=f"{prefix}{number}"),
            )
            for number in range(1, count + 1)
        ]
        for each in self.all if tls else []:
            files = {"tlscacert": "ca.pem", "tlscert": "server-cert.pem", "tlskey": "server-key.pem"}
            each.engine.options = [f"--{option}={tls}/{file}" for option, file in files.items()]
            each.engine.options += ["--tlsverify", f"--host=tcp://{each.address}:2376"]

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getitem__(self, number: int) -> Host:
        return self.all[number]

    def start(self) -> None:
        apt.require("docker.io", "iptables", "iproute2")
        self.directory.mkdir(parents=True, exist_ok=True)
        host.ip("netns", "add", self._switch)
        host.ip("-n", self._switch, "link", "add", "switch", "type", "bridge")
        host.ip("-n", self._switch, "link", "set", "switch", "up")
        for each in self.all:
            self._plug_in(each)
        self._on_all(lambda each: each.engine.start())

    def swarm(self) -> None:
        """Make them one Swarm, every host a manager."""
        first = self.all[0].client()
        try:
            first.swarm.init(advertise_addr=self.all[0].address, listen_addr=f"{self.all[0].address}:2377")
            token = first.swarm.attrs["JoinTokens"]["Manager"]
        finally:
            first.close()
        for each in self.all[1:]:  # one after another: Raft takes one new member at a time
            client = each.client()
            try:
                client.swarm.join([self.all[0].address], token, f"{each.address}:2377", each.address)
            finally:
                client.close()

    def load(self, image: str, source: str) -> None:
        """Copy an image from the engine at `source` (a DOCKER_HOST) to every host."""
        self._on_all(lambda each: each.engine.load(image, source))

    def cut(self, each: Host) -> None:
        """Its network is gone; what runs on it runs on."""
        host.ip("-n", self._switch, "link", "set", each.name, "down")

    def heal(self, each: Host) -> None:
        host.ip("-n", self._switch, "link", "set", each.name, "up")

    def slow(self, each: Host, kilobits: int) -> None:
        """Let it send no more than so many kbit/s, with up to 2 s of waiting (at 64 a manager's calls take that long).

        0 for no limit. A rate and not a plain delay: not every kernel has netem.
        """
        limit = ["replace", "dev", "eth0", "root", "tbf", "rate", f"{kilobits}kbit", "burst", "2kb", "latency", "2s"]
        _run("tc", "-n", each.name, "qdisc", *(limit if kilobits else ["delete", "dev", "eth0", "root"]))

    def kill(self, each: Host) -> None:
        """The engine dies as in a crash; `each.engine.start()` brings it back."""
        each.engine.kill()

    def close(self) -> None:
        """Remove all of it, even what a failed start left half made; the first error is raised at the end."""
        errors: list[Exception] = []

        def destroy(each: Host) -> None:
            try:
                if each.engine.pid is None:  # started once more, it would wait 20 s for the Swarm it was in
                    shutil.rmtree(each.engine.directory / "data/swarm", ignore_errors=True)
                if each.engine.directory.exists():
                    each.engine.destroy()
            except (LabError, OSError) as error:
                errors.append(error)

        self._on_all(destroy)
        for name in [self._switch, *(each.name for each in self.all)]:
            if Path("/var/run/netns", name).exists():
                with suppress(LabError):  # what keeps it has been told above
                    host.ip("netns", "delete", name)
        host.unmount_below(self.directory)
        shutil.rmtree(self.directory, ignore_errors=True)
        if errors:
            raise errors[0]

    def _plug_in(self, each: Host) -> None:
        host.ip("netns", "add", each.name)
        host.ip("-n", each.name, "link", "set", "lo", "up")
        peer = ["peer", "name", each.name, "netns", self._switch]
        host.ip("-n", each.name, "link", "add", "eth0", "type", "veth", *peer)
        host.ip("-n", self._switch, "link", "set", each.name, "master", "switch", "up")
        host.ip("-n", each.name, "address", "add", f"{each.address}/24", "dev", "eth0")
        host.ip("-n", each.name, "link", "set", "eth0", "up")
        # Else each task waits 15 s for a name server: the engine looks up its image's registry first.
        host.ip("-n", each.name, "route", "add", "unreachable", "default")

    def _on_all(self, work: Callable[[Host], None]) -> None:
        with ThreadPoolExecutor(len(self.all)) as pool:
            list(pool.map(work, self.all))


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LabError(f"{' '.join(command)} failed: {done.stderr.strip()}")
