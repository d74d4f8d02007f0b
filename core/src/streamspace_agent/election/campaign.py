"""A candidate's way to the lease: look, wait until it may be taken, take it in one atomic step."""

import asyncio
import logging
import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from streamspace_agent.clock import Clock
from streamspace_agent.election import Candidate, Grant, Record
from streamspace_agent.election.identity import Identity
from streamspace_agent.election.lease import Lease
from streamspace_agent.election.status import SILENCE_ALARM
from streamspace_agent.election.store import Store
from streamspace_agent.election.watch import Opening, Watch
from streamspace_agent.errors import BackendUnavailable, LeaseLost
from streamspace_agent.units import format_seconds

log = logging.getLogger(__name__)

# A standby looks this often between two renewals of the leader: what it adds to a takeover is at most one look.
LOOKS_PER_RENEWAL = 4

# A store that wakes its waiters for nothing is asked again no sooner than this, then ever later.
SPIN_FIRST = 0.01
SPIN_CAP = 0.25


@dataclass(frozen=True, slots=True)
class Won:
    lease: Lease
    opening: Opening
    before: Record | None


class Campaign:
    """One call of ``lead()``, with a nonce of its own: an answer lost in an earlier one can never pass for this one's."""

    def __init__(
        self,
        store: Store,
        me: Identity,
        number: int,
        *,
        clock: Clock,
        rng: random.Random,
        saw: Callable[[Record | None, float], None],
        not_before: float = -math.inf,
        firm: bool = False,
        highest: int = 0,
    ) -> None:
        self._store = store
        self._me = me
        self._nonce = f"{me.nonce}.{number}"
        self._clock = clock
        self._rng = rng
        self._not_before = not_before
        self._firm = firm
        self._saw = saw
        self.highest = highest
        """The highest epoch seen so far."""
        self._watch = Watch(f"{me.nonce}.", store.timing.lease)
        self._unconfirmed = False
        self._spins = 0
        self._alarm_at = SILENCE_ALARM

    async def run(self) -> Won:
        """Until this replica leads. Raises PreflightError if the store says that it never can."""
        while True:
            try:
                self._see(await self._store.observe())
                won = await self._try()
                if won:
                    return won
                await self._wait()
            except BackendUnavailable:
                await self._store.backoff()

    async def _try(self) -> Won | None:
        record = self._watch.record
        dead = await self._store.holder_is_dead(record) if record and not record.released else None
        opening = self._watch.opening(self._clock.now(), dead=dead)
        if opening is None or self._clock.now() < self._not_before:
            return None
        asked_at, grant = await self._acquire(record)
        if grant is None:
            return None
        if grant.record.epoch <= self.highest and not self._unconfirmed:
            await self._give_back(grant)
            raise BackendUnavailable(f"granted epoch {grant.record.epoch} although {self.highest} was seen before")
        if self._unconfirmed:
            # It may be the echo of an earlier attempt, and the others' watch runs from that one.
            asked_at, grant = await self._confirm(grant)
        lease = Lease(
            grant, self._store.timing, asked_at, self._clock, follows=record.epoch if record is not None else 0
        )
        if not lease.valid():
            raise BackendUnavailable("the lease was granted too late to be used")
        return Won(lease, opening, record)

    async def _acquire(self, seen: Record | None) -> tuple[float, Grant | None]:
        timing = self._store.timing
        candidate = Candidate(
            self._me.agent_id,
            self._me.instance,
            self._nonce,
            self._me.host,
            self._me.container_id,
            timing.lease,
            max(self.highest, self._clock.wall_ms()),
        )
        asked_at = self._clock.now()
        call = asyncio.ensure_future(self._store.acquire(candidate, seen))
        try:
            result = await asyncio.shield(call)
        except asyncio.CancelledError:
            # Not to be torn in the middle: whatever it takes must be given back.
            await asyncio.wait([call])
            if not call.cancelled() and call.exception() is None and isinstance(granted := call.result(), Grant):
                await self._give_back(granted)
            raise
        except BackendUnavailable:
            self._unconfirmed = True
            raise
        if isinstance(result, Grant):
            return asked_at, result
        self._see(result.record)
        return asked_at, None

    async def _confirm(self, grant: Grant) -> tuple[float, Grant]:
        asked_at = self._clock.now()
        try:
            return asked_at, await self._store.renew(grant, self._store.timing.call_timeout)
        except asyncio.CancelledError:
            await self._give_back(grant)
            raise
        except LeaseLost as error:
            raise BackendUnavailable(f"granted and lost again at once: {error}") from error

    async def _give_back(self, grant: Grant) -> None:
        try:
            await self._store.release(grant)
        except (BackendUnavailable, LeaseLost) as error:
            log.warning("could not give an unused lease back, it will run out: %s", error)

    def _see(self, record: Record | None) -> None:
        before, now = self._watch.record, self._clock.now()
        if self._watch.see(record, now):
            self._spins, self._alarm_at = 0, SILENCE_ALARM
        if record:
            self.highest = max(self.highest, record.epoch)
            if not record.nonce.startswith(f"{self._me.nonce}."):
                if record.released is False and not self._firm:
                    self._not_before = -math.inf  # others were let first, and one came
                if not record.same_tenure(before) and not record.released:
                    log.info("standing by: %s leads agent %s, epoch %d", record.holder, record.agent_id, record.epoch)
        self._saw(record, self._watch.silence(now))

    async def _wait(self) -> None:
        timing, began = self._store.timing, self._clock.now()
        timeout = timing.renew_every
        if timing.lease is not None:
            timeout = min(timeout / LOOKS_PER_RENEWAL, max(0.001, self._watch.remaining(began)))
        if began < self._not_before:
            await asyncio.sleep(min(timeout, self._not_before - began))
            return
        await self._alarm(began)
        record = self._watch.record
        opening = self._watch.opening(began)
        if opening not in {None, Opening.KERNEL}:
            await self._spin()  # free to take, yet it was not ours to have: somebody is quicker
            return
        await self._store.wait_change(record, timeout)
        if self._clock.now() - began < min(SPIN_FIRST, timeout):
            await self._spin()

    async def _spin(self) -> None:
        pause = min(SPIN_CAP, SPIN_FIRST * 2.0 ** min(self._spins, 16))
        self._spins += 1
        await asyncio.sleep(pause * self._rng.uniform(0.5, 1.0))

    async def _alarm(self, now: float) -> None:
        """Tell once of a leader that a kernel lock keeps in place though it is silent; have it fenced, where that is allowed."""
        record, silence = self._watch.record, self._watch.silence(now)
        if self._store.timing.lease is not None or not record or record.released or silence < self._alarm_at:
            return
        if self._alarm_at == SILENCE_ALARM:
            log.error(
                "%s leads agent %s, epoch %d, but has shown no sign of life for %s: it may be frozen (SIGSTOP, docker pause) "
                "or a process it started keeps the lock; restart exactly that replica to let another lead",
                record.holder,
                record.agent_id,
                record.epoch,
                format_seconds(silence),
            )
        self._alarm_at = silence + SILENCE_ALARM
        if how := await self._store.fence(record):
            log.warning("%s, epoch %d, was frozen: %s", record.holder, record.epoch, how)
