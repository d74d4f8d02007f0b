"""Words of the control plane that cross the tunnel's own, forced: its side of the connection is held in the test's
hand."""

import asyncio
import socket
from dataclasses import replace

import pytest

from lab.loopback import served
from lab.until import until
from streamspace_agent.runtime import SessionState
from streamspace_agent.tunnel.multiplexer import Multiplexer
from tests.core.held_plane import HELLO, LEFT, REQUESTED, greeted, linked, over_http, says, session, settle, tunnelling
from tests.core.vnc import BELL, GREETING, KEY, REFUSES, REQUEST, SERVER_INIT, VncServer


@pytest.fixture
async def server():
    server = await VncServer().start()
    yield server
    await server.die()


@pytest.fixture
async def tunnels(server):
    async def connect(session_id, port):
        return await asyncio.open_connection("127.0.0.1", server.port)

    async with tunnelling(connect) as tunnels:
        yield tunnels


async def test_a_viewer_that_read_the_greeting_and_left_without_a_word_leaves_a_new_one_for_the_next(tunnels):
    async with greeted(tunnels) as there:
        there.pong()
        await settle()
        tunnels.closed(LEFT)
        await until(lambda: there.greetings == 2)


async def test_a_leaving_told_before_the_greeting_arrived_leaves_that_greeting_to_the_next_viewer(tunnels):
    async with greeted(tunnels) as there:
        tunnels.closed(LEFT)
        there.pong()
        await settle()
        assert there.greetings == 1
        await tunnels.data(says(HELLO))
        tunnels.closed(LEFT)
        await until(lambda: there.greetings == 2)


async def test_the_leaving_of_a_viewer_that_was_closed_is_waited_for_before_the_next_is_greeted(tunnels, server):
    async with greeted(tunnels) as there:
        await tunnels.data(says(HELLO))
        await tunnels.data({"sessionId": "s1", "data": "@@@"})
        await until(lambda: "vnc_error" in there.kinds)
        await settle()
        assert there.greetings == 1, "the control plane has not read yet that the viewer is to be closed"
        there.pong()
        await asyncio.sleep(0)
        tunnels.closed(LEFT)
        await until(lambda: there.greetings == 2)
        there.pong()
        await settle()
        assert there.greetings == 2


async def test_a_greeting_that_a_slow_socket_has_taken_is_not_sent_twice(tunnels, server):
    async with greeted(tunnels) as there:
        there.pong()
        await settle()
        there.room.clear()
        tunnels.closed(LEFT)
        await until(lambda: there.greetings == 2)
        for writer in list(server.writers):
            writer.transport.abort()  # the connection to the server has to be made anew, the greeting stays good
        await settle()
        there.room.set()
        await settle()
        assert there.greetings == 2


async def test_a_session_that_ended_while_the_link_was_down_is_not_announced(tunnels):
    async with greeted(tunnels):
        pass
    tasks = len(asyncio.all_tasks())
    tunnels.flushed.clear()
    async with linked(tunnels) as there:
        await settle()
        tunnels.note(session(SessionState.HIBERNATED))
        await settle()
        tunnels.flushed.set()
        await settle()
        assert "vnc_ready" not in there.kinds
        assert there.greetings == 0
    assert len(asyncio.all_tasks()) < tasks


async def test_what_a_viewer_said_before_it_was_closed_does_not_reach_the_next_ones_server(tunnels, server):
    tunnels.note(session())  # a takeover: somebody may be there
    await tunnels.data(says(HELLO))
    async with linked(tunnels) as there:
        await until(lambda: "vnc_error" in there.kinds)
        there.pong()
        await until(lambda: there.greetings == 1)
        await settle()
        assert "vnc_data" not in there.kinds[there.kinds.index("vnc_data") + 1 :], "the server has been spoken to"
        await tunnels.data(says(HELLO))
        await until(lambda: there.said[-1][0] == "vnc_data" and there.said[-1][1] != GREETING)


async def test_a_driver_with_a_fault_costs_its_session_a_pause_and_a_line_not_the_tunnel(tunnels, server, caplog):
    faults = [ValueError("a bug"), RuntimeError("another")]
    connect = tunnels.way.connect

    async def faulty(session_id, port):
        if faults:
            raise faults.pop()
        return await connect(session_id, port)

    tunnels.way.connect = faulty
    tunnels.note(session(), fresh=True)
    async with linked(tunnels) as there:
        async with asyncio.timeout(10):
            while not there.greetings:
                there.pong()
                await asyncio.sleep(0.01)
        assert tunnels.works(session())
    assert caplog.text.count("its tunnel failed for a reason that is a fault of the agent") == 2


