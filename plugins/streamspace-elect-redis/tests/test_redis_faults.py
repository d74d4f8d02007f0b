"""What Redis and the network do to a lease: lost replies, slow answers, forgotten data, stale copies."""

import asyncio
import contextlib
import time

import pytest
import redis

from lab.proxy import Proxy
from lab.redis import RedisServer
from lab.until import until
from streamspace_agent.election import Grant, Held
from streamspace_agent.errors import BackendUnavailable, LeaseLost
from streamspace_elect_redis.scripts import keys

pytestmark = pytest.mark.slow


KEY, RECORD, EPOCH = keys("docker-lab")


@pytest.fixture
def server():
    with RedisServer() as server:
        yield server


@pytest.fixture
def proxy(module_server, client):
    with Proxy(module_server.port) as proxy:
        yield proxy


def through(proxy: Proxy) -> str:
    return f"redis://127.0.0.1:{proxy.port}/0"


def talk(server: RedisServer) -> redis.Redis:
    return redis.Redis(port=server.port, password=server.password, decode_responses=True)


async def granted(backend, me, seen=None) -> Grant:
    result = await backend.acquire(me, seen)
    assert isinstance(result, Grant), result
    return result


async def answer(call):
    """What a call answers once the store is back: the first tries find a dead connection or no listener."""
    async with asyncio.timeout(30):
        while True:
            try:
                return await call()
            except BackendUnavailable:
                await asyncio.sleep(0.05)


# Lost replies


async def test_an_acquisition_whose_reply_is_lost_is_granted_to_the_same_nonce_asking_again(
    proxy, backend_at, candidate, client
):
    backend = backend_at(through(proxy))
    assert await backend.observe() is None
    proxy.mute = True
    with pytest.raises(BackendUnavailable, match="no answer within 1200 ms"):
        await backend.acquire(candidate("a"), None)
    proxy.mute = False
    proxy.cut()
    stored = client.hgetall(RECORD)
    assert stored["nonce"] == "nonce-of-a", "the request arrived"
    grant = await answer(lambda: backend.acquire(candidate("a"), None))
    assert isinstance(grant, Grant)
    assert grant.record.epoch == int(stored["epoch"])
    assert (await backend.renew(grant)).record.sequence == 2


async def test_a_renewal_whose_reply_is_lost_is_unknown_and_the_next_one_succeeds(proxy, backend_at, candidate, client):
    backend = backend_at(through(proxy))
    grant = await granted(backend, candidate("a"))
    proxy.mute = True
    with pytest.raises(BackendUnavailable):
        await backend.renew(grant)
    await until(lambda: client.hget(RECORD, "sequence") == "2")
    proxy.mute = False
    assert (await answer(lambda: backend.renew(grant))).record.sequence == 3


async def test_a_reply_that_comes_too_late_is_never_taken_for_the_next_call_s(proxy, backend_at, replica, candidate):
    backend, other = backend_at(through(proxy)), replica()
    grant = await granted(backend, candidate("a"))
    proxy.mute = True
    with pytest.raises(BackendUnavailable):
        await backend.renew(grant)
    await granted(other, candidate("b"), await other.observe())
    proxy.mute = False
    with pytest.raises(LeaseLost):
        await answer(lambda: backend.renew(grant))


async def test_a_partition_is_no_answer_and_heals(proxy, backend_at, candidate):
    backend = backend_at(through(proxy))
    grant = await granted(backend, candidate("a"))
    proxy.refusing = True
    proxy.cut()
    for _ in range(3):
        with pytest.raises(BackendUnavailable):
            await backend.renew(grant)
    proxy.refusing = False
    assert (await answer(lambda: backend.renew(grant))).record.same_tenure(grant.record)


async def test_a_cut_subscription_mends_itself(proxy, backend_at, replica, candidate, client):
    waiter, leader = backend_at(through(proxy)), replica()
    grant = await granted(leader, candidate("a"))
    await waiter.wait_change(grant.record, 10)
    await until(lambda: client.pubsub_numsub(KEY)[0][1] == 1)
    proxy.cut()
    await until(lambda: client.pubsub_numsub(KEY)[0][1] == 0)
    async with asyncio.timeout(20):
        await waiter.wait_change(grant.record, 60)  # subscribed again: a reason to look
    await until(lambda: client.pubsub_numsub(KEY)[0][1] == 1)
    await leader.release(grant)
    async with asyncio.timeout(20):
        await waiter.wait_change(grant.record, 60)


# Slow answers


async def test_a_store_that_takes_300_ms_carries_a_lease_though_logging_in_takes_longer(backend_at, candidate):
    with RedisServer(password="s3cret") as server, Proxy(server.port) as proxy:
        backend = backend_at(f"redis://:s3cret@127.0.0.1:{proxy.port}/1", {})
        proxy.delay = 0.3  # AUTH, SELECT, the step: 0.9 s, the call timeout is 0.4 s
        grant = await answer(lambda: backend.acquire(candidate("a"), None))
        assert isinstance(grant, Grant)
        assert isinstance(await answer(lambda: backend.renew(grant)), Grant)


