"""The one connection that is kept to a session's server while nobody looks at it."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from lab.loopback import served
from lab.until import until
from streamspace_agent.clock import BoottimeClock
from streamspace_agent.errors import ServerUnreachable
from streamspace_agent.tunnel.multiplexer import Multiplexer
from streamspace_agent.tunnel.session_server import SessionServer
from tests.core.held_plane import session
from tests.core.vnc import GREETING, REFUSES


async def nothing_waits():
    pass


@asynccontextmanager
async def kept(talk, *faults):
    """A server of RFB that talks so, and how often it was connected to; each of `faults` fails one connection, the
    last first."""
    times, faults = [], list(faults)

    async def counted(reader, writer):
        times.append(asyncio.get_running_loop().time())
        await talk(reader, writer)

    async with served(counted) as port:

        async def connect(session_id, _port):
            if faults:
                raise faults.pop()
            return await asyncio.open_connection("127.0.0.1", port)

        clock = BoottimeClock()
        server = SessionServer(session(), connect, Multiplexer(lambda: None, nothing_waits, clock), clock)
        task = asyncio.create_task(server.run())
        try:
            yield server, times
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def greets(reader, writer):
    writer.write(GREETING)
    await reader.read()


async def hangs_up(reader, writer):
    writer.write(GREETING)
    await asyncio.sleep(0.05)
    writer.close()


async def refuses(reader, writer):
    writer.write(REFUSES)
    await reader.read()


async def test_a_viewer_takes_the_connection_that_showed_the_server_to_be_there():
    async with kept(greets) as (server, times):
        await until(lambda: server.working)
        channel = await server.take()
        assert channel.greeting == GREETING
        await asyncio.sleep(0.3)
        assert len(times) == 1, "no other is made while the viewer has it"
        channel.close()
        server.give_back()
        await until(lambda: len(times) == 2)


async def test_a_server_that_hangs_up_on_who_says_nothing_is_asked_ever_more_rarely():
    async with kept(hangs_up) as (server, times):
        await asyncio.sleep(4)
        assert 2 <= len(times) <= 12
        assert (await server.take()).greeting == GREETING


async def test_a_server_that_refuses_is_there_and_is_left_alone_for_a_while():
    async with kept(refuses) as (server, times):
        await until(lambda: server.working)
        await asyncio.sleep(1)
        assert len(times) == 1
        with pytest.raises(ServerUnreachable, match="Too many security failures"):
            await server.take()


async def test_a_server_that_is_gone_is_noticed_and_found_again():
    open_writers = []

    async def mortal(reader, writer):
        open_writers.append(writer)
        await greets(reader, writer)

    async with kept(mortal) as (server, times):
        await until(lambda: server.working)
        open_writers[0].transport.abort()
        await until(lambda: len(times) == 2 and server.working)


async def test_a_server_that_could_not_be_reached_for_a_viewer_is_kept_at_hand_again_once_it_is_back():
    gone = [ConnectionRefusedError("gone"), ConnectionRefusedError("gone")]
    async with kept(greets, *gone) as (server, _):
        with pytest.raises(ServerUnreachable):
            await server.take()
        await until(lambda: server.working)
        assert (await server.take()).greeting == GREETING


async def test_a_viewer_that_goes_while_its_server_is_connected_to_leaves_it_to_be_kept_at_hand():
    writers = []

    async def slow(reader, writer):
        writers.append(writer)
        await asyncio.sleep(0.2)
        await greets(reader, writer)

    async with kept(slow) as (server, times):
        await until(lambda: times)
        taking = asyncio.create_task(server.take())
        await until(lambda: len(times) == 2)
        taking.cancel()
        await until(lambda: server.working)
        writers[0].transport.abort()
        await until(lambda: len(times) == 3)


async def test_a_driver_with_a_fault_costs_a_line_and_a_pause_not_the_session(caplog):
    async with kept(greets, ValueError("a bug"), RuntimeError("another")) as (server, _):
        await until(lambda: server.working)
    assert caplog.text.count("failed for a reason that is a fault of the agent") == 2


async def test_viewers_that_are_cut_off_do_not_keep_the_next_connection_waiting():
    async with kept(greets) as (server, times):
        for number in range(1, 11):
            await until(lambda n=number: len(times) == n and server.working)
            channel = await server.take()
            channel.close()  # as where the connection to the control plane breaks: both at once
            server.give_back()
        began = asyncio.get_running_loop().time()
        await until(lambda: len(times) == 11)
        assert asyncio.get_running_loop().time() - began < 0.2
