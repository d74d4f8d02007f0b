"""Renews a leader's lease, from the grant to the lease's end."""

import asyncio
import logging
import random
from dataclasses import dataclass, field

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


@dataclass(slots=True, eq=False)
class Renewal:
    """Renews one lease until it is over or :meth:`stop` is called. The lease's end stops the agent's work, not this."""

    lease: Lease
    backend: BoundedBackend
    watchdog: Watchdog
    clock: Clock
    rng: random.Random
    trace: Trace
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    def stop(self) -> None:
        """Begin no further renewal. One under way runs to its end, so that the release compares what it wrote."""
        self.stopping.set()

    async def run(self) -> None:
        timing, lease = self.backend.timing, self.lease
        due = lease.renewed_at + timing.renew_every
        unknown = paused = False
        while await self._sleep_until(due) and not lease.lapse():
            if self.watchdog.silent:
                if not paused:
                    log.warning(
                        "epoch %d is not renewed: the main loop has not run for %s",
                        lease.epoch,
                        format_seconds(self.watchdog.silence),
                    )
                paused, due = True, self.clock.now() + TICK
                continue
            paused = False
            asked_at = self.clock.now()
            try:
                grant = await self.backend.renew(lease.grant, max(0.001, lease.deadline - asked_at))
            except (LeaseLost, PreflightError) as error:
                lease.end(Ending.TAKEN, f"the store says that this replica no longer holds the lease: {error}")
            except BackendUnavailable as error:
                if not unknown:
                    log.warning("renewal of epoch %d is unconfirmed, %s: %s", lease.epoch, self._left(), error)
                unknown, due = True, self.clock.now() + RETRY_PAUSE * self.rng.uniform(0.5, 1.0)
            else:
                if lease.extend(grant, asked_at):
                    self.trace.write("renewed", lease)
                    if unknown:
                        log.info("renewal of epoch %d is confirmed again", lease.epoch)
                unknown, due = False, asked_at + timing.renew_every

    def _left(self) -> str:
        left = self.lease.deadline - self.clock.now()
        return "no deadline" if self.backend.timing.lease is None else f"{format_seconds(max(0.0, left))} left"

    async def _sleep_until(self, due: float) -> bool:
        """Sleep until ``due``; False once :meth:`stop` was called."""
        try:
            async with asyncio.timeout(max(0.0, due - self.clock.now())):
                await self.stopping.wait()
        except TimeoutError:
            return True
        return False
