"""Viewers through the relay of the deployed control plane: each finds its screen, and none of it could end the control
plane."""

import asyncio
import functools
import json
from contextlib import asynccontextmanager

import pytest

from streamspace_agent import leadership
from streamspace_agent.tunnel.deployed.times import Times
from streamspace_agent.tunnel.deployed.tunnels import DeployedTunnels
from streamspace_devplane import DevPlane
from streamspace_devplane import Settings as PlaneSettings
from tests.core.test_tunnels import announced, counted, errors, ready
from tests.core.vnc import GREETING, KEY, REQUEST, Viewer, VncServer, viewer

SCALE = 0.2
"""The relay's times and the agent's, a fifth of the real ones; tests/integration/test_deployed_screens.py has those."""
PING, WRITE, ACTIVITY = 54.0, 10.0, 30.0


@pytest.fixture
def scale():
    return SCALE


@pytest.fixture
async def plane(tmp_path, scale, monkeypatch):
    times = Times().scaled(scale)
    monkeypatch.setattr(leadership, "DeployedTunnels", functools.partial(DeployedTunnels, times=times))
    settings = PlaneSettings(
        viewer_ping_interval=PING * scale,
        viewer_write_wait=WRITE * scale,
        viewer_activity_interval=ACTIVITY * scale,
        viewer_read_wait=120 * scale,
        crash_file=str(tmp_path / "crashes"),
    )
    async with DevPlane(db=tmp_path / "plane.db", settings=settings) as plane:
        yield plane
        file = tmp_path / "crashes"
        crashes = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        assert crashes == []
        assert await errors(plane) == [], "vnc_error is what the deployed control plane dies of"


@pytest.fixture
async def server(driver):
    server = driver.servers["s1"] = await VncServer(update=20_000).start()
    yield server
    await server.die()


@pytest.fixture
async def other(driver):
    server = driver.servers["s2"] = await VncServer(update=20_000).start()
    yield server
    await server.die()


async def used(one):
    """A whole visit: the handshake, an update, a key."""
    await one.handshake()
    await one.say(REQUEST)
    await one.read(20_000)
    await one.press()
    return one


@asynccontextmanager
async def open_viewer(plane, session_id="s1"):
    async with viewer(plane, session_id) as one:
        yield await used(one)


async def counters(plane):
    return (await plane.diagnostics())["counters"]


async def connections(plane):
    return len(await plane.events(type="connected"))


async def test_each_of_ten_viewers_finds_a_fresh_greeting(plane, lead, server):
    async with lead():
        await ready(plane)
        for _ in range(10):
            async with open_viewer(plane):
                pass
        assert await connections(plane) == 1, "a new connection is for where nothing else helps"


async def test_each_of_ten_viewers_that_leave_in_the_middle_of_pictures_finds_a_fresh_greeting(plane, lead, server):
    async with lead():
        await ready(plane)
        server.update, server.pieces = 2_000_000, 20
        for _ in range(10):
            async with viewer(plane) as one:
                await one.handshake()
                await one.say(REQUEST)
                await one.read(5_000)


async def test_a_viewer_that_tears_its_connection_leaves_a_greeting_to_the_next(plane, lead, server):
    async with lead():
        await ready(plane)
        for _ in range(4):
            async with viewer(plane) as one:
                await used(one)
                one.socket.transport.abort()


async def test_a_viewer_that_reads_the_greeting_and_leaves_without_a_word_leaves_one_to_the_next(plane, lead, server):
    async with lead():
        await ready(plane)
        for _ in range(3):
            async with viewer(plane) as one:
                assert await one.read(12) == GREETING
        async with open_viewer(plane):
            pass


async def test_a_page_that_is_loaded_again_finds_its_screen(plane, lead, server):
    async with lead():
        await ready(plane)
        one = await used(Viewer(await plane.open_viewer("s1")))
        for _ in range(5):
            _, next_one = await asyncio.gather(one.socket.close(), plane.open_viewer("s1"))
            one = await used(Viewer(next_one))
        await one.socket.close()


async def test_after_hibernate_and_wake_the_next_viewers_find_their_screen(plane, lead, server):
    async with lead():
        await ready(plane)
        for watched in (False, True):
            if watched:
                async with open_viewer(plane):
                    pass
            await plane.wait_command(await plane.hibernate_session("s1"))
            await plane.wait_command(await plane.wake_session("s1"))
            for _ in range(2):
                async with open_viewer(plane):
                    pass


async def test_a_session_that_hibernates_under_its_viewer_ends_it_and_is_there_for_the_next_after_waking(
    plane, lead, server
):
    async with lead():
        await ready(plane)
        async with open_viewer(plane) as one:
            await plane.wait_command(await plane.hibernate_session("s1"))
            assert await one.read(1) == b"\x7f", "a message type that there is not: whoever reads it hangs up"
            await plane.wait_command(await plane.wake_session("s1"))
            async with open_viewer(plane):
                pass


async def test_a_viewer_that_stays_where_its_session_slept_does_not_keep_the_next_from_it(plane, lead, server):
    async with lead():
        await ready(plane)
        async with open_viewer(plane):
            await plane.wait_command(await plane.hibernate_session("s1"))
            await counted(lambda: connections(plane), 2)  # nobody can tell whether it is still there
            await plane.wait_command(await plane.wake_session("s1"))
            async with open_viewer(plane):
                pass


async def test_a_session_stopped_under_its_viewer_leaves_the_others_their_screens(plane, lead, server, other):
    async with lead():
        await ready(plane)
        await ready(plane, "s2")
        async with open_viewer(plane):
            await plane.wait_command(await plane.stop_session("s1"))
        async with open_viewer(plane, "s2"):
            pass


