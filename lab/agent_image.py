"""The agent's own image, from the Dockerfile of this repository, kept in the engine by a hash of all that goes into
it."""

from __future__ import annotations

import io
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from lab import wheels
from lab.say import say

if TYPE_CHECKING:
    from lab.images import Images

REPOSITORY = "streamspace/docker-agent"
_LAB = "streamspace-lab/agent"
_PUBLIC_BASE = "python:3.12-slim-bookworm"
_DEBIAN_PYTHON = "3.11.2"  # of the suite that lab/images.py bootstraps


def ensure(images: Images) -> str:
    """The image's tag, built where the engine does not have it; other checkouts have tags of their own."""
    recipe = _recipe()
    tag = f"{_LAB}:{recipe}"
    if images.recipe_of(tag) == recipe:
        return tag
    base = images.ensure("python") if not images.registry_has(_PUBLIC_BASE) else _PUBLIC_BASE
    with images.lock(), tempfile.TemporaryDirectory() as name:
        if images.recipe_of(tag) == recipe:
            return tag
        folder = Path(name)
        if base != _PUBLIC_BASE:
            say("collecting the agent's wheels")
            wheels.collect(folder, _DEBIAN_PYTHON)
        say("building the agent's image")
        arguments = {"BASE": base, "VERSION": wheels.version(), "REVISION": _revision()}
        images.build(tag, recipe, _context(folder), arguments)
        images.remove_unused(_LAB, tag)
    return tag


def publish(images: Images) -> list[str]:
    """The image under the names that Compose and Swarm files use."""
    built = ensure(images)
    tags = [f"{REPOSITORY}:{wheels.version()}", f"{REPOSITORY}:latest"]
    for tag in tags:
        images.tag(built, tag)
    return tags


def _files() -> list[Path]:
    own = [wheels.ROOT / name for name in ("Dockerfile", "LICENSE", "deployments/image/docker-agent")]
    return [*own, *wheels.files()]


def _recipe() -> str:
    return wheels.digest(_files())


def _context(wheel_folder: Path) -> io.BytesIO:
    """What `docker build .` would send, and the wheels."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        pairs = [(path, str(path.relative_to(wheels.ROOT))) for path in _files()]
        pairs += [(path, f"wheels/{path.name}") for path in sorted(wheel_folder.iterdir())]
        for path, name in pairs:
            info = tar.gettarinfo(path, arcname=name)
            info.uid = info.gid = 0
            info.mtime = 0
            with path.open("rb") as file:
                tar.addfile(info, file)
    buffer.seek(0)
    return buffer


def _revision() -> str:
    command = ["git", "-C", str(wheels.ROOT), "rev-parse", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
