"""When a session was made, by a clock that nobody can set.

The engine writes down the wall clock's time, once, which may have been years off: of a machine that had not asked for the time yet. So
the agent writes beside it how long its host had been up, and in which run. As long as that run lasts, a session's age is known
whatever the wall clock said or says; later, and on another host, the engine's record has to do.
"""

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from streamspace_runtime_docker import labels
from streamspace_runtime_docker.found import Found

BOOT = Path("/proc/sys/kernel/random/boot_id")
TOLERANCE = 60.0
"""Seconds by which the two may differ: clocks that are kept right are never set by more."""


def _uptime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Births:
    def __init__(
        self, boot: Path = BOOT, uptime: Callable[[], float] = _uptime, wall: Callable[[], float] = time.time
    ) -> None:
        try:
            self._boot = boot.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError):
            self._boot = ""
        self._uptime = uptime
        self._wall = wall

    def marks(self) -> Mapping[str, str]:
        """Labels of what is made now."""
        return {labels.BOOT: self._boot, labels.UPTIME: f"{self._uptime():.3f}"}

    def created_at(self, found: Found) -> float:
        """Unix time by the wall clock as it is now, also where it was another when the session was made."""
        uptime = labels.number(found.labels, labels.UPTIME)
        if not found.created_at or uptime is None or not self._boot or found.labels.get(labels.BOOT) != self._boot:
            return found.created_at
        age = self._uptime() - uptime
        if age < 0 or math.isclose(self._wall() - found.created_at, age, abs_tol=TOLERANCE):
            return found.created_at
        return float(round(self._wall() - age))
