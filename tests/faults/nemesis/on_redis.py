"""Three replicas, each with its own way to one Redis: a proxy that slows, loses, cuts and leads astray."""

import asyncio
import os
import signal
from dataclasses import replace

import redis

from lab import apt
from lab.proxy import Proxy
from lab.redis import RedisServer
from tests.faults.nemesis.faults import CHANGE, CROWD, EITHER, FORK, HANDOVER, KILL, NO_CHANGE, Fault, block, freeze
from tests.faults.nemesis.stage import Process, Stage

SHIFTED = "a"
"""The replica with a wall clock of its own. Not all of them: libfaketime reaches into sleeps and locks too."""
FAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1"


class RedisStage(Stage):
    backend = "redis"

    async def begin(self, stack):
        await asyncio.to_thread(apt.require, "redis-server", "faketime")
        self.servers = [stack.enter_context(RedisServer())]
        for name in ("a", "b", "c"):
            proxy = stack.enter_context(Proxy(self.servers[0].port))
            url = {"REDIS_URL": f"redis://127.0.0.1:{proxy.port}/0"}
            clock = self._own_clock() if name == SHIFTED else {}
            replica = Process(self, name, self.variables(name) | clock | url)
            replica.proxy = proxy
            self.replicas.append(replica)
            stack.push_async_callback(replica.close)
        self._stack_of_servers = stack

    def _own_clock(self):
        """Variables that let :meth:`shift` set a process's wall clock, and no other, while it runs."""
        self.shift(0)
        return {
            "LD_PRELOAD": FAKETIME,
            "FAKETIME_TIMESTAMP_FILE": str(self.folder / "clock"),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }

    def shift(self, seconds):
        new = self.folder / "clock.new"
        new.write_text(f"{seconds:+d}\n")
        new.rename(self.folder / "clock")

    @property
    def server(self):
        return self.servers[-1]

    def admin(self):
        return redis.Redis(port=self.server.port, decode_responses=True)

    @property
    def proxies(self):
        return [replica.proxy for replica in self.replicas]


def store(seconds=None, *, cut=False, **switches):
    """All replicas' ways to the store at once: `(inject, heal)`."""

    async def inject(stage):
        for proxy in stage.proxies:
            _switch(proxy, switches)
            if cut:
                proxy.cut()

    async def heal(stage):
        for proxy in stage.proxies:
            _restore(proxy)

    return inject, heal


def way_of(whom, **switches):
    """The way of the leader only, or of one standby."""

    async def inject(stage):
        replica = stage.leader if whom == "leader" else stage.standbys[0]
        _switch(replica.proxy, switches)

    async def heal(stage):
        for proxy in stage.proxies:
            _restore(proxy)

    return inject, heal


def _switch(proxy, switches):
    for name, value in switches.items():
        setattr(proxy, name, value)


def _restore(proxy):
    held = proxy.stalled or proxy.mute
    proxy.stalled = proxy.mute = proxy.refusing = False
    proxy.delay = 0.0
    if held:
        proxy.cut()


async def release_in_vain(stage):
    """The store is away when the leader hands over."""
    for proxy in stage.proxies:
        proxy.stalled = True
    stage.leader.signal(signal.SIGTERM)


async def restart_empty(stage):
    stage.server.kill()
    stage.server.start()


async def flush(stage):
    with stage.admin() as admin:
        admin.flushall()


async def delete_key(stage):
    with stage.admin() as admin:
        assert admin.delete(f"streamspace:agent:leader:{stage.agent_id}") == 1


async def make_a_stale_copy(stage):
    """A copy of the server that stopped following, then one more change of leaders that it does not know of."""
    if len(stage.servers) > 1:
        return  # the server left by the last fail-over is stale by now
    copy = stage._stack_of_servers.enter_context(RedisServer())
    with redis.Redis(port=copy.port) as client:
        client.replicaof("127.0.0.1", stage.server.port)
        while client.info("replication").get("master_link_status") != "up":
            await asyncio.sleep(0.05)
        client.replicaof("no", "one")
    stage.servers.insert(0, copy)
    epoch, after = await stage.steady(), stage.now()
    stage.leader.signal(signal.SIGTERM)
    await stage.accepted(epoch, after)


