"""What proves a leader's death, on real tasks of a real Swarm."""

import asyncio
import time
from dataclasses import replace

import pytest

from lab.until import until, until_sync

from .conftest import candidate, running


async def _led_by(replicas, container):
    backend = replicas(container)
    await backend.acquire(candidate(backend), None)
    return backend, await backend.observe()


async def test_a_leader_that_runs_is_not_called_dead(replicas, services):
    standby, record = await _led_by(replicas, services.container())
    assert await standby.holder_is_dead(record) is None


async def test_a_killed_leader_is_certified_dead(replicas, services, client):
    container = services.container()
    standby, record = await _led_by(replicas, container)
    client.api.kill(container, "SIGKILL")
    await until(lambda: standby.holder_is_dead(record))


async def test_the_death_of_the_leader_ends_a_wait_for_a_change(replicas, services, client):
    container = services.container()
    standby, record = await _led_by(replicas, container)
    waiting = asyncio.create_task(standby.wait_change(record, 60.0))
    await asyncio.sleep(0.3)
    began = time.monotonic()
    client.api.kill(container, "SIGKILL")
    while time.monotonic() - began < 20 and not await standby.holder_is_dead(record):
        await asyncio.wait([waiting], timeout=20)  # events that are no certificate may end a wait early
        waiting = asyncio.create_task(standby.wait_change(await standby.observe(), 60.0))
    waiting.cancel()
    assert await standby.holder_is_dead(record)


async def test_a_leader_that_exits_by_itself_is_certified_dead(replicas, services):
    service = services.make(env=["MODE=crash", "AFTER=2", "EXIT_CODE=0"], restart_policy=_NO_RESTART)
    task = running(service)[0]
    standby, record = await _led_by(replicas, task["Status"]["ContainerStatus"]["ContainerID"])
    await until(lambda: standby.holder_is_dead(record))
    assert _task(service, record)["Status"]["State"] == "complete"


async def test_a_replaced_leader_is_certified_dead_only_when_its_container_is_gone(replicas, services, client):
    service = services.make(env=["MODE=stubborn"], stop_grace_period=3_000_000_000)
    container = running(service)[0]["Status"]["ContainerStatus"]["ContainerID"]
    standby, record = await _led_by(replicas, container)
    await asyncio.to_thread(
        until_sync, lambda: service.reload() or service.attrs["Spec"].get("Labels")
    )  # the leader is shown: no write of ours races
    service.force_update()
    await asyncio.to_thread(until_sync, lambda: _task(service, record)["DesiredState"] == "shutdown")
    dead = await standby.holder_is_dead(record)
    assert not (dead and _runs(client, container))
    await until(lambda: standby.holder_is_dead(record))
    assert not _runs(client, container)
    assert _task(service, record)["Status"]["State"] == "shutdown"


async def test_a_task_that_the_swarm_rejects_while_it_runs_is_not_called_dead(replicas, services, client):
    node = client.nodes.list()[0]
    node.update({**node.attrs["Spec"], "Labels": {"streamspace-test": "yes"}})
    service = services.make(
        env=["MODE=stubborn"], constraints=["node.labels.streamspace-test == yes"], stop_grace_period=5_000_000_000
    )
    container = running(service)[0]["Status"]["ContainerStatus"]["ContainerID"]
    standby, record = await _led_by(replicas, container)
    node.reload()
    node.update({**node.attrs["Spec"], "Labels": {}})
    await asyncio.to_thread(until_sync, lambda: _task(service, record)["Status"]["State"] == "rejected")
    assert _runs(client, container)  # else the next line proves nothing
    assert await standby.holder_is_dead(record) is None


@pytest.mark.parametrize("change", [{"task": "gone"}, {"task": ""}, {"container_id": "f" * 64}])
async def test_a_missing_task_or_another_container_proves_nothing(replicas, services, client, change):
    container = services.container()
    standby, record = await _led_by(replicas, container)
    client.api.kill(container, "SIGKILL")
    await until(lambda: standby.holder_is_dead(record))
    assert await standby.holder_is_dead(replace(record, **change)) is None


_NO_RESTART = {"Condition": "none"}


def _task(service, record):
    return next(task for task in service.tasks() if task["ID"] == record.task)


def _runs(client, container):
    return client.api.inspect_container(container)["State"]["Running"]
