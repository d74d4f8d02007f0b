"""Requests and answers that are made to harm: the next server, the agent's loop, its memory, its open files."""

import asyncio
import time
from contextlib import asynccontextmanager

import pytest

from lab.until import until
from streamspace_agent.addresses import networks
from streamspace_gateway import server
from streamspace_gateway.access import Access
from streamspace_gateway.counters import Counters
from streamspace_gateway.proxy_rules import rules_for
from tests.gateway import DOMAIN, House, answering, head_of, parse

LONGEST = 0.1
"""Seconds of this thread's own work, whatever else the machine does."""


@asynccontextmanager
async def the_loop_goes_on():
    longest = 0.0

    async def watch():
        nonlocal longest
        while True:
            begun = time.thread_time()
            await asyncio.sleep(0.001)
            longest = max(longest, time.thread_time() - begun)

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()
    assert longest < LONGEST


async def test_a_request_in_chunks_reaches_the_session_without_a_length_beside_them(house):
    heads = []

    async def handler(reader, writer):
        heads.append(await head_of(reader))
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")

    await house.session("ann", handler)
    request = f"POST / HTTP/1.1\r\nHost: ann.{DOMAIN}\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"
    _reader, writer = await house.stream()
    writer.write(request.encode() + b"5\r\nhello\r\n0\r\n\r\n")
    async with asyncio.timeout(5):
        while not heads or b"POST" not in heads[-1]:
            await asyncio.sleep(0.01)
    assert b"transfer-encoding: chunked" in heads[-1].lower()
    assert b"content-length" not in heads[-1].lower()


@pytest.mark.parametrize("target", ["/", "*"])
async def test_connect_is_refused_and_asks_no_session(house, target, caplog):
    await house.session("ann", answering())
    answer = parse(await house.raw(f"CONNECT {target} HTTP/1.1\r\nHost: ann.{DOMAIN}\r\n\r\n".encode()))
    assert (answer.status, answer.text.count("\n")) == (405, 1)
    assert house.connects == []
    assert not [record for record in caplog.records if record.exc_info]


async def test_a_head_that_is_too_long_is_refused_also_where_it_comes_at_once(house):
    await house.session("ann", answering())
    answer = await house.get("ann", Cookie="x" * 40_000)
    assert answer.status == 431
    assert house.connects == []
    assert (await house.get("ann", Cookie="x" * 30_000)).status == 200


async def test_thousands_of_requests_sent_ahead_do_not_stop_the_agents_loop(house):
    async with the_loop_goes_on():
        reader, writer = await house.stream()
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 5000 + b"GET / HTTP/1.0\r\nHost: a\r\n\r\n")
        answers = await asyncio.wait_for(reader.read(-1), 60)
    assert answers.count(b"HTTP/1.1 404") == 5001


async def test_an_answer_in_the_smallest_of_chunks_does_not_stop_the_agents_loop(house):
    async def handler(reader, writer):
        await head_of(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 40_000 + b"0\r\n\r\n")
        await writer.drain()

    await house.session("ann", handler)
    async with the_loop_goes_on():
        answer = await house.raw(f"GET / HTTP/1.1\r\nHost: ann.{DOMAIN}\r\nConnection: close\r\n\r\n".encode())
    assert answer.count(b"1\r\nx\r\n") == 40_000


async def test_whoever_may_not_enter_holds_few_places_and_none_for_long(monkeypatch):
    monkeypatch.setattr(server, "MAX_REFUSED", 3)
    async with House.open(allow="192.0.2.0/24") as house:
        silent = [await house.stream() for _ in range(20)]
        done = await asyncio.gather(
            *(asyncio.wait_for(reader.read(), 0.7) for reader, _ in silent), return_exceptions=True
        )
        assert sum(isinstance(one, TimeoutError) for one in done) == 3  # the others are closed already
        ended = await asyncio.gather(*(asyncio.wait_for(reader.read(), 5) for reader, _ in silent))
        assert set(ended) == {b""}
        assert (await house.get("ann")).status == 403


