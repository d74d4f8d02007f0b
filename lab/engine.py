"""The Docker engine to work on: the one that runs, else a private one that is installed and started here."""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING

from lab.dockerd import PrivateEngine, answers
from lab.say import LabError, say

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_USUAL_HOST = "unix:///var/run/docker.sock"


def state_dir(environ: Mapping[str, str]) -> Path:
    """Where images, the private engine and its log stay between runs: $STREAMSPACE_LAB."""
    mine = "" if os.geteuid() == 0 else f"-{os.geteuid()}"
    return Path(environ.get("STREAMSPACE_LAB") or f"/var/tmp/streamspace-lab{mine}")


class MainEngine:
    """The engine that everything of one state folder shares; safe to use from several processes at once."""

    def __init__(self, environ: Mapping[str, str], usual_host: str = _USUAL_HOST) -> None:
        self.state = state_dir(environ)
        self.private = PrivateEngine(self.state / "engine", iptables=True)
        self._named = environ.get("DOCKER_HOST")
        self._usual = usual_host
        self._transient = self.state / "engine.transient"

    def running(self) -> str | None:
        """The DOCKER_HOST of an engine that answers, None when there is none."""
        hosts = [self._named] if self._named else [self._usual, self.private.host]
        return next((host for host in hosts if answers(host)), None)

    def up(self, *, keep: bool = True) -> str:
        """Returns the DOCKER_HOST to use; with `keep=False` an engine started here stops with its last user."""
        with self._lock("engine.lock"):
            if keep and not self._named:  # whoever names it did not start it
                self._transient.unlink(missing_ok=True)
            if host := self.running():
                return host
            if self._named:
                raise LabError(f"no Docker engine answers at DOCKER_HOST={self._named}: start it, or unset DOCKER_HOST")
            if os.geteuid() != 0:
                raise LabError(
                    "no Docker engine runs, and only root can start a private one: "
                    "start Docker (or set DOCKER_HOST), or run this as root"
                )
            say(f"starting a private Docker engine in {self.private.directory}")
            self.private.start()
            if not keep:
                self._transient.touch()
            return self.private.host

    def down(self) -> bool:
        """Stop the private engine whoever uses it; False when none runs. An engine that is not ours is left alone."""
        with self._lock("engine.lock"):
            found = self.private.pid is not None
            self.private.stop()
            self._transient.unlink(missing_ok=True)
            return found

    def down_if_unused(self) -> None:
        """Stop the private engine if it was started for its users only (`keep=False`) and none is left."""
        with self._lock("engine.lock"), (self.state / "engine.users").open("a") as users:
            try:
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            if self._transient.exists():
                self.private.stop()
                self._transient.unlink()

    @contextmanager
    def use(self, *, keep: bool = True) -> Iterator[str]:
        """The DOCKER_HOST for the time of the block."""
        with self._lock("engine.users", fcntl.LOCK_SH):
            host = self.up(keep=keep)
            yield host
        self.down_if_unused()

    @contextmanager
    def _lock(self, name: str, kind: int = fcntl.LOCK_EX) -> Iterator[IO[str]]:
        self.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self.state.stat().st_uid != os.geteuid():
            raise LabError(f"{self.state} belongs to another user: set STREAMSPACE_LAB to a folder of your own")
        with (self.state / name).open("a") as file:
            fcntl.flock(file, kind)
            yield file
