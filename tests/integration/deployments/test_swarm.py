"""The Swarm stack on a real manager, by the documented commands."""

import asyncio
import json

import pytest
import trustme

from tests.integration.deployments import readme, scenario, stack
from tests.integration.deployments.compose import CommandFailed


@pytest.mark.timeout(300)
async def test_a_stack_elects_one_leader_and_survives_its_death_scaling_and_a_failing_update(
    swarm, swarm_engine, manager, plane, agent_id, key, manifest, tmp_path, tiny_image, built_image
):
    # With a file that the agent gets beside its key; it would not start if it could not read it.
    trustme.CA().cert_pem.write_to_path(tmp_path / "ca.pem")
    (tmp_path / "files.yaml").write_text(readme.example("files.yaml"))
    await swarm(readme.command("docker secret create", "CAFILE").replace("CAFILE", f"{tmp_path}/ca.pem"))
    deploy = readme.command("docker stack deploy", "-c files.yaml").replace("files.yaml", f"{tmp_path}/files.yaml")
    swarm.environ["TLS_CA_FILE"] = "/run/secrets/ca.pem"
    async with scenario.led(plane, agent_id):
        await stack.deploy(swarm, tmp_path, key, deploy)
    await scenario.start(plane, manifest, agent_id)
    ((instance, epoch),) = await asyncio.to_thread(stack.leaders, manager)
    began = manager.api.inspect_container(f"streamspace-{agent_id}")["State"]["StartedAt"]

    label = f"streamspace.agent.leader.{agent_id}"

    def labels():
        return stack.service(manager).attrs["Spec"]["Labels"]

    await stack.found(lambda: labels().get(f"{label}.epoch") == str(epoch), "the leader in the service's labels")
    container = stack.container_of(manager, instance)
    shown = json.loads(await swarm(readme.command("docker service inspect")))
    lease = await swarm(readme.command("docker config inspect").replace("docker-agent-prod", agent_id))
    assert shown == labels()
    assert instance in lease
    assert labels()[label] == container.labels["com.docker.swarm.task.id"]

    assert container.attrs["HostConfig"]["PidsLimit"] == 512
    assert key not in json.dumps(container.attrs) + container.logs().decode()
    assert "Running" in await swarm(readme.command("docker service ps"))
    followed = await swarm(f"timeout 5 {readme.command('docker service logs -f')} 2>&1 || [ $? -eq 124 ]")
    assert agent_id in followed
    assert "FATAL" not in await swarm(readme.command("docker exec", "swarm.service.name", "docker-agent check"))

    async def leader():
        await stack.found(lambda: len(stack.running(manager)) == 3, "three replicas")
        ((instance, _),) = await stack.found(lambda: stack.leaders(manager), "a leader")
        return stack.container_of(manager, instance)

    await scenario.killed_until_taken_over_within(plane, agent_id, 1.0, leader)
    ((successor, _),) = await stack.found(lambda: stack.leaders(manager), "a leader")
    assert successor != instance

    await swarm(readme.command("docker service scale").replace("scale", "scale --detach").replace("=5", "=4"))
    await stack.found(lambda: len(stack.running(manager)) == 4, "four replicas")

    # An image without the agent: the first new task fails, and Swarm goes back.
    await swarm(f"docker service update --detach --image {tiny_image} {stack.SERVICE}")

    await stack.found(lambda: stack.update_state(manager) == "rollback_completed", "the rollback")
    assert stack.image(manager) == built_image
    assert len(await stack.found(lambda: stack.leaders(manager), "a leader")) == 1

    assert manager.api.inspect_container(f"streamspace-{agent_id}")["State"]["StartedAt"] == began
    await scenario.still_controllable(plane, agent_id)
    await swarm(readme.command("docker stack rm"))
    await stack.found(lambda: not manager.api.containers(all=True), "no container left")


async def test_a_stack_without_agent_id_or_without_the_secret_is_refused_in_a_line(swarm):
    for missing, said in (({"AGENT_ID": ""}, "set AGENT_ID"), ({}, "secret not found: streamspace-agent-key")):
        with pytest.raises(CommandFailed) as error:
            await swarm(readme.command("docker stack deploy -c swarm/docker-swarm.yaml streamspace-agent"), **missing)
        assert said in str(error.value)


def test_every_command_of_the_readme_for_one_manager_was_run():
    assert readme.left_out(__name__) == []
