"""The backend as the elector calls it: every call bounded, every outcome one of three."""

import asyncio
import logging
import random
from collections.abc import Coroutine
from typing import Any, Literal, TypeVar

from streamspace_agent.clock import Clock
from streamspace_agent.election import Candidate, ElectionBackend, Grant, Guarantee, Held, Problem, Record, Timing
from streamspace_agent.errors import BackendUnavailable, LeaseLost, PreflightError
from streamspace_agent.units import format_seconds

log = logging.getLogger(__name__)
Result = TypeVar("Result")

# After a first failure; doubles up to the cap, each time with jitter, so that replicas spread.
BACKOFF_FIRST = 0.1

FENCE_TIMEOUT = 10.0
"""Seconds for ending a frozen holder: an engine that stops a container may take some."""


class Store:
    """Turns every answer into a result, LeaseLost, PreflightError or BackendUnavailable; logs only when that changes."""

    def __init__(self, backend: ElectionBackend, clock: Clock, rng: random.Random) -> None:
        self.backend = backend
        self.timing: Timing = backend.timing
        self.errors = 0
        self.error = ""
        """Why the store cannot be relied on now; "" while it answers."""
        self._clock = clock
        self._rng = rng
        self._failing_since: float | None = None
        self._failures = 0

    async def preflight(self) -> list[Problem]:
        return await self._call(self.backend.preflight(), max(5.0, self.timing.call_timeout))

    async def observe(self) -> Record | None:
        return await self._call(self.backend.observe(), self.timing.call_timeout)

    async def acquire(self, me: Candidate, seen: Record | None) -> Grant | Held:
        return await self._call(self.backend.acquire(me, seen), self.timing.call_timeout)

    async def renew(self, grant: Grant, within: float) -> Grant:
        return await self._call(self.backend.renew(grant), min(within, self.timing.call_timeout))

    async def release(self, grant: Grant) -> None:
        await self._call(self.backend.release(grant), self.timing.call_timeout)

    async def wait_change(self, record: Record | None, timeout: float) -> None:
        await self._call(self.backend.wait_change(record, timeout), timeout + self.timing.call_timeout)

    async def holder_is_dead(self, record: Record) -> Literal[True, False] | None:
        """Never fails: a certificate that cannot be had is none."""
        if Guarantee.CERTIFIES_DEATH not in self.backend.guarantees:
            return None
        try:
            async with asyncio.timeout(self.timing.call_timeout):
                return await self.backend.holder_is_dead(record)
        except Exception:  # noqa: BLE001 - whatever went wrong, nothing was proved
            return None

    async def fence(self, record: Record) -> str:
        """How the record's holder was ended for good, "" if it was not. Never fails: it is tried again later."""
        try:
            async with asyncio.timeout(FENCE_TIMEOUT):
                return await self.backend.fence(record)
        except Exception as error:  # noqa: BLE001 - whatever went wrong, the holder is as it was
            log.warning("could not fence %s: %s", record.holder, str(error) or type(error).__name__)
            return ""

    async def backoff(self) -> None:
        """Sleep after a failure, longer after each, with jitter."""
        cap = max(1.0, self.timing.renew_every)
        await asyncio.sleep(self._rng.uniform(0.5, 1.0) * min(cap, BACKOFF_FIRST * 2.0 ** min(self._failures, 16)))

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
        except TimeoutError as error:
            unavailable = BackendUnavailable(f"no answer within {format_seconds(timeout)}")
            self._failed(unavailable)
            raise unavailable from error
        except Exception as error:
            unavailable = BackendUnavailable(f"{type(error).__name__}: {error}")
            self._failed(unavailable)
            raise unavailable from error
        self._answered()
        return result

    def _failed(self, error: BackendUnavailable) -> None:
        self.errors += 1
        self.error = str(error)
        self._failures += 1
        if self._failing_since is None:
            self._failing_since = self._clock.now()
            log.warning("election store %s cannot be relied on, trying on: %s", self.backend.name, error)

    def _answered(self) -> None:
        if self._failing_since is not None:
            away = format_seconds(self._clock.now() - self._failing_since)
            log.info(
                "election store %s answers again after %s and %d failures", self.backend.name, away, self._failures
            )
        self._failing_since, self._failures, self.error = None, 0, ""
