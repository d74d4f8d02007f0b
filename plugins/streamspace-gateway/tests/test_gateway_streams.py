"""Bodies and WebSockets of any length, in both directions, as fast as the slower side and no faster."""

import asyncio
import contextlib
import hashlib
import os
import ssl
import time
import tracemalloc

import pytest
import trustme
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

from lab.until import until
from tests.gateway import DOMAIN, House, answering, chunked_body, head_of, parse

PIECE = os.urandom(65536)


def asking(path="/", **headers):
    lines = [f"GET {path} HTTP/1.1", f"Host: ann.{DOMAIN}", *(f"{k}: {v}" for k, v in headers.items()), "", ""]
    return "\r\n".join(lines).encode()


async def endless(reader, writer):
    await head_of(reader)
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n")
    while True:
        writer.write(PIECE)
        await writer.drain()


@pytest.fixture
async def websockets(house):
    """A session `ann` that sends every message back, and a way to open a WebSocket to it through the gateway."""
    async with serve(lambda one: _echo(one), "127.0.0.1", 0, max_size=None, compression=None) as server:
        house.put("ann", port=server.sockets[0].getsockname()[1])

        def open_one(session="ann", **more):
            return connect(
                f"ws://{session}.{DOMAIN}/websockify", host="127.0.0.1", port=house.port, max_size=None, **more
            )

        yield open_one


async def _echo(connection):
    async for message in connection:
        await connection.send(message)


@pytest.mark.parametrize("framing", ["length", "chunks", "close"])
async def test_a_long_answer_arrives_whole_however_its_end_is_told(house, framing):
    pieces = 300

    async def handler(reader, writer):
        while await head_of(reader):
            size = {"length": f"Content-Length: {pieces * len(PIECE)}", "chunks": "Transfer-Encoding: chunked"}
            writer.write(f"HTTP/1.1 200 OK\r\n{size.get(framing, 'Connection: close')}\r\n\r\n".encode())
            for _ in range(pieces):
                writer.write(b"%x\r\n%b\r\n" % (len(PIECE), PIECE) if framing == "chunks" else PIECE)
                await writer.drain()
            writer.write(b"0\r\n\r\n" if framing == "chunks" else b"")
            if framing == "close":
                return

    await house.session("ann", handler)
    answer = await house.get("ann")
    assert hashlib.sha256(answer.body).digest() == hashlib.sha256(PIECE * pieces).digest()
    old = await house.raw(f"GET / HTTP/1.0\r\nHost: ann.{DOMAIN}\r\n\r\n".encode())
    assert b"chunked" not in old[:500]
    assert len(parse(old).body) == pieces * len(PIECE)


@pytest.mark.parametrize("chunked", [True, False])
async def test_a_long_upload_arrives_whole_while_it_is_sent(house, chunked):
    pieces, taken = 300, hashlib.sha256()
    begun = asyncio.Event()

    async def handler(reader, writer):
        head = await head_of(reader)
        if b"GET" in head[:4]:
            writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
            return
        assert (b"transfer-encoding: chunked" in head.lower()) == chunked
        left = pieces * len(PIECE)
        while left:
            if chunked:
                size = int(await reader.readline(), 16)
                data = await reader.readexactly(size)
                await reader.readexactly(2)
            else:
                data = await reader.read(65536)
            taken.update(data)
            left -= len(data)
            begun.set()
        writer.write(b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n")

    await house.session("ann", handler)
    reader, writer = await house.stream()
    size = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {pieces * len(PIECE)}"
    writer.write(f"POST /up HTTP/1.1\r\nHost: ann.{DOMAIN}\r\n{size}\r\n\r\n".encode())
    for number in range(pieces):
        writer.write(b"%x\r\n%b\r\n" % (len(PIECE), PIECE) if chunked else PIECE)
        await writer.drain()
        if number == 5:
            await asyncio.wait_for(begun.wait(), 10)  # the session reads before the upload is over
    writer.write(b"0\r\n\r\n" if chunked else b"")
    assert (await asyncio.wait_for(reader.readline(), 20)).startswith(b"HTTP/1.1 201")
    writer.close()
    assert taken.digest() == hashlib.sha256(PIECE * pieces).digest()
    assert house.used == ["ann"]


async def test_a_client_that_asks_whether_to_send_hears_the_sessions_own_answer(house):
    async def handler(reader, writer):
        head = await head_of(reader)
        if b"expect" in head.lower():
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            assert await reader.readexactly(4) == b"body"
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    await house.session("ann", handler)
    reader, writer = await house.stream()
    writer.write(f"PUT / HTTP/1.1\r\nHost: ann.{DOMAIN}\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n".encode())
    assert (await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)).startswith(b"HTTP/1.1 100")
    writer.write(b"body")
    assert (await asyncio.wait_for(reader.readline(), 10)).startswith(b"HTTP/1.1 200")
    writer.close()


