"""Clocks that can be passed in, so that tests can set them."""

import time
from typing import Protocol


class Clock(Protocol):
    def now(self) -> float:
        """Seconds that pass evenly, also while the host is suspended. Only differences are meaningful."""

    def wall_ms(self) -> int:
        """Unix time in milliseconds, for epochs and for texts that people read, never for a deadline."""


class BoottimeClock:
    """CLOCK_BOOTTIME: nobody can set it, and unlike CLOCK_MONOTONIC it also runs while the host is suspended."""

    def now(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000
