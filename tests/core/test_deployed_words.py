"""What crosses the deployed relay's word that a viewer left, forced: its side of the connection is held in the test's
hand."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from lab.until import until
from streamspace_agent.runtime import ReadyCheck, SessionState
from streamspace_agent.tunnel.deployed.tunnels import DeployedTunnels
from tests.core.held_plane import HELLO, LEFT, linked, says, session, tunnelling
from tests.core.vnc import GREETING, VncServer

TYPES = ("vnc_data", b"\x01\x01")
"""The server's security types: the first that it says to a viewer."""


@pytest.fixture
async def server():
    server = await VncServer().start()
    yield server
    await server.die()


@pytest.fixture
async def tunnels(server):
    async def connect(session_id, port):
        return await asyncio.open_connection("127.0.0.1", server.port)

    async with tunnelling(connect, DeployedTunnels) as tunnels:
        yield tunnels


@asynccontextmanager
async def viewed(tunnels):
    """A viewer that has answered, and been sent the server's next words; no pong has come since."""
    async with linked(tunnels) as there:
        tunnels.note(session(), fresh=True)
        await until(lambda: there.greetings == 1)
        await tunnels.data(says(HELLO[:12]))
        await until(lambda: TYPES in there.said)
        yield there


@pytest.fixture
async def answered(tunnels):
    async with viewed(tunnels) as there:
        yield tunnels, there


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
    await until(lambda: last_words(there) == [b"\x7f"])


async def test_a_second_message_waits_until_the_first_has_found_its_viewer(answered):
    tunnels, there = answered
    await tunnels.data(says(b"\x01"))
    await asyncio.sleep(0.1)
    before = len([kind for kind, what in there.said if kind == "vnc_data" and what])
    tunnels.closed(LEFT)
    await until(lambda: there.greetings == 2)
    assert len([kind for kind, what in there.said if kind == "vnc_data" and what]) == before + 1


async def test_a_viewer_that_is_no_rfb_holds_up_nothing_that_comes_behind_it(answered):
    tunnels, there = answered
    async with asyncio.timeout(0.2):
        await tunnels.data({"sessionId": "s1", "data": "@@@"})
    tunnels.closed(LEFT)  # it comes right behind
    await asyncio.sleep(0.7)
    assert last_words(there) == []


async def begins_anew(tunnels):
    """The session runs again, and whoever leaves it is no viewer of before: the next one is greeted at once."""
    async with linked(tunnels) as there:
        await asyncio.sleep(0.1)
        tunnels.note(session(), fresh=True)
        await until(lambda: there.greetings == 1)
        await asyncio.sleep(0.6)
        tunnels.closed(LEFT)
        await until(lambda: there.greetings == 2)


async def test_a_session_that_ended_under_a_viewer_whose_leaving_was_never_told_is_forgotten(tunnels):
    async with viewed(tunnels):
        tunnels.note(session(SessionState.TERMINATED))
        await asyncio.sleep(0.1)
    await begins_anew(tunnels)


async def test_a_session_that_ended_while_there_was_no_connection_is_forgotten(tunnels):
    async with viewed(tunnels):
        pass
    tunnels.note(session(SessionState.FAILED))
    await begins_anew(tunnels)


async def test_a_viewer_of_a_connection_that_is_gone_is_served_by_nobody(tunnels, server):
    async with linked(tunnels) as there:
        tunnels.note(session(), fresh=True)
        await until(lambda: there.greetings == 1)
    await tunnels.data(says(HELLO))  # it had the greeting, and its answer was read a moment too late
    await asyncio.sleep(0.1)
    async with viewed(tunnels):
        assert server.connections == 1


async def test_web_desktops_do_not_keep_a_screen_from_being_greeted_beside_another(tunnels):
    for number in range(20):
        tunnels.note(session(session_id=f"w{number}", ready_check=ReadyCheck.HTTP), fresh=True)
    async with viewed(tunnels) as there:
        there.prompt = True
        tunnels.note(session(session_id="s2"), fresh=True)
        await until(lambda: ("vnc_data", GREETING) in there.of["s2"])


async def test_a_web_desktop_is_announced_again_after_any_time_without_a_new_connection(tunnels):
    """Nothing is sent to its viewers before they speak, so nothing of it can come too late."""
    tunnels.note(session(ready_check=ReadyCheck.HTTP), fresh=True)
    async with linked(tunnels) as there:
        await until(lambda: "vnc_ready" in there.kinds)
        tunnels.clock.ahead += 1000
        await asyncio.sleep(1)
        assert not there.serving.done()


async def test_of_two_errors_that_end_a_connection_at_once_the_fault_is_raised(tunnels, monkeypatch):
    found = asyncio.Event()

    async def lost(carrier):
        await found.wait()
        raise OSError("gone")

    async def wrong(kind, payload):
        found.set()
        raise ValueError("a fault")

    monkeypatch.setattr(tunnels.multiplexer, "run", lost)
    monkeypatch.setattr(tunnels.multiplexer, "send", wrong)
    tunnels.note(session(ready_check=ReadyCheck.HTTP), fresh=True)  # it is to be announced
    with pytest.raises(ValueError, match="a fault"):
        await tunnels.serve(None)


async def test_a_web_desktop_counts_as_usable_until_its_server_cannot_be_reached(tunnels, server):
    desktop = session(ready_check=ReadyCheck.HTTP)
    tunnels.note(desktop, fresh=True)
    async with linked(tunnels) as there:
        await until(lambda: "vnc_ready" in there.kinds)
        assert tunnels.works(desktop)
        await server.die()
        await tunnels.data(says(b"GET / HTTP/1.1\r\n\r\n"))
        await until(lambda: not tunnels.works(desktop))
