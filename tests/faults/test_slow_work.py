"""Pulls that stall and containers that will not stop hold up nothing else: no heartbeat, no other session, no
shutdown."""

import pytest

from lab.registry import Registry
from lab.until import until
from tests.names import sid


@pytest.fixture(scope="module")
def registry():
    with Registry() as registry:
        yield registry


@pytest.fixture(scope="module")
def pushed(registry, docker_host):
    return registry.push_generated(docker_host, megabytes=12, layers=2)


@pytest.fixture
def image(registry, pushed, docker_client):
    """An image that the engine has to pull."""
    yield pushed
    registry.proxy.stalled, registry.proxy.rate = False, None
    registry.proxy.cut()
    if docker_client.images.list(pushed):
        docker_client.images.remove(pushed, force=True)


@pytest.fixture
async def quick_agent(make_agent, plane, agent_id):
    """Its heartbeats come each second."""
    agent = await (await make_agent(HEALTH_CHECK_INTERVAL="1s", DRAIN_TIMEOUT="2s")).start()
    await plane.wait_agent(agent_id)
    return agent


async def beats(plane):
    return len(await plane.events(type="heartbeat"))


async def test_progress_of_a_pull_arrives_in_percent_and_bytes(registry, image, agent, plane, manifest):
    registry.proxy.rate = 4_000_000
    command = await plane.start_session(session_id=sid("p"), manifest=manifest(image))
    await plane.wait_command(command, timeout=60)
    metadata = [e["payload"]["platformMetadata"] for e in await plane.events(type="status")]
    steps = [m["progress"] for m in metadata if m.get("progress", {}).get("totalBytes")]
    assert steps
    assert all(step["phase"] == "pulling" for step in steps)
    assert all(0 <= step["percent"] <= 100 and step["currentBytes"] <= step["totalBytes"] for step in steps)
    assert max(step["totalBytes"] for step in steps) > 5_000_000
    states = [e["payload"]["state"] for e in await plane.events(type="status")]
    assert states[-1] == "running"
    assert set(states[:-1]) == {"pending"}


async def test_a_stalled_pull_holds_up_no_heartbeat_no_session_no_stop_and_no_shutdown(
    registry, image, quick_agent, plane, manifest, owned
):
    registry.proxy.stalled = True
    stalled = await plane.start_session(session_id=sid("stalled"), manifest=manifest(image))
    await plane.wait_command(stalled, "ack")
    before = await beats(plane)
    await plane.wait_command(await plane.start_session(session_id=sid("other"), manifest=manifest()))
    await plane.wait_command(await plane.hibernate_session(sid("other")))
    await plane.wait_command(await plane.wake_session(sid("other")))
    await plane.wait_command(await plane.stop_session(sid("other")))

    async def more_beats():
        return await beats(plane) >= before + 2

    await until(more_beats)
    assert (await plane.command(stalled))["state"] == "ack"
    assert (await plane.session(sid("stalled")))["state"] == "pending"
    assert await quick_agent.terminate(15) == 0, "a shutdown waits for DRAIN_TIMEOUT and the clean-up"
    row = await plane.command(stalled)
    assert row["state"] == "failed"
    assert row["error"].startswith("agent_shutdown")
    assert owned()["containers"] == []


async def test_as_many_stalled_pulls_as_commands_may_run_still_hold_up_no_stop(
    registry, image, make_agent, plane, agent_id, manifest
):
    await (await make_agent(COMMAND_CONCURRENCY="2")).start()
    await plane.wait_agent(agent_id)
    await plane.wait_command(await plane.start_session(session_id=sid("runs"), manifest=manifest()))
    registry.proxy.stalled = True
    stalled = [await plane.start_session(session_id=sid(f"s{n}"), manifest=manifest(image)) for n in range(3)]
    for command in stalled:
        await plane.wait_command(command, "ack")
    await plane.wait_command(await plane.stop_session(sid("runs")))
    for n, command in enumerate(stalled):
        await plane.wait_command(await plane.stop_session(sid(f"s{n}")))
        assert (await plane.command(command))["error"].startswith("cancelled: stop_session")


async def test_a_pull_without_progress_is_given_up_with_its_reason(
    registry, image, make_agent, plane, agent_id, manifest
):
    await (await make_agent(PULL_STALL_TIMEOUT="2s")).start()
    await plane.wait_agent(agent_id)
    registry.proxy.stalled = True
    row = await plane.wait_command(
        await plane.start_session(session_id=sid("s"), manifest=manifest(image)), "failed", 40
    )
    assert row["error"].startswith(f"pull_stalled: pulling {image} made no progress for 2.0 s (PULL_STALL_TIMEOUT)")
    await plane.wait_session(sid("s"), state="failed")


async def test_a_container_that_will_not_stop_holds_up_no_heartbeat_and_no_session(
    make_agent, plane, agent_id, manifest, owned
):
    await (await make_agent(HEALTH_CHECK_INTERVAL="1s", STOP_TIMEOUT="4s")).start()
    await plane.wait_agent(agent_id)
    await plane.wait_command(await plane.start_session(session_id=sid("mule"), manifest=manifest(MODE="stubborn")))
    stop = await plane.stop_session(sid("mule"))
    await plane.wait_command(stop, "ack")
    before = await beats(plane)
    await plane.wait_command(await plane.start_session(session_id=sid("other"), manifest=manifest()))
    assert (await plane.command(stop))["state"] == "ack"

    async def more_beats():
        return await beats(plane) >= before + 2

    await until(more_beats)
    await plane.wait_command(stop)
    assert owned()["containers"] == [f"streamspace-{sid('other')}"]
