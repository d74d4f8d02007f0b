"""The contract's steps on a real server, one by one."""

import asyncio
import time

import pytest

from lab.until import until
from streamspace_agent.election import Grant, Held
from streamspace_agent.errors import BackendUnavailable, LeaseLost
from streamspace_elect_redis.connection import CommandConnection, Connector
from streamspace_elect_redis.scripts import keys
from streamspace_elect_redis.url import parse

pytestmark = pytest.mark.slow


KEY, RECORD, EPOCH = keys("docker-lab")
FLOOR = 1_700_000_000_000


async def granted(backend, me, seen=None) -> Grant:
    result = await backend.acquire(me, seen)
    assert isinstance(result, Grant), result
    return result


async def test_an_empty_store_shows_no_record(replica):
    assert await replica().observe() is None


async def test_the_documented_key_names_the_leader_and_runs_out_with_the_lease(replica, candidate, client):
    await granted(replica(), candidate("a"))
    assert client.get(KEY) == "a"
    assert 4000 < client.pttl(KEY) <= 5000


async def test_what_is_granted_is_what_others_observe(replica, candidate):
    grant = await granted(replica(), candidate("a", container="c" * 64))
    record = await replica().observe()
    assert record == grant.record
    assert (record.agent_id, record.holder, record.nonce) == ("docker-lab", "a", "nonce-of-a")
    assert (record.host, record.container_id, record.lease_ms) == ("host-1", "c" * 64, 5000)
    assert (record.sequence, record.released) == (1, False)
    assert time.strptime(record.since, "%Y-%m-%dT%H:%M:%SZ")


async def test_the_first_epoch_is_one_more_than_the_floor_to_the_last_digit(replica, candidate, client):
    grant = await granted(replica(), candidate("a", floor=1_764_000_123_457))
    assert grant.record.epoch == 1_764_000_123_458
    assert client.get(EPOCH) == "1764000123458"


async def test_the_epoch_rises_even_where_the_floor_is_behind(replica, candidate):
    backend = replica()
    first = await granted(backend, candidate("a"))
    await backend.release(first)
    second = await granted(backend, candidate("b", floor=5), await backend.observe())
    assert second.record.epoch == first.record.epoch + 1


async def test_the_epoch_outlives_a_deleted_record(replica, candidate, client):
    backend = replica()
    first = await granted(backend, candidate("a"))
    client.delete(KEY, RECORD)
    second = await granted(backend, candidate("b", floor=5))
    assert second.record.epoch > first.record.epoch
    assert client.ttl(EPOCH) == client.ttl(RECORD) == -1


async def test_a_held_lease_is_not_given_to_one_who_has_seen_nothing(replica, candidate):
    grant = await granted(replica(), candidate("a"))
    assert await replica().acquire(candidate("b"), None) == Held(grant.record)


async def test_a_record_renewed_since_it_was_seen_is_not_taken(replica, candidate):
    leader, other = replica(), replica()
    grant = await granted(leader, candidate("a"))
    seen = await other.observe()
    renewed = await leader.renew(grant)
    assert await other.acquire(candidate("b"), seen) == Held(renewed.record)


async def test_a_record_unchanged_since_it_was_seen_is_taken_though_its_key_lives(replica, candidate, client):
    other = replica()
    await granted(replica(), candidate("a"))
    grant = await granted(other, candidate("b"), await other.observe())
    assert grant.record.holder == client.get(KEY) == "b"


async def test_each_renewal_raises_the_sequence_and_the_ttl_and_nothing_else(replica, candidate, client):
    backend = replica()
    grant = await granted(backend, candidate("a"))
    client.pexpire(KEY, 1000)
    renewed = await backend.renew(grant)
    assert renewed.record.sequence == grant.record.sequence + 1
    assert renewed.record.same_tenure(grant.record)
    assert client.pttl(KEY) > 4000


