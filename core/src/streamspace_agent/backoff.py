"""Exponential back-off with full jitter.

The delay before try n is uniform between 0 and ``min(cap, base * 2**n)`` seconds (Amazon's "Exponential Backoff And
Jitter", full jitter). It starts over only after a healthy period: a handshake alone proves nothing.
"""

import random


class Backoff:
    """The delays between the tries of one thing.

    Its failures are forgotten once it has worked for ``healthy_after`` seconds. ``least`` is the smallest delay as a
    share of the longest, for callers that must never retry at once.
    """

    def __init__(
        self,
        *,
        base: float = 0.4,
        cap: float = 30.0,
        healthy_after: float = 60.0,
        least: float = 0.0,
        rng: random.Random | None = None,
    ) -> None:
        self._base = base
        self._cap = cap
        self._least = least
        self._healthy_after = healthy_after
        self._rng = rng or random.Random()  # noqa: S311 - spreads load, guards nothing
        self.failures = 0
        self._quick = True
        self._worked = False

    def worked_for(self, seconds: float) -> None:
        """Report how long the last try worked before it ended. A try that never worked is not reported.

        The next delay is then short, whatever failed before: once, and again after each healthy period.
        """
        self._worked = True
        if seconds >= self._healthy_after:
            self.failures = 0
            self._quick = True

    def delay(self) -> float:
        """Seconds to wait before the next try."""
        exponent = min(self.failures, 16)
        if self._worked and self._quick:
            exponent, self._quick = 0, False
        self._worked = False
        ceiling = min(self._cap, self._base * 2.0**exponent)
        self.failures += 1
        return self._rng.uniform(self._least * ceiling, ceiling)
