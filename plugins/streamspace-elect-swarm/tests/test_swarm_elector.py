"""The backend under the core's elector: replicas of real tasks take over from each other."""

import asyncio
import time
from contextlib import asynccontextmanager

from streamspace_agent.election.elector import Elector
from streamspace_agent.election.identity import Identity
from streamspace_elect_swarm.backend import DEFAULTS

from .conftest import candidate, running


@asynccontextmanager
async def elector(backend, name):
    me = Identity(backend.agent_id, name, f"nonce-{name}", "h", backend.container_id)
    elector = Elector(backend, me, exit=lambda code: None, stop_grace=60)
    await elector.start()
    beat = asyncio.create_task(_beat(elector))
    try:
        yield elector
    finally:
        beat.cancel()
        await elector.aclose()


async def _beat(elector):
    while True:
        elector.alive()
        await asyncio.sleep(0.1)


def _containers(service, count):
    return [task["Status"]["ContainerStatus"]["ContainerID"] for task in running(service, count)]


async def test_a_standby_takes_over_from_a_killed_leader_long_before_its_lease_ends(replicas, services, client):
    leading, standing = _containers(services.make(2, restart_policy={"Condition": "none"}), 2)
    async with (
        elector(replicas(leading, timing=DEFAULTS), "first") as first,
        elector(replicas(standing, timing=DEFAULTS), "second") as second,
    ):
        # An empty store is watched for a whole lease; a released record is free at once.
        await _prepare(replicas(leading))
        lease = await asyncio.wait_for(first.lead(), 30)
        waiting = asyncio.create_task(second.lead())
        await asyncio.sleep(1)
        assert not waiting.done()
        began = time.monotonic()
        client.api.kill(leading, "SIGKILL")
        successor = await asyncio.wait_for(waiting, 8)
        assert time.monotonic() - began < 8 < DEFAULTS.lease
        assert successor.epoch > lease.epoch


async def test_a_standby_takes_over_at_once_from_a_leader_that_resigns(replicas, services):
    one, other = _containers(services.make(2), 2)
    async with (
        elector(replicas(one, timing=DEFAULTS), "first") as first,
        elector(replicas(other, timing=DEFAULTS), "second") as second,
    ):
        await _prepare(replicas(one))
        lease = await asyncio.wait_for(first.lead(), 30)
        waiting = asyncio.create_task(second.lead())
        await asyncio.sleep(1)
        await first.resign(lease, "test")
        successor = await asyncio.wait_for(waiting, 8)
        assert successor.epoch > lease.epoch
        await second.resign(successor, "test")


async def _prepare(backend):
    grant = await backend.acquire(candidate(backend), None)
    await backend.release(grant)
