"""When a session was created, measured by a clock that nobody can set.

The engine records the wall clock's time, which may have been years off: right after boot, before time synchronization.
So the agent records the uptime and boot id of its host as labels. Until the next boot they give a session's age,
whatever the wall clock said or says. After a reboot, or on another host, the engine's record is used.
"""

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from streamspace_runtime_docker.containers import labels
from streamspace_runtime_docker.containers.info import ContainerInfo

BOOT = Path("/proc/sys/kernel/random/boot_id")
TOLERANCE = 60.0
"""Seconds by which the two may differ: synchronized clocks are never set by more."""


def _uptime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class CreationTimes:
    def __init__(
        self, boot: Path = BOOT, uptime: Callable[[], float] = _uptime, wall: Callable[[], float] = time.time
    ) -> None:
        try:
            self._boot = boot.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            self._boot = ""
        self._uptime = uptime
        self._wall = wall

    def labels(self) -> Mapping[str, str]:
        """Labels of a container that is created now."""
        return {labels.BOOT: self._boot, labels.UPTIME: f"{self._uptime():.3f}"}

    def created_at(self, found: ContainerInfo) -> float:
        """Unix time by the wall clock as it is now, even if it has been set since the session was created."""
        uptime = labels.number(found.labels, labels.UPTIME)
        if not found.created_at or uptime is None or not self._boot or found.labels.get(labels.BOOT) != self._boot:
            return found.created_at
        age = self._uptime() - uptime
        if age < 0 or math.isclose(self._wall() - found.created_at, age, abs_tol=TOLERANCE):
            return found.created_at
        return float(round(self._wall() - age))
