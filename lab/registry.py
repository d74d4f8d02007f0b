"""A container registry on loopback, behind a proxy that makes pulls slow, stalled or cut."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Self

import docker

from lab import apt, process
from lab.images import TINY
from lab.proxy import Proxy
from lab.say import LabError

_CONFIG = """\
version: 0.1
log: {{level: warn}}
storage:
  filesystem: {{rootdirectory: {folder}/data}}
  delete: {{enabled: true}}
http:
  addr: 127.0.0.1:{port}
  relativeurls: true
{auth}"""
_AUTH = "auth: {{htpasswd: {{realm: lab, path: {folder}/htpasswd}}}}\n"


class Registry:
    """Debian's docker-registry. Pulls go through `proxy`: images are named `localhost:<proxy port>/NAME`."""

    def __init__(self, credentials: tuple[str, str] | None = None) -> None:
        apt.require("docker-registry", *(["apache2-utils"] if credentials else []))
        self.credentials = credentials
        self._folder = Path(tempfile.mkdtemp(prefix="streamspace-registry-"))
        auth = _AUTH.format(folder=self._folder) if credentials else ""
        port = process.free_port()
        config, log = self._folder / "config.yml", self._folder / "log"
        config.write_text(_CONFIG.format(folder=self._folder, port=port, auth=auth))
        if credentials:
            (self._folder / "htpasswd").write_text(_bcrypt(*credentials))
        environ = {"PATH": os.defpath}
        self._pid = process.spawn(["docker-registry", "serve", str(config)], log, environ)
        try:
            process.wait_until(lambda: process.listens(port), "docker-registry", pid=self._pid, log=log)
        except LabError:
            process.stop(self._pid, str(self._folder))
            raise
        self.proxy = Proxy(port)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def address(self) -> str:
        """What an image's name starts with."""
        return f"localhost:{self.proxy.port}"

    @property
    def auth(self) -> dict[str, str] | None:
        """For the SDK's `auth_config`."""
        return {"username": self.credentials[0], "password": self.credentials[1]} if self.credentials else None

    def push_generated(self, host: str, name: str = "big:1", *, megabytes: int, layers: int = 1) -> str:
        """Push the tiny image plus `megabytes` of random bytes in `layers` layers; the engine at `host` forgets it
        again."""
        image = f"{self.address}/{name}"
        client = docker.DockerClient(base_url=host, timeout=300)
        try:
            context = _random_context(megabytes * 1_000_000 // layers, layers)
            client.images.build(fileobj=context, custom_context=True, tag=image, rm=True, nocache=True)
            try:
                for line in client.images.push(image, stream=True, decode=True, auth_config=self.auth):
                    if "error" in line:
                        raise LabError(f"pushing {image} failed: {line['error']}")
            finally:
                client.images.remove(image, force=True)
        finally:
            client.close()
        return image

    def close(self) -> None:
        self.proxy.close()
        process.stop(self._pid, str(self._folder), grace=5)
        shutil.rmtree(self._folder, ignore_errors=True)


def _random_context(size: int, layers: int) -> io.BytesIO:
    files = {f"layer{number}": os.urandom(size) for number in range(layers)}
    dockerfile = "".join([f"FROM {TINY}\n", *(f"COPY {name} /\n" for name in files)])
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in {"Dockerfile": dockerfile.encode(), **files}.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    buffer.seek(0)
    return buffer


def _bcrypt(user: str, password: str) -> str:
    """The only hash that the registry takes, and not one of Python's own."""
    command = ["htpasswd", "-niB", user]
    return subprocess.run(command, input=password, capture_output=True, text=True, check=True).stdout
