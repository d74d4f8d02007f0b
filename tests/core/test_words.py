"""Lines of the log that a person reads as a sentence."""

import logging

from streamspace_agent.election.elector import Elector
from streamspace_agent.election.identity import Identity
from streamspace_agent.election.standalone import StandaloneBackend
from streamspace_agent.runtime import Progress
from streamspace_agent.sessions.progress import ProgressBoard
from streamspace_agent.sessions.table import SessionTable
from streamspace_agent.units import counted


def test_things_are_counted_in_words():
    assert [counted(number, "session") for number in (0, 1, 2)] == ["0 sessions", "1 session", "2 sessions"]


def test_a_pull_is_told_with_a_colon_between_phase_and_detail(caplog):
    caplog.set_level(logging.INFO)
    board = ProgressBoard(lambda *_: None, SessionTable(), 1)
    board.show("s1", Progress("pulling", detail="asking the registry"))
    board.show("s2", Progress("pulling", 50, 200))
    board.show("s3", Progress("pulling"))
    assert caplog.messages == [
        "session s1: pulling: asking the registry",
        "session s2: pulling: 25 % (50 B of 200 B)",
        "session s3: pulling",
    ]


async def test_an_agent_alone_speaks_of_no_store_and_no_waiting(caplog):
    caplog.set_level(logging.INFO)
    elector = Elector(StandaloneBackend(), Identity.discover("agent-1"))
    await elector.start()
    lease = await elector.lead()
    await elector.resign(lease, "test ends")
    await elector.aclose()
    assert caplog.messages[0].endswith(
        f"gained leadership of agent-1 (epoch {lease.epoch}): it runs alone (ENABLE_HA=false)"
    )
