"""The main job: control plane to agent to a real engine and back."""

import asyncio
import signal

import docker.errors
import pytest


async def test_a_desktop_goes_through_its_whole_life(plane, agent, agent_id, desktop, docker_client, owned):
    start = await plane.start_session("desktop", session_id="life", user="ann", manifest=desktop, persistentHome=True)
    result = (await plane.wait_command(start, timeout=60))["result"]
    assert result["podName"] == "streamspace-life"
    session = await plane.wait_session("life", state="running")
    assert session["vncReady"]
    assert session["podName"] == "streamspace-life"
    labels = docker_client.api.inspect_container("streamspace-life")["Config"]["Labels"]
    assert labels["app"] == "streamspace"
    assert labels["session-id"] == labels["streamspace.session"] == "life"
    assert labels["streamspace.user"] == "ann"
    assert labels["streamspace.template"] == "desktop"
    assert labels["streamspace.command"] == start
    assert int(labels["streamspace.epoch"]) > 0
    assert owned()["volumes"] == ["streamspace-life-home"]

    await plane.wait_command(await plane.hibernate_session("life"), timeout=60)
    await plane.wait_session("life", state="hibernated")
    assert docker_client.api.inspect_container("streamspace-life")["State"]["Status"] == "exited"

    await plane.wait_command(await plane.wake_session("life"), timeout=60)
    assert (await plane.wait_session("life", state="running"))["vncReady"]

    await plane.wait_command(await plane.stop_session("life"), timeout=60)
    await plane.wait_session("life", state="terminated")
    with pytest.raises(docker.errors.NotFound):
        docker_client.api.inspect_container("streamspace-life")
    assert owned()["volumes"] == ["streamspace-life-home"]

    again = await plane.start_session("desktop", session_id="life", user="ann", manifest=desktop, persistentHome=True)
    await plane.wait_command(again, timeout=60)
    await plane.wait_command(await plane.stop_session("life", deletePVC=True), timeout=60)
    assert owned()["volumes"] == []


async def test_sigterm_drains_and_exits_0_and_the_session_runs_on(plane, agent, agent_id, manifest, docker_client):
    await plane.wait_command(await plane.start_session(session_id="stay", manifest=manifest()))
    assert await agent.terminate() == 0
    assert docker_client.api.inspect_container("streamspace-stay")["State"]["Running"]
    statuses = [e["payload"]["status"] for e in await plane.events(type="heartbeat")]
    assert statuses[-1] == "draining"


async def test_a_restarted_agent_adopts_what_runs(plane, agent, agent_id, manifest):
    await plane.wait_command(await plane.start_session(session_id="kept", manifest=manifest()))
    agent.signal(signal.SIGKILL)
    await agent.wait()
    seq = (await plane.events())[-1]["seq"]
    await agent.start()
    async with asyncio.timeout(20):
        while not (states := await plane.events(seq, type="status")):
            await asyncio.sleep(0.05)
    assert (states[0]["payload"]["state"], states[0]["payload"]["vncReady"]) == ("running", True)
    await plane.wait_command(await plane.hibernate_session("kept"))
    states = [e["payload"]["state"] for e in await plane.events(seq, type="status")]
    assert states == ["running", "hibernated"]


async def test_status_tells_an_operator_who_leads(plane, agent, agent_id, manifest):
    await plane.wait_command(await plane.start_session(session_id="one", manifest=manifest()))
    code, answer = await agent.ask("status")
    assert code == 0
    (replica,) = answer
    assert replica["role"] == "leader"
    assert replica["link"]["connected"]
    assert replica["sessions"] == {"running": 1}
    assert replica["epoch"] > 0