async def test_an_answer_that_comes_before_the_upload_is_over_arrives(house):
    async def handler(reader, writer):
        head = await head_of(reader)
        status = b"413 Content Too Large" if head.startswith(b"POST") else b"200 OK"
        writer.write(b"HTTP/1.1 %b\r\nContent-Length: 3\r\nConnection: close\r\n\r\nno\n" % status)
        with contextlib.suppress(TimeoutError):  # as servers do that want their answer to arrive
            async with asyncio.timeout(0.5):
                while await reader.read(65536):
                    pass

    await house.session("ann", handler)
    answer = await house.get("ann", method="POST", body=PIECE * 50)
    assert (answer.status, answer.text) == (413, "no\n")


async def test_a_websocket_passes_messages_of_any_size_both_ways(house, websockets):
    async with websockets() as one:
        for size in (0, 1, 125, 126, 65535, 65536, 5_000_000):
            message = os.urandom(size)
            await one.send(message)
            assert await asyncio.wait_for(one.recv(), 20) == message
        await one.send("text")
        assert await one.recv() == "text"
        assert house.gateway.status().connections == 1
    await until(lambda: house.gateway.status().requests["websocket"] == 1)


async def test_a_websockets_subprotocol_and_refusal_are_the_sessions_own(house, websockets):
    async with websockets(subprotocols=["binary"]) as one:
        assert one.subprotocol is None
    await house.session("bob", answering(b"no", "403 Forbidden"))
    with pytest.raises(Exception, match="403"):
        await websockets("bob").__aenter__()
    with pytest.raises(Exception, match="404"):
        await websockets("nobody").__aenter__()


async def test_fifty_websockets_at_once_each_get_their_own(house, websockets):
    async def one(number):
        async with websockets() as connection:
            for turn in range(20):
                await connection.send(f"{number} {turn}")
                assert await asyncio.wait_for(connection.recv(), 30) == f"{number} {turn}"

    await asyncio.gather(*(one(number) for number in range(50)))


async def test_a_download_does_not_slow_down_another_sessions_keys(house, websockets):
    await house.session("bob", endless)
    reader, writer = await house.stream()
    writer.write(asking().replace(b"ann", b"bob"))

    async def download():
        while await reader.read(262144):
            pass

    loads = asyncio.create_task(download())
    async with websockets() as keys:
        times = []
        for _ in range(100):
            begun = time.perf_counter()
            await keys.send(b"k")
            await asyncio.wait_for(keys.recv(), 10)
            times.append(time.perf_counter() - begun)
            await asyncio.sleep(0.002)
    loads.cancel()
    writer.close()
    assert sorted(times)[90] < 0.1


