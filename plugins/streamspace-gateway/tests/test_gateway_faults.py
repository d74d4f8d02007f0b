"""Clients and servers that misbehave: each ends as a person expects, and none troubles another."""

import asyncio
import socket

import pytest

from lab.process import free_port
from lab.until import until
from streamspace_agent.errors import CommandFailed, EngineUnavailable, SessionNotFound
from streamspace_agent.gateway import keep_serving
from streamspace_agent.runtime import SessionState
from streamspace_gateway import WebGateway, client_requests, listeners
from tests.gateway import DOMAIN, House, answering, head_of, parse


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET /\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : ann\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"CONNECT ann:3000 HTTP/1.1\r\nHost: ann\r\n\r\n",
        b"GET http://ann/ HTTP/1.1\r\nHost: ann\r\n\r\n",
    ],
)
async def test_what_is_no_request_is_refused_and_asks_no_session(house, garbage):
    await house.session("ann", answering())
    answer = parse(await house.raw(garbage))
    assert answer.status in {400, 404, 501}
    assert house.connects == []
    counted = house.gateway.status().requests
    assert counted["invalid"] + counted["not_found"] == 1


@pytest.mark.parametrize("end", [b"", b"\r\n\r\n"])
async def test_a_huge_head_is_refused_without_being_kept(house, end):
    await house.session("ann", answering())
    head = f"GET / HTTP/1.1\r\nHost: ann.{DOMAIN}\r\nCookie: ".encode() + b"x" * 300_000 + end
    assert parse(await house.raw(head)).status == 431
    assert house.gateway.status().requests["invalid"] == 1


async def test_a_head_that_comes_too_slowly_ends_the_connection_with_a_sentence(house, monkeypatch):
    monkeypatch.setattr(client_requests, "HEAD_TIMEOUT", 0.3)
    await house.session("ann", answering())
    reader, writer = await house.stream()
    for piece in [b"GET / HT", b"TP/1.1\r\nHo", b"st: ann"]:
        writer.write(piece)
        await asyncio.sleep(0.12)
    answer = parse(await asyncio.wait_for(reader.read(), 5))
    assert (answer.status, answer.text) == (408, "the request did not come in time\n")
    silent, writer2 = await house.stream()
    assert await asyncio.wait_for(silent.read(), 5) == b""  # it said nothing, and gets nothing
    writer.close()
    writer2.close()


async def test_many_slow_clients_hold_up_nobody(house):
    await house.session("ann", answering())
    slow = [await house.stream() for _ in range(200)]
    for _, writer in slow:
        writer.write(b"GET / HTTP/1.1\r\nHost")
    assert (await asyncio.wait_for(house.get("ann"), 5)).status == 200
    for _, writer in slow:
        writer.transport.abort()


@pytest.mark.parametrize("framing", [b"Content-Length: 100000", b"Transfer-Encoding: chunked"])
async def test_a_server_that_dies_in_the_middle_of_its_answer_is_seen_to(house, framing):
    async def handler(reader, writer):
        await head_of(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n%b\r\n\r\n" % framing)
        writer.write(b"5\r\nhello\r\n" if b"chunked" in framing else b"hello")
        await writer.drain()

    await house.session("ann", handler)
    reader, writer = await house.stream()
    writer.write(f"GET / HTTP/1.1\r\nHost: ann.{DOMAIN}\r\n\r\n".encode())
    with pytest.raises(ConnectionResetError):  # no orderly end
        await asyncio.wait_for(reader.read(), 10)
    await until(lambda: house.gateway.status().requests["broken"] == 1)


async def test_a_server_that_is_reset_before_the_end_that_its_close_would_be_is_seen_to(house):
    async def handler(reader, writer):
        await head_of(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nhello")
        await writer.drain()
        await asyncio.sleep(0.1)
        raw = writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        writer.transport.abort()

    await house.session("ann", handler)
    reader, writer = await house.stream()
    writer.write(f"GET / HTTP/1.0\r\nHost: ann.{DOMAIN}\r\n\r\n".encode())
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(reader.read(), 10)


@pytest.mark.parametrize(
    "said",
    [b"", b"HTTP/1.1 200", b"HTTP/1.1 two hundred\r\n\r\n", b"RFB 003.008\n", b"X: " + b"y" * 200_000],
)
async def test_a_server_that_does_not_answer_in_http_is_a_bad_gateway(house, said):
    async def handler(reader, writer):
        await head_of(reader)
        writer.write(said)

    await house.session("ann", handler)
    answer = await house.get("ann")
    assert (answer.status, answer.text.count("\n")) == (502, 1)
    assert "gave no answer" in answer.text


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (CommandFailed("not_running", "the session does not run: it is exited"), 503),
        (SessionNotFound("no such session"), 404),
        (EngineUnavailable("the engine does not answer"), 502),
        (TimeoutError(), 502),
    ],
)
async def test_a_session_that_cannot_be_connected_to_is_told_in_a_sentence(house, error, status):
    house.put("ann", port=1)
    house.failure = error
    answer = await house.get("ann")
    assert (answer.status, answer.text.count("\n")) == (status, 1)


async def test_a_client_that_leaves_ends_the_question_to_the_session(house):
    left = asyncio.Event()

    async def handler(reader, writer):
        if b"/first" not in await head_of(reader):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            return
        assert await reader.read() == b""  # it never answers
        left.set()

    await house.session("ann", handler)
    _reader, writer = await house.stream()
    writer.write(f"GET /first HTTP/1.1\r\nHost: ann.{DOMAIN}\r\n\r\n".encode())
    await asyncio.sleep(0.2)
    writer.close()
    await asyncio.wait_for(left.wait(), 5)
    await until(lambda: house.gateway.status().requests["left"] == 1)
    await until(lambda: house.gateway.status().connections == 0)


