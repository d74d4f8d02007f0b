"""The three Compose files, by the documented commands, on a real engine."""

import asyncio
import contextlib
import os
import re
import shutil
import signal

import httpx
import pytest

from lab import process
from lab.until import until_sync
from tests.integration.deployments import readme, scenario
from tests.integration.deployments.compose import FOLDER, Compose

pytestmark = pytest.mark.timeout(400)  # the first of a run builds the image

STANDALONE = "docker-compose.standalone.yaml"
HA = ["docker-compose.ha-file.yaml", "docker-compose.ha-redis.yaml"]
ACTS_WITHIN = dict(zip(HA, (0.25, 0.5), strict=True))
"""Seconds from the leader's death to the next one: election.md, section 4; all run on one engine."""
VERSIONS = ["v1", "v2"]


@pytest.fixture
def variables(file, redis_image, docker_ip):
    if file in HA:
        return {"REDIS_IMAGE": redis_image, "REDIS_PORT": str(process.free_port())}
    health = f"{docker_ip}:{process.free_port()}"
    return {"SESSION_PIDS_LIMIT": "300", "DRAIN_TIMEOUT": "40s", "STOP_GRACE": "55s", "HEALTH_ADDRESS": health}


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_standalone_agent_that_is_killed_comes_back_to_its_session(
    docker_services, project, variables, plane, agent_id, manifest, docker_client, version
):
    def ready():
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"http://{variables['HEALTH_ADDRESS']}/readyz", trust_env=False).is_success

    await asyncio.to_thread(docker_services.wait_until_responsive, ready, timeout=60, pause=0.1)
    await scenario.start(plane, manifest, agent_id)
    (container,) = project.containers()
    assert "docker-agent" in container.top(ps_args="axwwo pid,args")["Processes"][0][-1]
    assert container.attrs["Config"]["StopTimeout"] == 55
    session = docker_client.api.inspect_container(f"streamspace-{agent_id}")
    assert session["HostConfig"]["PidsLimit"] == 300
    began = session["State"]["StartedAt"]

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
    project, plane, agent_id, manifest, docker_client, file, version
):
    await plane.wait_agent(agent_id, timeout=60)
    await scenario.start(plane, manifest, agent_id)
    instance, _ = await project.leader()
    await project.roles("leader", "standby", "standby")
    if "redis" in file:
        assert (await project.answer("exec", "redis-cli", "GET")).strip().strip('"') == instance
        assert 0 < int((await project.answer("exec", "redis-cli", "TTL")).split()[-1]) <= 5
    began = docker_client.api.inspect_container(f"streamspace-{agent_id}")["State"]["StartedAt"]

    async def leader():
        for stopped in project.containers():
            if stopped.status == "exited":
                stopped.start()
        await project.roles("leader", "standby", "standby")
        return (await project.leader())[1]

    await scenario.killed_until_taken_over_within(plane, agent_id, ACTS_WITHIN[file], leader)

    _, successor = await project.leader(besides=instance)
    print(f"handed over after {await scenario.until_taken_over(plane, agent_id, successor.stop):.2f} s")
    successor.reload()
    assert successor.attrs["State"]["ExitCode"] == 0
    await project.leader()
    assert docker_client.api.inspect_container(f"streamspace-{agent_id}")["State"]["StartedAt"] == began
    await scenario.still_controllable(plane, agent_id)


@pytest.fixture
def gone_afterwards(agent_id, docker_host, shell, engine):
    """Of what pytest-docker has made nothing is left, once its fixtures are done with."""
    yield
    with contextlib.closing(Compose(STANDALONE, f"{agent_id}-docker", shell)) as project:
        assert project.leftovers() == []


@pytest.mark.parametrize("variables", [{"DOCKER_SOCKET": "/nowhere/docker.sock"}])
def test_what_pytest_docker_could_bring_up_only_in_part_is_removed(
    gone_afterwards, request, docker_compose_project_name, variables, shell
):
    with pytest.raises(Exception, match=r"/nowhere/docker\.sock"):
        request.getfixturevalue("docker_services")
    with contextlib.closing(Compose(STANDALONE, docker_compose_project_name, shell)) as project:
        assert project.leftovers(), "its network and volumes at least were made before it failed"


async def test_another_project_of_the_same_agent_joins_its_replicas(compose, plane, agent_id):
    """As one gets that follows the first commands, and then keeps the settings in a folder or under a name of another
    kind."""
    project, other = compose(HA[0]), compose(HA[0], "v2")
    await project.up()
    instance, _ = await project.leader()
    await other.up()
    await other.roles("leader", *["standby"] * 5)
    assert [d["instance"] for d in await other.status() if d["role"] == "leader"] == [instance]
    assert len(await plane.events(type="connected", agent_id=agent_id)) == 1
    await other("down")


