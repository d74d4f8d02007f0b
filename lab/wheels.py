"""The product's wheels, and those it needs, for another Python than the one that runs this."""

from __future__ import annotations

import hashlib
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import streamspace_agent
from lab.say import LabError

if TYPE_CHECKING:
    from collections.abc import Iterable

ROOT = Path(__file__).resolve().parents[1]
MEMBERS = [
    "core",
    "plugins/streamspace-elect-*",
    "plugins/streamspace-engine",
    "plugins/streamspace-runtime-*",
    "plugins/streamspace-gateway",
]
"""What an agent is made of; the dev control plane is not."""
OLDER = ["async-timeout"]
"""What Pythons below 3.11.3 need beside (redis does): pip asks its own Python, not the target, whether it is needed."""
_CLUTTER = {"tests", "build", "__pycache__"}


def sources() -> list[Path]:
    """The distributions' folders."""
    return [path for pattern in MEMBERS for path in sorted(ROOT.glob(pattern)) if (path / "pyproject.toml").exists()]


def files() -> list[Path]:
    """All that the wheels are made of."""
    found = [path for folder in sources() for path in sorted(folder.rglob("*")) if path.is_file()]
    clean = [
        path
        for path in found
        if not any(p in _CLUTTER or p.endswith(".egg-info") for p in path.relative_to(ROOT).parts)
    ]
    return [ROOT / "constraints.txt", *clean]


def digest(paths: Iterable[Path]) -> str:
    """A hash of names and contents."""
    found = hashlib.sha256()
    for path in paths:
        found.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    return found.hexdigest()[:16]


def version() -> str:
    """The one version number of the repository."""
    return streamspace_agent.__version__


def collect(folder: Path, python: str) -> None:
    """Put all wheels of an agent, and pip's own, into `folder`, for CPython `python` ("3.11.2") on this kind of
    machine."""
    tags = ["--python-version", python, "--implementation", "cp", "--only-binary=:all:"]
    for glibc in ("manylinux_2_34", "manylinux_2_28", "manylinux2014"):
        tags += ["--platform", f"{glibc}_{platform.machine()}"]
    with tempfile.TemporaryDirectory() as copies:  # setuptools would pack again what an earlier build left in the tree
        own = [Path(copies, source.name) for source in sources()]
        for source, copy in zip(sources(), own, strict=True):
            shutil.copytree(source, copy, ignore=shutil.ignore_patterns(*_CLUTTER, "*.egg-info"))
        _pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), *map(str, own))
    constraints = ["-c", str(ROOT / "constraints.txt"), "--find-links", str(folder)]
    _pip("download", "--dest", str(folder), *tags, *constraints, "pip", *OLDER, "streamspace-agent[all]")


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LabError(f"pip {arguments[0]} failed:\n{(done.stdout + done.stderr)[-800:]}")