async def test_a_viewer_that_takes_the_greeting_while_it_is_to_be_announced_anew_gets_no_second_one(tunnels, server):
    async with greeted(tunnels) as there:
        there.pong()
        await settle()
        tunnels.flushed.clear()  # another session's state is on its way
        for writer in list(server.writers):
            writer.transport.abort()  # as servers do to clients that say nothing
        await until(lambda: server.connections == 2)
        await settle()
        await tunnels.data(says(HELLO))
        await settle()
        tunnels.flushed.set()
        await settle()
        assert there.greetings == 1
        assert there.stream().startswith(GREETING + b"\x01\x01")


async def test_the_version_of_a_viewer_that_has_left_does_not_reach_the_next_ones_server(tunnels, server):
    async with greeted(tunnels) as there:
        there.pong()
        await settle()
        tunnels.closed(LEFT)
        await tunnels.data(says(GREETING))
        await until(lambda: there.greetings == 2)
        there.pong()
        await settle()
        await tunnels.data(says(HELLO))
        await until(lambda: there.stream().endswith(GREETING + b"\x01\x01" + bytes(4) + SERVER_INIT))
        await tunnels.data(says(KEY))
        await until(lambda: there.stream().endswith(BELL))


async def test_a_session_that_ends_says_nothing_after_it_was_told(tunnels, server):
    server.update = 20 << 20
    async with greeted(tunnels) as there:
        there.pong()
        await tunnels.data(says(HELLO))
        await settle()
        await tunnels.data(says(REQUEST))
        await until(lambda: len(there.stream()) > 1000)
        there.room.clear()
        await settle()
        tunnels.note(session(SessionState.HIBERNATED))
        there.room.set()
        await settle()
        assert there.kinds[-1] == "vnc_error"


async def test_a_greeting_that_waited_in_a_full_socket_is_not_sent_once_the_session_sleeps(tunnels):
    async with greeted(tunnels) as there:
        there.pong()
        await tunnels.data(says(HELLO))
        await settle()
        there.words_wait = True
        there.room.clear()
        tunnels.closed(LEFT)
        await until(lambda: there.kinds.count("vnc_ready") == 2)
        tunnels.note(session(SessionState.HIBERNATED))
        there.room.set()
        await settle()
        assert there.greetings == 1
        there.prompt = True
        tunnels.note(session(), fresh=True)
        await until(lambda: there.greetings == 2)


async def test_a_viewer_that_could_not_be_told_of_its_sessions_sleep_is_closed_once_there_is_a_link(tunnels):
    async with greeted(tunnels) as there:
        there.pong()
        await tunnels.data(says(HELLO))
        await settle()
    tunnels.note(session(SessionState.HIBERNATED))
    await settle()
    async with greeted(tunnels, prompt=True) as there:
        assert there.kinds[0] == "vnc_error"


async def test_a_viewer_whose_session_ended_for_good_without_a_link_is_closed_once_there_is_one_and_forgotten(
    tunnels, monkeypatch
):
    monkeypatch.setattr("streamspace_agent.tunnel.repaired.tunnels.FORGOTTEN", 0.1)
    async with greeted(tunnels) as there:
        there.pong()
        await tunnels.data(says(HELLO))
        await settle()
    tunnels.note(replace(session(SessionState.TERMINATED), reason="stopped"))
    await settle()
    async with linked(tunnels) as there:
        await until(lambda: "vnc_error" in there.kinds)
        assert there.said == [("vnc_error", {"sessionId": "s1", "error": "stopped"})]
        await asyncio.sleep(0.3)
        tunnels.note(session(), fresh=True)
        await until(lambda: there.greetings == 1)  # no pong came: there is no viewer whose leaving to wait for


async def test_it_is_not_closed_twice_where_the_session_runs_again_by_then(tunnels):
    async with greeted(tunnels):
        pass
    tunnels.note(session(SessionState.HIBERNATED))
    await settle()
    tunnels.note(session(), fresh=True)
    async with greeted(tunnels, prompt=True) as there:
        await asyncio.sleep(1.3)
        assert there.kinds == ["vnc_error", "vnc_ready", "vnc_data"]


async def test_of_two_errors_that_end_a_connection_at_once_the_fault_is_raised(tunnels, monkeypatch):
    found = asyncio.Event()

    async def lost(carrier):
        await found.wait()
        raise OSError("gone")

    def wrong(multiplexer):
        found.set()
        raise ValueError("a fault")

    monkeypatch.setattr(tunnels.multiplexer, "run", lost)
    monkeypatch.setattr(Multiplexer, "blocked", property(wrong))
    with pytest.raises(ValueError, match="a fault"):
        await tunnels.serve(None)