async def test_a_renewal_after_another_took_the_lease_is_lost_and_writes_nothing(replica, candidate):
    old, new = replica(), replica()
    grant = await granted(old, candidate("a"))
    taken = await granted(new, candidate("b"), await new.observe())
    with pytest.raises(LeaseLost, match=r"shows b, epoch \d+$"):
        await old.renew(grant)
    assert await new.observe() == taken.record


async def test_a_renewal_with_an_older_epoch_of_the_same_process_is_lost(replica, candidate):
    backend = replica()
    first = await granted(backend, candidate("a"))
    await backend.release(first)
    await granted(backend, candidate("a"), await backend.observe())
    with pytest.raises(LeaseLost):
        await backend.renew(first)


async def test_a_renewal_that_arrives_after_the_release_does_not_bring_the_lease_back(replica, candidate, client):
    backend = replica()
    grant = await granted(backend, candidate("a"))
    await backend.release(grant)
    with pytest.raises(LeaseLost, match="released"):
        await backend.renew(grant)
    assert client.get(KEY) is None
    assert (await backend.observe()).released


async def test_a_release_keeps_the_record_and_removes_the_documented_key(replica, candidate, client):
    backend = replica()
    grant = await granted(backend, candidate("a"))
    await backend.release(grant)
    record = await backend.observe()
    assert record.released
    assert record.same_tenure(grant.record)
    assert client.exists(KEY) == 0


async def test_releasing_twice_or_what_is_lost_is_no_error_and_changes_nothing(replica, candidate, client):
    old, new = replica(), replica()
    grant = await granted(old, candidate("a"))
    await old.release(grant)
    taken = await granted(new, candidate("b"), await new.observe())
    await old.release(grant)
    assert await new.observe() == taken.record
    assert client.get(KEY) == "b"


async def test_the_same_nonce_asking_again_gets_the_grant_it_already_has(replica, candidate):
    backend = replica()
    first = await granted(backend, candidate("a"))
    again = await granted(backend, candidate("a"), None)
    assert again.record == first.record
    assert await granted(backend, candidate("a"), await backend.observe()) == again


async def test_of_fifty_candidates_at_once_exactly_one_wins(replica, candidate):
    backends = [replica() for _ in range(50)]
    results = await asyncio.gather(*(b.acquire(candidate(f"r{i}"), None) for i, b in enumerate(backends)))
    winners = [result for result in results if isinstance(result, Grant)]
    assert len(winners) == 1
    assert {result.record for result in results if isinstance(result, Held)} == {winners[0].record}


async def test_a_release_wakes_those_who_wait_at_once(replica, candidate, client):
    leader, waiter = replica(), replica()
    grant = await granted(leader, candidate("a"))
    await waiter.wait_change(grant.record, 0.01)
    await until(lambda: client.pubsub_numsub(KEY)[0][1] == 1)
    await waiter.wait_change(grant.record, 0.1)  # the subscription itself is a reason to look
    waiting = asyncio.create_task(waiter.wait_change(grant.record, 60))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    await leader.release(grant)
    async with asyncio.timeout(10):
        await waiting


async def test_a_release_between_two_waits_is_not_missed(replica, candidate, client):
    leader, waiter = replica(), replica()
    grant = await granted(leader, candidate("a"))
    async with asyncio.timeout(10):
        await waiter.wait_change(grant.record, 60)  # returns when subscribed
    await leader.release(grant)
    async with asyncio.timeout(10):
        await waiter.wait_change(grant.record, 60)


async def test_nothing_happening_a_wait_lasts_as_long_as_asked(replica):
    waiter = replica()
    await waiter.wait_change(None, 10)  # returns when subscribed
    began = time.monotonic()
    await waiter.wait_change(None, 0.3)
    assert time.monotonic() - began >= 0.29


async def test_scripts_flushed_from_the_server_are_sent_again(replica, candidate, client):
    backend = replica()
    grant = await granted(backend, candidate("a"))
    client.script_flush()
    assert (await backend.renew(grant)).record.sequence == 2


