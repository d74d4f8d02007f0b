"""Podman's Docker-compatible socket, with storage and a network of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Self

import docker

from lab import apt, host, process
from lab.dockerd import answers, load
from lab.say import LabError

# Podman's default limits are more than root in a container may set for itself.
_CONFIG = """\
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
[network]
network_config_dir = "{folder}/networks"
"""
_DEFAULT_NETWORK = 'default_network = "{name}"\n'


class Podman:
    """A Podman service under `folder`, for root only; `host` is the DOCKER_HOST to use.

    Podman renames what it loads: use the name that load() returns.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.host = f"unix://{self.folder}/podman.sock"
        self._network = host.link_name(self.folder)
        self._log = self.folder / "podman.log"
        self._pid: int | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        if not shutil.which("podman"):
            apt.require("podman", "iptables", "iproute2")
        (self.folder / "networks").mkdir(parents=True, exist_ok=True)
        if not any((self.folder / "networks").iterdir()):
            self._make_network()
        self._pid = process.spawn(self._command("system", "service", "--time=0", self.host), self._log, self._environ)
        process.wait_until(lambda: answers(self.host), "podman", pid=self._pid, log=self._log)

    def stop(self) -> None:
        """The service ends; containers run on, as Podman's do."""
        if self._pid is not None:
            process.stop(self._pid, str(self.folder), grace=5)
            self._pid = None

    def close(self) -> None:
        """Remove its containers, volumes and images, and all it stored."""
        self.stop()
        if self.folder.exists():
            self._run("rm", "--all", "--force", "--time=0")
            host.unmount_below(self.folder)
            for bridge in {self._network, *self._bridges()}:
                host.delete_link(bridge)
            shutil.rmtree(self.folder)
        shutil.rmtree(Path("/var/lib/cni/networks", self._network), ignore_errors=True)  # the plugins' address book

    def load(self, image: str, source: str) -> str:
        """Copy an image from the Docker engine at `source`; returns its name here."""
        load(image, source, self.host)
        client = docker.DockerClient(base_url=self.host)
        try:
            name: str = client.images.get(image).tags[0]
            return name
        finally:
            client.close()

    def _bridges(self) -> list[str]:
        """Links of the networks made in it, which Podman leaves behind."""
        found: list[str] = []
        for file in (self.folder / "networks").glob("*.conflist"):
            found += [plugin["bridge"] for plugin in json.loads(file.read_text())["plugins"] if "bridge" in plugin]
        return found

    def _make_network(self) -> None:
        """Podman's own default network and its bridge belong to the machine's other users."""
        config = self.folder / "containers.conf"
        config.write_text(_CONFIG.format(folder=self.folder))
        subnet = next(host.free_block(self.folder, host.in_use()).subnets(new_prefix=24))
        self._run("network", "create", "--disable-dns", f"--subnet={subnet}", self._network)
        with config.open("a") as file:
            file.write(_DEFAULT_NETWORK.format(name=self._network))

    @property
    def _environ(self) -> dict[str, str]:
        return {**os.environ, "CONTAINERS_CONF": str(self.folder / "containers.conf")}

    def _command(self, *args: str) -> list[str]:
        where = [
            f"--root={self.folder / 'root'}",
            f"--runroot={self.folder / 'run'}",
            f"--tmpdir={self.folder / 'tmp'}",
        ]
        return ["podman", *where, *args]

    def _run(self, *args: str) -> None:
        done = subprocess.run(self._command(*args), env=self._environ, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise LabError(f"podman {args[0]} failed: {done.stderr.strip()}")