async def test_a_server_that_refuses_is_left_alone_until_a_viewer_asks(tunnels):
    """Each connection without a login makes its ban longer."""
    times = []

    async def refuses(reader, writer):
        times.append(asyncio.get_running_loop().time())
        writer.write(REFUSES)
        await reader.read()

    async with served(refuses) as port:

        async def connect(session_id, _port):
            return await asyncio.open_connection("127.0.0.1", port)

        tunnels.way.connect = connect
        tunnels.note(session(), fresh=True)
        async with linked(tunnels):
            await asyncio.sleep(4)
            assert len(times) == 1
            assert tunnels.works(session()), "it is there"


async def test_what_is_remembered_of_sessions_that_there_are_not_is_short(tunnels):
    async with linked(tunnels) as there:
        await settle()
        await tunnels.data(says(HELLO, session_id="x" * 200_000))
        ((kind, error),) = there.said
        assert (kind, error["sessionId"]) == ("vnc_error", "x" * 100)
        await tunnels.data(says(HELLO, session_id="x" * 100 + "y"))
        assert len(there.said) == 1, "it is the same to what is remembered"


@pytest.mark.parametrize("data", [None, ""])
async def test_viewer_data_without_data_is_nothing(tunnels, server, data):
    async with greeted(tunnels) as there:
        there.pong()
        await tunnels.data(says(GREETING))
        await tunnels.data({"sessionId": "s1", "data": data})
        await tunnels.data({"sessionId": "s1"})
        await tunnels.data(says(b"\x01"))
        await until(lambda: there.stream().endswith(b"\x01\x01" + bytes(4)))
        assert "vnc_error" not in there.kinds


@pytest.mark.parametrize("data", [1234, "@@@", {}, [1]])
async def test_viewer_data_that_is_no_base64_closes_the_viewer(tunnels, server, data):
    async with greeted(tunnels, prompt=True) as there:
        await tunnels.data(says(GREETING))
        await tunnels.data({"sessionId": "s1", "data": data})
        await until(lambda: "vnc_error" in there.kinds)
        assert "base64" in there.said[-1][1]["error"]
        await until(lambda: there.greetings == 2)


async def test_it_closes_the_viewer_also_while_its_server_is_connected_to(tunnels, server):
    connect, reached = tunnels.way.connect, asyncio.Event()
    async with greeted(tunnels, prompt=True) as there:

        async def slow(session_id, port):
            await reached.wait()
            return await connect(session_id, port)

        tunnels.way.connect = slow
        for writer in list(server.writers):
            writer.transport.abort()
        await settle()
        await tunnels.data(says(GREETING))
        await tunnels.data({"sessionId": "s1", "data": "@@@"})
        await until(lambda: "vnc_error" in there.kinds)
        reached.set()
        await until(lambda: there.greetings == 2)


async def no_content(reader, writer):
    while await reader.readuntil(b"\r\n\r\n"):
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")


async def test_a_viewer_that_leaves_while_its_server_is_connected_to_leaves_the_session_open_to_the_next(tunnels):
    reached = asyncio.Event()
    async with over_http(tunnels, no_content, reached=reached) as there:
        await until(lambda: there.kinds.count("vnc_ready") == 1)
        await tunnels.data(says(REQUESTED))
        await settle()
        tunnels.closed(LEFT)
        reached.set()
        await until(lambda: there.kinds.count("vnc_ready") == 2)
        await tunnels.data(says(REQUESTED))
        await until(lambda: there.stream().startswith(b"HTTP/1.1 204"))


async def test_what_a_closed_viewer_still_said_does_not_open_the_next_ones_connection(tunnels):
    heard = []

    async def listen(reader, _writer):
        heard.append(b"")
        while data := await reader.read(1000):
            heard[-1] += data

    async with over_http(tunnels, listen, prompt=False) as there:
        await until(lambda: there.kinds.count("vnc_ready") == 1)
        await tunnels.data(says(b"POST / HTTP/1.1\r\n"))
        await until(lambda: heard)
        await tunnels.data({"sessionId": "s1", "data": "@@@"})
        await until(lambda: "vnc_error" in there.kinds)
        await tunnels.data(says(b"what was on its way\r\n"))
        there.prompt = True
        there.pong()
        await until(lambda: there.kinds.count("vnc_ready") == 2)
        await tunnels.data(says(REQUESTED))
        await until(lambda: heard[-1] == REQUESTED)
        assert heard == [b"POST / HTTP/1.1\r\n", REQUESTED]


