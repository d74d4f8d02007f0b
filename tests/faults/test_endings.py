"""How an agent ends, and who may not begin: signals, a second agent."""

import asyncio
import signal
import sqlite3

from lab.until import until
from tests.names import sid


async def test_sigterm_waits_for_what_runs_reports_draining_and_exits_0(plane, agent, agent_id, manifest):
    command = await plane.start_session(session_id=sid("a"), manifest=manifest(DELAY=2))
    await plane.wait_command(command, "ack")
    agent.signal(signal.SIGTERM)
    await plane.wait_agent(agent_id, told="draining")
    late = await plane.start_session(session_id=sid("b"), manifest=manifest())
    assert await agent.wait() == 0
    assert (await plane.command(command))["state"] == "completed"
    assert (await plane.command(late))["error"].startswith("agent_shutdown")


async def test_what_does_not_finish_in_the_drain_time_is_failed_and_cleaned_up(
    make_agent, plane, agent_id, manifest, owned
):
    agent = await (await make_agent(DRAIN_TIMEOUT="1s")).start()
    await plane.wait_agent(agent_id)
    command = await plane.start_session(session_id=sid("a"), manifest=manifest(MODE="hang"))
    await plane.wait_command(command, "ack")
    assert await agent.terminate() == 0
    assert (await plane.command(command))["error"].startswith("agent_shutdown")
    assert owned()["containers"] == []


async def test_a_second_signal_ends_at_once_and_the_command_is_completed_later(
    plane, agent, agent_id, manifest, outcomes
):
    command = await plane.start_session(session_id=sid("a"), manifest=manifest(DELAY=4))
    await plane.wait_command(command, "ack")
    agent.signal(signal.SIGTERM)
    await plane.wait_agent(agent_id, told="draining")
    agent.signal(signal.SIGTERM)
    assert await agent.wait(5) == 130
    assert (await plane.command(command))["state"] == "ack"
    await agent.start()
    await plane.wait_command(command, timeout=60)
    assert (await outcomes())[command] == ["complete"]


async def test_sigterm_ends_an_agent_that_never_reached_its_control_plane(make_agent, plane):
    agent = await make_agent()
    await plane.stop()
    await agent.start()
    await until(lambda: "cannot register" in agent.log)
    assert await agent.terminate(20) == 0
    await plane.start()


async def test_a_journal_of_a_later_leader_is_not_written(plane, agent, agent_id, tmp_path, manifest):
    """Another process with a higher epoch: what this agent had in hand is the other's now."""
    with sqlite3.connect(tmp_path / "state" / agent_id / "journal.db") as db:
        db.execute("UPDATE tenure SET epoch = epoch + 1000000000000")
    db.close()
    command = await plane.start_session(session_id=sid("a"), manifest=manifest())
    await until(lambda: "taken over" in agent.log)
    await asyncio.sleep(0.2)
    assert (await plane.command(command))["state"] != "completed"


async def test_a_second_agent_of_one_id_on_a_host_is_refused_and_the_first_is_not_disturbed(
    make_agent, plane, agent, manifest, docker_client
):
    second = await (await make_agent("second")).start()
    assert await second.wait() == 2
    assert second.log.splitlines()[-1] == (
        f"docker-agent: AGENT_ID: an agent {agent.variables['AGENT_ID']} runs on this host already, "
        f"process {agent.pid}: "
        "stop it, or set ENABLE_HA=true for every replica"
    )
    await plane.wait_command(await plane.start_session(session_id=sid("a"), manifest=manifest()))
    assert len(await plane.events(type="connected")) == 1


async def test_two_agents_of_one_id_on_two_hosts_fight_slower_and_slower_and_say_so(
    make_agent, plane, agent, agent_id, tmp_path, manifest
):
    second = await (await make_agent("second", STATE_DIR=str(tmp_path / "other-host"))).start()
    await until(lambda: "does another agent use AGENT_ID=" in agent.log + second.log, timeout=60)
    assert len(await plane.events(type="connected")) < 30
    assert await second.terminate() == 0
    await plane.wait_agent(agent_id, timeout=60)


async def test_an_agent_alone_and_a_replica_of_ha_do_not_mix(make_agent, agent, tmp_path):
    replica = await (
        await make_agent("replica", ENABLE_HA="true", LOCK_FILE_PATH=f"/dev/shm/{agent.variables['AGENT_ID']}.lock")
    ).start()
    assert await replica.wait() == 2
    assert "ENABLE_HA=true for every replica" in replica.log
