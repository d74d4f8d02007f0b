"""Kills a frozen leader, which would keep the kernel's lock for ever. Only where the operator allows it.

A leader without a sign of life may still be working, when its disk is full. So it must be proved frozen: the engine
says that its container is paused, or ps(1) and proc(5) show that its process is stopped.
"""

import contextlib
import os
import re
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Self

from streamspace_agent.election import Record
from streamspace_agent.election.engine_socket import EngineSocket
from streamspace_agent.election.identity import container_id
from streamspace_agent.errors import ConfigError
from streamspace_elect_file.file_format import read_path

VARIABLE = "FENCE_FROZEN_LEADER"
TIMEOUT = 3.0
"""Seconds that the engine has for each answer."""
STOPPED = frozenset("Tt")
"""The states, in proc(5), of a process that a signal or a debugger has stopped."""

_WORDS = {"": False, "0": False, "false": False, "no": False, "off": False} | dict.fromkeys(
    ["1", "true", "yes", "on"], True
)


class Fence:
    """Ends containers of the engine at ``docker_host``, and processes of this PID namespace."""

    def __init__(self, docker_host: str, *, proc: Path = Path("/proc")) -> None:
        self._engine = EngineSocket(docker_host, TIMEOUT)
        self._proc = proc

    @classmethod
    def of(cls, environ: Mapping[str, str], docker_host: str) -> Self | None:
        """Read ``FENCE_FROZEN_LEADER``; None unless it is true. Raises ConfigError."""
        value = environ.get(VARIABLE, "").strip().lower()
        if value not in _WORDS:
            raise ConfigError([f"{VARIABLE} is {value[:40]!r}: write true or false (the default)"])
        return cls(docker_host) if _WORDS[value] else None

    def end(self, lock: Path, record: Record, silent: Callable[[], bool]) -> str:
        """Kill the leader of ``record`` if it is proved frozen and, asked last, still ``silent``.

        Returns what was done, "" if nothing. Blocks. Raises what the engine's socket and the file system raise.
        """
        if record.container_id:
            return self._end_container(record.container_id, silent)
        # A pid is valid only in the leader's PID namespace, which is the host's if neither runs in a container.
        return "" if container_id() else self._end_process(lock, silent)

    def _end_container(self, container: str, silent: Callable[[], bool]) -> str:
        if not self._engine.usable or not re.fullmatch(r"[0-9a-f]{64}", container):
            return ""
        state = self._engine.inspect(container)
        if not state or not state.get("Running"):
            return ""
        if state.get("Paused"):
            how = "which was paused"
        elif any(found[:1] in STOPPED for found in self._engine.process_states(container)):
            how = "whose process was stopped"
        else:
            return ""
        return f"killed container {container[:12]}, {how}" if silent() and self._engine.kill(container) else ""

    def _end_process(self, lock: Path, silent: Callable[[], bool]) -> str:
        found, file = read_path(lock)
        if found is None or found.pid <= 0:
            return ""
        with contextlib.suppress(ProcessLookupError), _pidfd(found.pid) as process:
            if self._holds(found.pid, file) and self._state(found.pid) in STOPPED and silent():
                signal.pidfd_send_signal(process, signal.SIGKILL)
                return f"killed process {found.pid}, which was stopped"
        return ""

    def _holds(self, pid: int, file: os.stat_result) -> bool:
        """Whether the kernel says that this process holds the lock on that file, proc_pid_fdinfo(5).

        /proc/locks would not do: it is missing in a unit with ProcSubset=pid, as in ours.
        """
        held = [str(pid), f"{os.major(file.st_dev):02x}:{os.minor(file.st_dev):02x}:{file.st_ino}"]
        for descriptor in (self._proc / str(pid) / "fdinfo").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed in the meantime
                rows = (line.split() for line in descriptor.read_text().splitlines() if line.startswith("lock:"))
                if any("FLOCK" in row and held == row[5:7] for row in rows):
                    return True
        return False

    def _state(self, pid: int) -> str:
        try:
            return (self._proc / str(pid) / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return "gone"


@contextlib.contextmanager
def _pidfd(pid: int) -> Iterator[int]:
    """A descriptor of this process, which stays valid when its pid is reused."""
    descriptor = os.pidfd_open(pid)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