async def test_a_viewer_that_comes_while_the_last_ones_leaving_is_waited_for_is_told_to_try_again(tunnels):
    # A takeover: somebody may be there.
    async with over_http(tunnels, no_content, fresh=False, prompt=False) as there:
        await until(lambda: "vnc_error" in there.kinds)
        await tunnels.data(says(REQUESTED))
        there.prompt = True
        there.pong()
        await until(lambda: there.kinds.count("vnc_error") == 2)
        await until(lambda: "vnc_ready" in there.kinds)
        await tunnels.data(says(REQUESTED))
        await until(lambda: there.stream().startswith(b"HTTP/1.1 204"))


async def test_the_leaving_of_a_viewer_that_a_sleep_closed_is_not_taken_for_the_next_ones(tunnels):
    async with greeted(tunnels, prompt=True) as there:
        await settle()
        await tunnels.data(says(HELLO))
        await settle()
        tunnels.note(session(SessionState.HIBERNATED))
        await until(lambda: "vnc_error" in there.kinds)
        tunnels.note(session(), fresh=True)
        await asyncio.sleep(0.03)
        tunnels.closed(LEFT)
        await until(lambda: there.greetings == 2)
        await settle()
        assert there.greetings == 2


async def test_a_greeting_whose_server_left_while_it_was_sent_is_vouched_for_all_the_same(tunnels, server):
    async with greeted(tunnels) as there:
        there.pong()
        await settle()
        there.room.clear()
        tunnels.closed(LEFT)
        await until(lambda: there.greetings == 2)
        for writer in server.writers:
            writer.transport.abort()
        await settle()
        there.room.set()
        there.prompt = True
        there.pong()
        await settle()
        tunnels.closed(LEFT)  # it took the greeting and left without a word
        await until(lambda: there.greetings == 3)


async def test_who_may_have_had_a_greeting_when_the_link_broke_is_closed_before_the_next(tunnels):
    async with greeted(tunnels) as there:
        there.pong()
        await settle()
    async with linked(tunnels) as there:
        there.prompt = True
        await until(lambda: there.greetings == 1)
        assert "vnc_error" in there.kinds[: there.kinds.index("vnc_ready")]


async def test_a_session_that_was_not_ready_for_a_moment_keeps_the_greeting_that_lies_there(tunnels):
    async with greeted(tunnels, prompt=True) as there:
        await settle()
        tunnels.note(replace(session(), ready=False))
        await settle()
        tunnels.note(session())
        await settle()
        assert there.kinds == ["vnc_ready", "vnc_data"]


async def test_a_fault_while_a_greeting_lies_there_leaves_it_to_the_next_viewer(tunnels, server):
    faults, connect = [], tunnels.way.connect

    async def faulty(session_id, port):
        if faults:
            raise faults.pop()
        return await connect(session_id, port)

    tunnels.way.connect = faulty
    async with greeted(tunnels, prompt=True) as there:
        await settle()
        faults.append(ValueError("a fault"))
        for writer in server.writers:
            writer.transport.abort()
        await until(lambda: not faults and tunnels.works(session()))
        await settle()
        assert there.greetings == 1
        await tunnels.data(says(HELLO))
        await until(lambda: there.stream().endswith(SERVER_INIT))


async def test_each_viewer_of_a_server_that_is_away_is_told_at_once_and_the_next_served_at_once(tunnels):
    away = True

    async def no_way(session_id, port):
        if away:
            raise OSError("refused")
        return await connect(session_id, port)

    async with over_http(tunnels, no_content) as there:
        connect, loop = tunnels.way.connect, asyncio.get_running_loop()
        tunnels.way.connect = no_way
        for number in range(1, 7):
            await until(lambda n=number: there.kinds.count("vnc_ready") >= n)
            await tunnels.data(says(REQUESTED))
            asked = loop.time()
            await until(lambda n=number: there.kinds.count("vnc_error") >= n)
            assert loop.time() - asked < 1.0
        away = False
        await until(lambda: there.kinds.count("vnc_ready") >= 7)
        await tunnels.data(says(REQUESTED))
        asked = loop.time()
        await until(there.stream)
        assert loop.time() - asked < 1.0


async def test_a_frame_full_of_keys_for_a_server_that_has_just_gone_floods_no_log(tunnels, caplog):
    async with greeted(tunnels, prompt=True):
        await settle()
        await tunnels.data(says(HELLO))
        await settle()
        tunnels.way.made[-1][1].get_extra_info("socket").shutdown(socket.SHUT_RDWR)
        for _ in range(250):
            await tunnels.data(says(KEY))
        await settle()
    assert caplog.text.count("socket.send() raised exception") < 5
