"""A person keeps working while the agent's leader is killed: the same desktop, the same terminal, a moment later."""

import asyncio
import shutil
import signal
import tempfile
from pathlib import Path

import pytest

from tests.integration.browser.desktop import NAME, sees_the_desktop, starts_the_desktop, types


@pytest.fixture
def lock():
    # A file system that carries locks: the temporary folder may be a container's own layer, which is refused.
    folder = Path(tempfile.mkdtemp(prefix="streamspace-lock-", dir="/dev/shm"))
    yield folder / "agent.lock"
    shutil.rmtree(folder)


async def test_the_work_on_a_desktop_goes_on_when_its_leader_is_killed(
    plane, make_agent, agent_id, desktop, visit, docker_client, lock
):
    replicas = [await make_agent(name, ENABLE_HA="true", LOCK_FILE_PATH=str(lock)) for name in ("one", "two")]
    for replica in replicas:
        await replica.start()
        await plane.wait_agent(agent_id)
    visitor = await visit(await starts_the_desktop(plane))
    await types(visitor, docker_client, "export SEEN=before; echo $SEEN", "/tmp/first", "before")
    leader = next(replica for replica in replicas if "gained leadership" in replica.log)
    epoch = (await plane.events(type="heartbeat"))[-1]["payload"]["epoch"]
    leader.signal(signal.SIGKILL)
    async with asyncio.timeout(30):
        while (await plane.events(type="heartbeat"))[-1]["payload"]["epoch"] == epoch:
            await asyncio.sleep(0.05)
    await sees_the_desktop(visitor)
    await visitor.picture("after-failover")
    # The very same shell: what it was told before is still known there.
    await types(visitor, docker_client, "echo still known: $SEEN", "/tmp/second", "still known: before")
    assert (await plane.session(NAME))["state"] == "running"
    # The new leader ends what the old one left half-finished, which may be the page's next try; noVNC tells the
    # console.
    visitor.forget("the session was interrupted)")
