"""Debian packages, installed only where they are missing."""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lab.say import LabError, say

if TYPE_CHECKING:
    from collections.abc import Iterator

_POLICY = Path("/usr/sbin/policy-rc.d")


def installed(package: str) -> bool:
    query = ["dpkg-query", "-W", "-f", "${db:Status-Status}", package]
    return subprocess.run(query, capture_output=True, text=True, check=False).stdout == "installed"


def require(*packages: str) -> None:
    """Install what is missing of `packages`; raise LabError with the command to run where that is not ours to do."""
    debian = Path("/usr/bin/apt-get").exists()
    missing = [name for name in packages if not (debian and installed(name))]
    if not missing:
        return
    names = " ".join(missing)
    if not debian:
        raise LabError(f"this is not Debian or Ubuntu: install what these packages hold, by hand: {names}")
    if os.geteuid() != 0:
        raise LabError(f"missing packages, and only root may install them: sudo apt-get install {names}")
    say(f"installing {names}")
    with _services_stay_off():
        _apt("update", tries=2)
        _apt("install", "-y", "--no-install-recommends", *missing, tries=2)


def _apt(*args: str, tries: int) -> None:
    environ = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    command = ["apt-get", "-q", "-o", "DPkg::Lock::Timeout=300", *args]
    for left in reversed(range(tries)):
        done = subprocess.run(
            command, env=environ, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        if done.returncode == 0:
            return
        if not left:
            tail = "\n".join((done.stdout + done.stderr).splitlines()[-8:])
            raise LabError(f"apt-get {args[0]} failed:\n{tail}")


@contextmanager
def _services_stay_off() -> Iterator[None]:
    """A package's service must not start by itself: the lab starts its own, on its own ports and folders."""
    try:
        with _POLICY.open("x") as file:
            file.write("#!/bin/sh\nexit 101\n")
    except FileExistsError:
        yield
        return
    _POLICY.chmod(0o755)
    try:
        yield
    finally:
        _POLICY.unlink(missing_ok=True)
