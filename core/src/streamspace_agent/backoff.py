"""Exponential back-off with full jitter.

The delay before try n is uniform between 0 and ``min(cap, base * 2**n)`` seconds (Amazon's "Exponential Backoff And
Jitter", full jitter). It starts anew only after a period that proves health, not after a handshake.
"""

import random


class Backoff:
    """``healthy_after`` in seconds: how long something must have worked for its failures to be forgotten."""

    def __init__(
        self, *, base: float = 0.4, cap: float = 30.0, healthy_after: float = 60.0, rng: random.Random | None = None
    ) -> None:
        self._base = base
        self._cap = cap
        self._healthy_after = healthy_after
        self._rng = rng or random.Random()  # noqa: S311 - spreads load, guards nothing
        self.failures = 0

    def worked_for(self, seconds: float) -> None:
        """Tell how long the last try worked before it ended."""
        if seconds >= self._healthy_after:
            self.failures = 0

    def delay(self) -> float:
        """Seconds to wait before the next try."""
        ceiling = min(self._cap, self._base * 2.0 ** min(self.failures, 16))
        self.failures += 1
        return self._rng.uniform(0, ceiling)
