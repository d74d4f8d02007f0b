"""A leader's renewals, from the grant to the end of the lease."""

import asyncio
import logging
import random

from streamspace_agent.clock import Clock
from streamspace_agent.election.guard import TICK, Guard
from streamspace_agent.election.lease import Ending, Lease
from streamspace_agent.election.store import Store
from streamspace_agent.election.trace import Trace
from streamspace_agent.errors import BackendUnavailable, LeaseLost, PreflightError
from streamspace_agent.units import format_seconds

log = logging.getLogger(__name__)

# Between two tries of a renewal whose outcome is unknown, with jitter: short against every lease, long for a store.
RETRY_PAUSE = 0.1


class Tenure:
    """Renews one lease until it is over or :meth:`stop` is called. Never ends the agent's work: the lease's end does."""

    def __init__(
        self, lease: Lease, store: Store, guard: Guard, *, clock: Clock, rng: random.Random, trace: Trace
    ) -> None:
        self.lease = lease
        self.late = 0
        """Renewals that were confirmed only after half the lease."""
        self._store = store
        self._guard = guard
        self._clock = clock
        self._rng = rng
        self._trace = trace
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Begin no further renewal. One under way is waited for, so that a release goes by what it wrote."""
        self._stopping.set()

    async def run(self) -> None:
        timing, lease = self._store.timing, self.lease
        due = lease.renewed_at + timing.renew_every
        unknown = silenced = False
        while await self._until(due) and not lease.lapse():
            if self._guard.silent:
                if not silenced:
                    log.warning(
                        "epoch %d is not renewed: the main loop has not run for %s",
                        lease.epoch,
                        format_seconds(self._guard.silence),
                    )
                silenced, due = True, self._clock.now() + TICK
                continue
            silenced = False
            stale = not lease.fresh()
            asked_at = self._clock.now()
            try:
                grant = await self._store.renew(lease.grant, max(0.001, lease.deadline - asked_at))
            except (LeaseLost, PreflightError) as error:
                lease.end(Ending.TAKEN, f"the store says that it is not ours any more: {error}")
            except BackendUnavailable as error:
                if not unknown:
                    log.warning("renewal of epoch %d is unconfirmed, %s: %s", lease.epoch, self._left(), error)
                unknown, due = True, self._clock.now() + RETRY_PAUSE * self._rng.uniform(0.5, 1.0)
            else:
                if lease.extend(grant, asked_at):
                    self._trace.tell("renewed", lease)
                    self.late += stale
                    if unknown:
                        log.info("renewal of epoch %d is confirmed again", lease.epoch)
                unknown, due = False, asked_at + timing.renew_every

    def _left(self) -> str:
        left = self.lease.deadline - self._clock.now()
        return "no deadline" if self._store.timing.lease is None else f"{format_seconds(max(0.0, left))} left"

    async def _until(self, due: float) -> bool:
        """Sleep until ``due``; False when it is time to stop."""
        try:
            async with asyncio.timeout(max(0.0, due - self._clock.now())):
                await self._stopping.wait()
        except TimeoutError:
            return True
        return False
