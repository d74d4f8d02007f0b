"""A connection taken over from asyncio's streams, to a server on loopback that is told what to say."""

import asyncio
import hashlib
import os
import socket
import ssl
from contextlib import asynccontextmanager

import pytest
import trustme

from lab.until import until
from streamspace_agent.tunnel.stream import CLOSED, SIZE, Buffers, Stream


class Server:
    """The other end of one connection."""

    def __init__(self):
        self.met = asyncio.Event()

    async def __call__(self, reader, writer):
        self.reader, self.writer = reader, writer
        self.met.set()


@asynccontextmanager
async def connection(*, tls=False):
    """The streams, not taken over yet, and the server."""
    server, there, here = Server(), None, None
    if tls:
        authority = trustme.CA()
        there, here = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
        authority.issue_cert("127.0.0.1").configure_cert(there)
        authority.configure_trust(here)
    listener = await asyncio.start_server(server, "127.0.0.1", 0, ssl=there)
    streams = await asyncio.open_connection(*listener.sockets[0].getsockname(), ssl=here)
    await server.met.wait()
    try:
        yield streams, server
    finally:
        streams[1].transport.abort()
        server.writer.transport.abort()
        listener.close()


async def test_what_arrived_before_between_and_after_comes_in_order_and_once():
    async with connection() as (streams, server):
        server.writer.write(b"GREETING0123")
        assert await streams[0].readexactly(8) == b"GREETING"
        await until(lambda: "4 bytes" in repr(streams[0]))
        stream = await Stream.over(streams, Buffers())
        assert (stream.waiting, bytes(stream.take(3))) == (4, b"012")
        server.writer.write(b"4567")
        await asyncio.sleep(0.05)
        assert stream.waiting == 1, "what was held is taken before more is read"
        assert bytes(stream.take(100)) == b"3"
        await until(lambda: stream.waiting == 4)
        assert bytes(stream.take(100)) == b"4567"
        assert bytes(stream.take(100)) == b""
        assert stream.head == b"01234567"


@pytest.mark.parametrize("tls", [False, True])
async def test_pieces_of_any_size_are_the_same_bytes(tls):
    blob = os.urandom(5 << 20)
    async with connection(tls=tls) as (streams, server):
        stream = await Stream.over(streams, Buffers())
        arrived = asyncio.Event()
        stream.arrived = arrived.set
        server.writer.write(blob)
        got, size = hashlib.sha256(), 0
        async with asyncio.timeout(20):
            while size < len(blob):
                arrived.clear()
                if not stream.waiting:
                    await arrived.wait()
                piece = stream.take(1 + size % 100_000)
                got.update(piece)
                size += len(piece)
                if size % 3 == 0:
                    await asyncio.sleep(0)
        assert got.digest() == hashlib.sha256(blob).digest()


async def test_no_more_is_read_than_one_buffer_until_it_is_taken():
    async with connection() as (streams, server):
        stream = await Stream.over(streams, Buffers())
        server.writer.write(bytes(32 << 20))
        await until(lambda: stream.waiting == SIZE)
        await asyncio.sleep(0.05)
        assert stream.waiting == SIZE
        assert server.writer.transport.get_write_buffer_size() > 0
        assert len(stream.take(SIZE)) == SIZE
        await until(lambda: stream.waiting == SIZE)


async def test_a_server_that_closes_has_ended_though_its_last_words_wait():
    async with connection() as (streams, server):
        stream = await Stream.over(streams, Buffers())
        server.writer.write(bytes(SIZE) + b"bye")
        server.writer.close()
        await until(lambda: stream.waiting == SIZE)
        assert stream.ended == "", "the last words are not in yet"
        assert len(stream.take(SIZE)) == SIZE
        await until(lambda: stream.ended)
        assert stream.ended == CLOSED
        assert bytes(stream.take(SIZE)) == b"bye"
        stream.write(b"to nobody")


async def test_a_server_that_closed_before_is_known_to_have():
    async with connection() as (streams, server):
        server.writer.write(b"bye")
        server.writer.close()
        await until(lambda: "eof" in repr(streams[0]))
        stream = await Stream.over(streams, Buffers())
        assert (stream.ended, bytes(stream.take(9))) == (CLOSED, b"bye")


async def test_a_connection_that_was_reset_before_raises():
    async with connection() as (streams, server):
        reset(server.writer)
        await until(lambda: streams[0].exception())
        with pytest.raises(ConnectionResetError):
            await Stream.over(streams, Buffers())


async def test_a_connection_that_is_reset_says_so():
    async with connection() as (streams, server):
        stream = await Stream.over(streams, Buffers())
        reset(server.writer)
        await until(lambda: stream.ended)
        assert "broke" in stream.ended


def reset(writer):
    linger = (1).to_bytes(4, "little") + bytes(4)
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    writer.transport.abort()


async def test_a_server_that_reads_nothing_is_waited_for_and_no_longer_once_it_is_gone():
    async with connection() as (streams, server):
        server.writer.transport.pause_reading()
        stream = await Stream.over(streams, Buffers())
        stream.write(bytes(16 << 20))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await stream.drained()
        assert stream.backlog > 0
        server.writer.transport.abort()
        async with asyncio.timeout(5):
            await stream.drained()


async def test_idle_connections_hold_no_buffer_and_busy_ones_share_a_few():
    buffers = Buffers()
    only = buffers.lend()

    def free():
        """Whether the only buffer is not in use."""
        buffers.give_back(lent := buffers.lend())
        return lent is only

    buffers.give_back(only)
    async with connection() as (streams, server):
        stream = await Stream.over(streams, buffers)
        for _ in range(3):
            assert free()
            server.writer.write(b"x" * 1000)
            await until(lambda: stream.waiting == 1000)
            assert stream.take(1).obj is only.obj
            assert len(stream.take(1000)) == 999
        server.writer.write(b"left behind")
        await until(lambda: stream.waiting)
        stream.abort()
        assert free()
    for _ in range(10):
        buffers.give_back(memoryview(bytearray(b"\1" * SIZE)))
    lent = [buffers.lend() for _ in range(10)]
    assert len([buffer for buffer in lent if buffer[0] != 0]) == Buffers.SPARE  # new ones are zeros
