"""The backend as the elector calls it: every call has a time limit and one of three outcomes."""

import asyncio
import logging
import random
from collections.abc import Coroutine
from typing import Any, Literal, TypeVar

from streamspace_agent.backoff import Backoff
from streamspace_agent.clock import Clock
from streamspace_agent.election import Candidate, ElectionBackend, Grant, Guarantee, Held, Problem, Record, Timing
from streamspace_agent.errors import BackendUnavailable, LeaseLost, PreflightError
from streamspace_agent.units import format_seconds

log = logging.getLogger(__name__)
Result = TypeVar("Result")

FIRST_BACKOFF = 0.1
FENCE_TIMEOUT = 10.0
"""Seconds for ending a frozen holder: an engine may take several to stop a container."""


class BoundedBackend:
    """Turns every answer into a result, LeaseLost, PreflightError or BackendUnavailable; logs only the changes."""

    def __init__(self, backend: ElectionBackend, clock: Clock, rng: random.Random) -> None:
        self.timing: Timing = backend.timing
        self.name = backend.name
        self.error = ""
        """Why the store is unavailable now; "" while it answers."""
        self._backend = backend
        self._clock = clock
        # With jitter, so that the replicas spread their tries.
        self._backoff = Backoff(base=FIRST_BACKOFF, cap=max(1.0, self.timing.renew_every), least=0.5, rng=rng)
        self._failing_since: float | None = None
        self._failures = 0

    async def preflight(self) -> list[Problem]:
        return await self._call(self._backend.preflight(), max(5.0, self.timing.call_timeout))

    async def observe(self) -> Record | None:
        return await self._call(self._backend.observe(), self.timing.call_timeout)

    async def acquire(self, me: Candidate, seen: Record | None) -> Grant | Held:
        return await self._call(self._backend.acquire(me, seen), self.timing.call_timeout)

    async def renew(self, grant: Grant, within: float) -> Grant:
        return await self._call(self._backend.renew(grant), min(within, self.timing.call_timeout))

    async def release(self, grant: Grant) -> None:
        await self._call(self._backend.release(grant), self.timing.call_timeout)

    async def wait_change(self, record: Record | None, timeout: float) -> None:
        await self._call(self._backend.wait_change(record, timeout), timeout + self.timing.call_timeout)

    async def holder_is_dead(self, record: Record) -> Literal[True, False] | None:
        """Never fails: any error means that nothing was proved."""
        if Guarantee.CERTIFIES_DEATH not in self._backend.guarantees:
            return None
        try:
            async with asyncio.timeout(self.timing.call_timeout):
                return await self._backend.holder_is_dead(record)
        except Exception:  # noqa: BLE001 - whatever went wrong, nothing was proved
            return None

    async def fence(self, record: Record) -> str:
        """Say how the record's holder was ended for good, or return "". Never fails: it is tried again later."""
        try:
            async with asyncio.timeout(FENCE_TIMEOUT):
                return await self._backend.fence(record)
        except Exception as error:  # noqa: BLE001 - whatever went wrong, the holder is as it was
            log.warning("could not fence %s: %s", record.holder, str(error) or type(error).__name__)
            return ""

    async def backoff(self) -> None:
        """Sleep after a failure: longer the more calls have failed since the store last answered."""
        self._backoff.failures = self._failures
        await asyncio.sleep(self._backoff.delay())

    async def aclose(self) -> None:
        await self._backend.aclose()

    async def _call(self, call: Coroutine[Any, Any, Result], timeout: float) -> Result:
        try:
            async with asyncio.timeout(timeout):
                result = await call
        except (LeaseLost, PreflightError):
            self._answered()
            raise
        except BackendUnavailable as error:
            self._failed(error)
            raise
        except Exception as error:
            late = isinstance(error, TimeoutError)
            why = f"no answer within {format_seconds(timeout)}" if late else f"{type(error).__name__}: {error}"
            unavailable = BackendUnavailable(why)
            self._failed(unavailable)
            raise unavailable from error
        self._answered()
        return result

    def _failed(self, error: BackendUnavailable) -> None:
        self.error = str(error)
        self._failures += 1
        if self._failing_since is None:
            self._failing_since = self._clock.now()
            log.warning("election store %s is unavailable, retrying: %s", self.name, error)

    def _answered(self) -> None:
        if self._failing_since is not None:
            away = format_seconds(self._clock.now() - self._failing_since)
            log.info("election store %s is available again after %s (%d failures)", self.name, away, self._failures)
        self._failing_since, self._failures, self.error = None, 0, ""
