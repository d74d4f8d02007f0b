"""The three Compose files, by the documented commands, on a real engine."""

import os
import signal

import pytest

from lab import process
from tests.integration.deployments import readme, scenario

pytestmark = pytest.mark.timeout(400)  # the first of a run builds the image

STANDALONE = "docker-compose.standalone.yaml"
HA = ["docker-compose.ha-file.yaml", "docker-compose.ha-redis.yaml"]
VERSIONS = ["v1", "v2"]


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_standalone_agent_that_is_killed_comes_back_to_its_session(
    compose, plane, agent_id, manifest, docker_client, version
):
    project = compose(STANDALONE, version)
    async with scenario.led(plane, agent_id):
        await project.up()
    await scenario.start(plane, manifest, agent_id)
    (container,) = project.containers()
    assert "docker-agent" in container.top(ps_args="axwwo pid,args")["Processes"][0][-1]
    began = docker_client.api.inspect_container(f"streamspace-{agent_id}")["State"]["StartedAt"]

    def crash():  # as the kernel would for want of memory: what `docker kill` ends, Docker does not start again
        os.kill(container.attrs["State"]["Pid"], signal.SIGKILL)

    print(f"back after {await scenario.until_taken_over(plane, agent_id, crash):.2f} s")

    assert docker_client.api.inspect_container(f"streamspace-{agent_id}")["State"]["StartedAt"] == began
    await scenario.still_controllable(plane, agent_id)
    await project("stop")
    assert [c.attrs["State"]["ExitCode"] for c in project.containers()] == [0]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("file", HA)
async def test_of_three_replicas_one_leads_and_another_takes_over_when_it_is_killed(
    compose, plane, agent_id, manifest, docker_client, redis_image, file, version
):
    project = compose(file, version, REDIS_IMAGE=redis_image, REDIS_PORT=str(process.free_port()))
    async with scenario.led(plane, agent_id):
        await project.up()
    await scenario.start(plane, manifest, agent_id)
    instance, container = await project.leader()
    roles = sorted(document["role"] for document in await project.status())
    assert roles == ["leader", "standby", "standby"]
    await what_the_readme_asks_is_answered(project, file, instance)
    began = docker_client.api.inspect_container(f"streamspace-{agent_id}")["State"]["StartedAt"]

    print(f"taken over after {await scenario.until_taken_over(plane, agent_id, container.kill):.2f} s")

    _, successor = await project.leader(besides=instance)
    print(f"handed over after {await scenario.until_taken_over(plane, agent_id, successor.stop):.2f} s")
    successor.reload()
    assert successor.attrs["State"]["ExitCode"] == 0
    await project.leader()
    assert docker_client.api.inspect_container(f"streamspace-{agent_id}")["State"]["StartedAt"] == began
    await scenario.still_controllable(plane, agent_id)


async def what_the_readme_asks_is_answered(project, file, leader):
    """The commands of the section on troubleshooting, as they stand there."""

    async def answer(part):
        (command,) = (text for text in readme.commands(part) if f" -f {file} exec" in text)
        return await project.documented(f"cd compose\n{command}")

    if "file" in file:
        assert "FATAL" not in await answer("docker-agent check")
        assert len((await answer("docker-agent status")).splitlines()) == 4
        assert (await answer("cat /var/run/streamspace")).splitlines()[0] == leader
    else:
        assert (await answer("redis-cli GET")).strip().strip('"') == leader
        assert 0 < int((await answer("redis-cli TTL")).split()[-1]) <= 5


def test_every_other_way_up_in_the_readme_differs_only_in_the_number_of_replicas():
    tested = {readme.command(f"-f {file} up").replace("=3", "=N") for file in [STANDALONE, *HA]}
    assert {text.replace("=3", "=N").replace("=5", "=N") for text in readme.commands(" up ")} == tested
