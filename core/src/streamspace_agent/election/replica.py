"""One replica's part in the election: campaign, tenure, resignation, again. All on one event loop, without threads."""

import asyncio
import logging
import math
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from streamspace_agent.clock import Clock
from streamspace_agent.election import ElectionBackend, Problem
from streamspace_agent.election.campaign import Campaign, Won
from streamspace_agent.election.guard import Guard
from streamspace_agent.election.identity import Identity
from streamspace_agent.election.lease import Ending, Lease
from streamspace_agent.election.standalone import StandaloneBackend
from streamspace_agent.election.status import ElectionStatus, Tally
from streamspace_agent.election.store import Store
from streamspace_agent.election.tenure import Tenure
from streamspace_agent.election.trace import Trace
from streamspace_agent.election.watch import Opening
from streamspace_agent.errors import BackendUnavailable, LeaseLost, PreflightError
from streamspace_agent.units import format_seconds

log = logging.getLogger(__name__)

# A release is tried this often: without it the others only wait for the lease to run out.
RELEASE_TRIES = 3


class Ticket:
    """One caller's wish to lead, so that a lease granted while the caller turned away can be given back."""

    def __init__(self) -> None:
        self.lease: Lease | None = None


class Replica:
    """The elector without its thread: what a simulator runs. Every coroutine belongs to one event loop."""

    def __init__(
        self,
        backend: ElectionBackend,
        me: Identity,
        guard: Guard,
        *,
        clock: Clock,
        rng: random.Random,
        trace: Trace | None = None,
    ) -> None:
        self._me = me
        self._guard = guard
        self._clock = clock
        self._rng = rng
        self._trace = trace or Trace({}, me.instance)
        self._store = Store(backend, clock, rng)
        self._tally = Tally(clock, backend.timing.lease)
        self._tenure: Tenure | None = None
        self._renewals: asyncio.Task[None] | None = None
        self._campaign: asyncio.Task[object] | None = None
        self._campaigns = 0
        self._told: Lease | None = None
        self._calls: set[asyncio.Task[object]] = set()
        self._turn = asyncio.Lock()
        """Held by a campaign and by a resignation: the next wish to lead waits until the last one is cleared away."""
        self._highest = 0
        self._late = 0
        self._not_before = -math.inf
        self._firm = False

    @asynccontextmanager
    async def _call(self) -> AsyncIterator[None]:
        """A call that needs its turn, and that :meth:`close` waits for."""
        task = asyncio.current_task()
        assert task is not None
        self._calls.add(task)
        try:
            async with self._turn:
                yield
        finally:
            self._calls.discard(task)

    @property
    def backend_name(self) -> str:
        return self._store.backend.name

    async def preflight(self) -> list[Problem]:
        return await self._store.preflight()

    async def lead(self, ticket: Ticket | None = None, *, above: int = 0) -> Lease:
        """Wait until this replica leads, in an epoch above ``above``. One at a time, and only after the lease before was resigned."""
        async with self._call():
            self._highest = max(self._highest, above)
            if self._tenure:
                raise RuntimeError("lead() was called again before the lease was resigned")
            return await self._win(ticket)

    async def _win(self, ticket: Ticket | None) -> Lease:
        self._campaign = asyncio.current_task()
        self._campaigns += 1
        self._tally.asked(True)
        self._trace.tell("standing")
        began = self._clock.now()
        campaign = Campaign(
            self._store,
            self._me,
            self._campaigns,
            clock=self._clock,
            rng=self._rng,
            not_before=self._not_before,
            firm=self._firm,
            saw=self._tally.saw,
            highest=self._highest,
        )
        try:
            won = await campaign.run()
        finally:
            self._campaign = None
            self._highest = max(self._highest, campaign.highest)
            self._tally.asked(False)
        self._begin(won, began)
        if ticket:
            ticket.lease = won.lease
        return won.lease

    def _begin(self, won: Won, began: float) -> None:
        lease = won.lease
        self._highest = max(self._highest, lease.epoch)
        self._guard.watch(lease)
        self._tally.gained(lease, won.opening)
        self._trace.tell("in", lease)
        self._tenure = Tenure(lease, self._store, self._guard, clock=self._clock, rng=self._rng, trace=self._trace)
        self._renewals = asyncio.create_task(self._hold(self._tenure))
        waited = f"{_explain(won)}; waited {format_seconds(self._clock.now() - began)}"
        how = "it runs alone (ENABLE_HA=false)" if self._store.backend.name == StandaloneBackend.name else waited
        log.info("%s leads agent %s now, epoch %d: %s", self._me.instance, self._me.agent_id, lease.epoch, how)

    async def _hold(self, tenure: Tenure) -> None:
        lease = tenure.lease
        try:
            await tenure.run()
        except Exception as error:  # a fault of ours must end in a lost lease, not in one that nobody renews in silence
            log.exception("renewals of epoch %d failed", lease.epoch)
            lease.end(Ending.RAN_OUT, f"renewals failed: {error!r}")
        self._late += tenure.late
        tenure.late = 0
        if lease.over:
            self._tell_loss(lease)

    def _tell_loss(self, lease: Lease) -> None:
        if self._told is lease:
            return
        self._told = lease
        self._trace.tell("over", lease)
        self._tally.lost(lease)
        log.log(
            logging.INFO if lease.ending is Ending.RESIGNED else logging.WARNING,
            "%s leads agent %s no more, epoch %d, after %s: %s",
            self._me.instance,
            self._me.agent_id,
            lease.epoch,
            format_seconds(lease.ended_at - lease.began),
            lease.reason,
        )

    async def resign(self, lease: Lease, reason: str, *, hold_off: float = 0.0, firm: bool = False) -> None:
        """All work under ``lease`` has stopped. Release it if it is still ours; resigning twice does nothing."""
        self._guard.dismiss(lease)
        self._trace.tell("out", lease)
        if self._tenure is None or self._tenure.lease is not lease:
            return
        async with self._call():
            await self._resign(lease, reason, hold_off, firm=firm)

    async def _resign(self, lease: Lease, reason: str, hold_off: float, *, firm: bool) -> None:
        tenure, renewals = self._tenure, self._renewals
        if tenure is None or renewals is None or tenure.lease is not lease:
            return
        self._not_before = self._clock.now() + hold_off if hold_off > 0 else -math.inf
        self._firm = firm
        tenure.stop()
        await asyncio.wait([renewals])
        self._tenure = self._renewals = None
        if not lease.lapse():
            lease.end(Ending.RESIGNED, reason)
        self._tell_loss(lease)
        self._tally.stopped(lease)
        await self._release(lease)

    async def _release(self, lease: Lease) -> None:
        for attempt in range(RELEASE_TRIES):
            try:
                await self._store.release(lease.grant)
                return
            except (LeaseLost, PreflightError):
                return
            except BackendUnavailable as error:
                if attempt + 1 == RELEASE_TRIES:
                    log.warning("release of epoch %d is unconfirmed, the others wait it out: %s", lease.epoch, error)
                else:
                    await self._store.backoff()

    async def abandon(self, ticket: Ticket) -> None:
        """The caller that held ``ticket`` turned away: give back what it may have got."""
        if ticket.lease:
            await self.resign(ticket.lease, "nobody waited for it any more")

    async def close(self) -> None:
        """Stop campaigning and renewing, without a release: work may still be running. The backend is closed last."""
        if self._campaign:
            self._campaign.cancel()
        if self._tenure:
            self._tenure.lease.end(Ending.CLOSED, "the elector was closed")
            self._tenure.stop()
        # Not every task of the loop: a backend may have one that only its aclose() ends.
        if others := self._calls | ({self._renewals} if self._renewals else set()):
            await asyncio.wait(others, timeout=RELEASE_TRIES * (self._store.timing.call_timeout + 1.0))
        await self._store.backend.aclose()

    def status(self) -> ElectionStatus:
        late = self._late + (self._tenure.late if self._tenure else 0)
        return self._tally.snapshot(renewals_late=late, store_errors=self._store.errors, store_error=self._store.error)


def _explain(won: Won) -> str:
    before = f"{won.before.holder}, epoch {won.before.epoch}," if won.before else ""
    return {
        Opening.RELEASED: f"{before} had released it",
        Opening.CERTIFIED_DEATH: f"{before} is proved dead",
        Opening.RAN_OUT: f"{before} did not renew for its whole lease",
        Opening.NO_RECORD: "nobody led before, as far as the store remembers",
        Opening.OWN: f"{before} was this replica itself",
        Opening.KERNEL: f"{before} is gone and the kernel freed its lock",
    }[won.opening]
