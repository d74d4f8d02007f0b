"""The elector on its real threads and clock."""

import asyncio
import random
import threading
import time

import pytest

from lab.until import until
from streamspace_agent.election import Grant, Held, Timing
from streamspace_agent.election.elector import Elector
from streamspace_agent.election.identity import Identity
from streamspace_agent.election.standalone import StandaloneBackend
from streamspace_agent.election.status import Role
from streamspace_agent.errors import EXIT_LEADERSHIP, LeaseLost, PreflightError
from streamspace_agent.testing.memory import MemoryBackend, Store

pytestmark = pytest.mark.slow


FAST = Timing(lease=1.5, renew_every=0.2, call_timeout=0.2, margin=0.2)


class Agent:
    """An elector with a main loop that shows signs of life."""

    def __init__(self, backend, **options):
        self.exits = []
        me = Identity.discover("agent-1")
        self.elector = Elector(backend, me, exit=self.exits.append, rng=random.Random(1), **options)
        self.living = True

    async def _beat(self):
        while True:
            if self.living:
                self.elector.alive()
            await asyncio.sleep(0.05)

    async def __aenter__(self):
        self._task = asyncio.create_task(self._beat())
        await self.elector.start()
        return self

    async def __aexit__(self, *_):
        self._task.cancel()
        await self.elector.aclose()


async def test_one_who_runs_alone_leads_at_once_and_again_after_resigning():
    async with Agent(StandaloneBackend()) as agent:
        assert agent.elector.status().role is Role.STARTING
        first = await agent.elector.lead()
        assert agent.elector.status().role is Role.LEADER
        await agent.elector.resign(first, "done")
        assert await first.ended() == "done"
        second = await agent.elector.lead()
        assert second.epoch > first.epoch
        assert not first.valid()
        await agent.elector.resign(second, "done")
        assert agent.elector.status().lost["resigned"] == 2


async def test_asking_to_lead_twice_is_an_error_of_the_caller():
    async with Agent(StandaloneBackend()) as agent:
        lease = await agent.elector.lead()
        with pytest.raises(RuntimeError, match="resigned"):
            await agent.elector.lead()
        await agent.elector.resign(lease, "done")


async def test_the_backend_lives_on_the_electors_thread():
    seen = set()

    class Backend(StandaloneBackend):
        async def acquire(self, me, seen_record):
            seen.add(threading.current_thread().name)
            return await super().acquire(me, seen_record)

        async def preflight(self):
            seen.add(threading.current_thread().name)
            return []

    async with Agent(Backend()) as agent:
        await agent.elector.preflight()
        await agent.elector.resign(await agent.elector.lead(), "done")
    assert seen == {"elector"}


async def test_renewals_go_on_while_the_main_loop_is_blocked_for_a_moment():
    async with Agent(MemoryBackend(Store(), FAST)) as agent:
        lease = await agent.elector.lead()
        before = lease.record.sequence
        time.sleep(0.5)  # noqa: ASYNC251 - the point
        assert lease.record.sequence > before
        assert lease.valid()
        await agent.elector.resign(lease, "done")


async def test_a_main_loop_that_never_shows_life_loses_and_the_process_exits():
    async with Agent(MemoryBackend(Store(), FAST)) as agent:
        lease = await agent.elector.lead()
        agent.living = False
        await until(lambda: agent.exits)
        assert agent.exits == [EXIT_LEADERSHIP]
        assert not lease.valid()
        assert agent.elector.status().role is Role.DRAINING


async def test_a_lease_won_while_its_caller_turned_away_is_given_back():
    store = Store()
    acquiring = threading.Event()

    class Slow(MemoryBackend):
        async def acquire(self, me, seen):
            acquiring.set()
            await asyncio.sleep(0.1)
            return await super().acquire(me, seen)

    async with Agent(Slow(store, FAST)) as agent:
        wish = asyncio.create_task(agent.elector.lead())
        await until(acquiring.is_set)
        wish.cancel()
        await asyncio.wait([wish])
        await until(lambda: store.record and store.record.released)
        lease = await agent.elector.lead()
        assert lease.valid()
        await agent.elector.resign(lease, "done")


@pytest.mark.parametrize("turn", range(8))
async def test_turning_away_at_any_moment_leaves_no_lease_behind(turn):
    store = Store()
    async with Agent(StandaloneOn(store)) as agent:
        wish = asyncio.create_task(agent.elector.lead())
        for _ in range(turn):
            await asyncio.sleep(0)
        await asyncio.sleep(turn * 0.0003)
        if not wish.done():
            wish.cancel()
        await asyncio.wait([wish])
        if not wish.cancelled():
            await agent.elector.resign(wish.result(), "done")
        await until(lambda: agent.elector.status().role is Role.STARTING)
        await until(lambda: store.record is None or store.record.released)


