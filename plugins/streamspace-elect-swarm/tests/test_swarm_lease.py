"""The atomic steps, on a real Swarm."""

import asyncio
import time
from pathlib import Path

import pytest

from lab.odd_engine import odd_engine
from lab.proxy import Proxy
from lab.until import until
from streamspace_agent.election import Grant, Held
from streamspace_agent.errors import BackendUnavailable, LeaseLost, PreflightError

from .conftest import candidate


@pytest.fixture
def container(services):
    return services.container()


@pytest.fixture
async def odd(one_host):
    async with odd_engine(one_host.docker_host) as odd:
        yield odd


@pytest.fixture
def proxy(one_host):
    with Proxy(Path(one_host.engine.socket)) as proxy:
        yield proxy


async def test_of_eight_candidates_at_once_exactly_one_leads(replicas, container):
    backends = [replicas(container) for _ in range(8)]
    answers = await asyncio.gather(*(each.acquire(candidate(each), None) for each in backends))
    granted = [answer for answer in answers if isinstance(answer, Grant)]
    assert len(granted) == 1
    held = [answer for answer in answers if isinstance(answer, Held)]
    assert {answer.record.nonce for answer in held} == {granted[0].record.nonce}


async def test_the_record_says_who_leads_to_people_too(replicas, container, client):
    backend = replicas(container)
    grant = await backend.acquire(candidate(backend, floor=41), None)
    labels = client.api.inspect_config(backend.config)["Spec"]["Labels"]
    assert labels["streamspace.leader"] == grant.record.holder
    assert labels["streamspace.epoch"] == "42"
    task = client.containers.get(container).labels["com.docker.swarm.task.id"]
    assert labels["streamspace.task"] == task
    assert (await backend.observe()).same_tenure(grant.record)


async def test_what_was_seen_a_renewal_ago_takes_nothing(replicas, container):
    leader, other = replicas(container), replicas(container)
    grant = await leader.acquire(candidate(leader), None)
    seen = await other.observe()
    await leader.renew(grant)
    answer = await other.acquire(candidate(other), seen)
    assert isinstance(answer, Held)
    assert answer.record.same_tenure(grant.record)


async def test_a_deposed_leader_learns_it_and_cannot_harm_its_successor(replicas, container):
    old, new = replicas(container), replicas(container)
    lost = await old.acquire(candidate(old), None)
    grant = await new.acquire(candidate(new), await new.observe())
    assert grant.record.epoch > lost.record.epoch
    with pytest.raises(LeaseLost, match="not ours"):
        await old.renew(lost)
    await old.release(lost)
    now = await new.observe()
    assert now.same_tenure(grant.record)
    assert not now.released


async def test_a_removed_config_is_a_lost_lease_and_a_new_start(replicas, container, client):
    backend = replicas(container)
    grant = await backend.acquire(candidate(backend), None)
    client.api.remove_config(backend.config)
    with pytest.raises(LeaseLost, match="removed"):
        await backend.renew(grant)
    await backend.release(grant)
    assert await backend.observe() is None
    again = await backend.acquire(candidate(backend, floor=grant.record.epoch), None)
    assert again.record.epoch == grant.record.epoch + 1


async def test_a_config_of_the_same_name_that_no_agent_made_is_refused_with_the_fix(replicas, container, client):
    backend = replicas(container)
    client.configs.create(name=backend.config, data=b"mine")
    try:
        with pytest.raises(PreflightError, match="docker config rm"):
            await backend.acquire(candidate(backend), None)
    finally:
        client.api.remove_config(backend.config)


async def test_a_lost_reply_to_a_renewal_proves_nothing_until_another_write(replicas, container, odd):
    leader, other = replicas(container, odd.host), replicas(container)
    grant = await leader.acquire(candidate(leader), None)
    before = await other.observe()

    odd.lose(r"^POST /configs/\w+/update", times=1)
    with pytest.raises(BackendUnavailable):
        await leader.renew(grant)
    arrived = await other.observe()
    assert arrived.sequence == before.sequence + 1

    renewed = await leader.renew(grant)
    assert renewed.record.sequence == arrived.sequence + 1
    assert (await other.observe()).sequence == renewed.record.sequence


