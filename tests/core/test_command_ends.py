"""How commands end that were cut short: sessions that they did not make stay, and the control plane hears how it is
with each."""

import asyncio

import pytest

from streamspace_agent.commands import executor
from streamspace_agent.errors import EngineUnavailable, RuntimeDriverError
from streamspace_agent.runtime import Progress, SessionState
from tests.core.memory_driver import AGENT


@pytest.fixture
async def told(plane):
    async def told(session_id):
        found = [e["payload"] for e in await plane.events(type="status") if e["payload"]["sessionId"] == session_id]
        return [payload["state"] for payload in found]

    return told


async def started(plane, session_id="s1"):
    """The session runs; returns the payload of its start, to be sent again."""
    await plane.wait_agent(AGENT)
    await plane.wait_command(await plane.start_session(session_id=session_id))
    return (await plane.events(type="command"))[-1]["payload"]["payload"]


async def test_a_shutdown_while_a_start_wakes_a_session_leaves_it_as_it_is(plane, lead, driver, told):
    async with lead() as running:
        payload = await started(plane)
        await plane.wait_command(await plane.hibernate_session("s1"))
        driver.hold["s1"] = asyncio.Event()
        command = await plane.send_command(AGENT, "start_session", payload)
        await plane.wait_command(command, "ack")
        await asyncio.sleep(0.2)
        running.tenure.shut_down("SIGTERM")
        await asyncio.wait_for(running.task, 20)
    assert "agent_shutdown" in (await plane.command(command))["error"]
    assert driver.held["s1"].state is SessionState.HIBERNATED
    assert (await told("s1"))[-1] == "hibernated"


async def test_a_second_start_that_is_cut_short_does_not_end_the_session_that_runs(plane, lead, driver, told):
    async with lead() as running:
        payload = await started(plane)
        listing, listed = driver.sessions, asyncio.Event()

        async def slow():
            await listed.wait()
            return await listing()

        driver.sessions = slow
        await plane.wait_command(await plane.send_command(AGENT, "start_session", payload), "ack")
        await asyncio.sleep(0.2)
        running.tenure.shut_down("SIGTERM")
        await asyncio.wait_for(running.task, 20)
    assert driver.held["s1"].state is SessionState.RUNNING
    assert "terminated" not in await told("s1")


async def test_a_wake_that_the_engine_cut_short_ends_in_what_the_session_is(plane, lead, driver, told, monkeypatch):
    monkeypatch.setattr(executor, "ENGINE_PATIENCE", 0.5)
    async with lead() as running:
        await started(plane)
        await plane.wait_command(await plane.hibernate_session("s1"))
        inspect = driver.inspect

        async def wake(session_id, report):
            report(Progress("starting"))
            async with asyncio.timeout(20):
                while (await told("s1"))[-1] != "pending":
                    await asyncio.sleep(0.05)
            raise EngineUnavailable("it restarts")

        async def away(session_id):
            raise EngineUnavailable("it restarts")

        driver.wake, driver.inspect = wake, away
        await plane.wait_command(await plane.wake_session("s1"), "failed")
        driver.inspect = inspect
        await running.tenure.reconciler.reconcile()
        await plane.wait_session("s1", state="hibernated")
        assert await running.tenure.reconciler.reconcile() == 0


@pytest.mark.parametrize("error", [RuntimeDriverError("its credentials cannot be read"), EngineUnavailable("away")])
async def test_a_start_that_the_driver_cannot_do_ends_as_failed(plane, lead, driver, monkeypatch, error):
    monkeypatch.setattr(executor, "ENGINE_PATIENCE", 0.5)

    async def start(spec, report):
        report(Progress("pulling"))
        raise error

    driver.start = start
    async with lead():
        await plane.wait_agent(AGENT)
        await plane.wait_command(await plane.start_session(session_id="s1"), "failed")
        await plane.wait_session("s1", state="failed")


async def test_a_start_whose_end_nobody_could_tell_is_told_as_failed_by_the_next_comparison(plane, lead, driver, told):
    async with lead() as running:
        await plane.wait_agent(AGENT)
        driver.hold["s1"] = asyncio.Event()
        await plane.start_session(session_id="s1")
        async with asyncio.timeout(20):
            while await told("s1") != ["pending"]:
                await asyncio.sleep(0.05)

        async def broken(session_id):
            raise ValueError("a bug")

        inspect, driver.inspect = driver.inspect, broken
        await running.tenure.dispatcher.drain(0.1)
        driver.inspect = inspect
        await running.tenure.reconciler.reconcile()
        session = await plane.wait_session("s1", state="failed")
        assert "nothing came of its start" in session["platformMetadata"]["reason"]


async def test_the_patience_with_an_engine_begins_when_it_goes_away(plane, lead, driver, monkeypatch):
    monkeypatch.setattr(executor, "ENGINE_PATIENCE", 1.0)
    start, tries = driver.start, []

    async def restarts(spec, report):
        tries.append(spec)
        if len(tries) == 1:
            await asyncio.sleep(1.5)  # a pull that takes longer than that
            raise EngineUnavailable("it restarts")
        return await start(spec, report)

    driver.start = restarts
    async with lead():
        await plane.wait_agent(AGENT)
        await plane.wait_command(await plane.start_session(session_id="s1"))


async def test_a_listing_older_than_a_start_that_ended_meanwhile_does_not_make_room(plane, lead, driver):
    async with lead(MAX_SESSIONS="1"):
        await plane.wait_agent(AGENT)
        driver.hold["a"] = asyncio.Event()
        first = await plane.start_session(session_id="a")
        await plane.wait_command(first, "ack")
        await asyncio.sleep(0.2)
        listing, listed, go = driver.sessions, asyncio.Event(), asyncio.Event()

        async def slow():
            found = await listing()
            listed.set()
            await go.wait()
            return found

        driver.sessions = slow
        second = await plane.start_session(session_id="b")
        await asyncio.wait_for(listed.wait(), 10)
        driver.hold["a"].set()
        await plane.wait_command(first)
        go.set()
        assert "max_sessions" in (await plane.wait_command(second, "failed"))["error"]


async def test_an_engine_that_answers_nonsense_is_told_once_and_holds_no_command_up(plane, lead, driver, caplog):
    listing = driver.sessions

    async def broken():
        raise RuntimeDriverError("the engine answered 500: a layer is missing")

    driver.sessions = broken
    async with lead() as running:
        await plane.wait_agent(AGENT)
        stop = await plane.send_command(AGENT, "stop_session", {"sessionId": "nobody"})
        await plane.wait_command(stop)
        await asyncio.sleep(2)
        assert running.tenure.reconciler.engine.last_error == "the engine answered 500: a layer is missing"
        assert caplog.text.count("a layer is missing") == 1
        assert "Traceback" not in caplog.text
        driver.sessions = listing
        async with asyncio.timeout(20):
            while not running.tenure.reconciler.engine.up:
                await asyncio.sleep(0.1)
