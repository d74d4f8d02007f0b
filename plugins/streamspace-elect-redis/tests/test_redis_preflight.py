"""What a preflight finds on real servers, and how to reach them: passwords, ACLs, TLS, sockets, Sentinels."""

import asyncio
import contextlib
import os
import time

import pytest
import redis
import trustme

from lab import process
from lab.redis import RedisServer
from lab.until import until
from streamspace_agent.election import Grant
from streamspace_agent.errors import BackendUnavailable
from streamspace_elect_redis.scripts import keys

pytestmark = pytest.mark.slow


KEY, _, _ = keys("docker-lab")
ACL = (
    "on >s3cret ~streamspace:agent:leader:* ~{streamspace:agent:leader:* &streamspace:agent:leader:* -@all "
    "+eval +info +get +set +del +pttl +hset +hget +hgetall +publish +subscribe"
)


@pytest.fixture
def guarded():
    with (
        RedisServer(password="s3cret-admin") as server,
        redis.Redis(port=server.port, password=server.password, decode_responses=True) as admin,
    ):
        yield server, admin


async def holds_a_lease(backend, candidate) -> bool:
    grant = await backend.acquire(candidate("a"), None)
    assert isinstance(grant, Grant)
    grant = await backend.renew(grant)
    await backend.release(grant)
    return (await backend.observe()).released


async def test_a_server_in_memory_only_gets_a_warning_and_nothing_is_changed(replica, client):
    [problem] = await replica().preflight()
    assert not problem.fatal
    assert "append-only" in problem.message
    assert "appendonly yes" in problem.fix
    assert client.dbsize() == 0


async def test_a_server_with_an_append_only_file_gets_none(backend_at):
    with RedisServer(persist=True) as server:
        assert await backend_at(server.url).preflight() == []


async def test_a_server_that_is_away_may_come_back(backend_at):
    url = f"redis://127.0.0.1:{process.free_port()}"
    with pytest.raises(BackendUnavailable, match=f"{url.removeprefix('redis://')}"):
        await backend_at(url).preflight()


@pytest.mark.parametrize("credentials", ["", ":wr0ng@", "nobody:wr0ng@"])
async def test_a_missing_or_wrong_password_is_fatal_and_names_the_variable(guarded, backend_at, credentials):
    server, _ = guarded
    [problem] = await backend_at(f"redis://{credentials}127.0.0.1:{server.port}").preflight()
    assert problem.fatal
    assert "REDIS_URL_FILE" in problem.fix
    assert not {"s3cret", "wr0ng"} & set(f"{problem.message} {problem.fix}".split())
    assert "wr0ng" not in problem.message


async def test_the_documented_acl_is_enough(guarded, backend_at, candidate):
    server, admin = guarded
    admin.execute_command("ACL", "SETUSER", "agent", *ACL.split())
    backend = backend_at(f"redis://agent:s3cret@127.0.0.1:{server.port}")
    assert [p for p in await backend.preflight() if p.fatal] == []
    assert await holds_a_lease(backend, candidate)
    await backend.wait_change(None, 10)
    assert admin.pubsub_numsub(KEY)[0][1] == 1


@pytest.mark.parametrize("missing", ["set", "hset", "get", "hgetall", "pttl", "del", "publish", "info", "eval"])
async def test_each_right_that_is_missing_is_fatal_before_it_is_needed(guarded, backend_at, missing):
    server, admin = guarded
    admin.execute_command("ACL", "SETUSER", "agent", *ACL.split(), f"-{missing}")
    problems = await backend_at(f"redis://agent:s3cret@127.0.0.1:{server.port}").preflight()
    [problem] = [p for p in problems if p.fatal]
    assert missing in problem.message.lower()
    assert "REDIS_URL" in problem.fix


async def test_keys_out_of_reach_are_fatal(guarded, backend_at):
    server, admin = guarded
    admin.execute_command("ACL", "SETUSER", "agent", "on", ">s3cret", "~other:*", "&*", "+@all")
    problems = await backend_at(f"redis://agent:s3cret@127.0.0.1:{server.port}").preflight()
    assert ["key" in p.message and "REDIS_URL" in p.fix for p in problems if p.fatal] == [True]


