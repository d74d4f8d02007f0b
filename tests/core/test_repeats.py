"""Answers that the control plane wrote `sent` over come again, once."""

import asyncio
from contextlib import contextmanager

import pytest

from streamspace_agent.commands import repeats
from streamspace_agent.commands.repeats import Repeats
from streamspace_agent.controlplane.outbox import Outbox
from streamspace_agent.journal import Journal
from streamspace_agent.protocol import Message
from tests.core.memory_driver import AGENT


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    monkeypatch.setattr(repeats, "AFTER", 0.5)
    monkeypatch.setattr(repeats, "QUICK", 0.4)


@contextmanager
def overwriting(plane, *words):
    """The plane writes `sent` over the first of these words about each command, as the deployed one may; yields the
    commands' ids."""
    store, struck = plane.hub.store, []
    mark = store.mark

    def late(command_id, *said):
        known = mark(command_id, *said)
        if said[0] in words and command_id not in struck:
            struck.append(command_id)
            asyncio.get_running_loop().call_soon(
                store.change, "UPDATE commands SET state = 'sent' WHERE command_id = ?", command_id
            )
        return known

    store.mark = late
    yield struck
    store.mark = mark


async def _until(condition):
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


async def answers(plane, command_id, kinds=("complete", "failed")):
    events = await plane.events(direction="from_agent")
    return [e["type"] for e in events if e["type"] in kinds and e["payload"]["commandId"] == command_id]


async def test_of_forty_commands_in_a_burst_none_stays_sent(plane, lead):
    async with lead() as running:
        await plane.wait_agent(AGENT)
        with overwriting(plane, "completed", "failed") as struck:
            stops = [
                await plane.send_command(AGENT, "stop_session", {"sessionId": f"s{number}"}) for number in range(30)
            ]
            odd = [await plane.send_command(AGENT, "make_coffee", {}) for _ in range(10)]
            await _until(lambda: len(struck) == 40)
            for command in stops:
                await plane.wait_command(command, "completed")
            for command in odd:
                await plane.wait_command(command, "failed")
        await asyncio.sleep(1)
        assert [await answers(plane, command) for command in stops] == [["complete"] * 2] * 30
        assert running.tenure.outbox.waiting == 0


async def test_a_command_that_takes_long_is_acknowledged_again_and_answered_once(plane, lead, driver):
    driver.hold["s1"] = asyncio.Event()
    async with lead():
        await plane.wait_agent(AGENT)
        with overwriting(plane, "ack") as struck:
            start = await plane.start_session("desktop", session_id="s1")
            await _until(lambda: struck)
            await plane.wait_command(start, "ack")
        driver.hold["s1"].set()
        await plane.wait_command(start)
        await asyncio.sleep(1)
        assert await answers(plane, start, ("ack", "complete")) == ["ack", "ack", "complete"]


async def test_what_no_command_could_be_made_of_is_refused_again(plane, lead):
    async with lead():
        await plane.wait_agent(AGENT)
        await plane.send_frame(AGENT, '{"type":7,"payload":{"commandId":"odd"}}')
        async with asyncio.timeout(10):
            while await answers(plane, "odd") != ["failed", "failed"]:
                await asyncio.sleep(0.05)


async def test_an_answer_of_the_leader_before_comes_again(plane, lead, monkeypatch):
    monkeypatch.setattr(repeats, "AFTER", 5)
    async with lead() as running:
        await plane.wait_agent(AGENT)
        with overwriting(plane, "completed") as struck:
            stop = await plane.send_command(AGENT, "stop_session", {"sessionId": "s1"})
            await _until(lambda: struck)
        await running.kill()
        assert (await plane.command(stop))["state"] == "sent"
    async with lead():
        await plane.wait_command(stop, "completed")


async def test_a_leader_that_hands_over_answers_again_first(plane, lead, monkeypatch):
    monkeypatch.setattr(repeats, "AFTER", 60)
    async with lead() as running:
        await plane.wait_agent(AGENT)
        with overwriting(plane, "completed") as struck:
            stop = await plane.send_command(AGENT, "stop_session", {"sessionId": "s1"})
            await _until(lambda: struck)
        running.tenure.shut_down("for a test")
        await asyncio.wait_for(running.task, 10)
    assert (await plane.command(stop))["state"] == "completed"


def test_a_flood_of_commands_takes_no_more_memory_than_it_may(tmp_path):
    journal = Journal(tmp_path / "journal.db", 1)
    outbox = Outbox(journal, lambda: None)
    held = Repeats(journal, outbox)
    for number in range(3 * repeats.MOST):
        held.arrived(f"odd-{number}", Message("failed", {"commandId": f"odd-{number}", "error": "x"}))
    held.flush()
    assert outbox.waiting == repeats.MOST
    journal.close()
