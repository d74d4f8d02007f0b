"""Ends a leader that is frozen and therefore keeps the kernel's lock: only where the operator allows it, only what is proved frozen.

A leader without a sign of life may be at work all the same, when its disk is full. So the proof is asked of whoever runs the
process: the engine says that its container is paused, or ps(1) and proc(5) that the process is stopped.
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
from streamspace_elect_file.entry import read

VARIABLE = "FENCE_FROZEN_LEADER"
TIMEOUT = 3.0
"""Seconds for each answer of the engine."""
STOPPED = frozenset("Tt")
"""States of a process that was stopped by a signal or by a debugger, proc(5)."""

_WORDS = {"": False, "0": False, "false": False, "no": False, "off": False} | dict.fromkeys(
    ["1", "true", "yes", "on"], True
)


class Fence:
    """Looks in the engine at ``docker_host``, and among the processes of this PID namespace."""

    def __init__(self, docker_host: str, *, proc: Path = Path("/proc")) -> None:
        self._engine = EngineSocket(docker_host, TIMEOUT)
        self._proc = proc

    @classmethod
    def of(cls, environ: Mapping[str, str], docker_host: str) -> Self | None:
        """By ``FENCE_FROZEN_LEADER``; None unless it is true. Raises ConfigError."""
        value = environ.get(VARIABLE, "").strip().lower()
        if value not in _WORDS:
            raise ConfigError([f"{VARIABLE} is {value[:40]!r}: write true or false (the default)"])
        return cls(docker_host) if _WORDS[value] else None

    def end(self, lock: Path, record: Record, silent: Callable[[], bool]) -> str:
        """Kill the leader of ``record`` if it is proved frozen and, asked last, still ``silent``. Says what was done, "" if nothing.

        Blocks. Raises what the engine's socket and the file system raise.
        """
        if record.container_id:
            return self._end_container(record.container_id, silent)
        # A pid means something only to those who share the leader's PID namespace, which the host itself does.
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
        descriptor = os.open(lock, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
        try:
            entry, place = read(descriptor), os.fstat(descriptor)
        finally:
            os.close(descriptor)
        if entry is None or entry.pid <= 0:
            return ""
        with contextlib.suppress(ProcessLookupError), _pidfd(entry.pid) as process:
            if self._holds(entry.pid, place) and self._state(entry.pid) in STOPPED and silent():
                signal.pidfd_send_signal(process, signal.SIGKILL)
                return f"killed process {entry.pid}, which was stopped"
        return ""

    def _holds(self, pid: int, place: os.stat_result) -> bool:
        """Does the kernel say that this very process holds the lock on that file? proc_pid_fdinfo(5)

        Not /proc/locks: a unit with ProcSubset=pid, as ours, has none.
        """
        device, inode = place.st_dev, place.st_ino
        held = [str(pid), f"{os.major(device):02x}:{os.minor(device):02x}:{inode}"]
        for descriptor in (self._proc / str(pid) / "fdinfo").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
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
    """Names this very process, also when its pid is another's by now."""
    descriptor = os.pidfd_open(pid)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