async def test_a_server_that_dies_under_its_viewer_ends_it_and_serves_the_next_once_it_is_back(plane, lead, server):
    async with lead():
        await ready(plane)
        async with open_viewer(plane) as one:
            await server.die()
            assert await one.read(1) == b"\x7f"
        async with viewer(plane) as one:  # the greeting is there, its server is not
            assert await one.read(12) == GREETING
            await one.say(GREETING)
            assert await one.read(1) == b"\0"
            size = int.from_bytes(await one.read(4))
            assert b"cannot be reached" in await one.read(size)
        await server.start()
        async with open_viewer(plane):
            pass


async def test_the_next_viewer_works_after_the_leader_was_killed_under_one(plane, lead, server):
    async with lead() as first:
        await ready(plane)
        async with open_viewer(plane):
            await first.kill()
            mark = (await plane.events())[-1]["seq"]
            async with lead():
                await announced(plane, after=mark)
                async with open_viewer(plane):
                    pass
                async with open_viewer(plane):
                    pass


async def test_the_next_viewer_works_after_the_connection_broke_under_one(plane, lead, server):
    async with lead():
        await ready(plane)
        for _ in range(3):
            async with open_viewer(plane):
                mark = (await plane.events())[-1]["seq"]
                await plane.set_faults(cut={})
                await announced(plane, after=mark)


async def test_what_a_viewer_says_that_is_no_rfb_harms_nobody(plane, lead, server):
    async with lead():
        await ready(plane)
        async with viewer(plane) as one:
            await one.read(12)
            await one.say(b"GET / HTTP/1.1\r\n\r\n")
            await one.say(b"\xff" * 70_000)
        async with open_viewer(plane) as one:
            await one.socket.send("@@@")
            assert await one.read(1) == b"\x7f"
        async with open_viewer(plane):
            pass


# Two at once


async def test_whoever_waits_while_another_session_is_viewed_is_served_once_that_viewer_left(
    plane, lead, server, other
):
    async with lead():
        await ready(plane)
        await ready(plane, "s2")
        async with open_viewer(plane, "s1"):
            second = asyncio.create_task(visit(plane, "s2"))
            await asyncio.sleep(0.3)
        async with asyncio.timeout(5):
            await second


async def visit(plane, session_id):
    async with open_viewer(plane, session_id):
        pass


async def test_a_second_viewer_that_waits_in_vain_is_refused_with_the_reason_and_the_first_goes_on(
    plane, lead, server, other
):
    async with lead():
        await ready(plane)
        await ready(plane, "s2")
        async with open_viewer(plane, "s1") as one:
            server.update = 0
            await one.say(REQUEST)  # nothing has changed: so it has all that there is
            async with viewer(plane, "s2") as two:
                assert await two.read(12) == GREETING
                await two.say(GREETING)
                assert await two.read(1) == b"\0"
                size = int.from_bytes(await two.read(4))
                assert b"another session" in await two.read(size)
            await counted(lambda: closings(plane, "s2"), 1)
            await one.press()


async def closings(plane, session_id):
    return sum(e["payload"]["sessionId"] == session_id for e in await plane.events(type="vnc_close"))


async def test_of_many_sessions_each_is_seen_however_often_others_were(plane, lead, driver):
    names = [f"s{number}" for number in range(1, 13)]
    servers = [await VncServer(update=20_000).start() for _ in names]
    try:
        driver.servers.update(zip(names, servers, strict=True))
        async with lead():
            for name in names:
                await ready(plane, name)
            for name in [*names, *reversed(names)]:
                async with open_viewer(plane, name):
                    pass
    finally:
        for each in servers:
            await each.die()


# The minute after which nothing may be sent


async def test_a_viewer_is_ended_before_anything_sent_to_it_could_end_the_control_plane(plane, lead, server, scale):
    async with lead():
        await ready(plane)
        for _ in range(2):
            async with viewer(plane) as one:
                await used(one)
                began = asyncio.get_running_loop().time()
                while (await one.read(1)) != b"\x7f":
                    await one.say(KEY)
                    await asyncio.sleep(0.02)
                assert 35 * scale < asyncio.get_running_loop().time() - began < 54 * scale


async def test_a_viewer_that_does_not_go_when_it_is_ended_gets_nothing_more(plane, lead, server, scale):
    async with lead():
        await ready(plane)
        async with viewer(plane) as one:
            await used(one)
            while (await one.read(1)) != b"\x7f":
                await one.say(KEY)
                await asyncio.sleep(0.02)
            mark = (await plane.events())[-1]["seq"]
            for _ in range(60):
                await one.say(KEY)
                await one.say(REQUEST)
                await asyncio.sleep(scale)
            said = [e["payload"]["data"] for e in await plane.events(mark, type="vnc_data", direction="from_agent")]
            assert not [each for each in said if each and not each.startswith("UkZC")]
        async with open_viewer(plane):
            pass


async def test_a_viewer_that_says_nothing_at_all_for_minutes_harms_nobody(plane, lead, server, scale):
    async with lead():
        await ready(plane)
        async with viewer(plane):
            await asyncio.sleep(130 * scale)
        async with open_viewer(plane):
            pass


async def test_a_key_is_answered_as_long_as_nobody_asked_for_an_update(plane, lead, server):
    """What it asks for is passed on unchanged but for updates that nobody asked for each."""
    async with lead():
        await ready(plane)
        async with open_viewer(plane) as one:
            for _ in range(20):
                await one.say(KEY + REQUEST + KEY)
                assert len(await one.read(20_002)) == 20_002
    assert bytes(server.input[-16:]) == KEY + KEY