async def test_a_user_who_may_not_subscribe_gets_a_warning(guarded, backend_at, candidate):
    server, admin = guarded
    admin.execute_command("ACL", "SETUSER", "agent", *ACL.split(), "-subscribe")
    backend = backend_at(f"redis://agent:s3cret@127.0.0.1:{server.port}")
    problems = await backend.preflight()
    assert [p.fatal for p in problems if "subscribe" in p.message] == [False]
    assert await holds_a_lease(backend, candidate)
    await backend.wait_change(None, 0.05)


@pytest.mark.parametrize(("policy", "warned"), [("allkeys-lru", True), ("volatile-ttl", True), ("noeviction", False)])
async def test_an_evicting_memory_policy_gets_a_warning(backend_at, policy, warned):
    with RedisServer(persist=True, options=("--maxmemory", "100mb", "--maxmemory-policy", policy)) as server:
        problems = await backend_at(server.url).preflight()
    assert [not p.fatal and policy in p.message and "noeviction" in p.fix for p in problems] == [True] * warned


async def test_a_replica_is_named_with_its_primary(backend_at):
    with RedisServer() as primary:
        with redis.Redis(port=primary.port) as admin:
            admin.config_set("repl-diskless-sync-delay", 0)
        with (
            RedisServer(options=("--replicaof", "127.0.0.1", str(primary.port))) as copy,
            redis.Redis(port=copy.port, decode_responses=True) as admin,
        ):
            await until(lambda: admin.info("replication")["master_link_status"] == "up")
            problem = (await backend_at(copy.url).preflight())[0]
            assert problem.fatal
            assert f"127.0.0.1:{primary.port}" in problem.fix
            primary.kill()
            await until(lambda: admin.info("replication")["master_link_status"] == "down")
            assert not (await backend_at(copy.url).preflight())[0].fatal, "a failover may be under way"


def cluster_node() -> RedisServer:
    return RedisServer(options=("--cluster-enabled", "yes", "--cluster-port", str(process.free_port())))


async def test_a_cluster_node_without_the_keys_is_fatal(backend_at):
    with (
        cluster_node() as one,
        cluster_node() as two,
        redis.Redis(port=one.port, decode_responses=True) as admin,
        redis.Redis(port=two.port) as other,
    ):
        slot = admin.execute_command("CLUSTER", "KEYSLOT", KEY)
        admin.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, slot - 1, slot + 1, 16383)
        other.execute_command("CLUSTER", "ADDSLOTS", slot)
        bus = other.config_get("cluster-port")["cluster-port"]
        other.config_set("cluster-node-timeout", 2000)
        admin.execute_command("CLUSTER", "MEET", "127.0.0.1", two.port, bus)
        await until(lambda: "cluster_state:ok" in str(admin.execute_command("CLUSTER", "INFO")))
        problems = await backend_at(one.url).preflight()
    assert [p.fatal for p in problems if "Cluster" in p.message] == [True]


async def test_a_cluster_of_one_shard_carries_a_lease_for_its_keys_share_a_slot(backend_at, candidate):
    with cluster_node() as server, redis.Redis(port=server.port, decode_responses=True) as admin:
        admin.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        await until(lambda: "cluster_state:ok" in str(admin.execute_command("CLUSTER", "INFO")))
        assert await holds_a_lease(backend_at(server.url), candidate)


# Ways to a server


@pytest.fixture
def tls(tmp_path):
    """A server that speaks TLS only, with a certificate for 127.0.0.1, and the folder of ca.pem."""
    ca = trustme.CA()
    issued = ca.issue_cert("127.0.0.1")
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    issued.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "server.pem"))
    files = ("--tls-cert-file", "server.pem", "--tls-key-file", "server.pem", "--tls-ca-cert-file", "ca.pem")
    paths = [str(tmp_path / word) if word.endswith(".pem") else word for word in files]
    port = process.free_port()
    with RedisServer(options=("--tls-port", str(port), *paths, "--tls-auth-clients", "optional")):
        yield f"rediss://127.0.0.1:{port}/0", tmp_path


async def test_a_server_with_tls_is_trusted_through_the_ca_file(tls, backend_at, candidate):
    url, folder = tls
    backend = backend_at(url, {"REDIS_TLS_CA_FILE": str(folder / "ca.pem"), "LEASE_PROFILE": "steady"})
    assert not [p for p in await backend.preflight() if p.fatal]
    assert await holds_a_lease(backend, candidate)


