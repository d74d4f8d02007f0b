"""What crosses the deployed relay's word that a viewer left, forced: its side of the connection is held in the test's hand."""

import asyncio

import pytest

from streamspace_agent.elector.clock import BoottimeClock
from streamspace_agent.runtime import SessionState
from streamspace_agent.tunnel.deployed.tunnels import DeployedTunnels
from tests.core.held_plane import HELLO, LEFT, linked, says, session
from tests.core.vnc import GREETING, VncServer

TYPES = ("vnc_data", b"\x01\x01")
"""The server's security types: the first that it says to a viewer."""


@pytest.fixture
async def answered():
    """A viewer that has answered, and been sent the server's next words; no pong has come since."""
    server = await VncServer().start()

    async def connect(session_id, port):
        return await asyncio.open_connection("127.0.0.1", server.port)

    async def nothing_waits():
        pass

    tunnels = DeployedTunnels(connect, lambda: None, nothing_waits, BoottimeClock())
    async with linked(tunnels) as there:
        tunnels.note(session(), fresh=True)
        await there.until(lambda: there.greetings == 1)
        await tunnels.data(says(HELLO[:12]))
        await there.until(lambda: TYPES in there.said)
        yield tunnels, there
    await tunnels.aclose()
    await server.die()


def last_words(there):
    """What was said beyond the greetings, the server's words and empty messages."""
    return [what for kind, what in there.said if kind == "vnc_data" and what not in (b"", GREETING, TYPES[1])]


async def test_last_words_are_not_sent_behind_what_the_viewers_relay_may_have_ended_at(answered):
    tunnels, there = answered
    tunnels.note(session(SessionState.HIBERNATED))
    await asyncio.sleep(0.1)
    assert last_words(there) == []
    tunnels.closed(LEFT)  # it had: they would have lain in the queue, before the next greeting
    await asyncio.sleep(0.7)
    assert last_words(there) == []


async def test_last_words_are_sent_once_the_viewer_has_proved_to_be_there(answered):
    tunnels, there = answered
    tunnels.note(session(SessionState.HIBERNATED))
    there.pong()
    await there.until(lambda: last_words(there) == [b"\x7f"])


async def test_a_second_message_waits_until_the_first_has_found_its_viewer(answered):
    tunnels, there = answered
    await tunnels.data(says(b"\x01"))
    await asyncio.sleep(0.1)
    before = len([kind for kind, what in there.said if kind == "vnc_data" and what])
    tunnels.closed(LEFT)
    await there.until(lambda: there.greetings == 2)
    assert len([kind for kind, what in there.said if kind == "vnc_data" and what]) == before + 1