class StandaloneOn(MemoryBackend):
    """A store that ends leases by itself, so that nobody waits."""

    def __init__(self, store):
        super().__init__(store, Timing(lease=None, renew_every=0.5, call_timeout=0.5, margin=0.0))

    async def acquire(self, me, seen):
        del seen
        return await super().acquire(me, self.store.record)


async def test_a_refusal_for_good_reaches_the_caller():
    class Never(StandaloneBackend):
        async def acquire(self, me, seen):
            raise PreflightError("never")

    async with Agent(Never()) as agent:
        with pytest.raises(PreflightError, match="never"):
            await agent.elector.lead()


async def test_a_lease_taken_by_another_ends_with_what_the_store_said():
    class Taken(StandaloneBackend):
        async def renew(self, grant):
            raise LeaseLost("b leads")

        @property
        def timing(self):
            return Timing(lease=None, renew_every=0.1, call_timeout=1, margin=0)

    async with Agent(Taken()) as agent:
        lease = await agent.elector.lead()
        assert "b leads" in await asyncio.wait_for(lease.ended(), 10)
        await agent.elector.resign(lease, "told so")
        assert agent.elector.status().lost["taken"] == 1
        assert agent.exits == []


async def test_work_that_goes_on_after_the_lease_ends_the_process():
    class Taken(StandaloneBackend):
        async def renew(self, grant):
            raise LeaseLost("b leads")

    async with Agent(Taken(), stop_grace=0.2) as agent:
        await agent.elector.lead()
        await until(lambda: agent.exits)
        assert agent.exits == [EXIT_LEADERSHIP]


async def test_a_backend_that_blocks_its_thread_cannot_keep_the_lease_valid():
    blocked = threading.Event()

    class Blocking(MemoryBackend):
        async def renew(self, grant):
            blocked.wait()
            return grant

    async with Agent(Blocking(Store(), FAST)) as agent:
        try:
            lease = await agent.elector.lead()
            assert "no renewal was confirmed" in await asyncio.wait_for(lease.ended(), 10)
        finally:
            blocked.set()
        await agent.elector.resign(lease, "ran out")


async def test_closing_wakes_a_waiting_candidate():
    class Occupied(StandaloneBackend):
        async def acquire(self, me, seen):
            return Held(None)

    async with Agent(Occupied()) as agent:
        wish = asyncio.create_task(agent.elector.lead())
        await asyncio.sleep(0.1)
    await asyncio.wait([wish], timeout=5)
    assert wish.cancelled()


async def test_a_grant_with_an_epoch_seen_before_is_not_used():
    class Backwards(StandaloneBackend):
        tries = 0

        async def acquire(self, me, seen):
            grant = await super().acquire(me, seen)
            Backwards.tries += 1
            if Backwards.tries > 2:
                return grant
            from dataclasses import replace

            return Grant(replace(grant.record, epoch=0))

    async with Agent(Backwards()) as agent:
        lease = await agent.elector.lead()
        assert lease.epoch > 0
        assert Backwards.tries == 3
        await agent.elector.resign(lease, "done")


async def test_one_who_turned_away_may_ask_again_at_once():
    async with Agent(StandaloneOn(Store())) as agent:
        epochs = []
        for turn in range(12):
            wish = asyncio.create_task(agent.elector.lead())
            await asyncio.sleep(turn * 0.0004)
            if not wish.done():
                wish.cancel()
            await asyncio.wait([wish])
            lease = await agent.elector.lead() if wish.cancelled() else wish.result()
            epochs.append(lease.epoch)
            await agent.elector.resign(lease, "done")
        assert epochs == sorted(set(epochs))


async def test_closing_does_not_wait_for_a_task_that_only_the_backends_close_ends():
    class Listening(MemoryBackend):
        async def observe(self):
            self.listener = getattr(self, "listener", None) or asyncio.create_task(asyncio.Event().wait())
            return await super().observe()

        async def aclose(self):
            self.listener.cancel()
            await super().aclose()

    patient = Timing(lease=60.0, renew_every=10.0, call_timeout=9.0, margin=6.0)
    async with Agent(Listening(Store(), patient), stop_grace=60) as agent:
        await agent.elector.resign(await agent.elector.lead(), "done")
        began = time.monotonic()
    assert time.monotonic() - began < 20  # three tries of a release may take 30
