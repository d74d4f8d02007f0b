"""The last line of defence: ends a lease whose main loop is dead, and a process whose work outlives its lease.

Runs beside the elector's loop and the agent's, in a thread of its own that calls nothing which could block.
"""

import math
import threading
from collections.abc import Callable

from streamspace_agent.clock import Clock
from streamspace_agent.election.lease import Ending, Lease
from streamspace_agent.errors import EXIT_LEADERSHIP
from streamspace_agent.units import format_seconds

TICK = 0.25
"""Seconds between two checks, and between two beats of the main loop."""

# Renewals stop when the main loop has been silent for half a lease, 5 s at most. A loop that is blocked for 3 s then
# keeps a lease of 5 s: the last renewal is 1.5 s or less into the block, and good until 5.4 s. One that is blocked
# for good loses it after at most 2.5 + 4.45 s.
SILENCE_SHARE = 0.5
SILENCE_LIMIT = 5.0

# Where a lease is longer, or has no deadline, a main loop that is silent for so long is declared dead.
DEAD_AFTER = 15.0


class Watchdog:
    """Watches one lease at a time. The elector's watchdog thread, or a simulator, calls :meth:`check`.

    ``exit`` is called with the exit code when work goes on for ``stop_grace`` seconds after the lease has ended.
    """

    def __init__(
        self,
        clock: Clock,
        lease: float | None,
        stop_grace: float,
        exit: Callable[[int], None],  # noqa: A002 - it is what it does
    ) -> None:
        self._clock = clock
        self._limit = math.inf if lease is None else min(SILENCE_SHARE * lease, SILENCE_LIMIT)
        self._stop_grace = stop_grace
        self._exit = exit
        self._lock = threading.Lock()
        self._lease: Lease | None = None
        self._beats = self._counted = 0
        self.silence = 0.0
        """Seconds for which the main loop has not run."""
        self._checked = -math.inf
        self.armed = threading.Event()
        """Set while there is a lease to watch."""

    def beat(self) -> None:
        """The main loop runs."""
        self._beats += 1

    def watch(self, lease: Lease) -> None:
        with self._lock:
            self._lease, self.silence, self._checked = lease, 0.0, self._clock.now()
            self.armed.set()

    def dismiss(self, lease: Lease) -> None:
        """All work under this lease has stopped."""
        with self._lock:
            if self._lease is lease:
                self._lease = None

    @property
    def silent(self) -> bool:
        """Whether the main loop has been silent for so long that the lease must not be renewed."""
        return self.silence >= self._limit

    def check(self) -> float | None:
        """Check once. Returns the seconds until the next check, None when there is no lease to watch."""
        with self._lock:
            lease = self._lease
            if lease is None:
                self.armed.clear()
                return None
            now = self._clock.now()
            if self._beats != self._counted:
                self._counted, self.silence = self._beats, 0.0
            else:
                # No more than was watched: after SIGSTOP or a suspend the main loop gets its chance first.
                self.silence += min(now - self._checked, 2 * TICK)
            self._checked = now
        if self.silence >= DEAD_AFTER:
            lease.end(Ending.MAIN_LOOP_DEAD, f"the main loop has not run for {format_seconds(self.silence)}")
        if not lease.lapse():
            return max(0.001, min(TICK, lease.deadline - now))
        # Counted from when the end was noticed, not from the deadline: a process that was stopped meanwhile gets
        # its chance to stop by itself.
        overdue = now - lease.ended_at
        if overdue < self._stop_grace:
            return max(0.001, min(TICK, self._stop_grace - overdue))
        self.dismiss(lease)
        self._exit(EXIT_LEADERSHIP)
        return None
