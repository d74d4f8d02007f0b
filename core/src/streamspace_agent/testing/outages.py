"""The part of the suite of election backends about silence: a store that does not answer has said neither yes nor no."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, suppress
from typing import TypeVar

from streamspace_agent.election import Candidate, ElectionBackend, Grant, Record
from streamspace_agent.errors import BackendUnavailable, LeaseLost, PreflightError
from streamspace_agent.testing.suite import Suite

BackendFactory = Callable[[], ElectionBackend]
Outage = Callable[[], AbstractContextManager[object]]
Result = TypeVar("Result")
Make = Callable[[], Awaitable[ElectionBackend]]

PATIENCE = 30.0
"""Seconds for what a store on a busy machine does at once."""


def candidate(backend: ElectionBackend, name: str = "one", *, floor: int = 0) -> Candidate:
    return Candidate("agent-1", name, f"{name}-nonce.1", "host", "", backend.timing.lease, floor)


async def grant_of(backend: ElectionBackend, me: Candidate, within: float = PATIENCE) -> Grant:
    """Acquire as the core does once it has found the record free, trying on where a store lets nobody in at first."""
    async with asyncio.timeout(within):
        while True:
            result = await backend.acquire(me, await backend.observe())
            if isinstance(result, Grant):
                return result
            await asyncio.sleep(0.05)


async def seen_by(backend: ElectionBackend) -> Record:
    """The record that stands there; that there is one is part of the test."""
    record = await backend.observe()
    assert record is not None, "the store shows no record"
    return record


async def outcome(backend: ElectionBackend, call: Awaitable[object]) -> object:
    """What the core makes of a call in an outage: a result, a "no", or None for "cannot tell"."""
    try:
        async with asyncio.timeout(backend.timing.call_timeout):
            return await call
    except (LeaseLost, PreflightError) as error:
        return error
    except Exception:  # noqa: BLE001 - by the contract every other exception counts as "cannot tell"
        return None


async def _answered(call: Awaitable[object]) -> bool:
    """True for any answer, None included."""
    await call
    return True


class Outages(Suite):
    async def test_a_renewal_in_an_outage_is_neither_yes_nor_no(self, make: Make, outage: Outage) -> None:
        one = await make()
        grant = await grant_of(one, candidate(one))
        with outage():
            for _ in range(3):
                assert await outcome(one, one.renew(grant)) is None
        renewed = await self._again(lambda: one.renew(grant))
        assert renewed.record.same_tenure(grant.record)

    async def test_a_look_in_an_outage_shows_nothing_old_and_nothing_empty(self, make: Make, outage: Outage) -> None:
        one, other = await make(), await make()
        grant = await grant_of(one, candidate(one))
        await other.observe()
        with outage():
            for backend in (one, other):
                answer = await outcome(backend, _answered(backend.observe()))
                assert answer is None, "observe() answered although the store did not"
        assert (await self._again(lambda: seen_by(other))).same_tenure(grant.record)

    async def test_a_candidate_in_an_outage_gets_neither_the_lease_nor_a_refusal(
        self, make: Make, outage: Outage
    ) -> None:
        one, other = await make(), await make()
        grant = await grant_of(one, candidate(one))
        await other.observe()
        with outage():
            assert await outcome(other, other.acquire(candidate(other, "other"), None)) is None
            assert await outcome(other, other.holder_is_dead(grant.record)) is not True
        await self._again(lambda: one.renew(grant))

    async def test_a_release_in_an_outage_is_not_confirmed_unless_it_was_made(self, make: Make, outage: Outage) -> None:
        one, other = await make(), await make()
        grant = await grant_of(one, candidate(one))
        with outage():
            confirmed = await outcome(one, _answered(one.release(grant))) is not None
        if confirmed:
            assert (await self._again(lambda: seen_by(other))).released, "release() returned, but nothing was released"

        async def release() -> None:
            await one.release(grant)

        await self._again(release)
        assert (await seen_by(other)).released

    @staticmethod
    async def _again(call: Callable[[], Awaitable[Result]]) -> Result:
        """After an outage, as the core does it: until the store answers."""
        async with asyncio.timeout(PATIENCE):
            while True:
                with suppress(BackendUnavailable, TimeoutError):
                    return await call()
                await asyncio.sleep(0.05)
