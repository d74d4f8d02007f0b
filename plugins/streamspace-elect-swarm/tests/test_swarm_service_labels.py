"""The leader in the service's labels: shown, and never at the cost of a rollback."""

import asyncio
import os
import subprocess
import uuid

import pytest

from lab.until import until_sync
from streamspace_elect_swarm import service_labels

from .conftest import candidate, running

SECOND = 1_000_000_000
AT_ONCE = {"Parallelism": 0, "Delay": 0, "Monitor": SECOND // 2, "FailureAction": "pause", "MaxFailureRatio": 0}


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(service_labels, "RETRY", 0.2)


def _shown(service, agent_id):
    service.reload()
    return (service.attrs["Spec"].get("Labels") or {}).get(f"streamspace.agent.leader.{agent_id}")


def _version_of(service):
    """The first entry of the tasks' environment: what the tests call a version."""
    service.reload()
    return service.attrs["Spec"]["TaskTemplate"]["ContainerSpec"]["Env"][0]


async def _lead(replicas, task):
    backend = replicas(task["Status"]["ContainerStatus"]["ContainerID"])
    seen = await backend.observe()
    return backend, await backend.acquire(candidate(backend), seen)


async def test_the_service_names_the_leader_and_restarts_nothing(replicas, services, agent_id):
    service = services.make(2)
    first, second = running(service, 2)
    backend, grant = await _lead(replicas, first)
    await asyncio.to_thread(until_sync, lambda: _shown(service, agent_id) == first["ID"])
    assert service.attrs["Spec"]["Labels"][f"streamspace.agent.leader.{agent_id}.epoch"] == str(grant.record.epoch)
    await backend.release(grant)
    await _lead(replicas, second)
    await asyncio.to_thread(until_sync, lambda: _shown(service, agent_id) == second["ID"])
    assert {task["ID"] for task in service.tasks()} == {first["ID"], second["ID"]}


async def test_a_renewal_does_not_touch_the_service(replicas, services, agent_id):
    service = services.make()
    backend, grant = await _lead(replicas, running(service)[0])
    await asyncio.to_thread(until_sync, lambda: _shown(service, agent_id))
    version = service.attrs["Version"]
    for _ in range(3):
        grant = await backend.renew(grant)
    await asyncio.sleep(0.5)
    service.reload()
    assert service.attrs["Version"] == version


async def test_a_rollback_after_a_change_of_leader_brings_the_old_version_back(replicas, services, agent_id, one_host):
    service = services.make(2, env=["VERSION=1"], update_config=AT_ONCE, rollback_config=AT_ONCE)
    old, other = running(service, 2)
    await _lead(replicas, old)
    await asyncio.to_thread(until_sync, lambda: _shown(service, agent_id))

    service.reload()
    service.update(env=["VERSION=2"], fetch_current_spec=True)
    await asyncio.to_thread(until_sync, lambda: _state(service) == "completed")
    new = next(task for task in running(service, 2) if task["ID"] not in {old["ID"], other["ID"]})
    backend, _ = await _lead(replicas, new)
    await asyncio.sleep(1.0)  # five tries to write
    assert (await backend.observe()).task == new["ID"]

    _cli(one_host, "service", "rollback", "--detach", service.name)
    await asyncio.to_thread(until_sync, lambda: _state(service) == "rollback_completed")
    assert _version_of(service) == "VERSION=1"


@pytest.mark.timeout(240)
async def test_a_failing_update_rolls_back_although_leaders_change_meanwhile(replicas, services, agent_id):
    service = services.make(
        2,
        env=["VERSION=1"],
        update_config={
            "Parallelism": 1,
            "Delay": SECOND // 2,
            "Monitor": 2 * SECOND,
            "FailureAction": "rollback",
            "MaxFailureRatio": 0,
        },
    )
    first, second = running(service, 2)
    other, grant = await _lead(replicas, second)
    await other.release(grant)
    backend, grant = await _lead(replicas, first)
    await asyncio.to_thread(until_sync, lambda: _shown(service, agent_id) == first["ID"])
    service.update(env=["VERSION=2", "MODE=crash", "AFTER=0"], fetch_current_spec=True)
    await asyncio.to_thread(until_sync, lambda: _state(service) in {"updating", "rollback_started"})
    for _ in range(3):  # the tasks may be gone by now: their containers' labels are asked for only once
        await backend.release(grant)
        backend, other = other, backend
        grant = await backend.acquire(candidate(backend), await backend.observe())
        await asyncio.sleep(0.3)
    await asyncio.to_thread(until_sync, lambda: _state(service) == "rollback_completed", timeout=150)
    assert _version_of(service) == "VERSION=1"
    assert (await backend.observe()).epoch == grant.record.epoch


async def test_a_held_back_label_is_written_once_it_harms_nobody(replicas, services, agent_id):
    service = services.make(env=["VERSION=1"], update_config=AT_ONCE)
    running(service)
    service.reload()
    service.update(env=["VERSION=2"], fetch_current_spec=True)
    await asyncio.to_thread(until_sync, lambda: _state(service) == "completed")
    task = next(task for task in running(service) if task["DesiredState"] == "running")
    await _lead(replicas, task)
    await asyncio.sleep(0.6)
    assert _shown(service, agent_id) is None
    # The same version again, as an operator's `docker stack deploy` does: now nothing is lost.
    service.update(fetch_current_spec=True, labels={"deployed": "again"})
    await asyncio.to_thread(until_sync, lambda: _shown(service, agent_id) == task["ID"])
    assert service.attrs["Spec"]["Labels"]["deployed"] == "again"


async def test_a_label_that_cannot_be_written_does_not_delay_the_lease(replicas, services, agent_id, monkeypatch):
    backend = replicas(services.container())

    async def stuck(*_):
        await asyncio.sleep(3600)

    monkeypatch.setattr(service_labels, "show", stuck)
    grant = await backend.acquire(candidate(backend), None)
    await backend.release(await backend.renew(grant))
    assert (await backend.observe()).released


async def test_a_stack_deploys_again_and_leaves_the_lease_alone(
    replicas, client, one_host, agent_id, tmp_path, tiny_image
):
    stack = f"s{uuid.uuid4().hex[:10]}"
    file = tmp_path / "stack.yaml"
    file.write_text(f'version: "3.8"\nservices:\n  agent:\n    image: {tiny_image}\n    deploy: {{replicas: 2}}\n')
    deploy = ["stack", "deploy", "--resolve-image=never", "-c", str(file), stack]
    _cli(one_host, *deploy)
    try:
        service = client.services.get(f"{stack}_agent")
        task = running(service, 2)[0]
        backend, grant = await _lead(replicas, task)
        await asyncio.to_thread(until_sync, lambda: _shown(service, agent_id))
        _cli(one_host, *deploy)
        assert (await backend.renew(grant)).record.epoch == grant.record.epoch
        assert task["ID"] in {each["ID"] for each in running(service, 2)}
    finally:
        _cli(one_host, "stack", "rm", stack)


@pytest.mark.parametrize("state", ["updating", "paused", "rollback_started", "rollback_paused", "news"])
def test_a_service_in_the_middle_of_an_update_is_left_alone(state):
    assert state in service_labels.reason_to_wait({"UpdateStatus": {"State": state}, "Spec": {"TaskTemplate": {}}})


def _state(service):
    service.reload()
    return (service.attrs.get("UpdateStatus") or {}).get("State")


def _cli(host, *arguments):
    environ = {**os.environ, "DOCKER_HOST": host.docker_host}
    subprocess.run(["docker", *arguments], env=environ, check=True, capture_output=True, timeout=60)