async def test_a_lost_reply_to_an_acquisition_is_granted_to_the_same_nonce_only(replicas, container, odd):
    leader, other = replicas(container, odd.host), replicas(container)
    me = candidate(leader)
    odd.lose("^POST /configs/create", times=1)
    with pytest.raises(BackendUnavailable):
        await leader.acquire(me, None)
    arrived = await other.observe()
    assert arrived.nonce == me.nonce

    assert isinstance(await other.acquire(candidate(other), None), Held)
    grant = await leader.acquire(me, None)
    assert isinstance(grant, Grant)
    assert grant.record.same_tenure(arrived)
    assert grant.record.sequence > arrived.sequence


@pytest.mark.parametrize("fault", ["stalled", "mute", "refusing"])
async def test_an_engine_that_does_not_answer_is_no_lost_lease(replicas, container, proxy, fault):
    backend = replicas(container, f"tcp://127.0.0.1:{proxy.port}")
    grant = await backend.acquire(candidate(backend), None)
    setattr(proxy, fault, True)
    proxy.cut()
    for call in (backend.renew(grant), backend.release(grant), backend.observe()):
        with pytest.raises(BackendUnavailable):
            await call
    setattr(proxy, fault, False)
    assert (await backend.renew(grant)).record.same_tenure(grant.record)


async def test_a_cancelled_call_leaves_the_backend_usable(replicas, container, proxy):
    backend = replicas(container, f"tcp://127.0.0.1:{proxy.port}")
    grant = await backend.acquire(candidate(backend), None)
    proxy.stalled = True
    for _ in range(8):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await backend.renew(grant)
    proxy.stalled = False

    async def renewed():
        try:
            return await backend.renew(grant)
        except BackendUnavailable:
            return None

    await until(renewed)


async def test_a_release_wakes_the_waiters(replicas, container):
    leader, waiter = replicas(container), replicas(container)
    grant = await leader.acquire(candidate(leader), None)
    await waiter.wait_change(await waiter.observe(), 20.0)  # returns once it follows the events
    seen = await waiter.observe()
    waiting = asyncio.create_task(waiter.wait_change(seen, 60.0))
    await asyncio.sleep(0.3)
    assert not waiting.done()
    await leader.release(grant)
    await asyncio.wait_for(waiting, 20)
    assert (await waiter.observe()).released


async def test_a_change_between_a_look_and_the_wait_for_it_is_not_slept_through(replicas, container):
    leader, waiter = replicas(container), replicas(container)
    grant = await leader.acquire(candidate(leader), None)
    await waiter.wait_change(await waiter.observe(), 20.0)  # returns once it follows the events
    seen = await waiter.observe()
    await leader.renew(grant)
    await asyncio.sleep(1)  # in which the event comes
    await asyncio.wait_for(waiter.wait_change(seen, 60.0), 20)


async def test_waiting_works_without_events_and_does_not_spin(replicas, container, proxy):
    backend = replicas(container, f"tcp://127.0.0.1:{proxy.port}")
    await backend.acquire(candidate(backend), None)
    seen = await backend.observe()
    proxy.refusing = True
    proxy.cut()
    began = time.monotonic()
    await backend.wait_change(seen, 1.0)
    assert time.monotonic() - began > 0.9


async def test_a_manager_that_does_not_know_the_config_yet_takes_no_lease_away(replicas, container, monkeypatch):
    leader = replicas(container)
    grant = await leader.acquire(candidate(leader), None)
    observe, behind = leader.observe, [True]

    async def looked():
        return None if behind and behind.pop() else await observe()

    with monkeypatch.context() as patch:
        patch.setattr(leader, "observe", looked)
        renewed = await leader.renew(grant)
        assert renewed.record.sequence > grant.record.sequence
        behind.append(True)
        await leader.release(renewed)
    assert (await leader.observe()).released


async def test_an_answer_from_an_old_copy_is_no_lost_lease(replicas, container, monkeypatch):
    before, leader = replicas(container), replicas(container)
    await before.release(await before.acquire(candidate(before), None))
    old = await leader.observe()
    grant = await leader.acquire(candidate(leader), old)

    async def behind():
        return old

    with monkeypatch.context() as patch:
        patch.setattr(leader, "observe", behind)
        for step in (leader.renew, leader.release):
            with pytest.raises(BackendUnavailable, match="old copy"):
                await step(grant)
    await leader.renew(grant)