async def test_the_server_s_clock_an_hour_ahead_or_behind_costs_the_leader_nothing(replica, candidate, client):
    """A TTL that ran out, or that lasts an hour, is what such a step leaves behind."""
    leader, other = replica(), replica()
    grant = await granted(leader, candidate("a"))
    seen = await other.observe()
    client.delete(KEY)
    assert await other.observe() == seen
    grant = await leader.renew(grant)
    assert client.get(KEY) == "a"
    client.pexpire(KEY, 3_600_000)
    assert isinstance(await other.acquire(candidate("b"), await other.observe()), Grant)


async def test_a_key_set_by_a_program_that_knows_only_the_documented_one_is_respected(replica, candidate, client):
    backend = replica()
    client.set(KEY, "the-original-agent", px=60_000)
    first = await backend.observe()
    assert (first.holder, first.released) == ("the-original-agent", False)
    held = await backend.acquire(candidate("a"), first)
    assert isinstance(held, Held)
    assert held.record.same_tenure(first)
    await asyncio.sleep(0.005)
    assert await backend.observe() != first, "the core must not see it run out while the key lives"
    client.delete(KEY)
    assert await backend.observe() is None


async def test_another_name_in_the_leader_s_key_deposes_the_leader(replica, candidate, client):
    backend = replica()
    grant = await granted(backend, candidate("a"))
    client.set(KEY, "an-operator", px=60_000)
    with pytest.raises(LeaseLost, match="shows an-operator"):
        await backend.renew(grant)
    assert client.get(KEY) == "an-operator"


async def test_a_cancelled_call_leaves_the_backend_usable(replica, candidate):
    backend = replica()
    grant = await granted(backend, candidate("a"))
    for pause in (0, 0.0002, 0.0005, 0.001, 0.002):
        renewing = asyncio.create_task(backend.renew(grant))
        await asyncio.sleep(pause)
        renewing.cancel()
        await asyncio.gather(renewing, return_exceptions=True)
    assert (await backend.renew(grant)).record.same_tenure(grant.record)


async def test_a_call_that_is_cancelled_just_as_its_connection_is_there_leaves_it_to_the_next(module_server):
    connector = Connector(parse(module_server.url, {}), 5, 5)
    made = []

    async def connect():
        made.append(await connector.connect())
        calling.cancel()
        return made[-1]

    connection = CommandConnection(connect, "the server", 5)
    try:
        calling = asyncio.create_task(connection.call("PING"))
        await asyncio.wait([calling])
        assert calling.cancelled()
        assert await connection.call("PING") == "PONG"
        assert len(made) == 1
    finally:
        await connection.aclose()
        await connector.aclose()


async def test_agents_with_other_ids_have_leases_of_their_own(backend_at, module_server, client, candidate):
    one, two = backend_at(module_server.url), backend_at(module_server.url, agent_id="docker-lab.two")
    assert isinstance(await one.acquire(candidate("a"), None), Grant)
    assert isinstance(await two.acquire(candidate("b"), None), Grant)


async def test_keys_of_another_kind_are_no_answer(replica, candidate, client):
    client.set(RECORD, "x")
    with pytest.raises(BackendUnavailable, match="WRONGTYPE"):
        await replica().observe()
    client.delete(RECORD)
    client.hset(RECORD, "epoch", "many")
    with pytest.raises(BackendUnavailable, match="is not a record"):
        await replica().observe()


async def test_a_standby_starts_no_task_for_a_look_at_the_record(replica):
    backend = replica()
    await backend.observe()
    started, loop = [], asyncio.get_running_loop()

    def start(loop, coroutine, **more):
        started.append(coroutine)
        return asyncio.Task(coroutine, loop=loop, **more)

    loop.set_task_factory(start)
    try:
        assert await backend.observe() is None
    finally:
        loop.set_task_factory(None)
    assert not started