async def fail_over_to_a_stale_copy(stage):
    stage.servers.reverse()
    for proxy in stage.proxies:
        proxy.target = stage.server.port
        proxy.cut()


def agents_clock(seconds):
    async def inject(stage):
        assert stage.leader.name == SHIFTED
        stage.shift(seconds)

    async def heal(stage):
        stage.shift(0)

    return inject, heal


def redis_clock(seconds):
    """What a step of the server's wall clock does to its keys: each TTL is so much shorter or longer. (Debian's
    redis-server does not start under libfaketime.)"""

    async def inject(stage):
        with stage.admin() as admin:
            for key in admin.scan_iter():
                if (left := admin.pttl(key)) > 0:
                    admin.pexpire(key, left - 1000 * seconds)

    return inject


async def unequal_leases(stage):
    """The standbys come back with settings of their own."""
    for replica, seconds in zip(stage.standbys, (6, 8), strict=True):
        replica.agent.variables["LEASE_DURATION"] = f"{seconds}s"
        replica.signal(signal.SIGKILL)
        await asyncio.sleep(0.1)


async def equal_leases(stage):
    for replica in stage.replicas:
        replica.agent.variables.pop("LEASE_DURATION", None)
    for replica in stage.standbys:
        if replica.alive:
            os.kill(replica.pid, signal.SIGTERM)


FAULTS = [
    KILL,
    HANDOVER,
    CROWD,
    replace(FORK, quick=False),
    freeze(1.5, NO_CHANGE),
    freeze(7, CHANGE),
    freeze(10, CHANGE, quick=False),
    block(3, NO_CHANGE),
    block(30, CHANGE, quick=False),
    Fault("leader cut off from the store", CHANGE, *way_of("leader", stalled=True)),
    Fault("leader's replies lost", CHANGE, *way_of("leader", mute=True)),
    Fault("standby cut off from the store", NO_CHANGE, *way_of("standby", stalled=True), lasts=6, quick=False),
    Fault("store away for 0.3 s", NO_CHANGE, *store(stalled=True), lasts=0.3),
    Fault("store away for 2 s", NO_CHANGE, *store(stalled=True), lasts=2),
    Fault("connections refused for 2 s", NO_CHANGE, *store(refusing=True, cut=True), lasts=2, quick=False),
    Fault("store away for 7 s", CHANGE, *store(stalled=True), lasts=7, quick=False),
    Fault("store slowed by 0.3 s", NO_CHANGE, *store(delay=0.3), lasts=6, quick=False),
    Fault("store slowed by 0.6 s", EITHER, *store(delay=0.6), lasts=8, quick=False),
    Fault("store slowed by 3 s", EITHER, *store(delay=3.0), lasts=8, quick=False),
    Fault("release while the store is away", CHANGE, release_in_vain, store()[1], lasts=2),
    Fault("Redis restarted empty", CHANGE, restart_empty, quick=False),
    Fault("FLUSHALL", CHANGE, flush),
    Fault("leader key deleted", NO_CHANGE, delete_key, lasts=3, quick=False),
    Fault("fail-over to a stale copy", CHANGE, fail_over_to_a_stale_copy, prepare=make_a_stale_copy),
    Fault("leader's wall clock +1 h", NO_CHANGE, *agents_clock(3600), lasts=4, leader=SHIFTED),
    Fault("leader's wall clock -1 h", NO_CHANGE, *agents_clock(-3600), lasts=4, leader=SHIFTED, quick=False),
    Fault("Redis' wall clock +1 h", EITHER, redis_clock(3600), lasts=3),
    Fault("Redis' wall clock -1 h", EITHER, redis_clock(-3600), lasts=3, quick=False),
    Fault("SIGKILL with unequal leases", CHANGE, KILL.inject, equal_leases, prepare=unequal_leases, quick=False),
]
