"""The conformance suite of election backends: what the core relies on, as tests.

A backend's own test file subclasses :class:`ElectionBackendSuite` and overrides one fixture, ``backend_factory``: a
callable that makes a new backend object on the same, at first empty, store each time it is called, as another replica would.
Needs ``asyncio_mode = "auto"`` or the marker ``asyncio`` on the subclass.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

import pytest

from streamspace_agent.election import Candidate, ElectionBackend, Grant, Guarantee, Held, Record
from streamspace_agent.errors import BackendUnavailable, LeaseLost

BackendFactory = Callable[[], ElectionBackend]
Make = Callable[[], Awaitable[ElectionBackend]]


def candidate(backend: ElectionBackend, name: str = "one", *, floor: int = 0) -> Candidate:
    return Candidate("agent-1", name, f"{name}-nonce.1", "host", "", backend.timing.lease, floor)


async def grant_of(backend: ElectionBackend, me: Candidate, within: float = 30.0) -> Grant:
    """Acquire as the core does once it has found the record free, trying on where a store lets nobody in at first."""
    async with asyncio.timeout(within):
        while True:
            result = await backend.acquire(me, await backend.observe())
            if isinstance(result, Grant):
                return result
            await asyncio.sleep(0.05)


class ElectionBackendSuite:
    """Do not override tests: a backend that cannot pass one cannot carry a lease."""

    def __init_subclass__(cls) -> None:
        replaced = [name for name in vars(cls) if name.startswith("test_") and hasattr(ElectionBackendSuite, name)]
        if replaced:
            raise TypeError(f"{cls.__name__} replaces standard tests of the suite: {', '.join(replaced)}")

    @pytest.fixture
    def backend_factory(self) -> BackendFactory:
        raise NotImplementedError("override the fixture backend_factory")

    @pytest.fixture
    async def make(self, backend_factory: BackendFactory) -> AsyncIterator[Make]:
        made: list[ElectionBackend] = []

        async def make() -> ElectionBackend:
            made.append(backend_factory())
            return made[-1]

        yield make
        for backend in made:
            await backend.aclose()

    async def test_it_declares_its_name_its_guarantees_and_sane_numbers(self, make: Make) -> None:
        backend = await make()
        timing = backend.timing
        assert backend.name
        assert all(isinstance(guarantee, Guarantee) for guarantee in backend.guarantees)
        assert (timing.lease is None) == (Guarantee.ENDS_BY_ITSELF in backend.guarantees)
        assert timing.renew_every > 0
        assert timing.call_timeout > 0
        if timing.lease is not None:
            assert timing.margin > 0
            assert 2 * (timing.renew_every + timing.call_timeout) <= timing.lease - timing.margin

    async def test_an_empty_store_shows_no_record_and_passes_preflight(self, make: Make) -> None:
        backend = await make()
        assert not [problem for problem in await backend.preflight() if problem.fatal]
        assert await backend.observe() is None

    async def test_a_grant_carries_who_took_it_and_every_replica_sees_the_same(self, make: Make) -> None:
        one, other = await make(), await make()
        me = candidate(one, floor=41)
        grant = await grant_of(one, me)
        record = grant.record
        assert (record.agent_id, record.holder, record.nonce) == (me.agent_id, me.instance, me.nonce)
        assert (record.epoch, record.released) == (42, False)
        assert record.lease_ms == round((me.lease or 0) * 1000)
        for backend in (one, other):
            seen = await backend.observe()
            assert seen is not None
            assert seen.same_tenure(record)

    async def test_a_record_that_nobody_touches_looks_the_same_each_time(self, make: Make) -> None:
        one, other = await make(), await make()
        await grant_of(one, candidate(one))
        first = await other.observe()
        await asyncio.sleep(0.2)
        assert await other.observe() == first

    async def test_a_held_lease_is_not_given_to_one_who_saw_an_older_record(self, make: Make) -> None:
        one, other = await make(), await make()
        grant = await grant_of(one, candidate(one))
        for seen in (None, replace(grant.record, sequence=grant.record.sequence - 1, revision="stale")):
            result = await other.acquire(candidate(other, "other"), seen)
            assert isinstance(result, Held)
            assert result.record is not None
            assert result.record.same_tenure(grant.record)
        await one.renew(grant)

    async def test_of_many_at_once_exactly_one_gets_it(self, make: Make) -> None:
        backends = [await make() for _ in range(8)]
        first = await grant_of(backends[0], candidate(backends[0]))
        await backends[0].release(first)
        seen = await backends[0].observe()

        async def attempt(number: int) -> Grant | Held | None:
            try:
                return await backends[number].acquire(candidate(backends[number], f"r{number}"), seen)
            except BackendUnavailable:
                return None

        results = await asyncio.gather(*(attempt(number) for number in range(8)))
        winners = [result for result in results if isinstance(result, Grant)]
        assert len(winners) == 1
        now = await backends[0].observe()
        assert now is not None
        assert now.same_tenure(winners[0].record)

    async def test_the_same_nonce_asking_again_gets_its_own_lease(self, make: Make) -> None:
        one = await make()
        me = candidate(one)
        grant = await grant_of(one, me)
        again = await one.acquire(me, None)
        assert isinstance(again, Grant)
        assert again.record.same_tenure(grant.record)
        await one.renew(again)

    async def test_a_renewal_raises_the_sequence_and_nothing_else_of_the_tenure(self, make: Make) -> None:
        one, other = await make(), await make()
        grant = await grant_of(one, candidate(one))
        sequences = [grant.record.sequence]
        for _ in range(3):
            grant = await one.renew(grant)
            seen = await other.observe()
            assert seen is not None
            assert seen.same_tenure(grant.record)
            sequences.append(seen.sequence)
        assert sequences == sorted(set(sequences))

    async def test_a_release_is_shown_as_released_and_frees_the_lease_for_a_higher_epoch(self, make: Make) -> None:
        one, other = await make(), await make()
        grant = await grant_of(one, candidate(one, floor=1000))
        await one.release(grant)
        seen = await other.observe()
        assert seen is not None
        assert (seen.released, seen.epoch) == (True, grant.record.epoch)
        result = await other.acquire(candidate(other, "other"), seen)
        assert isinstance(result, Grant)
        assert result.record.epoch > grant.record.epoch

    async def test_what_was_released_cannot_be_renewed(self, make: Make) -> None:
        one = await make()
        grant = await grant_of(one, candidate(one))
        await one.release(grant)
        with pytest.raises(LeaseLost):
            await one.renew(grant)

    async def test_what_another_took_is_neither_renewed_nor_released_by_the_one_before(self, make: Make) -> None:
        one, other = await make(), await make()
        old = await grant_of(one, candidate(one))
        await one.release(old)
        new = await grant_of(other, candidate(other, "other"))
        with pytest.raises(LeaseLost):
            await one.renew(old)
        await one.release(old)
        seen = await one.observe()
        assert seen is not None
        assert seen.same_tenure(new.record)
        assert not seen.released
        await other.renew(new)

    async def test_a_waiter_returns_soon_after_a_release_and_by_its_timeout_without_one(self, make: Make) -> None:
        one, other = await make(), await make()
        grant = await grant_of(one, candidate(one))
        seen = await other.observe()
        await asyncio.wait_for(other.wait_change(seen, 0.3), 10)
        waiting = asyncio.create_task(self._see_released(other, seen))
        await asyncio.sleep(0.2)
        await one.release(grant)
        await asyncio.wait_for(waiting, 10)

    @staticmethod
    async def _see_released(backend: ElectionBackend, record: Record | None) -> None:
        while record is not None and not record.released:
            await backend.wait_change(record, 2.0)
            record = await backend.observe()

    async def test_a_cancelled_wait_leaves_the_backend_usable(self, make: Make) -> None:
        one, other = await make(), await make()
        grant = await grant_of(one, candidate(one))
        waiting = asyncio.create_task(other.wait_change(grant.record, 30))
        await asyncio.sleep(0.1)
        waiting.cancel()
        await asyncio.wait([waiting])
        assert await other.observe() is not None
        await one.release(grant)
        await grant_of(other, candidate(other, "other"))

    async def test_a_live_holder_is_never_certified_dead(self, make: Make) -> None:
        one, other = await make(), await make()
        grant = await grant_of(one, candidate(one))
        assert await other.holder_is_dead(grant.record) is not True
