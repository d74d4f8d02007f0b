"""Every byte of a long stream, through the whole path, with an agent and a session of their own processes.

STREAMSPACE_TEST_STREAM_MB=10000 sends 10 GB each way; it takes some minutes.
"""

import asyncio
import hashlib
import os
from pathlib import Path

import pytest

from streamspace_devplane import DevPlane
from streamspace_devplane.settings import Settings
from tests.core.vnc import GREETING, REQUEST
from tests.names import sid

MEGABYTES = -(-int(os.environ.get("STREAMSPACE_TEST_STREAM_MB", "200")) * 1_000_000 // 2**20)
SIZE = MEGABYTES * 2**20
HELLO = GREETING + b"\x01\x01"
BLOCK = 16 * 1024
"""Bytes of a viewer's message. The control plane packs up to 256 of them into one frame, which the agent has to
hold."""
STALL = 30
"""Seconds in which something has to come."""
GROWTH = 32 * 10**6
"""Bytes that the agent may grow by once a tenth has passed: the largest frame may come late."""

pytestmark = pytest.mark.timeout(max(300, MEGABYTES))


@pytest.fixture
async def plane(tmp_path):
    # Its log of screens' messages would grow with what passes, and it runs in the tests' own process.
    async with DevPlane(db=tmp_path / "plane.db", settings=Settings(log_vnc_data=False, relay="repaired")) as plane:
        yield plane


@pytest.fixture
async def viewer(plane, agent, manifest):
    """`await viewer(mode)` starts a session of that mode and returns its viewer, the greeting read."""
    opened = []

    async def view(mode):
        template = manifest(MODE=mode, MEGABYTES=MEGABYTES, spec={"defaultResources": {"memory": "256Mi", "cpu": "2"}})
        await plane.wait_command(await plane.start_session("tiny", session_id=sid(mode), manifest=template), timeout=60)
        await plane.wait_session(sid(mode), vnc_ready=True)
        opened.append(await plane.open_viewer(sid(mode)))
        assert await opened[-1].recv() == GREETING
        return opened[-1]

    yield view
    for one in opened:
        await one.close()


class Memory:
    """The agent's resident bytes while ``size`` bytes pass: how much they rise after the first tenth."""

    def __init__(self, agent):
        self.statm = Path(f"/proc/{agent.pid}/statm")
        self.early, self.late = 0, 0

    def look(self, passed):
        now = int(self.statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        if passed < SIZE // 10:
            self.early = max(self.early, now)
        else:
            self.late = max(self.late, now)

    def __str__(self):
        return f"agent at most {self.early / 1e6:.1f} MB in the first tenth, {self.late / 1e6:.1f} MB after it"


async def test_what_a_session_shows_arrives_whole_and_the_agent_stays_small(viewer, agent, plane):
    one, memory, digest = await viewer("pour"), Memory(agent), hashlib.sha256()
    await one.send(HELLO)
    last, got, asked = b"", 0, 0
    while got < SIZE + 64:
        async with asyncio.timeout(STALL):
            data = await one.recv()
        digest.update(data[: max(0, SIZE - got)])
        last = (last + data)[-64:]
        got += len(data)
        memory.look(got)
        while got - asked > 2**20:
            asked += 2**20
            await one.send(REQUEST)
    print(f"{SIZE} bytes to the viewer, {memory}")
    assert got == SIZE + 64
    assert last.decode() == digest.hexdigest()
    assert memory.late - memory.early < GROWTH
    assert (await plane.diagnostics())["counters"].get("vncDropped", 0) == 0


async def test_what_a_viewer_says_arrives_whole_and_the_agent_stays_small(viewer, agent):
    one, memory, digest = await viewer("swallow"), Memory(agent), hashlib.sha256()
    blob = os.urandom(BLOCK + 251)
    said = 0

    async def say(data):
        nonlocal said
        data = data[: SIZE - said]
        said += len(data)
        digest.update(data)
        async with asyncio.timeout(STALL):
            await one.send(data)
        memory.look(said)

    await say(HELLO)
    while said < SIZE:
        start = said // BLOCK % 251  # so that no block is the same as the one before
        await say(b"\x06\0\0\0" + BLOCK.to_bytes(4) + blob[start : start + BLOCK])  # a clipboard's text
    async with asyncio.timeout(120):
        answer = b""
        while len(answer) < 64:
            answer += await one.recv()
    print(f"{SIZE} bytes to the session, {memory}")
    assert answer.decode() == digest.hexdigest()
    assert memory.late - memory.early < GROWTH
