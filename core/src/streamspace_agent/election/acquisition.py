"""How a candidate gets the lease: observe it, wait until it may be taken, take it in one atomic step."""

import asyncio
import logging
import math
import random
from dataclasses import dataclass

from streamspace_agent.backoff import Backoff
from streamspace_agent.clock import Clock
from streamspace_agent.election import Candidate, Grant, Record
from streamspace_agent.election.bounded_backend import BoundedBackend
from streamspace_agent.election.identity import Identity
from streamspace_agent.election.lease import Lease
from streamspace_agent.election.status import SILENCE_ALARM, StatusRecorder
from streamspace_agent.election.takeover import GainReason, RecordWatch
from streamspace_agent.errors import BackendUnavailable, LeaseLost
from streamspace_agent.units import format_seconds

log = logging.getLogger(__name__)

# A standby observes the record this often between two renewals of the leader. A takeover waits for one more at most.
OBSERVATIONS_PER_RENEWAL = 4

# The pauses, in seconds, before a store that wakes its waiters for nothing is asked again.
FIRST_PAUSE, LONGEST_PAUSE = 0.01, 0.25


@dataclass(frozen=True, slots=True)
class HoldOff:
    """Lets the other replicas go first: the lease is not taken before ``ends_at``, on the elector's clock.

    It ends early once another replica has led, unless ``until_expired`` is set.
    """

    ends_at: float = -math.inf
    until_expired: bool = False


@dataclass(frozen=True, slots=True)
class Acquired:
    lease: Lease
    reason: GainReason
    previous: Record | None


class Acquisition:
    """One call of ``lead()``. Its nonce is its own: a lost answer to an earlier call can never pass for this one's."""

    def __init__(
        self,
        backend: BoundedBackend,
        me: Identity,
        number: int,
        clock: Clock,
        rng: random.Random,
        status: StatusRecorder,
        *,
        highest: int,
        hold_off: HoldOff,
    ) -> None:
        self._backend = backend
        self._me = me
        self._nonce = f"{me.nonce}.{number}"
        self._clock = clock
        self._status = status
        self.highest = highest
        """The highest epoch seen so far."""
        self._hold_off = hold_off
        self._watch = RecordWatch(f"{me.nonce}.", backend.timing.lease)
        self._unconfirmed = False
        self._pauses = Backoff(base=FIRST_PAUSE, cap=LONGEST_PAUSE, least=0.5, rng=rng)
        self._alarm_at = SILENCE_ALARM

    async def run(self) -> Acquired:
        """Return when this replica leads. Raises PreflightError if the store says that it never can."""
        while True:
            try:
                self._see(await self._backend.observe())
                acquired = await self._try()
                if acquired:
                    return acquired
                await self._wait()
            except BackendUnavailable:
                await self._backend.backoff()

    async def _try(self) -> Acquired | None:
        record = self._watch.record
        dead = await self._backend.holder_is_dead(record) if record and not record.released else None
        reason = self._watch.free_because(self._clock.now(), dead=dead)
        if reason is None or self._clock.now() < self._hold_off.ends_at:
            return None
        asked_at, grant = await self._acquire(record)
        if grant is None:
            return None
        if grant.record.epoch <= self.highest and not self._unconfirmed:
            await self._give_back(grant)
            raise BackendUnavailable(f"granted epoch {grant.record.epoch} although {self.highest} was seen before")
        if self._unconfirmed:
            # It may be the echo of an earlier attempt, and the other replicas count the lease from that one.
            asked_at, grant = await self._confirm(grant)
        follows = record.epoch if record is not None else 0
        lease = Lease(grant, self._backend.timing, asked_at, self._clock, follows=follows)
        if not lease.valid():
            raise BackendUnavailable("the lease was granted too late to be used")
        return Acquired(lease, reason, record)

    async def _acquire(self, seen: Record | None) -> tuple[float, Grant | None]:
        me, lease, floor = self._me, self._backend.timing.lease, max(self.highest, self._clock.wall_ms())
        candidate = Candidate(me.agent_id, me.instance, self._nonce, me.host, me.container_id, lease, floor)
        asked_at = self._clock.now()
        call = asyncio.ensure_future(self._backend.acquire(candidate, seen))
        try:
            result = await asyncio.shield(call)
        except asyncio.CancelledError:
            # The call is not interrupted: whatever it takes must be given back.
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
            return asked_at, await self._backend.renew(grant, self._backend.timing.call_timeout)
        except asyncio.CancelledError:
            await self._give_back(grant)
            raise
        except LeaseLost as error:
            raise BackendUnavailable(f"granted and lost again at once: {error}") from error

    async def _give_back(self, grant: Grant) -> None:
        try:
            await self._backend.release(grant)
        except (BackendUnavailable, LeaseLost) as error:
            log.warning("could not release an unused lease, it will run out: %s", error)

    def _see(self, record: Record | None) -> None:
        before, now = self._watch.record, self._clock.now()
        if self._watch.see(record, now):
            self._pauses.failures, self._alarm_at = 0, SILENCE_ALARM
        if record:
            self.highest = max(self.highest, record.epoch)
            if not record.nonce.startswith(f"{self._me.nonce}.") and not record.released:
                if not self._hold_off.until_expired:
                    self._hold_off = HoldOff()
                if not record.same_tenure(before):
                    log.info("standing by: %s leads %s (epoch %d)", record.holder, record.agent_id, record.epoch)
        self._status.saw(record, self._watch.silence(now))

    async def _wait(self) -> None:
        timing, began = self._backend.timing, self._clock.now()
        timeout = timing.renew_every
        if timing.lease is not None:
            timeout = min(timeout / OBSERVATIONS_PER_RENEWAL, max(0.001, self._watch.remaining(began)))
        if began < self._hold_off.ends_at:
            await asyncio.sleep(min(timeout, self._hold_off.ends_at - began))
            return
        await self._alarm(began)
        if self._watch.free_because(began) not in {None, GainReason.KERNEL}:
            await asyncio.sleep(self._pauses.delay())  # free, but not acquired: another replica was quicker
            return
        await self._backend.wait_change(self._watch.record, timeout)
        if self._clock.now() - began < min(FIRST_PAUSE, timeout):
            await asyncio.sleep(self._pauses.delay())

    async def _alarm(self, now: float) -> None:
        """Report a silent leader that a kernel lock keeps in place, once; have it fenced where that is allowed."""
        record, silence = self._watch.record, self._watch.silence(now)
        if self._backend.timing.lease is not None or not record or record.released or silence < self._alarm_at:
            return
        if self._alarm_at == SILENCE_ALARM:
            log.error(
                "%s leads %s (epoch %d) but has shown no sign of life for %s: it may be frozen (SIGSTOP, docker pause) "
                "or a process that it started keeps the lock; restart that replica, and no other, to let another lead",
                record.holder,
                record.agent_id,
                record.epoch,
                format_seconds(silence),
            )
        self._alarm_at = silence + SILENCE_ALARM
        if how := await self._backend.fence(record):
            log.warning("%s (epoch %d) was frozen: %s", record.holder, record.epoch, how)
