"""Commands that are sent all through a failover: each one that was taken ends, none waits for ever for want of a
link."""

import asyncio
import contextlib
import time
from collections import Counter

import pytest

from lab.until import until
from streamspace_devplane import PlaneError

EVERY = 0.02
ENDS = {"completed", "failed"}


@pytest.fixture(autouse=True)
def _registration_shows_online(plane):
    """As the deployed control plane does."""
    save = plane.hub.store.save_agent

    def saved(registration, approval):
        save(registration, approval)
        plane.hub.store.change("UPDATE agents SET status = 'online' WHERE agent_id = ?", registration["agentId"])

    plane.hub.store.save_agent = saved


@pytest.fixture
def make_replica(make_agent, tmp_path):
    async def make(name):
        return await make_agent(
            name,
            ENABLE_HA="true",
            LEADER_ELECTION_BACKEND="file",
            LOCK_FILE_PATH=str(tmp_path / "agent.lock"),
            HEALTH_CHECK_INTERVAL="1s",
        )

    return make


@pytest.mark.timeout(180)
async def test_all_commands_sent_through_a_failover_end_completed_or_failed(make_replica, plane, agent_id, tmp_path):
    leader = await (await make_replica("one")).start()
    await plane.wait_agent(agent_id)
    standby = await (await make_replica("two")).start()
    await until(lambda: "standing by" in standby.log)
    await asyncio.sleep(6)  # what the leader registers beside its connection is past
    taken, online = [], 0
    seq = (await plane.events())[-1]["seq"]
    before = plane.hub.links[agent_id]
    ended = asyncio.Event()

    async def send():
        number = 0
        while not ended.is_set():
            number += 1
            with contextlib.suppress(PlaneError):  # refused at once: the sender knows
                payload = {"sessionId": f"none-{number}"}
                taken.append(await plane.send_command(agent_id, "stop_session", payload))
            await asyncio.sleep(EVERY)

    async def watch():
        """Count when the agent is shown as online with no link to send a command over: such commands are lost there."""
        nonlocal online
        while not ended.is_set():
            status = plane.hub.store.row("SELECT status FROM agents WHERE agent_id = ?", agent_id)["status"]
            online += status == "online" and agent_id not in plane.hub.links
            await asyncio.sleep(0.005)

    jobs = [asyncio.create_task(send()), asyncio.create_task(watch())]
    await asyncio.sleep(1)
    killed = time.monotonic()
    leader.process.kill()
    await until(lambda: plane.hub.links.get(agent_id) not in (None, before))
    back = time.monotonic() - killed
    await asyncio.sleep(1)
    ended.set()
    await asyncio.gather(*jobs)

    # What was sent before there was another connection went over the dead leader's, and nobody read it. Commands are
    # sent as they are made; that may be noted later.
    again = [event["time"] for event in await plane.events(seq, type="connected")][-1]

    async def all_ended():
        rows = [await plane.command(command) for command in taken]
        return all(row["state"] in ENDS or (not row["acks"] and row["createdAt"] <= again) for row in rows)

    try:
        await until(all_ended, timeout=30)
    finally:
        ends = Counter([(await plane.command(command))["state"] for command in taken])
        print(f"{len(taken)} commands: {dict(ends)}; link back after {back:.2f} s; {online * 5} ms online without one")
    assert online == 0
    assert await plane.events(seq, type="register") == [], "a takeover needs no registration"
    assert await standby.terminate() == 0
