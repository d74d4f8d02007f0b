"""Who gets the places in the control plane's one queue for viewers, and who is given up for them."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from lab.until import until
from streamspace_agent.runtime import SessionState
from streamspace_agent.tunnel.channel import OPAQUE_RATE
from streamspace_agent.tunnel.flow_control import MAX_CHUNK, Budget
from tests.core.held_plane import HELLO, REQUESTED, linked, over_http, says, session, settle, tunnelling
from tests.core.vnc import BELL, GREETING, KEY, REQUEST, SERVER_INIT, VncServer

OPENED = GREETING + b"\x01\x01" + bytes(4) + SERVER_INIT


@pytest.fixture
async def servers():
    """`await servers("s1", "s2")`: one for each session."""
    made = {}

    async def start(*sessions):
        for name in sessions:
            made[name] = await VncServer().start()
        return made

    start.made = made
    yield start
    for server in made.values():
        server.flood = False
        await server.die()


@pytest.fixture
async def tunnels(servers):
    async def connect(session_id, port):
        return await asyncio.open_connection("127.0.0.1", servers.made[session_id].port)

    async with tunnelling(connect) as tunnels:
        yield tunnels


@pytest.fixture
def budget(tunnels):
    return tunnels.multiplexer.budget


async def viewed(tunnels, there, name):
    """The session has a viewer that has finished its handshake."""
    tunnels.note(session(session_id=name), fresh=True)
    await until(lambda: there.stream(name) == GREETING)
    await settle()
    await tunnels.data(says(HELLO, name))
    await until(lambda: there.stream(name) == OPENED)


async def sees_a_still_picture(tunnels, there, server, name, size):
    """It has read one picture and has asked for what changes; nothing does."""
    server.update = size
    await tunnels.data(says(REQUEST, name))
    await until(lambda: len(there.stream(name)) == len(OPENED) + size)
    server.update = 0
    await tunnels.data(says(REQUEST, name))


async def test_viewers_of_still_pictures_leave_the_places_to_others(tunnels, servers, budget, monkeypatch):
    monkeypatch.setattr("streamspace_agent.tunnel.channel.QUIET_PER_MESSAGE", 0.01)
    names = [f"s{number}" for number in range(20)]
    made = await servers(*names, "new")
    async with linked(tunnels) as there:
        there.prompt = True
        for name in names:
            await viewed(tunnels, there, name)
            await sees_a_still_picture(tunnels, there, made[name], name, 4 << 20)
        tunnels.note(session(session_id="new"), fresh=True)
        await until(lambda: there.stream("new") == GREETING)
        for name in names:
            await tunnels.data(says(KEY, name))
        await until(lambda: all(there.stream(name).endswith(BELL) for name in names))
        assert "vnc_error" not in there.kinds


async def test_a_session_that_ends_leaves_its_places_to_who_waits_for_them(tunnels, servers, budget):
    made = await servers("stuck", "reads")
    async with linked(tunnels) as there:
        there.prompt = True
        for name in made:
            await viewed(tunnels, there, name)
        made["stuck"].flood = True
        await tunnels.data(says(REQUEST, "stuck"))
        await until(lambda: tunnels.multiplexer.blocked)
        made["reads"].update = 40 << 20
        await tunnels.data(says(REQUEST, "reads"))
        await until(lambda: tunnels.multiplexer.blocked == 2)
        made["stuck"].flood = False
        tunnels.note(session(SessionState.TERMINATED, "stuck"))
        await until(lambda: len(there.stream("reads")) == len(OPENED) + made["reads"].update)
        assert [kind for kind, _ in there.of["reads"]].count("vnc_error") == 0


async def test_a_viewer_to_which_nothing_was_sent_is_never_taken_for_one_that_does_not_read(
    tunnels, servers, budget, monkeypatch
):
    monkeypatch.setattr("streamspace_agent.tunnel.repaired.tunnel.STALL", 1.5)
    made = await servers("s1")
    async with linked(tunnels) as there:
        there.prompt = True
        await viewed(tunnels, there, "s1")
        await sees_a_still_picture(tunnels, there, made["s1"], "s1", 1000)
        await asyncio.sleep(3)
        budget.used += Budget.LIMIT - 4  # as greetings of others would
        for writer in made["s1"].writers:
            writer.write(bytes(100_000_000))
        sent = asyncio.get_running_loop().time()
        await until(lambda: "vnc_error" in there.kinds)
        assert asyncio.get_running_loop().time() - sent > 1.4, "it had its time from the first message on"
        budget.used -= Budget.LIMIT - 4


@asynccontextmanager
async def asked(tunnels, talk):
    """A session whose server waits for its client, which has asked."""
    async with over_http(tunnels, talk) as there:
        await until(lambda: "vnc_ready" in there.kinds)
        await tunnels.data(says(REQUESTED))
        yield there


MOUSE = b"\x82\x86mouse"


async def test_a_viewer_that_cannot_be_understood_gets_a_share_that_its_mouse_does_not_widen(tunnels, budget):
    async def video(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        while True:
            writer.write(bytes(1 << 20))
            await writer.drain()

    async with asked(tunnels, video) as there:
        await until(lambda: tunnels.multiplexer.blocked)
        first = there.kinds.count("vnc_data")
        assert first <= Budget.LIMIT // 2 + 1
        began = asyncio.get_running_loop().time()
        for _ in range(50):
            await asyncio.sleep(0.02)
            await tunnels.data(says(MOUSE))
        took = asyncio.get_running_loop().time() - began
        assert there.kinds.count("vnc_data") <= first + 4 * OPAQUE_RATE / MAX_CHUNK * (took + 1)  # the first are small
        assert budget.used <= Budget.LIMIT // 2 + 1


async def test_pictures_of_one_that_cannot_be_understood_come_steadily(tunnels):
    async def frames(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        while True:
            writer.write(bytes(8000))
            await writer.drain()
            await asyncio.sleep(0.02)

    async with asked(tunnels, frames) as there:
        gaps, last, seen = [], asyncio.get_running_loop().time(), there.kinds.count("vnc_data")
        for _ in range(600):
            await asyncio.sleep(0.02)
            await tunnels.data(says(MOUSE))
            if there.kinds.count("vnc_data") > seen:
                now, seen = asyncio.get_running_loop().time(), there.kinds.count("vnc_data")
                gaps.append(now - last)
                last = now
        assert len(gaps) > 80
        assert sorted(gaps)[-2] < 1.0, "it stood still for two seconds, again and again"


async def test_echoes_of_one_that_cannot_be_understood_come_at_once(tunnels):
    async def echo(reader, writer):
        while data := await reader.read(1000):
            writer.write(data)

    async with asked(tunnels, echo) as there:
        await until(lambda: "vnc_data" in there.kinds)
        began = asyncio.get_running_loop().time()
        for number in range(300):
            await tunnels.data(says(MOUSE))
            await until(lambda number=number: there.stream().count(MOUSE) == number + 1)
        assert asyncio.get_running_loop().time() - began < 9, "2 s; held back it takes 20"


async def test_a_long_answer_to_a_client_that_says_nothing_meanwhile_comes_whole(tunnels):
    size = 20 << 20

    async def download(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(bytes(size))
        await reader.read()

    async with asked(tunnels, download) as there:
        await until(lambda: len(there.stream()) == size)


async def test_a_viewer_that_has_nothing_to_say_to_what_it_was_sent_is_not_closed_for_another(
    tunnels, servers, monkeypatch
):
    monkeypatch.setattr("streamspace_agent.tunnel.repaired.tunnel.STALL", 2.0)
    made = await servers("still", "stuck")
    async with linked(tunnels) as there:
        there.prompt = True
        await viewed(tunnels, there, "still")
        await viewed(tunnels, there, "stuck")
        await sees_a_still_picture(tunnels, there, made["still"], "still", 1000)
        for writer in made["still"].writers:
            writer.write(BELL)
        await until(lambda: there.stream("still").endswith(BELL))
        await asyncio.sleep(2.5)
        made["stuck"].flood = True
        await tunnels.data(says(REQUEST, "stuck"))
        await until(lambda: "vnc_error" in there.kinds)
        assert [kind for kind, _ in there.of["still"]].count("vnc_error") == 0
        made["stuck"].flood = False


async def test_a_viewer_whose_last_sign_came_when_its_share_was_used_up_is_given_up_like_any(
    tunnels, servers, monkeypatch
):
    monkeypatch.setattr("streamspace_agent.tunnel.repaired.tunnel.STALL", 1.0)
    made = await servers("s1")
    async with linked(tunnels) as there:
        there.prompt = True
        await viewed(tunnels, there, "s1")
        await sees_a_still_picture(tunnels, there, made["s1"], "s1", 1000)
        await tunnels.data(says(REQUEST, "s1"))
        made["s1"].flood = True
        made["s1"].update = 1 << 20
        await tunnels.data(says(REQUEST, "s1"))
        await until(lambda: tunnels.multiplexer.blocked)
        await tunnels.data(says(REQUEST, "s1"))  # and its line dies
        await until(lambda: "vnc_error" in there.kinds)
        made["s1"].flood = False


async def test_greetings_leave_room_however_many_wait_for_a_full_socket(tunnels, servers, budget):
    names = [f"n{number}" for number in range(Budget.GREETINGS + 20)]
    made = await servers("one")
    made.update(dict.fromkeys(names, made["one"]))
    async with linked(tunnels) as there:
        there.prompt, there.words_wait = True, True
        there.room.clear()
        for name in names:
            tunnels.note(session(session_id=name), fresh=True)
            await asyncio.sleep(0.005)  # a server lets no more than a hundred wait to be let in
        await until(lambda: there.kinds.count("vnc_ready") == len(names))
        there.room.set()
        await until(lambda: there.greetings >= Budget.GREETINGS)
        await asyncio.sleep(1.5)
        assert there.greetings == budget.used == Budget.GREETINGS


async def test_a_mouse_over_a_picture_whose_server_is_gone_does_not_keep_it(tunnels, monkeypatch):
    monkeypatch.setattr("streamspace_agent.tunnel.repaired.tunnel.STALL", 1.0)
    monkeypatch.setattr("streamspace_agent.tunnel.repaired.tunnel.LINGER", 0.5)

    async def goes(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")

    async with asked(tunnels, goes) as there, asyncio.timeout(10):
        while "vnc_error" not in there.kinds:
            await tunnels.data(says(MOUSE))
            await asyncio.sleep(0.1)
