"""The Docker daemon stops, restarts, crashes, or was never there."""

import asyncio
import os
import shutil
import tempfile
from pathlib import Path

import pytest

from lab.dockerd import PrivateEngine
from lab.until import until
from tests.names import sid

NOBODY, KMEM = 65534, 15  # whoever they are: not the agent's


@pytest.fixture(scope="module")
def private_engine(docker_host, tiny_image):
    folder = Path(tempfile.mkdtemp(prefix="sl", dir="/tmp"))  # short: containerd's sockets lie below it
    engine = PrivateEngine(folder / "e")
    try:
        engine.start()
        engine.load(tiny_image, docker_host)
        yield engine
    finally:
        engine.destroy()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
async def private_agent(private_engine, make_agent, plane, agent_id):
    agent = await (await make_agent(DOCKER_HOST=private_engine.host)).start()
    await plane.wait_agent(agent_id)
    return agent


async def test_the_agent_outlives_a_restart_of_the_daemon_and_tells_the_truth_afterwards(
    private_engine, private_agent, plane, manifest
):
    """What the daemon stopped with itself can be woken; commands that came meanwhile are done once it is back."""
    await plane.wait_command(await plane.start_session(session_id=sid("a"), manifest=manifest()), timeout=60)
    pid = private_agent.pid
    await asyncio.to_thread(private_engine.stop)
    waiting = await plane.start_session(session_id=sid("b"), manifest=manifest())
    await plane.wait_command(waiting, "ack")
    await until(lambda: "the engine is down" in private_agent.log)
    await asyncio.to_thread(private_engine.start)
    await plane.wait_command(waiting, timeout=60)
    await plane.wait_session(sid("b"), state="running")
    session = await plane.wait_session(sid("a"), state="hibernated", timeout=60)
    assert "wake brings it back" in session["platformMetadata"]["reason"]
    await plane.wait_command(await plane.wake_session(sid("a")), timeout=60)
    assert (await plane.wait_session(sid("a"), state="running"))["vncReady"]
    assert private_agent.pid == pid
    assert private_agent.process.returncode is None
    for name in "ab":
        await plane.wait_command(await plane.stop_session(sid(name)), timeout=60)


async def test_the_agent_outlives_a_crash_of_the_daemon(private_engine, private_agent, plane, manifest):
    await plane.wait_command(await plane.start_session(session_id=sid("a"), manifest=manifest()), timeout=60)
    await asyncio.to_thread(private_engine.kill)
    await until(lambda: "the engine is down" in private_agent.log)
    await asyncio.to_thread(private_engine.start)
    await until(lambda: private_agent.log.count("the engine answers") == 2, timeout=60)
    state = (await plane.session(sid("a")))["state"]
    if state != "running":
        await plane.wait_command(await plane.wake_session(sid("a")), timeout=60)
    assert (await plane.wait_session(sid("a"), state="running"))["vncReady"]
    await plane.wait_command(await plane.stop_session(sid("a")), timeout=60)
    await plane.wait_session(sid("a"), state="terminated")


async def test_an_agent_that_starts_before_its_daemon_connects_and_works_once_it_is_there(
    private_engine, make_agent, plane, agent_id, manifest
):
    await asyncio.to_thread(private_engine.stop)
    agent = await (await make_agent(DOCKER_HOST=private_engine.host)).start()
    await plane.wait_agent(agent_id)
    await until(lambda: "the engine is down" in agent.log)
    assert "Traceback" not in agent.log
    command = await plane.start_session(session_id=sid("a"), manifest=manifest())
    await plane.wait_command(command, "ack")
    await asyncio.to_thread(private_engine.start)
    await plane.wait_command(command, timeout=60)
    await plane.wait_command(await plane.stop_session(sid("a")), timeout=60)
    assert await agent.terminate() == 0


async def test_an_agent_that_may_not_use_the_socket_says_so_once_with_the_group_and_works_once_it_may(
    private_engine, make_agent, plane, agent_id, manifest
):
    await asyncio.to_thread(private_engine.start)
    os.chown(private_engine.socket, NOBODY, KMEM)
    private_engine.socket.chmod(0o660)
    agent = await make_agent(DOCKER_HOST=private_engine.host)
    agent.prefix = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")  # root, as far as files are its own
    await agent.start()
    await plane.wait_agent(agent_id)
    await until(lambda: "the engine is down" in agent.log)
    command = await plane.start_session(session_id=sid("a"), manifest=manifest())
    await plane.wait_command(command, "ack")
    await asyncio.sleep(5)  # several tries, of the agent's and of the command's
    why = (
        f"DOCKER_HOST={private_engine.host}: permission denied: run the agent with the socket's group: "
        f"usermod -aG kmem USER"
    )
    assert agent.log.count(f"the engine is down: {why}") == 1
    assert agent.log.count(f"command {command} waits for the engine: {why}") == 1
    assert agent.log.count("permission denied") == 2
    _, [replica] = await agent.ask("status")
    assert replica["engine"]["up"] is False
    assert replica["engine"]["last_error"].startswith(why)
    os.chown(private_engine.socket, 0, 0)
    await plane.wait_command(command, timeout=60)
    await until(lambda: "the engine answers" in agent.log)
    assert (await agent.ask("status"))[1][0]["engine"] == {"up": True, "last_error": ""}
    await plane.wait_command(await plane.stop_session(sid("a")), timeout=60)
    assert await agent.terminate() == 0
