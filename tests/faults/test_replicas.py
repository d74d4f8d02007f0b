"""Two replicas of one agent with the file backend."""

import asyncio
import shutil
import signal
import tempfile
from pathlib import Path

import pytest

from lab.until import until
from tests.names import sid


@pytest.fixture
def make_replica(make_agent):
    # A file system that carries locks: the temporary folder may be a container's own layer, which is refused.
    folder = Path(tempfile.mkdtemp(prefix="streamspace-lock-", dir="/dev/shm"))

    async def make(name):
        return await make_agent(name, ENABLE_HA="true", LOCK_FILE_PATH=str(folder / "agent.lock"))

    yield make
    shutil.rmtree(folder)


@pytest.fixture
def replicas(make_replica, plane, agent_id):
    """A leader with faults and a standby without, both up."""

    async def start(**faults):
        leader = await (await make_replica("one")).start(**faults)
        await plane.wait_agent(agent_id)
        standby = await (await make_replica("two")).start()
        await until(lambda: "standing by" in standby.log)
        return leader, standby

    return start


@pytest.mark.parametrize("point", ["docker.after_create", "docker.after_ready", "command.before_result"])
async def test_a_start_whose_leader_is_killed_is_completed_once_by_the_other(
    point, replicas, plane, manifest, outcomes, owned
):
    leader, standby = await replicas(STREAMSPACE_FAULTS=f"{point}=kill")
    command = await plane.start_session(session_id=sid("h"), manifest=manifest())
    assert await leader.wait(60) == -signal.SIGKILL
    row = await plane.wait_command(command, timeout=60)
    assert row["result"]["podName"] == f"streamspace-{sid('h')}"
    assert (await plane.wait_session(sid("h"), state="running"))["vncReady"]
    assert owned()["containers"] == [f"streamspace-{sid('h')}"]
    assert await standby.terminate() == 0
    assert (await outcomes())[command] == ["complete"]


async def test_sessions_outlive_their_leader_and_are_served_by_the_next(replicas, plane, manifest, docker_client):
    leader, _ = await replicas()
    await plane.wait_command(await plane.start_session(session_id=sid("h"), manifest=manifest()))
    began = docker_client.api.inspect_container(f"streamspace-{sid('h')}")["State"]["StartedAt"]
    leader.signal(signal.SIGKILL)
    await leader.wait()
    seq = (await plane.events())[-1]["seq"]
    while not await plane.events(seq, type="connected"):
        await asyncio.sleep(0.05)
    await plane.wait_command(
        await plane.send_command(leader.variables["AGENT_ID"], "stop_session", {"sessionId": sid("x")})
    )
    assert docker_client.api.inspect_container(f"streamspace-{sid('h')}")["State"]["StartedAt"] == began
    assert (await plane.session(sid("h")))["state"] == "running"
    await plane.wait_command(await plane.hibernate_session(sid("h")))


async def test_sigterm_hands_over_after_what_runs_is_finished(replicas, plane, agent_id, manifest, outcomes):
    leader, standby = await replicas()
    command = await plane.start_session(session_id=sid("h"), manifest=manifest(DELAY=2))
    await plane.wait_command(command, "ack")
    assert await leader.terminate() == 0
    assert (await plane.command(command))["state"] == "completed"
    await until(lambda: "connected to" in standby.log)
    await plane.wait_command(await plane.stop_session(sid("h")))
    assert (await outcomes())[command] == ["complete"]
    epochs = [e["payload"]["platformMetadata"].get("epoch") for e in await plane.events(type="status")]
    assert epochs == sorted(epochs)
    assert epochs[0] < epochs[-1]
