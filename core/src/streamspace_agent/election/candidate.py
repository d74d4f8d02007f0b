"""One replica's part in the election: acquire the lease, renew it, release it, again. One event loop, no threads."""

import asyncio
import logging
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from streamspace_agent.clock import Clock
from streamspace_agent.election import ElectionBackend, Problem
from streamspace_agent.election.acquisition import Acquired, Acquisition, HoldOff
from streamspace_agent.election.bounded_backend import BoundedBackend
from streamspace_agent.election.identity import Identity
from streamspace_agent.election.lease import Ending, Lease
from streamspace_agent.election.renewal import Renewal
from streamspace_agent.election.standalone import StandaloneBackend
from streamspace_agent.election.status import ElectionStatus, StatusRecorder
from streamspace_agent.election.takeover import GainReason
from streamspace_agent.election.trace import Trace
from streamspace_agent.election.watchdog import Watchdog
from streamspace_agent.errors import BackendUnavailable, LeaseLost, PreflightError
from streamspace_agent.units import format_seconds

log = logging.getLogger(__name__)

# How often a release is tried. Without it, the other replicas wait until the lease runs out.
RELEASE_TRIES = 3


class LeadRequest:
    """One call that waits to lead, so that a lease granted after the caller was cancelled can be given back."""

    def __init__(self) -> None:
        self.lease: Lease | None = None


