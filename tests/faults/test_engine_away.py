"""The Docker daemon stops, restarts, crashes, or was never there."""

import asyncio
import shutil
import tempfile
from pathlib import Path

import pytest

from lab.dockerd import PrivateEngine


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
    private_engine, private_agent, plane, manifest, until
):
    """What the daemon stopped with itself can be woken; commands that came meanwhile are done once it is back."""
    await plane.wait_command(await plane.start_session(session_id="a", manifest=manifest()), timeout=60)
    pid = private_agent.pid
    await asyncio.to_thread(private_engine.stop)
    waiting = await plane.start_session(session_id="b", manifest=manifest())
    await plane.wait_command(waiting, "ack")
    await until(lambda: "the engine is down" in private_agent.log)
    await asyncio.to_thread(private_engine.start)
    await plane.wait_command(waiting, timeout=60)
    await plane.wait_session("b", state="running")
    session = await plane.wait_session("a", state="hibernated", timeout=60)
    assert "wake brings it back" in session["platformMetadata"]["reason"]
    await plane.wait_command(await plane.wake_session("a"), timeout=60)
    assert (await plane.wait_session("a", state="running"))["vncReady"]
    assert private_agent.pid == pid
    assert private_agent.process.returncode is None
    for name in "ab":
        await plane.wait_command(await plane.stop_session(name), timeout=60)


async def test_the_agent_outlives_a_crash_of_the_daemon(private_engine, private_agent, plane, manifest, until):
    await plane.wait_command(await plane.start_session(session_id="a", manifest=manifest()), timeout=60)
    await asyncio.to_thread(private_engine.kill)
    await until(lambda: "the engine is down" in private_agent.log)
    await asyncio.to_thread(private_engine.start)
    await until(lambda: private_agent.log.count("the engine answers") == 2, timeout=60)
    state = (await plane.session("a"))["state"]
    if state != "running":
        await plane.wait_command(await plane.wake_session("a"), timeout=60)
    assert (await plane.wait_session("a", state="running"))["vncReady"]
    await plane.wait_command(await plane.stop_session("a"), timeout=60)
    await plane.wait_session("a", state="terminated")


async def test_an_agent_that_starts_before_its_daemon_connects_and_works_once_it_is_there(
    private_engine, make_agent, plane, agent_id, manifest, until
):
    await asyncio.to_thread(private_engine.stop)
    agent = await (await make_agent(DOCKER_HOST=private_engine.host)).start()
    await plane.wait_agent(agent_id)
    await until(lambda: "the engine is down" in agent.log)
    assert "Traceback" not in agent.log
    command = await plane.start_session(session_id="a", manifest=manifest())
    await plane.wait_command(command, "ack")
    await asyncio.to_thread(private_engine.start)
    await plane.wait_command(command, timeout=60)
    await plane.wait_command(await plane.stop_session("a"), timeout=60)
    assert await agent.terminate() == 0
