"""A disk under STATE_DIR that does not answer: nobody leads on it for ever, and it keeps no process from ending."""

import asyncio
import threading

import pytest

from lab.until import until
from streamspace_agent import agent as agent_module
from streamspace_agent import config, leadership
from streamspace_agent.agent import Agent
from streamspace_agent.election.status import Role
from streamspace_agent.journal import Journal
from tests.core.memory_driver import AGENT


@pytest.fixture
async def dead(monkeypatch):
    """Make a method of the journal hang; what has begun to hang is told. Asynchronous to end before the loop, which
    waits for its threads."""
    answers, hangs = threading.Event(), threading.Event()

    def make(method):
        def hang(*_):
            hangs.set()
            answers.wait()

        monkeypatch.setattr(Journal, method, hang)
        return hangs

    yield make
    answers.set()


@pytest.fixture
async def started(tmp_path):
    """An agent, and the task that runs it."""
    values = {"AGENT_ID": "agent-1", "CONTROL_PLANE_URL": "ws://127.0.0.1:1", "STATE_DIR": str(tmp_path)}
    agent = Agent(config.load(values), values)
    running = asyncio.create_task(agent.run())
    yield agent, running
    agent.stop("the test is over")
    async with asyncio.timeout(10):
        await running


async def test_a_leader_whose_journal_does_not_open_gives_leadership_back(dead, monkeypatch, started):
    monkeypatch.setattr(agent_module, "JOURNAL_PATIENCE", 0.3)
    agent, _ = started
    hangs = dead("__init__")
    await until(hangs.is_set)
    await until(lambda: agent.snapshot().role is Role.STANDBY)
    assert "STATE_DIR: the journal" in agent.snapshot().hindrance
    assert "is not open after 300 ms" in agent.snapshot().hindrance


async def test_an_agent_whose_journal_does_not_open_ends_when_told_to(dead, started):
    agent, running = started
    hangs = dead("__init__")
    await until(hangs.is_set)
    agent.stop("the test is over")
    await until(lambda: agent.snapshot().role is Role.DRAINING)
    await asyncio.wait([running], timeout=5)
    assert running.done()


async def test_a_journal_that_does_not_close_keeps_no_leadership(dead, plane, lead, monkeypatch, caplog):
    monkeypatch.setattr(leadership, "CLOSE_PATIENCE", 0.3)
    async with asyncio.timeout(15):
        async with lead() as running:
            await plane.wait_agent(AGENT)
            dead("close")
            running.tenure.shut_down("the test is over")
            await running.task
    assert "the journal is not closed after 300 ms" in caplog.text
