"""The agent as one file, dist/docker-agent: every plugin in it, run by the Python of the same minor version on the
host.

Part of what it holds is compiled, which no plain zipapp can load; PEX unpacks itself once (into $PEX_ROOT) and from
then on starts as fast as an installation.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from lab import wheels
from lab.say import LabError, say

TARGET = wheels.ROOT / "dist/docker-agent"


def ensure(folder: Path, python: tuple[int, int]) -> Path:
    """The file as this checkout makes it, kept in `folder` from one run to the next."""
    target = folder / f"docker-agent-{wheels.digest(wheels.files())}"
    if not target.exists():
        for old in folder.glob("docker-agent-*"):
            old.unlink()
        made = make(folder / f".docker-agent-{os.getpid()}", python)
        made.rename(target)
    return target


def make(target: Path, python: tuple[int, int]) -> Path:
    """Write the file for CPython X.Y on this kind of machine."""
    minor = "{}.{}".format(*python)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        say("collecting the agent's wheels")
        wheels.collect(Path(folder), minor)
        say(f"packing {target.name} for Python {minor}")
        # By name each: an extra that names its own distribution is lost on the way.
        names = [path.name for path in wheels.sources() if path.name != "core"]
        command = [sys.executable, "-m", "pex", "streamspace-agent", *wheels.OLDER, *names]
        command += ["--no-pypi", "--find-links", folder, "--constraints", str(wheels.ROOT / "constraints.txt")]
        command += ["--console-script", "docker-agent", "--output-file", str(target)]
        command += ["--venv", "prepend", "--sh-boot", "--python-shebang", f"/usr/bin/env python{minor}"]
        command += ["--interpreter-constraint", f"CPython=={minor}.*"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise LabError(f"pex failed:\n{(done.stdout + done.stderr)[-800:]}")
    return target
