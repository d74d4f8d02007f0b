"""noVNC for the dev control plane's viewer: the one that is installed, else the files of Debian's package."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from lab.say import LabError, say
from streamspace_devplane.web.novnc import HELP, find


def folder(state: Path) -> Path:
    """Where noVNC's files are. The package is unpacked into `state`, not installed: its files need no root, and
    its dependencies (a server in Python, NumPy, Node.js) are of no use here."""
    unpacked = state / "novnc"
    found = find() or find([unpacked])
    if found is None:
        _unpack(unpacked)
        found = find([unpacked])
    if found is None:
        raise LabError(f"the package novnc does not hold what was expected; {HELP}")
    return found


def _unpack(target: Path) -> None:
    if not shutil.which("apt-get"):
        raise LabError(HELP)
    say("fetching noVNC")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        download = ["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", "novnc"]
        done = _run(download, folder)
        if done.returncode != 0 and _run(["apt-get", "-q", "update"], folder).returncode == 0:
            done = _run(download, folder)
        packages = list(Path(folder).glob("novnc_*.deb"))
        if done.returncode != 0 or not packages:
            raise LabError(f"cannot fetch noVNC: {done.stderr.strip()}; {HELP}")
        done = _run(["dpkg-deb", "-x", str(packages[0]), "files"], folder)
        if done.returncode != 0:
            raise LabError(f"cannot unpack noVNC: {done.stderr.strip()}")
        shutil.rmtree(target, ignore_errors=True)
        (Path(folder) / "files/usr/share/novnc").replace(target)


def _run(command: list[str], folder: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