@pytest.mark.parametrize("delay", [0.6, 3.0])
async def test_an_answer_slower_than_the_call_timeout_is_none(proxy, backend_at, candidate, delay):
    backend = backend_at(through(proxy), {})
    grant = await answer(lambda: backend.acquire(candidate("a"), None))
    proxy.delay = delay
    began = time.monotonic()
    with pytest.raises(BackendUnavailable, match="no answer within 400 ms"):
        await backend.renew(grant)
    assert time.monotonic() - began < 2.5


async def test_the_steady_profile_rides_out_a_store_that_takes_600_ms(proxy, backend_at, candidate):
    backend = backend_at(through(proxy), {"LEASE_PROFILE": "steady"})
    assert backend.timing.lease == 15
    grant = await granted(backend, candidate("a", lease=15.0))
    proxy.delay = 0.6
    assert (await backend.renew(grant)).record.sequence == 2


async def test_a_frozen_server_is_no_answer_until_it_is_thawed(server, backend_at, candidate):
    backend = backend_at(server.url)
    grant = await granted(backend, candidate("a"))
    server.freeze()
    with pytest.raises(BackendUnavailable):
        await backend.renew(grant)
    server.thaw()
    assert (await answer(lambda: backend.renew(grant))).record.same_tenure(grant.record)


# Errors that are no answers


async def test_a_full_server_that_evicts_nothing_is_no_answer(server, backend_at, candidate):
    backend = backend_at(server.url)
    grant = await granted(backend, candidate("a"))
    talk(server).config_set("maxmemory", 1)
    with pytest.raises(BackendUnavailable, match="used memory"):
        await backend.renew(grant)
    talk(server).config_set("maxmemory", 0)
    assert await backend.renew(grant)


async def test_a_server_busy_with_another_s_script_is_no_answer(server, backend_at, candidate):
    backend = backend_at(server.url)
    grant = await granted(backend, candidate("a"))
    with talk(server) as admin, talk(server) as hog:
        admin.config_set("lua-time-limit", 1)
        hogging = asyncio.create_task(asyncio.to_thread(_hog, hog))
        try:
            with pytest.raises(BackendUnavailable):
                await renew_until_it_fails(backend, grant)
        finally:
            await answer_to_kill(admin)
            await hogging
    assert await answer(lambda: backend.renew(grant))


async def renew_until_it_fails(backend, grant: Grant) -> None:
    async with asyncio.timeout(20):
        while True:
            grant = await backend.renew(grant)


def _hog(client: redis.Redis) -> None:
    with contextlib.suppress(redis.ResponseError):
        client.eval("while true do end", 0)


async def answer_to_kill(admin: redis.Redis) -> None:
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(redis.RedisError):
                admin.script_kill()
                return
            await asyncio.sleep(0.02)


async def test_a_password_changed_under_way_is_no_answer_and_never_a_lost_lease(backend_at, candidate):
    with RedisServer(password="s3cret-one") as server:
        backend = backend_at(server.url)
        grant = await granted(backend, candidate("a"))
        with talk(server) as admin:
            admin.config_set("requirepass", "s3cret-two")
            admin.client_kill_filter(_type="normal", skipme=True)
            for _ in range(3):
                with pytest.raises(BackendUnavailable) as caught:
                    await backend.renew(grant)
            assert "REDIS_URL" in str(caught.value)
            assert "s3cret" not in str(caught.value)
            admin.config_set("requirepass", "s3cret-one")
        assert await answer(lambda: backend.renew(grant))


# Forgotten data


async def test_a_flushed_server_ends_the_lease_and_shows_no_record(replica, candidate, client):
    leader, other = replica(), replica()
    grant = await granted(leader, candidate("a"))
    await other.observe()
    client.flushall()
    with pytest.raises(LeaseLost, match="emptied"):
        await leader.renew(grant)
    assert await other.observe() is None
    assert (await granted(other, candidate("b", floor=grant.record.epoch), None)).record.epoch > grant.record.epoch


async def test_a_server_restarted_empty_ends_the_lease_and_shows_no_record(server, backend_at, candidate):
    leader, other = backend_at(server.url), backend_at(server.url)
    grant = await granted(leader, candidate("a"))
    await other.observe()
    server.kill()
    with pytest.raises(BackendUnavailable):
        await leader.renew(grant)
    server.start()
    with pytest.raises(LeaseLost):
        await answer(lambda: leader.renew(grant))
    assert await answer(other.observe) is None


async def test_an_empty_server_in_place_of_an_empty_server_is_seen_as_a_change(server, backend_at, candidate):
    """Somebody may have led on the first one in between: the wait must begin anew."""
    backend = backend_at(server.url)
    assert await backend.observe() is None
    server.kill()
    server.start()
    found = await answer(backend.observe)
    assert found is not None
    assert (found.epoch, found.released) == (0, False)
    assert await backend.observe() == found
    assert (await granted(backend, candidate("a"), found)).record.holder == "a"
    assert (await backend.observe()).holder == "a"