async def test_whoever_does_not_read_is_waited_for_in_bounded_memory(house):
    sent = 0

    async def handler(reader, writer):
        nonlocal sent
        await head_of(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        while True:
            writer.write(PIECE)
            await writer.drain()
            sent += len(PIECE)

    await house.session("ann", handler)
    first, closing = await house.stream()
    closing.write(asking())
    await first.readline()
    tracemalloc.start()
    readers = [await house.stream() for _ in range(10)]
    for _, writer in readers:
        writer.write(asking())
    await asyncio.sleep(0.2)
    while True:
        before = sent
        await asyncio.sleep(0.3)
        if sent == before:
            break
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    for _, writer in [*readers, (first, closing)]:
        writer.transport.abort()
    # This process also holds the buffers of ten servers and ten clients; the sockets' own do not count.
    assert held < 16 * 2**20


async def test_a_session_that_does_not_read_holds_up_its_upload_and_nothing_else(house, websockets):
    stuck = asyncio.Event()

    async def handler(reader, writer):
        head = await head_of(reader)
        if head.startswith(b"GET"):
            writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
            return
        writer.transport.pause_reading()
        stuck.set()
        await asyncio.sleep(60)

    await house.session("bob", handler)
    _, writer = await house.stream()
    writer.write(f"POST / HTTP/1.1\r\nHost: bob.{DOMAIN}\r\nContent-Length: 1000000000\r\n\r\n".encode())

    async def upload():
        while True:
            writer.write(PIECE)
            await writer.drain()

    uploads = asyncio.create_task(upload())
    await asyncio.wait_for(stuck.wait(), 10)
    async with websockets() as one:
        await one.send(b"still quick")
        assert await asyncio.wait_for(one.recv(), 5) == b"still quick"
    uploads.cancel()
    writer.transport.abort()


@pytest.mark.parametrize("plain", ["hangs up", "says 400"])
async def test_a_server_that_speaks_only_tls_with_a_certificate_of_its_own_is_spoken_to_in_tls(house, plain):
    certificate = trustme.CA().issue_cert("desktop")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(tls)
    if plain == "hangs up":
        await house.session("ann", answering(b"inside"), tls=tls)
    else:  # as nginx does
        server = await house.session("ann", answering(b"inside"), tls=tls)
        inner = server.sockets[0].getsockname()[1]

        async def front(reader, writer):
            first = await reader.readexactly(1)
            if first != b"\x16":
                await head_of(reader)
                writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                return
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", inner)
            far_writer.write(first)

            async def copy(source, sink):
                while data := await source.read(65536):
                    sink.write(data)
                sink.close()

            try:
                await asyncio.gather(copy(reader, far_writer), copy(far_reader, writer))
            finally:
                far_writer.close()

        await house.session("ann", front)
    for _ in range(3):
        assert (await house.get("ann")).body == b"inside"


@pytest.mark.parametrize("relay", ["repaired", "deployed"])
async def test_long_answers_inside_tls_arrive_whole_one_after_another(relay):
    """The bodies go past the parsers, and what comes behind each is read by them again."""
    sizes = [5_000_000, 100, 65_536, 1_000_003]
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("desktop").configure_cert(tls)

    def body(size):
        return (PIECE * (size // len(PIECE) + 1))[:size]

    async def handler(reader, writer):
        while head := await head_of(reader):
            size = int(head.split()[1][1:] or 0)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + body(size))
            await writer.drain()

    async with House.open(relay=relay) as house:
        await house.session("ann", handler, tls=tls)
        reader, writer = await house.stream()
        for size in sizes:
            writer.write(asking(f"/{size}"))
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
            async with asyncio.timeout(20):
                if relay == "repaired":
                    assert f"Content-Length: {size}\r\n".encode() in head
                    came = await reader.readexactly(size)
                else:
                    assert b"chunked" in head
                    came = await chunked_body(reader)
            assert hashlib.sha256(came).digest() == hashlib.sha256(body(size)).digest()
        writer.close()
        assert house.gateway.status().requests["passed"] == len(sizes)
        assert len(house.connects) == 3  # plain, in TLS, and one for all of these


async def test_a_websocket_inside_tls_is_carried_too(house):
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("desktop").configure_cert(tls)
    async with serve(lambda one: _echo(one), "127.0.0.1", 0, ssl=tls) as server:
        house.put("ann", port=server.sockets[0].getsockname()[1])
        async with connect(f"ws://ann.{DOMAIN}/", host="127.0.0.1", port=house.port, max_size=None) as one:
            message = os.urandom(900_000)
            await one.send(message)
            assert await asyncio.wait_for(one.recv(), 20) == message


async def test_the_end_of_a_websocket_reaches_the_other_side_whoever_ends_it(house, websockets):
    async with websockets() as one:
        await one.close(4001, "enough")
        assert one.close_code == 4001
    one = await websockets().__aenter__()
    house.sessions.clear()  # the session is gone
    with pytest.raises(ConnectionClosed):
        await asyncio.wait_for(one.recv(), 10)


async def test_requests_that_were_sent_ahead_are_answered_in_order_whatever_the_answers_length(house):
    async def handler(reader, writer):
        while head := await head_of(reader):
            size = int(head.split()[1][1:] or 0)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size)
            await writer.drain()

    await house.session("ann", handler)
    sizes = [10, 1_000_000, 20, 70_000, 65_536, 65_535, 5]
    reader, writer = await house.stream()
    writer.write(b"".join(asking(f"/{size}") for size in sizes))
    for size in sizes:
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        assert f"Content-Length: {size}\r\n".encode() in head
        assert await reader.readexactly(size) == b"x" * size
    writer.close()
    assert len(house.connects) == 2  # one to find out how it speaks, one for all of these
