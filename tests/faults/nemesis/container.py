"""Replicas in containers: this checkout's own environment, mounted into the tiny image. What runs is what is edited."""

import contextlib
import signal
import sys
from pathlib import Path

import docker
from docker.errors import APIError

from lab.images import TINY
from tests.agent_process import COMMAND
from tests.faults.nemesis.stage import Replica, boottime

ROOT = Path(__file__).resolve().parents[3]
IMAGE = TINY


def mounts():
    """All that the interpreter and the agent are made of."""
    system = [path for path in map(Path, ("/usr", "/lib", "/lib64", "/etc/ssl")) if path.exists()]
    own = [Path(sys.base_prefix), Path(sys.prefix), ROOT]
    return [
        docker.types.Mount(str(path), str(path.resolve()), type="bind", read_only=True)
        for path in dict.fromkeys(system + own)
    ]


def writable(path):
    return docker.types.Mount(str(path), str(path), type="bind")


class Contained(Replica):
    """The replica in whatever container `find` gives (its id, or "") on `client`'s engine."""

    def __init__(self, stage, name, client):
        super().__init__(stage, name)
        self.client = client
        self._known = ("", 0)

    def find(self):
        raise NotImplementedError

    def _look(self):
        """The container that runs now and the pid of its first process; ("", 0) without one."""
        container, pid = self._known
        if pid and _runs(pid, container):
            return self._known
        self._known = ("", 0)
        with contextlib.suppress(APIError, OSError):
            if found := self.find():
                state = self.client.api.inspect_container(found)["State"]
                if state["Running"] and state["Pid"]:
                    self._known = (found, state["Pid"])
        return self._known

    @property
    def container(self):
        return self._look()[0]

    @property
    def place(self):
        return self._look()[0][:12]

    @property
    def pid(self):
        return self._look()[1]

    @property
    def log(self):
        container = self.container or self.find()
        return self.client.api.logs(container, tail=40).decode(errors="replace") if container else ""

    @property
    def alive(self):
        return self.pid > 0

    def signal(self, number):
        instance = self.instance  # while it can still be asked for its container
        super().signal(number)
        if number == signal.SIGKILL:
            self.stage.deaths.setdefault(instance, boottime())


def _runs(pid, container):
    """Pids are used again: the process is the container's only while its cgroup is."""
    try:
        cgroup = Path(f"/proc/{pid}/cgroup").read_text()
        return container in cgroup and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


__all__ = ["COMMAND", "IMAGE", "Contained", "mounts", "writable"]
