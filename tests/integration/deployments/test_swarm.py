"""The Swarm stack on a real manager, by the documented commands."""

import asyncio
import json
import time

import docker
import pytest

from lab import process
from tests.integration.deployments import readme, scenario
from tests.integration.deployments.compose import FOLDER, CommandFailed, call

SERVICE = "streamspace-agent_docker-agent"
# The stack's own waits, made short; nothing else differs from what is deployed.
QUICK = """
version: "3.8"
services:
  docker-agent:
    healthcheck: {interval: 2s}
    deploy:
      restart_policy: {delay: 1s}
      update_config: {delay: 1s, monitor: 5s}
      rollback_config: {delay: 1s, monitor: 5s}
"""


@pytest.fixture
async def swarm(swarm_engine, exported, key, tmp_path):
    """Run a documented command, from deployments/, on a manager that has the agent's key; all is gone afterwards."""
    environ = {**exported, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/bin", "DOCKER_HOST": swarm_engine.host}
    environ |= {"DOCKER_SOCKET": str(swarm_engine.socket), "HOME": str(tmp_path)}

    async def run(command, **more):
        return await call("sh", "-c", command, environ={**environ, **more}, cwd=FOLDER.parent)

    (tmp_path / "key").write_text(key)
    (tmp_path / "quick.yaml").write_text(QUICK)
    await run(f"docker swarm init --advertise-addr 127.0.0.1 --listen-addr 127.0.0.1:{process.free_port()}")
    yield run
    await run("docker stack rm streamspace-agent || true; docker swarm leave --force")


@pytest.fixture
def manager(swarm_engine):
    client = docker.DockerClient(base_url=swarm_engine.host)
    yield client
    client.close()


async def deploy(swarm, tmp_path):
    await swarm(readme.command("docker secret create").replace("KEYFILE", f"{tmp_path}/key"))
    # No registry has the test's image, so it is not asked for.
    stack = f"--resolve-image never -c {tmp_path}/quick.yaml streamspace-agent"
    await swarm(readme.command("docker stack deploy").replace("streamspace-agent", stack))


async def until(look, what, timeout=90.0):
    deadline = time.monotonic() + timeout
    while not (found := await asyncio.to_thread(look)):
        assert time.monotonic() < deadline, f"{what}: not within {timeout} s"
        await asyncio.sleep(0.1)
    return found


def leaders(manager):
    """The containers of the replicas that say they lead with a connection."""
    found = set()
    for container in manager.containers.list(
        filters={"label": f"com.docker.swarm.service.name={SERVICE}"}, ignore_removed=True
    ):
        code, (out, _) = container.exec_run(["docker-agent", "status", "--json"], demux=True)
        if code == 0 and out:
            documents = [d for d in json.loads(out) if d.get("role") == "leader" and d["link"]["connected"]]
            found |= {(document["instance"], document["epoch"]) for document in documents}
    return found


@pytest.mark.timeout(300)
async def test_a_stack_elects_one_leader_and_survives_its_death_scaling_and_a_failing_update(
    swarm, swarm_engine, manager, plane, agent_id, manifest, tmp_path, tiny_image, built_image
):
    await deploy(swarm, tmp_path)
    await plane.wait_agent(agent_id, timeout=60)
    await scenario.start(plane, manifest, agent_id)
    ((instance, epoch),) = await asyncio.to_thread(leaders, manager)
    began = manager.api.inspect_container(f"streamspace-{agent_id}")["State"]["StartedAt"]

    key = f"streamspace.agent.leader.{agent_id}"

    def labels():
        return manager.services.get(SERVICE).attrs["Spec"]["Labels"]

    await until(lambda: labels().get(f"{key}.epoch") == str(epoch), "the leader in the service's labels")
    container = manager.containers.get(instance.split("-")[-2])
    shown = json.loads(await swarm(readme.command("docker service inspect")))
    lease = await swarm(readme.command("docker config inspect").replace("docker-agent-prod", agent_id))
    assert shown == labels()
    assert instance in lease
    assert labels()[key] == container.labels["com.docker.swarm.task.id"]

    took = await scenario.until_taken_over(plane, agent_id, container.kill)
    print(f"taken over after {took:.2f} s")
    ((successor, _),) = await until(lambda: leaders(manager), "a leader")
    assert successor != instance

    await swarm(readme.command("docker service scale").replace("scale", "scale --detach").replace("=5", "=4"))
    await until(lambda: replicas(manager) == 4, "four replicas")

    # An image without the agent: the first new task fails, and Swarm goes back.
    await swarm(f"docker service update --detach --image {tiny_image} {SERVICE}")

    def rolled_back():
        return manager.services.get(SERVICE).attrs.get("UpdateStatus", {}).get("State") == "rollback_completed"

    await until(rolled_back, "the rollback")
    assert manager.services.get(SERVICE).attrs["Spec"]["TaskTemplate"]["ContainerSpec"]["Image"] == built_image
    assert len(await until(lambda: leaders(manager), "a leader")) == 1

    assert manager.api.inspect_container(f"streamspace-{agent_id}")["State"]["StartedAt"] == began
    await scenario.still_controllable(plane, agent_id)
    await swarm(readme.command("docker stack rm"))
    await until(lambda: not manager.api.containers(all=True), "no container left")


def replicas(manager):
    tasks = manager.services.get(SERVICE).tasks(filters={"desired-state": "running"})
    return sum(task["Status"]["State"] == "running" for task in tasks)


async def test_a_stack_without_agent_id_or_without_the_secret_is_refused_in_a_line(swarm):
    for missing, said in (({"AGENT_ID": ""}, "set AGENT_ID"), ({}, "secret not found: streamspace-agent-key")):
        with pytest.raises(CommandFailed) as error:
            await swarm("docker stack deploy -c swarm/docker-swarm.yaml streamspace-agent", **missing)
        assert said in str(error.value)