async def test_a_session_that_is_paused_leaves_no_connection_hanging(house):
    async def handler(reader, writer):
        await head_of(reader)
        await asyncio.sleep(60)

    await house.session("ann", answering())
    assert (await house.get("ann")).status == 200
    await house.session("bob", handler)
    reader, writer = await house.stream()
    writer.write(f"GET / HTTP/1.1\r\nHost: bob.{DOMAIN}\r\n\r\n".encode())
    await asyncio.sleep(0.1)
    house.put("bob", SessionState.HIBERNATED, port=house.sessions["bob"].port)
    with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
        await asyncio.wait_for(reader.readexactly(1), 10)
    writer.close()


async def test_a_source_that_is_not_allowed_is_refused_counted_and_asks_no_session():
    async with House.open(allow="192.0.2.0/24") as house:
        await house.session("ann", answering())
        answer = await house.get("ann")
        assert (answer.status, "WEB_GATEWAY_ALLOW" in answer.text) == (403, True)
        assert house.connects == []
        assert house.gateway.status().requests["forbidden"] == 1


async def test_a_session_may_not_enter_another_through_the_gateway(house):
    await house.session("ann", answering())
    house.put("bob", port=1, address="127.0.0.1")  # this test speaks from where bob's container is
    answer = await house.get("ann")
    assert (answer.status, "sessions may not use the gateway" in answer.text) == (403, True)


async def test_one_connection_too_many_is_refused_with_a_sentence_and_the_others_go_on(house, monkeypatch):
    monkeypatch.setattr("streamspace_gateway.server.MAX_CONNECTIONS", 3)
    other = House()
    async with other.serving():
        other.sessions.update(house.sessions)
        await house.session("ann", answering())
        other.put("ann", port=house.sessions["ann"].port)
        streams = [await other.stream() for _ in range(3)]
        await until(lambda: other.gateway.status().connections == 3)
        answer = await other.get("ann")
        assert (answer.status, "as many connections" in answer.text) == (503, True)
        for reader, writer in streams:
            writer.write(f"GET / HTTP/1.1\r\nHost: ann.{DOMAIN}\r\n\r\n".encode())
            assert (await asyncio.wait_for(reader.readline(), 5)).startswith(b"HTTP/1.1 200")
        await other.hang_up()


async def test_an_address_that_others_hold_is_told_and_taken_as_soon_as_it_is_free(caplog):
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        house = House()
        gateway = WebGateway(f"127.0.0.1:{house.port},127.0.0.1:{port}", "private", "repaired")
        serving = asyncio.create_task(keep_serving(gateway, house.context))
        await until(lambda: gateway.status().addresses.get(f"127.0.0.1:{port}") == "address already in use")
        assert gateway.status().addresses[f"127.0.0.1:{house.port}"] == ""  # the other one is served
        assert [*gateway.status().problems()] == [
            f"WEB_GATEWAY=127.0.0.1:{port}: cannot listen there: address already in use"
        ]
        await asyncio.sleep(3 * listeners.RETRY)
    await until(lambda: gateway.status().addresses[f"127.0.0.1:{port}"] == "")
    told = [record for record in caplog.records if "cannot listen" in record.message]
    assert [record.levelname for record in told] == ["ERROR"]
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
    assert gateway.status().addresses == {}
    socket.create_server(("127.0.0.1", port)).close()  # nothing listens any more


async def test_an_address_whose_name_can_be_none_keeps_no_other_from_being_served(house):
    port = free_port()
    gateway = WebGateway(f"no..name:3000,127.0.0.1:{port}", "private", "repaired")
    serving = asyncio.create_task(keep_serving(gateway, house.context))
    await until(lambda: gateway.status().addresses.get("no..name:3000") not in {None, "", "not bound yet"})
    await until(lambda: gateway.status().addresses[f"127.0.0.1:{port}"] == "")
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)


async def test_the_end_of_a_leadership_breaks_off_everything_and_the_next_begins_anew(house):
    async def handler(reader, writer):
        await head_of(reader)
        await asyncio.sleep(60)

    await house.session("ann", handler)
    other = House()
    other.sessions.update(house.sessions)
    async with other.serving():
        reader, writer = await other.stream()
        writer.write(f"GET / HTTP/1.1\r\nHost: ann.{DOMAIN}\r\n\r\n".encode())
        await asyncio.sleep(0.1)
    with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
        await asyncio.wait_for(reader.readexactly(1), 5)
    writer.close()
    with pytest.raises(ConnectionRefusedError):
        await other.stream()
    async with other.serving():
        assert (await other.get("nobody")).status == 404


async def test_bytes_that_a_server_sends_beyond_its_answer_are_not_taken_for_the_next(house):
    async def handler(reader, writer):
        while await head_of(reader):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged")
            await writer.drain()

    await house.session("ann", handler)
    for _ in range(5):
        assert (await house.get("ann")).body == b"ok"
        await asyncio.sleep(0.05)


async def test_a_connection_on_which_a_long_answer_was_broken_off_carries_no_other(house):
    body = b"x" * 1_000_000

    async def handler(reader, writer):
        while await head_of(reader):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body[:500_000])
            await writer.drain()
            await asyncio.sleep(0.2)
            writer.write(body[500_000:])

    await house.session("ann", handler)
    for _ in range(3):
        reader, writer = await house.stream()
        writer.write(f"GET / HTTP/1.1\r\nHost: ann.{DOMAIN}\r\n\r\n".encode())
        await reader.readexactly(200_000)
        writer.transport.abort()
        assert (await house.get("ann")).body == body