async def test_a_closed_backend_has_no_tls_connection_left_that_waits_for_the_servers_end(tls, backend_at, candidate):
    url, folder = tls
    before = sockets()
    backend = backend_at(url, {"REDIS_TLS_CA_FILE": str(folder / "ca.pem"), "LEASE_PROFILE": "steady"})
    await backend.preflight()
    assert await holds_a_lease(backend, candidate)
    await backend.wait_change(None, 10)
    await backend.aclose()
    assert sockets() == before


def sockets():
    """The open sockets of this process."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.add(os.readlink(f"/proc/self/fd/{number}"))
    return {name for name in found if name.startswith("socket:")}


async def test_a_server_with_a_certificate_of_an_unknown_ca_is_not_talked_to(tls, backend_at):
    url, _ = tls
    with pytest.raises(BackendUnavailable, match=r"(?i)certificate"):
        await backend_at(url).preflight()


async def test_a_unix_socket_will_do(tmp_path, backend_at, candidate):
    with RedisServer(options=("--unixsocket", str(tmp_path / "redis.sock"))):
        assert await holds_a_lease(backend_at(f"unix://{tmp_path}/redis.sock?db=1"), candidate)


@pytest.fixture
def sentinel(tmp_path):
    """Watches one primary and its replica, and fails over in a second."""
    with (
        RedisServer() as primary,
        RedisServer(options=("--replicaof", "127.0.0.1", str(primary.port))) as copy,
        redis.Redis(port=primary.port, decode_responses=True) as admin,
    ):
        admin.config_set("repl-diskless-sync-delay", 0)
        port, config = process.free_port(), tmp_path / "sentinel.conf"
        config.write_text(
            f"port {port}\nbind 127.0.0.1\ndir {tmp_path}\n"
            f"sentinel monitor lab 127.0.0.1 {primary.port} 1\n"
            "sentinel down-after-milliseconds lab 800\nsentinel failover-timeout lab 5000\n"
        )
        pid = process.spawn(["redis-server", str(config), "--sentinel"], tmp_path / "sentinel.log")
        try:
            process.wait_until(lambda: process.listens(port), "sentinel", pid=pid, log=tmp_path / "sentinel.log")
            with redis.Redis(port=port, decode_responses=True) as watcher:
                deadline = time.monotonic() + 60
                while watcher.sentinel_master("lab")["num-slaves"] < 1 or not _synced(copy):
                    assert time.monotonic() < deadline
                    time.sleep(0.1)
            yield port, primary, copy
        finally:
            process.stop(pid, f"127.0.0.1:{port}")


def _synced(copy: RedisServer) -> bool:
    with redis.Redis(port=copy.port, decode_responses=True) as client:
        return client.info("replication")["master_link_status"] == "up"


async def test_the_leader_follows_the_sentinels_to_the_next_primary_and_keeps_its_lease(
    sentinel, backend_at, candidate
):
    port, primary, copy = sentinel
    backend = backend_at(f"redis+sentinel://127.0.0.1:{port}/lab")
    grant = await backend.acquire(candidate("a"), None)
    assert isinstance(grant, Grant)
    with redis.Redis(port=primary.port) as admin:
        assert admin.wait(1, 5000) == 1
    primary.kill()
    async with asyncio.timeout(60):
        while True:
            try:
                renewed = await backend.renew(grant)
                break
            except BackendUnavailable:
                await asyncio.sleep(0.1)
    assert renewed.record.same_tenure(grant.record)
    with redis.Redis(port=copy.port, decode_responses=True) as admin:
        assert admin.get(KEY) == "a"


async def test_sentinels_that_are_away_or_refuse_the_login_are_no_answer_and_no_secret_is_told(backend_at):
    with RedisServer(password="s3cret-admin") as guarded:
        for port in (process.free_port(), guarded.port):
            url = f"redis+sentinel://agent:s3cret@127.0.0.1:{port}/lab?sentinel_password=s3cret"
            backend = backend_at(url)
            for call in (backend.preflight, backend.observe):
                with pytest.raises(BackendUnavailable, match="no Sentinel names a primary") as caught:
                    await call()
                assert "s3cret" not in str(caught.value)