async def test_another_project_of_an_agent_that_stands_alone_is_refused(compose, plane, agent_id):
    project, other = compose(STANDALONE), compose(STANDALONE, "v2")
    await project.up()
    await plane.wait_agent(agent_id)
    await other("up", "-d")
    said = f"AGENT_ID: an agent {agent_id} runs on this host already"
    await asyncio.to_thread(until_sync, lambda: said in other.logs(), other.logs, every=0.2)
    assert len(await plane.events(type="connected", agent_id=agent_id)) == 1
    await other("down")


@pytest.mark.parametrize("version", VERSIONS)
async def test_with_an_env_file_everything_works_in_a_shell_that_knows_nothing(
    compose, plane, agent_id, key, version, tmp_path
):
    file = HA[0]
    project = compose(file, version)
    of_shells = {"PATH", "HOME", "DOCKER_HOST"}
    shell = {name: value for name, value in project.environ.items() if name in of_shells}
    folder = tmp_path / "deployments"
    shutil.copytree(FOLDER, folder / "compose")

    async def in_new_shell(*lines):
        return await project.documented("\n".join(["cd compose", *lines]), folder, shell)

    await in_new_shell(readme.command("install -m 600 env.example"))
    env = folder / "compose/.env"
    assert env.stat().st_mode & 0o777 == 0o600
    given = {name: value for name, value in project.environ.items() if name not in of_shells}
    named = {line.partition("=")[0] for line in env.read_text().splitlines() if line and not line.startswith("#")}
    assert named <= given.keys()
    env.write_text("".join(f"{name}={value}\n" for name, value in given.items()))

    up = readme.command(f"-f {file} up")
    async with scenario.led(plane, agent_id):
        await in_new_shell(up)
    leader, _ = await project.leader()
    await project.roles("leader", "standby", "standby")
    assert (await in_new_shell(readme.command("replica-of", "cat "))).splitlines()[0] == leader
    followed = await in_new_shell(f"timeout 10 {readme.command(f'-f {file} logs -f')} || [ $? -eq 124 ]")
    assert agent_id in followed

    before = {container.id for container in project.containers()}
    await in_new_shell(up)
    assert {container.id for container in project.containers()} == before


async def test_replicas_are_updated_one_after_another_and_an_agent_is_taken_away_with_all_it_made(
    compose, plane, agent_id, manifest, docker_client
):
    project = compose(HA[0])
    await project.up()
    await project.leader()
    await scenario.start(plane, manifest, agent_id)
    before = {container.id for container in project.containers()}
    began = docker_client.api.inspect_container(f"streamspace-{agent_id}")["State"]["StartedAt"]
    after = (await plane.events())[-1]["seq"]
    await project.documented(readme.block("docker stop -t").replace("sleep 20", "sleep 3"))
    assert not before & {container.id for container in project.containers()}
    await project.roles("leader", "standby", "standby")
    assert 1 <= len(await scenario.connections(plane, agent_id, after)) <= 3
    assert docker_client.api.inspect_container(f"streamspace-{agent_id}")["State"]["StartedAt"] == began
    await plane.wait_session(agent_id, state="running", vnc_ready=True)

    # The first diagnosis after an update, and after a replica was killed: number 1 is gone.
    assert "FATAL" not in await project.documented(readme.command("replica-of", "docker-agent check"))
    instance, leader = await project.leader()
    leader.kill()
    await project.leader(besides=instance)
    assert "leader" in await project.documented(readme.command("replica-of", "docker-agent status"))

    mine = {"filters": {"label": f"streamspace.agent={agent_id}"}}
    assert docker_client.api.volumes(**mine)["Volumes"]
    for _ in range(2):  # where nothing is left, that is no error
        await project.documented(f"cd compose\n{readme.block('down --volumes')}")
    assert project.leftovers() == []
    left = docker_client.api.containers(all=True, **mine), docker_client.api.volumes(**mine)["Volumes"]
    assert (*left, docker_client.api.networks(**mine)) == ([], [], [])


def test_every_other_way_up_in_the_readme_differs_only_in_the_number_of_replicas_or_makes_all_anew():
    plain = {re.sub(r" --(force|no)-recreate|(?<==)\d", "", text) for text in readme.lines() if " up " in text}
    assert plain == {re.sub(r"(?<==)\d", "", readme.command(f"-f {file} up")) for file in [STANDALONE, *HA]}


def test_every_command_of_the_readme_for_compose_was_run():
    assert readme.left_out(__name__) == []
