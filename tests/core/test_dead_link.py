"""A control plane that takes nothing any more, in the middle of a stream: what is written waits in a socket that is
full."""

import asyncio
from contextlib import asynccontextmanager, suppress

import pytest

from lab.loopback import served
from streamspace_agent import leadership
from streamspace_agent.controlplane import connection
from tests.core.memory_driver import AGENT

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    monkeypatch.setattr(connection, "PING_EVERY", 0.3)
    monkeypatch.setattr(connection, "PING_TIMEOUT", 1.0)
    monkeypatch.setattr(leadership, "FLUSH_TIMEOUT", 1.0)


@pytest.fixture
async def way(plane):
    """The way to the control plane, as a URL; while `passes` is clear, nothing is read from the agent."""
    passes = asyncio.Event()
    passes.set()

    async def copy(reader, writer, gate):
        with suppress(OSError):
            while data := await reader.read(65536):
                await gate.wait()
                writer.write(data)
                await writer.drain()
        writer.close()

    always = asyncio.Event()
    always.set()

    async def talk(reader, writer):
        onwards, back = await asyncio.open_connection("127.0.0.1", plane.port)
        try:
            await asyncio.gather(copy(reader, back, passes), copy(onwards, writer, always))
        finally:
            back.transport.abort()

    async with served(talk) as port:
        yield f"ws://127.0.0.1:{port}", passes
        passes.set()


@asynccontextmanager
async def flooded(running, passes):
    """More is written than the kernel takes."""

    sent = 0

    async def flood():
        nonlocal sent
        with suppress(Exception):
            while True:
                await running.link.send_text("x" * 500_000)
                sent += 1

    passes.clear()
    flooding = asyncio.create_task(flood())
    before = -1
    while sent > before:  # until a message has waited for room for so long
        before = sent
        await asyncio.sleep(0.2)
    yield
    flooding.cancel()


async def test_it_is_noticed_as_soon_as_where_nothing_flows(plane, lead, way):
    url, passes = way
    async with lead(CONTROL_PLANE_URL=url) as running:
        await plane.wait_agent(AGENT)
        status = running.link.status
        async with flooded(running, passes), asyncio.timeout(10):
            while status.connected or not status.last_error:
                await asyncio.sleep(0.05)
        assert status.last_error == "no answer to a ping within 1.0 s"
        passes.set()
        async with asyncio.timeout(20):
            while not running.link.status.connected:
                await asyncio.sleep(0.05)


async def test_nobody_is_kept_from_handing_over(plane, lead, way, monkeypatch):
    monkeypatch.setattr(connection, "PING_TIMEOUT", 60.0)
    url, passes = way
    async with lead(CONTROL_PLANE_URL=url) as running:
        await plane.wait_agent(AGENT)
        async with flooded(running, passes):
            running.tenure.shut_down("SIGTERM")
            assert await asyncio.wait_for(asyncio.shield(running.task), 10) == "SIGTERM"