async def test_nothing_is_taken_on_an_empty_server_other_than_the_one_that_was_watched(server, backend_at, candidate):
    backend = backend_at(server.url)
    assert await backend.observe() is None
    server.kill()
    server.start()
    held = await answer(lambda: backend.acquire(candidate("a"), None))
    assert isinstance(held, Held)
    with talk(server) as admin:
        assert not admin.exists(RECORD)


async def test_a_restarted_server_that_kept_its_data_lets_the_leader_go_on(backend_at, candidate):
    with RedisServer(persist=True) as server:
        leader, other = backend_at(server.url), backend_at(server.url)
        grant = await granted(leader, candidate("a"))
        before = await other.observe()
        server.stop()
        server.start()
        copied = await answer(other.observe)
        assert copied != before
        assert not copied.same_tenure(before), "nobody may go by it but by waiting"
        renewed = await answer(lambda: leader.renew(grant))
        assert renewed.record.same_tenure(grant.record)
        assert await other.observe() == renewed.record


async def test_a_grant_from_before_a_restart_is_not_given_again_for_another_may_have_led_since(backend_at, candidate):
    with RedisServer(persist=True) as server:
        backend = backend_at(server.url)
        await granted(backend, candidate("a"))
        server.stop()
        server.start()
        held = await answer(lambda: backend.acquire(candidate("a"), None))
        assert isinstance(held, Held)
        again = await granted(backend, candidate("a"), held.record)
        assert again.record.epoch > held.record.epoch


async def test_a_release_is_not_believed_after_a_restart_for_a_later_leader_may_be_forgotten(backend_at, candidate):
    with RedisServer(persist=True) as server:
        backend = backend_at(server.url)
        await backend.release(await granted(backend, candidate("a")))
        assert (await backend.observe()).released
        server.stop()
        server.start()
        copied = await answer(backend.observe)
        assert not copied.released
        assert copied.lease_ms == 5000
        later = await granted(backend, candidate("b", floor=1), copied)
        assert later.record.epoch > copied.epoch
        await backend.release(later)
        assert (await backend.observe()).released, "what this server itself was told is believed"


# A stale replica takes over


@pytest.fixture
def pair(server):
    """A primary and a replica that has caught up."""
    with (
        RedisServer(options=("--replicaof", "127.0.0.1", str(server.port))) as second,
        talk(server) as primary,
        talk(second) as copy,
    ):
        primary.config_set("repl-diskless-sync-delay", 0)
        deadline = time.monotonic() + 30
        while copy.info("replication").get("master_link_status") != "up":
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield primary, copy, second


async def catch_up(primary: redis.Redis) -> None:
    primary.incr("caught-up")  # WAIT vouches for what its own connection wrote, and so for all before that
    await until(lambda: primary.wait(1, 100) == 1)


async def test_a_replica_is_no_store(pair, backend_at, candidate):
    _, _, second = pair
    backend = backend_at(second.url)
    with pytest.raises(BackendUnavailable, match="replica"):
        await backend.observe()
    with pytest.raises(BackendUnavailable, match="replica"):
        await backend.acquire(candidate("a"), None)


async def test_failover_to_a_replica_that_missed_the_new_leader_gives_nobody_the_lease_at_once(
    server, pair, backend_at, candidate
):
    primary, copy, second = pair
    here, there = backend_at(server.url), backend_at(second.url)
    old = await granted(here, candidate("old", container="c" * 64))
    await here.release(old)
    released = await here.observe()
    await catch_up(primary)
    copy.replicaof("NO", "ONE")  # the replica keeps what it has, and misses what follows
    new = await granted(here, candidate("new"), released)

    stale = await there.observe()
    assert (stale.holder, stale.released, stale.lease_ms) == ("old", False, 5000)
    assert await there.holder_is_dead(stale) is None
    assert not stale.nonce.startswith("nonce-of-old"), "nor is it anybody's own"
    assert isinstance(await there.acquire(candidate("x"), released), Held), "seen on the old primary only"
    with pytest.raises(LeaseLost):
        await there.renew(new)
    after = await granted(there, candidate("x", floor=new.record.epoch), stale)
    assert after.record.epoch > new.record.epoch, "the floor, a time, keeps epochs rising"


async def test_failover_to_a_replica_that_knows_the_leader_lets_it_go_on(server, pair, backend_at, candidate):
    primary, copy, second = pair
    grant = await granted(backend_at(server.url), candidate("a"))
    await catch_up(primary)
    server.kill()
    copy.replicaof("NO", "ONE")
    there = backend_at(second.url)
    assert (await there.renew(grant)).record.same_tenure(grant.record)
    assert (await there.observe()).nonce == "nonce-of-a"
