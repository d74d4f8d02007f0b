"""Time, as the elector sees it."""

import time
from typing import Protocol


class Clock(Protocol):
    def now(self) -> float:
        """Seconds that pass evenly, also while the host is suspended; only differences mean something."""

    def wall_ms(self) -> int:
        """Unix time in milliseconds: the floor of an epoch and texts for people, never a deadline."""


class BoottimeClock:
    """CLOCK_BOOTTIME: no one can set it, and unlike CLOCK_MONOTONIC it goes on while the host sleeps."""

    def now(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000
