"""The conformance suite of election backends: what the core relies on, as tests.

A backend's own test file subclasses :class:`ElectionBackendSuite` and overrides two fixtures:

* ``backend_factory``: a callable that returns a new backend object each time, as another replica would make one, for
  the agent id that it is given or for ``agent-1``. All objects use one store, which is empty at first. Short leases
  make short tests.
* ``outage``: a callable that returns a context manager. Inside it the store does not answer, or answers with an error;
  after it the store answers again, with all that it held. A backend that takes silence for "no" stops a working leader;
  one that takes it for "yes" makes two.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from streamspace_agent.election import ElectionBackend, Grant, Guarantee, Held
from streamspace_agent.errors import LeaseLost, PreflightError
from streamspace_agent.testing.election.concurrency import Concurrency
from streamspace_agent.testing.election.fixtures import (
    NOW,
    PATIENCE,
    BackendFactory,
    Make,
    Outage,
    candidate,
    grant_of,
    one_leads,
    patiently,
    seen_by,
    sees_release,
)
from streamspace_agent.testing.election.outages import Outages
from streamspace_agent.testing.election.promptness import Promptness
from streamspace_agent.testing.loop_blocking import counted

__all__ = ["BackendFactory", "ElectionBackendSuite", "Outage"]


NEIGHBOURS = [
    pytest.param("agent-1", "agent-2", id="another"),
    pytest.param("agent-1", "agent-10", id="longer"),
    pytest.param("agent-1", "agent_1", id="underscore"),
    pytest.param("agent-1", "agent.1", id="dot"),
    pytest.param("agent-1", "Agent-1", id="case"),
    pytest.param("agent" + 94 * "x" + "1", "agent" + 94 * "x" + "2", id="hundred"),
]
"""Pairs of agent ids that a store might confuse."""

RETURNS, PASSES = 50, 1000
"""How many early returns of a wait, and passes of the event loop, there may be in a second without a change."""


class ElectionBackendSuite(Concurrency, Outages, Promptness):
    """A backend that cannot pass one of these cannot carry a lease."""

    @pytest.fixture
    def backend_factory(self) -> BackendFactory:
        raise NotImplementedError("override the fixture backend_factory")

    @pytest.fixture
    def outage(self) -> Outage:
        raise NotImplementedError("override the fixture outage")

    @pytest_asyncio.fixture
    async def make(self, backend_factory: BackendFactory) -> AsyncIterator[Make]:
        made: list[ElectionBackend] = []

        async def make(*agent_id: str) -> ElectionBackend:
            made.append(backend_factory(*agent_id))
            return made[-1]

        yield make
        for backend in made:
            await backend.aclose()

    # Declarations, and what observing changes.

    async def test_it_declares_its_name_its_guarantees_and_sane_numbers(self, make: Make) -> None:
        backend = await make()
        timing = backend.timing
        assert backend.name
        assert all(isinstance(guarantee, Guarantee) for guarantee in backend.guarantees)
        assert len(backend.guarantees & {Guarantee.ONE_HOST, Guarantee.MANY_HOSTS}) == 1
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

    async def test_looking_at_an_empty_store_creates_nothing(self, make: Make, tmp_path: Path) -> None:
        """``docker-agent check`` may run as root, and the agent could not open root's files."""
        one = await make()
        before = _files(tmp_path)
        await one.preflight()
        await one.observe()
        await one.wait_change(None, 0.1)
        assert _files(tmp_path) == before

    async def test_looking_changes_nothing(self, make: Make) -> None:
        one, other, grant = await one_leads(make)
        before = await seen_by(other)
        for backend in (one, other):
            await backend.preflight()
            await backend.holder_is_dead(before)
            assert await backend.observe() == before
        await one.renew(grant)

    async def test_a_record_that_nobody_touches_looks_the_same_each_time(self, make: Make) -> None:
        _, other, _ = await one_leads(make)
        first = await other.observe()
        await asyncio.sleep(0.2)
        assert await other.observe() == first

    # Acquiring.

    async def test_a_grant_carries_who_took_it_and_every_replica_sees_the_same(self, make: Make) -> None:
        one, other = await make(), await make()
        me = candidate(one, floor=NOW + 41)
        grant = await grant_of(one, me)
        record = grant.record
        assert (record.agent_id, record.holder, record.nonce) == (me.agent_id, me.instance, me.nonce)
        assert (record.host, len(record.container_id)) in {(me.host, 64), (me.host, 0)}, (
            "a container's id is whole, or empty"
        )
        assert (record.epoch, record.released) == (NOW + 42, False)
        assert record.lease_ms == round((me.lease or 0) * 1000)
        for backend in (one, other):
            seen = await seen_by(backend)
            for name in ("agent_id", "holder", "nonce", "epoch", "lease_ms", "released", "host", "container_id"):
                assert getattr(seen, name) == getattr(record, name), name

    async def test_a_new_epoch_exceeds_the_stored_one_and_all_that_the_replica_has_ever_seen(self, make: Make) -> None:
        """So epochs rise even when a store has lost its own."""
        one, other = await make(), await make()
        first = await grant_of(one, candidate(one, floor=NOW + 1000))
        assert first.record.epoch == NOW + 1001
        await one.release(first)
        second = await grant_of(other, candidate(other, "other", floor=0))
        assert second.record.epoch == NOW + 1002
        await other.release(second)
        third = await grant_of(one, candidate(one, "third", floor=NOW + 5000))
        assert third.record.epoch == NOW + 5001

    async def test_a_held_lease_is_not_given_to_one_who_saw_an_older_record(self, make: Make) -> None:
        one, other, grant = await one_leads(make)
        before = await seen_by(other)
        grant = await one.renew(grant)
        for seen in (None, before, replace(before, sequence=before.sequence - 1, revision="stale")):
            result = await other.acquire(candidate(other, "other"), seen)
            assert isinstance(result, Held)
            assert result.record is not None
            assert result.record.same_tenure(grant.record)
        await one.renew(grant)

    async def test_a_lease_that_ran_out_is_given_to_one_who_saw_the_record_as_it_stands(self, make: Make) -> None:
        """Only the core measures time. Where the kernel ends a lease, a live holder keeps it, whatever was seen."""
        one, other, grant = await one_leads(make)
        result = await other.acquire(candidate(other, "other"), await other.observe())
        if Guarantee.ENDS_BY_ITSELF in one.guarantees:
            assert isinstance(result, Held)
            await one.renew(grant)
            return
        assert isinstance(result, Grant)
        assert result.record.epoch > grant.record.epoch
        with pytest.raises(LeaseLost):
            await one.renew(grant)
        await one.release(grant)
        assert not (await seen_by(one)).released
        await other.renew(result)

    async def test_the_same_nonce_asking_again_gets_its_own_lease(self, make: Make) -> None:
        one = await make()
        me = candidate(one)
        grant = await grant_of(one, me)
        for seen in (None, await one.observe()):
            again = await one.acquire(me, seen)
            assert isinstance(again, Grant)
            assert again.record.same_tenure(grant.record)
            grant = await one.renew(again)

    @pytest.mark.parametrize(("ours", "agent_id"), NEIGHBOURS)
    async def test_two_agents_have_a_lease_each(self, make: Make, ours: str, agent_id: str) -> None:
        """Or the second gets PreflightError and needs a store of its own. Two agents never share a lease.

        An agent id has 3 to 100 letters, digits, dots, dashes and underscores, and is case-sensitive.
        """
        one, theirs = await make(ours), await make(agent_id)  # a factory takes the agent id: see the module's docstring
        grant = await grant_of(one, candidate(one, agent_id=ours))
        before = await seen_by(one)
        try:
            assert await patiently(theirs.observe) is None, "one agent's record is shown to another agent"
            other = await grant_of(theirs, candidate(theirs, "other", agent_id=agent_id))
            assert other.record.agent_id == agent_id
            await theirs.release(other)
            assert (await seen_by(theirs)).same_tenure(other.record)
        except PreflightError:
            pass
        assert await seen_by(one) == before
        await one.renew(grant)

    # Renewing and releasing.

    async def test_a_renewal_raises_the_sequence_and_nothing_else_of_the_tenure(self, make: Make) -> None:
        one, other, grant = await one_leads(make)
        sequences = [grant.record.sequence]
        for _ in range(3):
            grant = await one.renew(grant)
            seen = await seen_by(other)
            assert seen.same_tenure(grant.record)
            assert (seen.holder, seen.lease_ms, seen.released) == (grant.record.holder, grant.record.lease_ms, False)
            sequences.append(seen.sequence)
        assert sequences == sorted(set(sequences))

    async def test_a_release_is_shown_as_released_and_frees_the_lease_for_a_higher_epoch(self, make: Make) -> None:
        one, other, grant = await one_leads(make)
        await one.release(grant)
        seen = await seen_by(other)
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
        assert (await seen_by(one)).released

    async def test_what_another_took_is_neither_renewed_nor_released_by_the_one_before(self, make: Make) -> None:
        one, other, old = await one_leads(make)
        await one.release(old)
        new = await grant_of(other, candidate(other, "other"))
        with pytest.raises(LeaseLost):
            await one.renew(old)
        await one.release(old)
        seen = await seen_by(one)
        assert seen.same_tenure(new.record)
        assert not seen.released
        await other.renew(new)

    async def test_closing_does_not_release(self, backend_factory: BackendFactory, make: Make) -> None:
        """Work may still be running under the lease."""
        one, other = backend_factory(), await make()
        grant = await grant_of(one, candidate(one))
        await one.aclose()
        seen = await seen_by(other)
        assert seen.same_tenure(grant.record)
        assert not seen.released

    # Waiting.

    async def test_a_waiter_returns_soon_after_a_release_and_by_its_timeout_without_one(self, make: Make) -> None:
        one, other, grant = await one_leads(make)
        seen = await seen_by(other)
        async with asyncio.timeout(10):
            await other.wait_change(seen, 0.3)
        pushed = Guarantee.PUSHES_WAKEUPS in other.guarantees
        waiting = asyncio.create_task(sees_release(other, seen, PATIENCE if pushed else 2.0))
        await asyncio.sleep(0.2)
        await one.release(grant)
        async with asyncio.timeout(10):
            await waiting

    async def test_waiting_for_a_change_that_came_before_is_short_where_the_store_pushes(self, make: Make) -> None:
        """The change may come between observing a record and waiting for it to change."""
        one, other, grant = await one_leads(make)
        seen = await seen_by(other)
        await one.release(grant)
        pushed = Guarantee.PUSHES_WAKEUPS in other.guarantees
        async with asyncio.timeout(10):
            await other.wait_change(seen, PATIENCE if pushed else 1.0)

    async def test_waiting_is_no_busy_loop(self, backend_factory: BackendFactory) -> None:
        returns, passes, burnt = await counted(partial(_a_second_of_waiting, backend_factory))
        assert returns <= RETURNS, "it returns again and again although nothing changes"
        assert passes < PASSES, f"the event loop made {passes} passes in one second of waiting"
        assert burnt < 0.15, "seconds of processor time used in one second of waiting"

    async def test_a_cancelled_wait_leaves_the_backend_usable(self, make: Make) -> None:
        one, other, grant = await one_leads(make)
        waiting = asyncio.create_task(other.wait_change(grant.record, 30))
        await asyncio.sleep(0.1)
        await _cancelled(waiting)
        assert await other.observe() is not None
        await one.release(grant)
        await grant_of(other, candidate(other, "other"))

    async def test_a_cancelled_step_leaves_the_backend_usable_and_is_completed_by_the_next(self, make: Make) -> None:
        one, other = await make(), await make()
        me = candidate(one)
        await one.release(await grant_of(one, candidate(one, "first")))
        for pause in (0.0, 0.0005, 0.002):
            seen = await one.observe()
            await _cancelled(asyncio.ensure_future(one.acquire(me, seen)), pause)
            result = await one.acquire(me, await one.observe())
            assert isinstance(result, Grant)
            await _cancelled(asyncio.ensure_future(one.renew(result)), pause)
            await _cancelled(asyncio.ensure_future(one.observe()), pause)
            result = await one.renew(result)
            assert (await seen_by(other)).same_tenure(result.record)
            await _cancelled(asyncio.ensure_future(one.release(result)), pause)
            await one.release(result)
            assert (await seen_by(other)).released

    # Death.

    async def test_a_live_holder_is_never_certified_dead(self, make: Make) -> None:
        one, other, grant = await one_leads(make)
        assert await other.holder_is_dead(grant.record) is not True
        await asyncio.sleep(1.0)  # silence is no proof
        assert await other.holder_is_dead(await seen_by(other)) is not True
        await one.renew(grant)

    async def test_a_holder_that_nobody_knows_is_not_certified_dead(self, make: Make) -> None:
        """It may run where this replica cannot look."""
        _, other, grant = await one_leads(make)
        for unknown in (
            replace(grant.record, holder="elsewhere", nonce="elsewhere.1", host="elsewhere"),
            replace(grant.record, holder="elsewhere", nonce="elsewhere.2", container_id="f" * 64),
        ):
            assert await other.holder_is_dead(unknown) is not True


async def _a_second_of_waiting(factory: BackendFactory, passes: Callable[[], int]) -> tuple[int, int, float]:
    """Count a wait's returns, the loop's passes and the processor time in seconds."""
    one, other = factory(), factory()
    try:
        await grant_of(one, candidate(one))
        await other.wait_change(await other.observe(), 0.2)  # for what is set up once, a subscription or a thread
        returns, burnt, before = 0, time.process_time(), passes()
        end = time.monotonic() + 1.0
        while (left := end - time.monotonic()) > 0 and returns <= RETURNS:
            await other.wait_change(await other.observe(), left)  # observe before each wait, as the core does
            returns += 1
        return returns, passes() - before, time.process_time() - burnt
    finally:
        await one.aclose()
        await other.aclose()


def _files(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*"))


async def _cancelled(task: "asyncio.Future[Any]", pause: float = 0.0) -> None:
    await asyncio.sleep(pause)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
