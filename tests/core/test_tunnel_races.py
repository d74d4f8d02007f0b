"""Words of the control plane that cross the tunnel's own, forced: its side of the connection is held in the test's hand."""

import asyncio
import json
from contextlib import asynccontextmanager, suppress

import pybase64
import pytest

from streamspace_agent.elector.clock import BoottimeClock
from streamspace_agent.runtime import ReadyCheck, Session, SessionState
from streamspace_agent.tunnel.tunnels import Tunnels
from tests.core.vnc import GREETING, VncServer

HELLO = GREETING + b"\x01\x01"


class ControlPlane:
    """What the tunnels have said, in order; pongs come when `pong` is called."""

    def __init__(self):
        self.said = []
        self.pings = []
        self.room = asyncio.Event()
        """Set while sends return at once; a socket that is full has taken the frame all the same."""
        self.room.set()

    async def send(self, kind, payload):
        self.said.append((kind, payload))

    async def send_text(self, frame):
        message = json.loads(frame)
        self.said.append((message["type"], pybase64.b64decode(message["payload"]["data"])))
        await self.room.wait()

    async def ping(self):
        self.pings.append(asyncio.get_running_loop().create_future())
        return self.pings[-1]

    def pong(self):
        for ping in self.pings:
            if not ping.done():
                ping.set_result(0.001)

    @property
    def greetings(self):
        return self.said.count(("vnc_data", GREETING))

    @property
    def kinds(self):
        return [kind for kind, _ in self.said]

    async def until(self, true):
        async with asyncio.timeout(10):
            while not true():
                await asyncio.sleep(0.005)


@pytest.fixture
async def server():
    server = await VncServer().start()
    yield server
    await server.die()


@asynccontextmanager
async def linked(tunnels):
    """One connection to the control plane."""
    there = ControlPlane()
    serving = asyncio.create_task(tunnels.serve(there))
    try:
        yield there
    finally:
        serving.cancel()
        with suppress(asyncio.CancelledError):
            await serving


@pytest.fixture
async def tunnels(server):
    told = asyncio.Event()
    told.set()

    async def connect(session_id, port):
        return await asyncio.open_connection("127.0.0.1", server.port)

    tunnels = Tunnels(connect, lambda: None, told.wait, BoottimeClock())
    tunnels.told = told
    yield tunnels
    await tunnels.aclose()


def session(state=SessionState.RUNNING):
    return Session("s1", state, "here", port=5900, ready=True, ready_check=ReadyCheck.VNC)


def says(data):
    return {"sessionId": "s1", "data": pybase64.b64encode_as_string(data)}


LEFT = {"sessionId": "s1", "reason": "it left"}


async def settle():
    await asyncio.sleep(0.25)


async def test_a_viewer_that_read_the_greeting_and_left_without_a_word_leaves_a_new_one_for_the_next(tunnels):
    tunnels.note(session(), fresh=True)
    async with linked(tunnels) as there:
        await there.until(lambda: there.greetings == 1)
        there.pong()
        await settle()
        tunnels.closed(LEFT)
        await there.until(lambda: there.greetings == 2)


async def test_a_leaving_told_before_the_greeting_arrived_leaves_that_greeting_to_the_next_viewer(tunnels):
    tunnels.note(session(), fresh=True)
    async with linked(tunnels) as there:
        await there.until(lambda: there.greetings == 1)
        tunnels.closed(LEFT)
        there.pong()
        await settle()
        assert there.greetings == 1
        await tunnels.data(says(HELLO))
        tunnels.closed(LEFT)
        await there.until(lambda: there.greetings == 2)


async def test_the_leaving_of_a_viewer_that_was_closed_is_waited_for_before_the_next_is_greeted(tunnels, server):
    tunnels.note(session(), fresh=True)
    async with linked(tunnels) as there:
        await there.until(lambda: there.greetings == 1)
        await tunnels.data(says(HELLO))
        await tunnels.data({"sessionId": "s1", "data": "@@@"})
        await there.until(lambda: "vnc_error" in there.kinds)
        await settle()
        assert there.greetings == 1, "the control plane has not read yet that the viewer is to be closed"
        there.pong()
        await asyncio.sleep(0)
        tunnels.closed(LEFT)
        await there.until(lambda: there.greetings == 2)
        there.pong()
        await settle()
        assert there.greetings == 2


async def test_a_greeting_that_a_slow_socket_has_taken_is_not_sent_twice(tunnels, server):
    tunnels.note(session(), fresh=True)
    async with linked(tunnels) as there:
        await there.until(lambda: there.greetings == 1)
        there.pong()
        await settle()
        there.room.clear()
        tunnels.closed(LEFT)
        await there.until(lambda: there.greetings == 2)
        for writer in list(server.writers):
            writer.transport.abort()  # the connection to the server has to be made anew, the greeting stays good
        await settle()
        there.room.set()
        await settle()
        assert there.greetings == 2


async def test_a_session_that_ended_while_the_link_was_down_is_not_announced(tunnels):
    tunnels.note(session(), fresh=True)
    async with linked(tunnels) as there:
        await there.until(lambda: there.greetings == 1)
    tasks = len(asyncio.all_tasks())
    tunnels.told.clear()
    async with linked(tunnels) as there:
        await settle()
        tunnels.note(session(SessionState.HIBERNATED))
        await settle()
        tunnels.told.set()
        await settle()
        assert "vnc_ready" not in there.kinds
        assert there.greetings == 0
    assert len(asyncio.all_tasks()) < tasks


async def test_what_a_viewer_said_before_it_was_closed_does_not_reach_the_next_ones_server(tunnels, server):
    tunnels.note(session())  # a takeover: somebody may be there
    await tunnels.data(says(HELLO))
    async with linked(tunnels) as there:
        await there.until(lambda: "vnc_error" in there.kinds)
        there.pong()
        await there.until(lambda: there.greetings == 1)
        await settle()
        assert "vnc_data" not in there.kinds[there.kinds.index("vnc_data") + 1 :], "the server has been spoken to"
        await tunnels.data(says(HELLO))
        await there.until(lambda: there.said[-1][0] == "vnc_data" and there.said[-1][1] != GREETING)


async def test_a_driver_with_a_fault_costs_its_session_a_pause_and_a_line_not_the_tunnel(tunnels, server, caplog):
    faults = [ValueError("a bug"), RuntimeError("another")]
    connect = tunnels._connect

    async def faulty(session_id, port):
        if faults:
            raise faults.pop()
        return await connect(session_id, port)

    tunnels._connect = faulty
    tunnels.note(session(), fresh=True)
    async with linked(tunnels) as there:
        async with asyncio.timeout(10):
            while not there.greetings:
                there.pong()
                await asyncio.sleep(0.01)
        assert tunnels.works(session())
    assert caplog.text.count("its tunnel failed for a reason that is a fault of the agent") == 2
