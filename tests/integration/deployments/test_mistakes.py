"""What an operator gets wrong is told in one clear line, and no container spins over it."""

import asyncio
import os
import re
import time
from datetime import datetime

import pytest

from lab.redis import RedisServer
from lab.until import until
from tests.integration.deployments.compose import CommandFailed

pytestmark = pytest.mark.timeout(400)  # the first of a run builds the image

STANDALONE, REDIS = "docker-compose.standalone.yaml", "docker-compose.ha-redis.yaml"


async def line(project, pattern, timeout=30.0):
    """The first line of the replicas' logs that matches."""

    def matching():
        return [text for text in project.logs().splitlines() if re.search(pattern, text)]

    return (await until(matching, project.logs, timeout=timeout, every=0.1))[0]


def last_words(project):
    """What the processes said as they ended, each different line once."""
    return {text for text in project.logs().splitlines() if text.startswith("docker-agent: ")}


RESTARTS = 6


async def is_calm(project, timeout=90.0):
    """No container that cannot start spins: Docker waits 0.1 s before its first new start, and before each next one
    twice that; it begins anew after a run of 10 s, which a process takes to its end where the machine is very busy."""
    waits, began, due, deadline = {}, {}, {}, time.monotonic() + timeout
    while not waits or min(max(each) for each in waits.values()) < RESTARTS:
        assert time.monotonic() < deadline, f"no {RESTARTS} starts of each: {waits}"
        for container in await asyncio.to_thread(project.containers):
            state, count = container.attrs["State"], container.attrs["RestartCount"]
            seen = waits.setdefault(container.id, {0: 0.0})
            if state["Status"] == "running" and count not in seen:
                started, ended = moment(state["StartedAt"]), moment(state["FinishedAt"])
                seen[count] = (started - ended).total_seconds()
                anew = container.id not in began or (ended - began[container.id]).total_seconds() >= 10
                due[container.id, count] = 0.1 if anew else 2 * due.get((container.id, count - 1), 0.05)
                began[container.id] = started
        await asyncio.sleep(0.05)
    assert all(waits[name][count] >= wait for (name, count), wait in due.items()), waits


def moment(text):
    """Docker's, to the microsecond."""
    return datetime.fromisoformat(re.sub(r"(\.\d{6})\d*Z$", r"\1+00:00", re.sub(r"(:\d\d)Z$", r"\1.000000Z", text)))


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
    assert said == (
        "docker-agent: CONTROL_PLANE_URL is control.example.com, which has no scheme: "
        "write wss://control.example.com, or ws://control.example.com where it speaks no TLS"
    )
    await is_calm(project)
    assert last_words(project) == {said}
    assert "Traceback" not in project.logs()


async def test_a_key_file_that_the_agent_may_not_read_is_told_with_the_fix(compose, hand_over):
    project = compose(STANDALONE)
    os.chown(hand_over.folder / "key", 0, 0)
    await project.up()
    said = await line(project, "AGENT_API_KEY_FILE")
    fix = "Permission denied, give it to uid 10001, which the agent has"
    assert said == f"docker-agent: AGENT_API_KEY_FILE: cannot read /etc/streamspace/key: {fix}"


async def test_a_wrong_key_is_told_in_one_line(compose):
    project = compose(STANDALONE, AGENT_API_KEY="0" * 64, AGENT_API_KEY_FILE="")
    await project.up()
    said = await line(project, r"^docker-agent: ")
    assert "AGENT_API_KEY was not accepted" in said
    assert "check the key" in said
    await is_calm(project)
    assert last_words(project) == {said}


async def test_a_socket_that_is_not_there_is_named_by_docker(compose):
    project = compose(STANDALONE, DOCKER_SOCKET="/nowhere/docker.sock")
    with pytest.raises(CommandFailed, match=r"/nowhere/docker\.sock"):
        await project.up()


async def test_a_container_without_the_socket_says_so_and_stays_calm(docker_client, exported, agent_id, key):
    names = ("AGENT_ID", "CONTROL_PLANE_URL")
    container = await asyncio.to_thread(
        docker_client.containers.run,
        exported["AGENT_IMAGE"],
        detach=True,
        environment={name: exported[name] for name in names} | {"AGENT_API_KEY": key},
        labels={"streamspace.agent": agent_id},
        network_mode="host",
        restart_policy={"Name": "unless-stopped"},
    )
    try:
        await until(lambda: "/var/run/docker.sock" in container.logs().decode(), every=0.1)
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
    container.reload()
    assert container.attrs["RestartCount"] == 0  # it waits, as for an engine that is restarted


async def test_a_missing_redis_password_is_told_in_one_line(compose, redis_image):
    with RedisServer(password="secret") as redis:
        project = compose(REDIS, REDIS_IMAGE=redis_image, REDIS_URL=f"redis://127.0.0.1:{redis.port}/0")
        await project.up()
        said = await line(project, "^docker-agent: ")
        assert "REDIS_URL" in said
        assert re.search("(?i)password", said)
        await is_calm(project)
        assert last_words(project) == {said}
        assert "Traceback" not in project.logs()
