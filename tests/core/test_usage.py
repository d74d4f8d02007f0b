"""What running sessions use, on its way to the control plane."""

import asyncio
import json

import pytest

from streamspace_agent import protocol
from streamspace_agent.runtime import Session, SessionState
from streamspace_agent.sessions.heartbeat import ROOM
from streamspace_agent.sessions.table import SessionTable
from streamspace_agent.sessions.usage import Usage
from tests.core.memory_driver import AGENT


def measuring(driver, *readings):
    """The driver's readings, one a call; the last for ever."""
    left = list(readings)

    async def stats(session_id):
        return left.pop(0) if len(left) > 1 else left[0]

    driver.stats = stats
    return left


async def usages(plane, least=1):
    """The readings in heartbeats, as they came."""
    async with asyncio.timeout(20):
        while True:
            shown = [e["payload"] for e in await plane.events(type="heartbeat")]
            told = [beat["sessions"] for beat in shown if "sessions" in beat]
            if len(told) >= least:
                return told
            await asyncio.sleep(0.05)


async def test_heartbeats_tell_the_cpu_and_memory_of_running_sessions_and_no_status_does(plane, lead, driver):
    measuring(driver, (0.0, 1000), (0.123456, 2000))
    async with lead(USAGE_INTERVAL="50ms"):
        await plane.wait_agent(AGENT)
        await plane.wait_command(await plane.start_session("desktop", session_id="s1", memory="1Gi", cpu="500m"))
        states = len(await plane.events(type="status"))
        first, second, *_ = await usages(plane, 2)
        assert first == {"s1": {"memory": 1000}}  # no average yet
        assert second == {"s1": {"cpu": 0.1235, "memory": 2000}}
        await usages(plane, 5)
        assert len(await plane.events(type="status")) == states


async def test_a_heartbeat_comes_sooner_only_where_a_session_runs(plane, lead, driver):
    measuring(driver, (0.5, 1000))
    async with lead(USAGE_INTERVAL="100ms", HEALTH_CHECK_INTERVAL="30s"):
        await plane.wait_agent(AGENT)
        await asyncio.sleep(1)
        assert len(await plane.events(type="heartbeat")) == 1
        await plane.wait_command(await plane.start_session("desktop", session_id="s1"))
        await usages(plane, 3)


async def test_a_reading_that_comes_late_is_not_told_of_a_hibernated_session(plane, lead, driver):
    asked, answer = asyncio.Event(), asyncio.Event()

    async def stats(session_id):
        asked.set()
        await answer.wait()
        return 0.5, 1000

    driver.stats = stats
    async with lead(USAGE_INTERVAL="20ms", HEALTH_CHECK_INTERVAL="1s") as running:
        await plane.wait_agent(AGENT)
        await plane.wait_command(await plane.start_session("desktop", session_id="s1"))
        await asked.wait()
        await plane.wait_command(await plane.hibernate_session("s1"))
        answer.set()
        await asyncio.sleep(1.5)
        assert (await plane.wait_session("s1", state="hibernated"))["state"] == "hibernated"
        assert not [e for e in await plane.events(type="heartbeat") if "sessions" in e["payload"]]
        assert running.tenure.sessions.count_by_state() == {"hibernated": 1}


async def test_readings_are_not_kept_for_a_control_plane_that_is_away(plane, lead, driver):
    measuring(driver, (0.5, 1000))
    async with lead(USAGE_INTERVAL="50ms") as running:
        await plane.wait_agent(AGENT)
        await plane.wait_command(await plane.start_session("desktop", session_id="s1"))
        await usages(plane)
        await plane.stop()
        await asyncio.sleep(0.3)
        assert running.tenure.outbox.waiting == 0


async def test_a_driver_that_cannot_measure_disturbs_nothing(plane, lead, driver):
    async def stats(session_id):
        raise RuntimeError("no figures today")

    driver.stats = stats
    async with lead(USAGE_INTERVAL="20ms") as running:
        await plane.wait_agent(AGENT)
        await plane.wait_command(await plane.start_session("desktop", session_id="s1"))
        await asyncio.sleep(0.2)
        assert not running.task.done()
        await plane.wait_command(await plane.stop_session("s1"))


async def test_figures_that_are_no_numbers_do_not_cost_the_heartbeat(plane, lead, driver):
    measuring(driver, (float("nan"), 1000), (float("nan"), 1000), (float("inf"), -5))
    async with lead(USAGE_INTERVAL="20ms"):
        await plane.wait_agent(AGENT)
        await plane.wait_command(await plane.start_session("desktop", session_id="s1"))
        *_, last = await usages(plane, 4)
        assert last == {"s1": {}}


async def test_an_interval_of_0_measures_nothing(plane, lead, driver):
    asked = measuring(driver, (0.5, 1000), (0.5, 1000))
    async with lead(USAGE_INTERVAL="0"):
        await plane.wait_agent(AGENT)
        await plane.wait_command(await plane.start_session("desktop", session_id="s1"))
        await asyncio.sleep(0.2)
        assert len(asked) == 2


@pytest.mark.parametrize("letter", ["x", "é"])
async def test_a_thousand_sessions_with_the_longest_ids_fit_into_heartbeats_and_none_is_left_out(driver, letter):
    names = [f"{number:04}{letter * 252}" for number in range(1000)]
    sessions = {name: Session(name, SessionState.RUNNING, "here") for name in names}
    measuring(driver, (12345.6789, 2**62))
    usage = Usage(driver, SessionTable(*sessions.values()))
    told = set()
    for _ in range(10):
        await usage.read()
        taken = usage.take(ROOM)
        assert len(protocol.encode("heartbeat", {"sessions": taken})) < protocol.MAX_FRAME / 2 + 1000
        told |= taken.keys()
    assert told == set(names)
    assert len(json.dumps(taken)) <= ROOM