class LocalCandidate:
    """The elector without its threads, as simulations run it. Every coroutine belongs to one event loop."""

    def __init__(
        self,
        backend: ElectionBackend,
        me: Identity,
        watchdog: Watchdog,
        *,
        clock: Clock,
        rng: random.Random,
        trace: Trace | None = None,
    ) -> None:
        self._me = me
        self._watchdog = watchdog
        self._clock = clock
        self._rng = rng
        self._trace = trace or Trace({}, me.instance)
        self._backend = BoundedBackend(backend, clock, rng)
        self._status = StatusRecorder(clock, backend.timing.lease)
        self._acquiring: asyncio.Task[object] | None = None
        self._acquisitions = 0
        self._renewal: Renewal | None = None
        self._renewing: asyncio.Task[None] | None = None
        self._reported: Lease | None = None
        """The last lease whose loss was reported."""
        self._calls: set[asyncio.Task[object]] = set()
        self._turn = asyncio.Lock()
        """Held while acquiring and while resigning: the next call of lead() waits until the last lease is released."""
        self._highest = 0
        self._hold_off = HoldOff()

    async def preflight(self) -> list[Problem]:
        return await self._backend.preflight()

    async def lead(self, request: LeadRequest | None = None, *, above: int = 0) -> Lease:
        """Wait until this replica leads, in an epoch above ``above``. One at a time, and only after a resignation."""
        async with self._call():
            self._highest = max(self._highest, above)
            if self._renewal:
                raise RuntimeError("lead() was called again before the lease was resigned")
            began = self._clock.now()
            acquired = await self._acquire()
            self._begin(acquired, waited=self._clock.now() - began)
            if request:
                request.lease = acquired.lease
            return acquired.lease

    async def _acquire(self) -> Acquired:
        self._acquiring = asyncio.current_task()
        self._acquisitions += 1
        self._status.standing(True)
        self._trace.write("standing")
        acquisition = Acquisition(
            self._backend,
            self._me,
            self._acquisitions,
            self._clock,
            self._rng,
            self._status,
            highest=self._highest,
            hold_off=self._hold_off,
        )
        try:
            return await acquisition.run()
        finally:
            self._acquiring = None
            self._highest = max(self._highest, acquisition.highest)
            self._status.standing(False)

    def _begin(self, acquired: Acquired, *, waited: float) -> None:
        lease = acquired.lease
        self._highest = max(self._highest, lease.epoch)
        self._watchdog.watch(lease)
        self._status.gained(lease, acquired.reason)
        self._trace.write("in", lease)
        self._renewal = Renewal(lease, self._backend, self._watchdog, self._clock, self._rng, self._trace)
        self._renewing = asyncio.create_task(self._renew(self._renewal))
        how = f"{_explain(acquired)}; waited {format_seconds(waited)}"
        if self._backend.name == StandaloneBackend.name:
            how = "it runs alone (ENABLE_HA=false)"
        log.info("%s gained leadership of %s (epoch %d): %s", self._me.instance, self._me.agent_id, lease.epoch, how)

    async def _renew(self, renewal: Renewal) -> None:
        lease = renewal.lease
        try:
            await renewal.run()
        except Exception as error:  # a bug must end in a lost lease, not in one that nobody renews in silence
            log.exception("renewals of epoch %d failed", lease.epoch)
            lease.end(Ending.RAN_OUT, f"renewals failed: {error!r}")
        if lease.over:
            self._report_loss(lease)

    def _report_loss(self, lease: Lease) -> None:
        if self._reported is lease:
            return
        self._reported = lease
        self._trace.write("over", lease)
        self._status.lost(lease)
        log.log(
            logging.INFO if lease.ending is Ending.RESIGNED else logging.WARNING,
            "%s lost leadership of %s after %s (epoch %d): %s",
            self._me.instance,
            self._me.agent_id,
            format_seconds(lease.ended_at - lease.began),
            lease.epoch,
            lease.reason,
        )

    async def resign(self, lease: Lease, reason: str, *, hold_off: float = 0.0, until_expired: bool = False) -> None:
        """All work under ``lease`` has stopped. Release it if it is still held; resigning twice does nothing."""
        self._watchdog.dismiss(lease)
        self._trace.write("out", lease)
        if self._renewal is None or self._renewal.lease is not lease:
            return
        async with self._call():
            await self._resign(lease, reason, HoldOff(self._clock.now() + hold_off, until_expired))

    async def _resign(self, lease: Lease, reason: str, hold_off: HoldOff) -> None:
        renewal, renewing = self._renewal, self._renewing
        if renewal is None or renewing is None or renewal.lease is not lease:
            return
        self._hold_off = hold_off
        renewal.stop()
        await asyncio.wait([renewing])
        self._renewal = self._renewing = None
        if not lease.lapse():
            lease.end(Ending.RESIGNED, reason)
        self._report_loss(lease)
        self._status.stopped(lease)
        await self._release(lease)

    async def _release(self, lease: Lease) -> None:
        for attempt in range(RELEASE_TRIES):
            try:
                await self._backend.release(lease.grant)
                return
            except (LeaseLost, PreflightError):
                return
            except BackendUnavailable as error:
                if attempt + 1 == RELEASE_TRIES:
                    log.warning(
                        "release of epoch %d is unconfirmed, the other replicas wait until the lease runs out: %s",
                        lease.epoch,
                        error,
                    )
                else:
                    await self._backend.backoff()

    async def abandon(self, request: LeadRequest) -> None:
        """Give back what a cancelled caller may have been granted."""
        if request.lease:
            await self.resign(request.lease, "the caller that waited for it was cancelled")

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

    async def close(self) -> None:
        """Stop acquiring and renewing, without a release: work may still be running. The backend is closed last."""
        if self._acquiring:
            self._acquiring.cancel()
        if self._renewal:
            self._renewal.lease.end(Ending.CLOSED, "the elector was closed")
            self._renewal.stop()
        # Not every task of the loop: a backend may have one that only its aclose() ends.
        if others := self._calls | ({self._renewing} if self._renewing else set()):
            await asyncio.wait(others, timeout=RELEASE_TRIES * (self._backend.timing.call_timeout + 1.0))
        await self._backend.aclose()

    def status(self) -> ElectionStatus:
        return self._status.snapshot(store_error=self._backend.error)


def _explain(acquired: Acquired) -> str:
    previous = f"{acquired.previous.holder} (epoch {acquired.previous.epoch})" if acquired.previous else ""
    return {
        GainReason.RELEASED: f"{previous} released it",
        GainReason.CERTIFIED_DEATH: f"{previous} is proved dead",
        GainReason.RAN_OUT: f"{previous} did not renew for its whole lease",
        GainReason.NO_RECORD: "the store holds no record of an earlier leader",
        GainReason.OWN: f"{previous} was this process itself",
        GainReason.KERNEL: f"{previous} has ended and the kernel released its lock",
    }[acquired.reason]
