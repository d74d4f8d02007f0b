"""What an operator gets wrong is told in one clear line, and no container spins over it."""

import asyncio
import re
import time

import pytest

from lab.redis import RedisServer
from tests.integration.deployments.compose import CommandFailed

pytestmark = pytest.mark.timeout(400)  # the first of a run builds the image

STANDALONE, REDIS = "docker-compose.standalone.yaml", "docker-compose.ha-redis.yaml"


async def line(project, pattern, timeout=30.0):
    """The only kind of line of the replicas' logs that matches."""
    deadline = time.monotonic() + timeout
    while not (found := [text for text in project.logs().splitlines() if re.search(pattern, text)]):
        assert time.monotonic() < deadline, project.logs()
        await asyncio.sleep(0.1)
    return found[0]


def calm(project):
    """Docker doubles the wait before each restart: no container that cannot start is started more than a few times."""
    return all(container.attrs["RestartCount"] <= 8 for container in project.containers())


@pytest.mark.parametrize("name", ["AGENT_ID", "CONTROL_PLANE_URL"])
async def test_a_missing_variable_is_named_before_anything_is_started(compose, name):
    project = compose(STANDALONE, **{name: ""})
    with pytest.raises(CommandFailed, match=rf"docker-agent\": set {name} to"):
        await project.up()
    assert project.containers() == []


async def test_a_wrong_control_plane_url_is_told_in_one_line(compose):
    project = compose(STANDALONE, CONTROL_PLANE_URL="control.example.com")
    await project.up()
    said = await line(project, "CONTROL_PLANE_URL")
    assert said == "docker-agent: CONTROL_PLANE_URL must be a URL such as wss://control.example.com"
    await asyncio.sleep(3)
    assert calm(project)
    assert "Traceback" not in project.logs()


async def test_a_wrong_key_is_told_in_one_line(compose):
    project = compose(STANDALONE, AGENT_API_KEY="0" * 64)
    await project.up()
    assert "API key" in await line(project, r"^docker-agent: ")
    await asyncio.sleep(3)
    assert calm(project)


async def test_a_socket_that_is_not_there_is_named_by_docker(compose):
    project = compose(STANDALONE, DOCKER_SOCKET="/nowhere/docker.sock")
    with pytest.raises(CommandFailed, match=r"/nowhere/docker\.sock"):
        await project.up()


async def test_a_container_without_the_socket_says_so_and_stays_calm(docker_client, exported, agent_id):
    names = ("AGENT_ID", "CONTROL_PLANE_URL", "AGENT_API_KEY")
    container = await asyncio.to_thread(
        docker_client.containers.run,
        exported["AGENT_IMAGE"],
        detach=True,
        environment={name: exported[name] for name in names},
        labels={"streamspace.agent": agent_id},
        network_mode="host",
        restart_policy={"Name": "unless-stopped"},
    )
    try:
        deadline = time.monotonic() + 30
        while "/var/run/docker.sock" not in (log := container.logs().decode()):
            assert time.monotonic() < deadline, log
            await asyncio.sleep(0.1)
        await asyncio.sleep(3)
        container.reload()
        (said,) = (text for text in container.logs().decode().splitlines() if "docker.sock" in text)
        assert "in a container, mount the socket" in said
        assert container.attrs["RestartCount"] == 0  # it waits for the engine, as for one that is restarted
        code, out = await asyncio.to_thread(container.exec_run, ["docker-agent", "check"])
        assert (code, "in a container, mount the socket" in out.decode()) == (1, True)
    finally:
        container.remove(force=True, v=True)


async def test_a_socket_that_may_not_be_opened_is_told_with_the_fix(compose, plane, agent_id):
    project = compose(STANDALONE, AGENT_USER="10001:10001")
    await project.up()
    assert "ermission" in await line(project, "ermission")
    (container,) = project.containers()
    code, out = await asyncio.to_thread(container.exec_run, ["docker-agent", "check"])
    assert code == 1
    assert "FATAL" in out.decode()
    assert "group_add" in out.decode()
    assert calm(project)


async def test_a_missing_redis_password_is_told_in_one_line(compose, redis_image):
    with RedisServer(password="secret") as redis:
        project = compose(REDIS, REDIS_IMAGE=redis_image, REDIS_URL=f"redis://127.0.0.1:{redis.port}/0")
        await project.up()
        said = await line(project, "(?i)password|auth")
        assert "REDIS_URL" in said
        await asyncio.sleep(3)
        assert calm(project)
        assert "Traceback" not in project.logs()
