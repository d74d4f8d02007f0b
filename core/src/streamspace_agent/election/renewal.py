"""Renews a leader's lease, from the grant to the lease's end."""

import asyncio
import logging
import random

from streamspace_agent.clock import Clock
from streamspace_agent.election.bounded_backend import BoundedBackend
from streamspace_agent.election.lease import Ending, Lease
from streamspace_agent.election.trace import Trace
from streamspace_agent.election.watchdog import TICK, Watchdog
from streamspace_agent.errors import BackendUnavailable, LeaseLost, PreflightError
from streamspace_agent.units import format_seconds

log = logging.getLogger(__name__)

# The longest pause, in seconds, before a renewal whose outcome is unknown is tried again: short against every lease.
RETRY_PAUSE = 0.1


class Renewal:
    """Renews one lease until it is over or :meth:`stop` is called. The lease's end stops the agent's work, not this."""

    def __init__(
        self,
        lease: Lease,
        backend: BoundedBackend,
        watchdog: Watchdog,
        clock: Clock,
        rng: random.Random,
        trace: Trace,
    ) -> None:
        self.lease = lease
        self._backend = backend
        self._watchdog = watchdog
        self._clock = clock
        self._rng = rng
        self._trace = trace
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Begin no further renewal. One under way runs to its end, so that the release compares what it wrote."""
        self._stopping.set()

    async def run(self) -> None:
        timing, lease = self._backend.timing, self.lease
        due = lease.renewed_at + timing.renew_every
        unknown = paused = False
        while await self._sleep_until(due) and not lease.lapse():
            if self._watchdog.silent:
                if not paused:
                    log.warning(
                        "epoch %d is not renewed: the main loop has not run for %s",
                        lease.epoch,
                        format_seconds(self._watchdog.silence),
                    )
                paused, due = True, self._clock.now() + TICK
                continue
            paused = False
            asked_at = self._clock.now()
            try:
                grant = await self._backend.renew(lease.grant, max(0.001, lease.deadline - asked_at))
            except (LeaseLost, PreflightError) as error:
                lease.end(Ending.TAKEN, f"the store says that this replica no longer holds the lease: {error}")
            except BackendUnavailable as error:
                if not unknown:
                    log.warning("renewal of epoch %d is unconfirmed, %s: %s", lease.epoch, self._left(), error)
                unknown, due = True, self._clock.now() + RETRY_PAUSE * self._rng.uniform(0.5, 1.0)
            else:
                if lease.extend(grant, asked_at):
                    self._trace.write("renewed", lease)
                    if unknown:
                        log.info("renewal of epoch %d is confirmed again", lease.epoch)
                unknown, due = False, asked_at + timing.renew_every

    def _left(self) -> str:
        left = self.lease.deadline - self._clock.now()
        return "no deadline" if self._backend.timing.lease is None else f"{format_seconds(max(0.0, left))} left"

    async def _sleep_until(self, due: float) -> bool:
        """Sleep until ``due``; False once :meth:`stop` was called."""
        try:
            async with asyncio.timeout(max(0.0, due - self._clock.now())):
                await self._stopping.wait()
        except TimeoutError:
            return True
        return False
