"""SIGKILL at every step of a command: after a restart it has exactly one outcome, the state told is true, nothing is
left over."""

import signal

import pytest

from lab.registry import Registry
from tests.names import sid

START_POINTS = [
    "docker.after_create",
    "docker.after_start",
    "docker.after_ready",
    "command.before_result",
    "command.after_result",
]


@pytest.fixture
def die_and_restart(make_agent, plane, agent_id):
    """Start an agent armed to kill itself at a point, give it work, wait for its death, start it again."""

    async def run(point, work, before=None):
        agent = await make_agent()
        if before is not None:
            await agent.start()
            await plane.wait_agent(agent_id)
            await before()
            assert await agent.terminate() == 0
        await agent.start(STREAMSPACE_FAULTS=f"{point}=kill")
        await plane.wait_agent(agent_id)
        command = await work()
        assert await agent.wait(60) == -signal.SIGKILL
        await agent.start()
        return agent, command

    return run


@pytest.mark.parametrize("point", START_POINTS)
async def test_a_start_killed_midway_is_completed_once_by_the_next_process(
    point, die_and_restart, plane, manifest, outcomes, owned
):
    agent, command = await die_and_restart(point, lambda: plane.start_session(session_id=sid("k"), manifest=manifest()))
    row = await plane.wait_command(command, timeout=60)
    assert row["result"]["podName"] == f"streamspace-{sid('k')}"
    assert (await plane.wait_session(sid("k"), state="running"))["vncReady"]
    assert owned()["containers"] == [f"streamspace-{sid('k')}"]
    assert await agent.terminate() == 0
    assert (await outcomes())[command] == ["complete"]


async def test_an_agent_killed_in_the_middle_of_a_pull_pulls_again(
    die_and_restart, plane, manifest, outcomes, owned, docker_client, docker_host
):
    with Registry() as registry:
        image = registry.push_generated(docker_host, megabytes=12, layers=2)
        registry.proxy.rate = 6_000_000
        try:
            _, command = await die_and_restart(
                "docker.mid_pull", lambda: plane.start_session(session_id=sid("k"), manifest=manifest(image))
            )
            registry.proxy.rate = None
            await plane.wait_command(command, timeout=60)
            await plane.wait_session(sid("k"), state="running")
            assert (await outcomes())[command] == ["complete"]
            assert owned()["containers"] == [f"streamspace-{sid('k')}"]
            await plane.wait_command(await plane.stop_session(sid("k")))
        finally:
            docker_client.images.remove(image, force=True)


@pytest.mark.parametrize("point", ["docker.after_stop", "command.before_result", "command.after_result"])
@pytest.mark.parametrize(
    ("verb", "state"), [("stop", "terminated"), ("hibernate", "hibernated")], ids=["stop", "hibernate"]
)
async def test_a_stop_or_hibernate_killed_midway_is_completed_once(
    verb, state, point, die_and_restart, plane, manifest, outcomes, owned
):
    async def before():
        await plane.wait_command(await plane.start_session(session_id=sid("k"), manifest=manifest()))

    agent, command = await die_and_restart(point, lambda: getattr(plane, f"{verb}_session")(sid("k")), before)
    await plane.wait_command(command, timeout=60)
    await plane.wait_session(sid("k"), state=state)
    assert owned()["containers"] == ([] if verb == "stop" else [f"streamspace-{sid('k')}"])
    assert await agent.terminate() == 0
    assert (await outcomes())[command] == ["complete"]
    assert (await plane.session(sid("k")))["state"] == state


@pytest.mark.parametrize("point", ["docker.after_stop", "command.before_result", "command.after_result"])
@pytest.mark.parametrize(
    ("limit", "state"),
    [({"idle_timeout": "2s"}, "hibernated"), ({"max_session_duration": "2s"}, "terminated")],
    ids=["idle", "duration"],
)
async def test_an_end_by_the_clock_that_is_killed_midway_is_told_with_its_reason(
    limit, state, point, make_agent, plane, agent_id, manifest
):
    """Nobody gave a command that would be answered; the person still asks why the session is gone."""
    agent = await make_agent()
    await agent.start()
    await plane.wait_agent(agent_id)
    await plane.wait_command(await plane.start_session(session_id=sid("k"), manifest=manifest(), **limit))
    assert await agent.terminate() == 0
    await agent.start(STREAMSPACE_FAULTS=f"{point}=kill")
    assert await agent.wait(60) == -signal.SIGKILL
    await agent.start()
    session = await plane.wait_session(sid("k"), state=state)
    assert session["platformMetadata"]["reason"].startswith(f"{next(iter(limit))}: ")
    told = await plane.events(type="status", direction="from_agent")
    assert [row["payload"]["state"] for row in told].count(state) == 1


@pytest.mark.parametrize("point", ["docker.after_start", "docker.after_ready", "command.after_result"])
async def test_a_wake_killed_midway_is_completed_once(point, die_and_restart, plane, manifest, outcomes):
    async def before():
        await plane.wait_command(await plane.start_session(session_id=sid("k"), manifest=manifest()))
        await plane.wait_command(await plane.hibernate_session(sid("k")))

    agent, command = await die_and_restart(point, lambda: plane.wake_session(sid("k")), before)
    await plane.wait_command(command, timeout=60)
    assert (await plane.wait_session(sid("k"), state="running"))["vncReady"]
    assert await agent.terminate() == 0
    assert (await outcomes())[command] == ["complete"]


async def test_a_command_that_kills_the_agent_again_and_again_is_failed_and_cleaned_up(
    make_agent, plane, agent_id, manifest, owned, outcomes
):
    agent = await make_agent()
    await agent.start(STREAMSPACE_FAULTS="docker.after_create=kill")
    await plane.wait_agent(agent_id)
    command = await plane.start_session(session_id=sid("k"), manifest=manifest())
    assert await agent.wait(60) == -signal.SIGKILL
    for point in ("docker.after_start", "docker.after_ready"):
        await agent.start(STREAMSPACE_FAULTS=f"{point}=kill")
        assert await agent.wait(60) == -signal.SIGKILL
    await agent.start()
    row = await plane.wait_command(command, "failed", timeout=60)
    assert row["error"].startswith("interrupted: the agent ended 3 times")
    await plane.wait_session(sid("k"), state="terminated,failed")
    assert owned()["containers"] == []
    assert (await outcomes())[command] == ["failed"]


async def test_a_session_removed_while_no_agent_ran_is_reported_gone(agent, plane, agent_id, manifest, docker_client):
    await plane.wait_command(await plane.start_session(session_id=sid("k"), manifest=manifest()))
    assert await agent.terminate() == 0
    docker_client.api.remove_container(f"streamspace-{sid('k')}", force=True)
    await agent.start()
    session = await plane.wait_session(sid("k"), state="terminated")
    assert "removed from the engine" in session["platformMetadata"]["reason"]


async def test_a_session_removed_by_hand_is_reported_gone(agent, plane, manifest, docker_client):
    await plane.wait_command(await plane.start_session(session_id=sid("k"), manifest=manifest()))
    docker_client.api.remove_container(f"streamspace-{sid('k')}", force=True)
    await plane.wait_session(sid("k"), state="terminated")
