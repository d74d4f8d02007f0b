"""The main job: control plane to agent to a real engine and back."""

import signal

import docker.errors
import pytest

from lab.until import until
from tests.names import sid


async def test_a_desktop_goes_through_its_whole_life(plane, agent, agent_id, desktop, docker_client, owned):
    start = await plane.start_session(
        "desktop", session_id=sid("life"), user="ann", manifest=desktop, persistentHome=True
    )
    result = (await plane.wait_command(start, timeout=60))["result"]
    assert result["podName"] == f"streamspace-{sid('life')}"
    session = await plane.wait_session(sid("life"), state="running")
    assert session["vncReady"]
    assert session["podName"] == f"streamspace-{sid('life')}"
    labels = docker_client.api.inspect_container(f"streamspace-{sid('life')}")["Config"]["Labels"]
    assert labels["app"] == "streamspace"
    assert labels["session-id"] == labels["streamspace.session"] == sid("life")
    assert labels["streamspace.user"] == "ann"
    assert labels["streamspace.template"] == "desktop"
    assert labels["streamspace.command"] == start
    assert int(labels["streamspace.epoch"]) > 0
    assert owned()["volumes"] == [f"streamspace-{sid('life')}-home"]

    await plane.wait_command(await plane.hibernate_session(sid("life")), timeout=60)
    await plane.wait_session(sid("life"), state="hibernated")
    assert docker_client.api.inspect_container(f"streamspace-{sid('life')}")["State"]["Status"] == "exited"

    await plane.wait_command(await plane.wake_session(sid("life")), timeout=60)
    assert (await plane.wait_session(sid("life"), state="running"))["vncReady"]

    await plane.wait_command(await plane.stop_session(sid("life")), timeout=60)
    await plane.wait_session(sid("life"), state="terminated")
    with pytest.raises(docker.errors.NotFound):
        docker_client.api.inspect_container(f"streamspace-{sid('life')}")
    assert owned()["volumes"] == [f"streamspace-{sid('life')}-home"]

    again = await plane.start_session(
        "desktop", session_id=sid("life"), user="ann", manifest=desktop, persistentHome=True
    )
    await plane.wait_command(again, timeout=60)
    await plane.wait_command(await plane.stop_session(sid("life"), deletePVC=True), timeout=60)
    assert owned()["volumes"] == []


async def test_sigterm_drains_and_exits_0_and_the_session_runs_on(plane, agent, agent_id, manifest, docker_client):
    await plane.wait_command(await plane.start_session(session_id=sid("stay"), manifest=manifest()))
    assert await agent.terminate() == 0
    assert docker_client.api.inspect_container(f"streamspace-{sid('stay')}")["State"]["Running"]
    statuses = [e["payload"]["status"] for e in await plane.events(type="heartbeat")]
    assert statuses[-1] == "draining"


async def test_a_restarted_agent_adopts_what_runs(plane, agent, agent_id, manifest):
    await plane.wait_command(await plane.start_session(session_id=sid("kept"), manifest=manifest()))

    async def delivered():
        """What is not acknowledged is sent again."""
        return (await agent.ask("status"))[1][0]["outbox"] == 0

    await until(delivered)
    agent.signal(signal.SIGKILL)
    await agent.wait()
    seq = (await plane.events())[-1]["seq"]
    await plane.wait_agent(agent_id, status="offline")
    await agent.start()
    await plane.wait_agent(agent_id)
    await plane.wait_command(await plane.hibernate_session(sid("kept")))
    states = [e["payload"]["state"] for e in await plane.events(seq, type="status")]
    assert states == ["hibernated"], "that it runs was told before"


async def test_status_tells_an_operator_who_leads(plane, agent, agent_id, manifest):
    await plane.wait_command(await plane.start_session(session_id=sid("one"), manifest=manifest()))
    code, answer = await agent.ask("status")
    assert code == 0
    (replica,) = answer
    assert replica["role"] == "leader"
    assert replica["link"]["connected"]
    assert replica["sessions"] == {"running": 1}
    assert replica["epoch"] > 0
