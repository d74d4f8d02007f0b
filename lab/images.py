"""The images that demo, tests and benchmarks run, built once and kept in the engine by a hash of their recipe."""

from __future__ import annotations

import fcntl
import hashlib
import io
import os
import shutil
import subprocess
import tarfile
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self

import docker
from docker.errors import APIError, BuildError, ImageNotFound
from requests.exceptions import RequestException

from lab import apt
from lab.say import LabError, say

if TYPE_CHECKING:
    from collections.abc import Iterator

BASE = "streamspace-lab/base:1"
DESKTOP = "streamspace-lab/desktop:2"
TINY = "streamspace-lab/tiny:2"
NAMES = {
    "base": BASE,
    "desktop": DESKTOP,
    "tiny": TINY,
    "pip": "streamspace-lab/pip:1",
    "python": "streamspace-lab/python:1",
    "redis": "streamspace-lab/redis:1",
    "standin": "streamspace-lab/standin:1",
    "systemd": "streamspace-lab/systemd:1",
    "web": "streamspace-lab/web:1",
}
_ON = dict.fromkeys(NAMES.keys() - {"base", "tiny"}, "base") | {"web": "desktop"}
"""The image that another is built on."""
_RECIPES = Path(__file__).parent / "image"
_HASH = "streamspace.lab.recipe"
_SUITE = "bookworm"


class Images:
    """Builds into the engine at `host`; `state` holds the lock that keeps two processes from building at once."""

    def __init__(self, host: str, state: Path) -> None:
        self._host = host
        self._state = state
        self._client = docker.DockerClient(base_url=host, timeout=900)

    def close(self) -> None:
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ensure(self, name: str) -> str:
        """The tag of image `name` (a key of NAMES), built where the engine does not have it as it should be."""
        if name not in NAMES:
            raise LabError(f"there is no image {name!r}: choose from {', '.join(NAMES)}")
        with self.lock():
            return self._ensure(name)

    def _ensure(self, name: str) -> str:
        recipe, tag = _recipe(name), NAMES[name]
        if self.recipe_of(tag) == recipe:
            return tag
        if name in _ON:
            base = self._ensure(_ON[name])
            say(f"building the {name} image (about half a minute)")
            self._build(name, recipe, {"BASE": base})
        elif name == "tiny":
            self._build_tiny(recipe)
        elif self.registry_has("debian:bookworm-slim"):
            say("building the base image")
            self._build(name, recipe, {})
        else:
            self._bootstrap(tag, recipe)
        return tag

    def _build(self, name: str, recipe: str, arguments: dict[str, str], *extra: Path) -> None:
        self.build(NAMES[name], recipe, _tar([*sorted((_RECIPES / name).iterdir()), *extra]), arguments)

    def build(self, tag: str, recipe: str, context: IO[bytes], arguments: dict[str, str]) -> None:
        """Build from a tar archive; `recipe`, a hash of all it is made of, is kept as a label."""
        try:
            self._client.images.build(
                fileobj=context,
                custom_context=True,
                tag=tag,
                buildargs=arguments,
                labels={_HASH: recipe},
                rm=True,
                forcerm=True,
            )
        except BuildError as error:
            tail = "".join(line.get("stream", "") for line in error.build_log)[-800:]
            raise LabError(f"the image {tag} could not be built: {error}\n{tail}") from error

    def recipe_of(self, tag: str) -> str:
        """The recipe that an image was built from; "" where there is no such image."""
        try:
            return str(self._client.images.get(tag).labels.get(_HASH, ""))
        except ImageNotFound:
            return ""

    def tag(self, image: str, tag: str) -> None:
        self._client.api.tag(image, tag)

    def remove_unused(self, repository: str, keep: str) -> None:
        """Remove a repository's other tags, but those that a container uses."""
        for image in self._client.images.list(name=repository):
            for name in image.tags:
                if name != keep:
                    with suppress(APIError):
                        self._client.images.remove(name)

    def _build_tiny(self, recipe: str) -> None:
        say("building the tiny image")
        try:
            apt.require("busybox-static")
        except LabError:
            self._build("tiny", recipe, {"BASE": "busybox:stable"})
        else:
            busybox = shutil.which("busybox") or "/bin/busybox"
            self._build("tiny", recipe, {}, Path(busybox))

    def registry_has(self, image: str) -> bool:
        """Ask through the engine, which knows its own mirrors and proxies; five seconds are enough for a yes."""
        client = docker.DockerClient(base_url=self._host, timeout=5)
        try:
            client.images.get_registry_data(image)
        except (APIError, RequestException):
            return False
        finally:
            client.close()
        return True

    def _bootstrap(self, tag: str, recipe: str) -> None:
        say("no registry answers: making the base image with debootstrap (about a minute)")
        apt.require("debootstrap")
        if os.geteuid() != 0:
            raise LabError(
                "no container registry can be reached, and only root can make a base image: run this as root"
            )
        with tempfile.TemporaryDirectory(dir=self._state) as folder:
            root = Path(folder, "root")
            command = [
                "debootstrap",
                "--variant=minbase",
                "--include=python3-minimal,ca-certificates",
                _SUITE,
                str(root),
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise LabError(f"debootstrap failed:\n{done.stdout[-800:]}{done.stderr[-800:]}")
            for archive in root.glob("var/cache/apt/archives/*.deb"):
                archive.unlink()
            packed = Path(folder, "root.tar")
            subprocess.run(["tar", "-C", str(root), "--exclude=./dev/*", "-cf", str(packed), "."], check=True)
            name, _, version = tag.rpartition(":")
            changes = [f"LABEL {_HASH}={recipe}", 'CMD ["/bin/bash"]']
            with packed.open("rb") as stream:
                self._client.api.import_image(stream, repository=name, tag=version, changes=changes)
        self._client.images.get(tag)  # an import reports its errors in a stream that nobody reads

    @contextmanager
    def lock(self) -> Iterator[None]:
        """While held, nobody else builds for this state folder."""
        self._state.mkdir(parents=True, exist_ok=True)
        with (self._state / "images.lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _recipe(name: str) -> str:
    digest = hashlib.sha256(_recipe(_ON[name]).encode() if name in _ON else b"")
    for path in sorted((_RECIPES / name).iterdir()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def _tar(paths: list[Path]) -> io.BytesIO:
    """A build context; programs land in bin/ and all files belong to root, whoever owns the checkout."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path in paths:
            program = path.parent.name == "bin"
            info = tar.gettarinfo(path.resolve(), arcname=f"bin/{path.name}" if program else path.name)
            info.uid = info.gid = 0
            info.mode = 0o755 if program or path.suffix == ".sh" else 0o644
            with path.open("rb") as file:
                tar.addfile(info, file)
    buffer.seek(0)
    return buffer