async def test_a_full_gateway_says_so_to_some_and_closes_the_rest_at_once(monkeypatch):
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 5)
    monkeypatch.setattr(server, "MAX_REFUSED", 3)
    async with House.open() as house:
        await house.session("ann", answering())
        inside = [await house.stream() for _ in range(5)]
        await until(lambda: house.gateway.status().connections == 5)
        outside = [await house.stream() for _ in range(20)]
        await until(lambda: house.gateway.status().connections <= 8)
        await asyncio.sleep(0.1)
        for _, writer in inside + outside:
            writer.write(f"GET / HTTP/1.1\r\nHost: ann.{DOMAIN}\r\n\r\n".encode())
        firsts = await asyncio.gather(*(asyncio.wait_for(first_line(reader), 10) for reader, _ in inside + outside))
        assert [line[9:12] for line in firsts[:5]] == [b"200"] * 5
        assert sorted(line[9:12] for line in firsts[5:]) == [b""] * 17 + [b"503"] * 3


async def first_line(reader):
    try:
        return await reader.readline()
    except ConnectionResetError:
        return b""


@pytest.mark.parametrize("relay", ["repaired", "deployed"])
@pytest.mark.slow
async def test_of_many_that_do_not_read_those_end_that_have_waited_longest(monkeypatch, relay):
    async def endless(reader, writer):
        await head_of(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
        while True:
            writer.write(bytes(65536))
            await writer.drain()

    monkeypatch.setattr(server, "MAX_STALLED", 4)
    async with House.open(relay=relay) as house:
        await house.session("ann", endless)
        slow = []
        for _ in range(8):
            reader, writer = await house.stream()
            writer.transport.pause_reading()
            writer.write(f"GET / HTTP/1.1\r\nHost: ann.{DOMAIN}\r\n\r\n".encode())
            slow.append((reader, writer))
            await asyncio.sleep(0.3)
        await until(lambda: house.gateway.status().connections == 4)
        for _, writer in slow:
            writer.transport.resume_reading()
        assert await asyncio.gather(*(goes_on(reader) for reader, _ in slow)) == [False] * 4 + [True] * 4


async def test_of_many_uploads_that_no_session_reads_those_end_that_have_waited_longest(house, monkeypatch):
    async def deaf(reader, writer):
        if (await head_of(reader)).startswith(b"GET"):
            writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
            return
        writer.transport.pause_reading()
        await asyncio.sleep(60)

    monkeypatch.setattr(server, "MAX_STALLED", 4)
    await house.session("ann", deaf)
    uploads = []
    for _ in range(8):
        reader, writer = await house.stream()
        writer.write(f"POST / HTTP/1.1\r\nHost: ann.{DOMAIN}\r\nContent-Length: 100000000\r\n\r\n".encode())
        writer.write(bytes(30_000_000))
        uploads.append(reader)
        await asyncio.sleep(0.3)
    await until(lambda: house.gateway.status().connections == 4)
    ended = [asyncio.ensure_future(first_line(reader)) for reader in uploads]
    await asyncio.wait(ended, timeout=2)
    assert [one.done() for one in ended] == [True] * 4 + [False] * 4
    for one in ended:
        one.cancel()


async def goes_on(reader):
    """Whether more comes than all buffers between here and the session hold."""
    try:
        for _ in range(30):
            await asyncio.wait_for(reader.readexactly(1_000_000), 10)
    except (OSError, asyncio.IncompleteReadError):
        return False
    return True


async def test_a_connection_that_comes_while_a_leadership_ends_is_not_served(house):
    await house.session("ann", answering())
    access = Access(networks("private"), lambda: ())
    ended = server.Server(house.context, access, Counters(), rules_for("repaired"))
    await ended.aclose()
    listener = await asyncio.get_running_loop().create_server(ended.protocol, "127.0.0.1", 0)
    async with listener:
        house.port = listener.sockets[0].getsockname()[1]
        reader, writer = await house.stream()
        writer.write(f"GET / HTTP/1.1\r\nHost: ann.{DOMAIN}\r\n\r\n".encode())
        assert await asyncio.wait_for(first_line(reader), 5) == b""
