"""A clock that was ahead and was put right: epochs go on rising, and a leadership that ends at once costs a pause and
says why."""

import fcntl
import time

import pytest

from lab.until import until
from streamspace_agent.journal import Journal

AHEAD = 4_000_000_000_000
"""Unix time in milliseconds, in the year 2096."""


@pytest.fixture
def journal(tmp_path, agent_id):
    return tmp_path / "state" / agent_id / "journal.db"


def use(journal, epoch):
    Journal(journal, epoch).close()


def times_led(agent, agent_id):
    return agent.log.count(f" gained leadership of {agent_id} ")


async def test_an_agent_leads_above_the_epochs_that_its_journal_has_seen(make_agent, plane, agent_id, journal):
    use(journal, AHEAD)
    agent = await (await make_agent()).start()
    await plane.wait_agent(agent_id)
    _, [status] = await agent.ask("status")
    assert status["epoch"] == AHEAD + 1
    assert times_led(agent, agent_id) == 1
    assert await agent.terminate() == 0


async def test_a_leadership_that_ends_at_once_costs_a_pause_and_an_error_with_its_cause(
    make_agent, plane, agent_id, journal, tmp_path
):
    """The journal goes ahead between the look at it and the lease, which another holds so long."""
    lock = tmp_path / "lock"
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        agent = await make_agent(ENABLE_HA="true", LEADER_ELECTION_BACKEND="file", LOCK_FILE_PATH=str(lock))
        await agent.start()
        await until(lambda: "starting version" in agent.log)

        async def stands():
            return journal.parent.exists() and (await agent.ask("status"))[1][0]["role"] == "standby"

        await until(stands)
        use(journal, AHEAD)
    await until(lambda: times_led(agent, agent_id) == 1)
    begun = time.monotonic()
    await plane.wait_agent(agent_id)
    assert time.monotonic() - begun > 0.9
    assert times_led(agent, agent_id) == 2
    [line] = [line for line in agent.log.splitlines() if "leadership of epoch" in line]
    assert f"the journal {journal} was used in epoch {AHEAD}, above this leadership's" in line
    assert "; standing for election again in 1.0 s" in line
    assert await agent.terminate() == 0
