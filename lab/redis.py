"""A Redis server of one's own, which can be stopped, killed and frozen."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from pathlib import Path
from typing import Self

from lab import apt, process
from lab.say import LabError


class RedisServer:
    """On a free loopback port, with a temporary folder; keys outlive a restart only with `persist`.

    The port stays the same across stop, kill and start, so clients see one server that was away.
    """

    def __init__(self, *, password: str | None = None, persist: bool = False, options: tuple[str, ...] = ()) -> None:
        self.port = process.free_port()
        self.password = password
        self._options = ("--save", "", "--appendonly", "yes" if persist else "no", *options)
        self._folder = Path(tempfile.mkdtemp(prefix="streamspace-redis-"))
        self._pid: int | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        credentials = f":{self.password}@" if self.password else ""
        return f"redis://{credentials}127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        if self._pid is None:
            raise LabError("this Redis server is not running: call start() first")
        return self._pid

    def start(self) -> None:
        if not shutil.which("redis-server"):
            apt.require("redis-server")
        config, log = self._folder / "redis.conf", self._folder / "redis.log"
        config.touch(mode=0o600)
        config.write_text(f"requirepass {self.password}\n" if self.password else "")  # on a command line, ps shows it
        where = ["--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self._folder)]
        self._pid = process.spawn(["redis-server", str(config), *where, *self._options], log)
        process.wait_until(lambda: process.listens(self.port), "redis-server", pid=self._pid, log=log)

    def stop(self) -> None:
        """A clean shutdown."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """A crash: without `persist`, all keys are gone at the next start."""
        self._end(signal.SIGKILL)

    def freeze(self) -> None:
        """Connections stay open, the kernel accepts new ones, and nobody answers until thaw()."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _end(self, sig: int) -> None:
        if self._pid is not None:
            # redis-server rewrites its command line to name and address
            process.stop(self._pid, f"127.0.0.1:{self.port}", sig=sig)
            self._pid = None
