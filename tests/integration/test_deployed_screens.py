"""A real desktop, a real agent and the relays' real times: what a person at the screen meets, on both kinds of control
plane."""

import asyncio
import contextlib
import struct

import pytest
from websockets.exceptions import ConnectionClosed

from streamspace_devplane import DevPlane, Settings
from tests.core.vnc import GREETING, Viewer
from tests.names import sid

BUSY = (
    "export HOME=/home/user DISPLAY=:0 XAPPLRESDIR=/usr/local/share/desktop; "
    "exec xterm -geometry 70x24+0+0 -e sh -c 'while :; do seq 1 40; date; sleep 0.03; done'"
)
GOODBYE = b"\x7f"
"""The message type that does not exist, with which the agent ends a viewer."""


@pytest.fixture(params=["deployed", "repaired"])
async def plane(tmp_path, request):
    async with DevPlane(db=tmp_path / "plane.db", settings=Settings(relay=request.param)) as plane:
        yield plane


class CutShortError(Exception):
    """A picture whose rest does not come. The deployed relay has no word for it: the page shows that it is over."""


class Person(Viewer):
    """Reads whole updates, and knows whether what it reads can be one."""

    async def arrive(self):
        assert await self.read(12) == GREETING
        await self.say(GREETING)
        kinds = (await self.read(1))[0]
        await self.read(kinds)
        await self.say(b"\x01")
        assert await self.read(4) == bytes(4)
        await self.say(b"\x01")
        init = await self.read(24)
        self.size, self.depth = struct.unpack(">HH", init[:4]), init[4] // 8
        await self.read(int.from_bytes(init[20:]))
        await self.say(struct.pack(">BxHi", 2, 1, 0))  # raw pixels only: each byte counts
        return self

    async def ask(self, *, changes=False):
        await self.say(struct.pack(">BBHHHH", 3, changes, 0, 0, *self.size))

    async def update(self, timeout=10):
        """The pixels of one update, or None where the agent ended this viewer."""
        while (kind := await self.read(1, timeout)) == b"\x02":  # a bell
            pass
        if kind == GOODBYE:
            return None
        assert kind == b"\0", f"a torn stream: message type {kind}"
        try:
            return await self.picture()
        except TimeoutError:
            raise CutShortError from None

    async def picture(self):
        await self.read(1)
        pixels = 0
        for _ in range(int.from_bytes(await self.read(2))):
            *_, width, height, encoding = struct.unpack(">HHHHi", await self.read(12))
            assert encoding == 0, "a torn stream"
            await self.read(width * height * self.depth)
            pixels += width * height
        return pixels

    async def hang_up(self, relay):
        """As viewers do once they are told that it is over, by a message or by a closed connection; with the deployed
        relay they may have to see it."""
        ends = (ConnectionClosed, CutShortError) if relay == "deployed" else (ConnectionClosed,)
        with contextlib.suppress(*ends):
            while await self.update() is not None:
                pass
        await self.socket.close()


async def look(plane, session_id):
    """A person who comes, sees the whole desktop and asks for what changes; asked to try again, they do."""
    try:
        person = await Person(await plane.open_viewer(session_id)).arrive()
    except (
        ConnectionClosed
    ):  # with a repaired relay, until a new leader has told whoever was there before that it is over
        await asyncio.sleep(1)
        person = await Person(await plane.open_viewer(session_id)).arrive()
    await person.ask()
    assert await person.update() == person.size[0] * person.size[1]
    await person.ask(changes=True)
    return person


async def running(plane, desktop, name):
    await plane.wait_command(await plane.start_session("desktop", session_id=sid(name), manifest=desktop), timeout=60)
    return sid(name)


def make_busy(docker_client, session_id):
    docker_client.containers.get(f"streamspace-{session_id}").exec_run(["sh", "-c", BUSY], detach=True)


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
async def test_ten_people_one_after_another_see_the_desktop(plane, agent, desktop, docker_client, busy):
    session_id = await running(plane, desktop, "ten")
    if busy:
        make_busy(docker_client, session_id)
    for _ in range(10):
        person = await look(plane, session_id)
        await asyncio.sleep(0.2)
        await person.socket.close()
        await asyncio.sleep(0.5)


async def test_a_desktop_that_hibernates_under_somebody_is_seen_again_after_waking(plane, agent, desktop):
    session_id = await running(plane, desktop, "sleeper")
    for _ in range(2):
        person = await look(plane, session_id)
        await plane.wait_command(await plane.hibernate_session(session_id), timeout=30)
        await person.hang_up(plane.settings.relay)
        await plane.wait_command(await plane.wake_session(session_id), timeout=60)
        await (await look(plane, session_id)).socket.close()


async def test_after_a_leader_was_killed_under_somebody_the_next_two_see_the_desktop(
    plane, make_agent, agent, agent_id, desktop
):
    session_id = await running(plane, desktop, "orphan")
    person = await look(plane, session_id)
    await agent.kill()
    await plane.wait_agent(agent_id, status="offline")
    await (await make_agent("again")).start()
    await plane.wait_agent(agent_id, status="online")
    for _ in range(2):
        next_person = await look(plane, session_id)
        await next_person.socket.close()
        await asyncio.sleep(1)
    await person.socket.close()


@pytest.mark.timeout(300)
async def test_a_desktop_that_moves_for_two_minutes_under_somebody_ends_nobody_else(
    plane, agent, desktop, docker_client
):
    """With the deployed relay the person is ended in time, with a repaired one never."""
    session_id = await running(plane, desktop, "film")
    make_busy(docker_client, session_id)
    person = await look(plane, session_id)
    loop = asyncio.get_running_loop()
    began = loop.time()
    while (moved := await person.update()) is not None and loop.time() - began < 120:
        assert moved
        await person.ask(changes=True)
    lasted = loop.time() - began
    assert lasted > 110 if plane.settings.relay == "repaired" else 40 < lasted < 54
    await asyncio.sleep(max(0, 115 - lasted))  # it stays where it is, deaf to what it was told
    await (await look(plane, session_id)).socket.close()
    await person.socket.close()
