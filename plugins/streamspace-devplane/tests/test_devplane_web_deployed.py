"""The deployed web proxy's faults, and that a repaired one has none of them."""

import asyncio
import gzip
import zlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as serve_websockets
from websockets.exceptions import ConnectionClosed

from streamspace_devplane import DevPlane, Settings

from .conftest import Agent
from .test_devplane_web import SESSION, Server, at, browser, server, start, web

__all__ = ["browser", "server", "web"]
TEXT = b"text that compresses well. " * 400
LIMIT = 0.6


@pytest.fixture(params=["deployed", "repaired"])
def relay(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
async def plane(tmp_path: Path, relay: Any) -> AsyncIterator[DevPlane]:
    settings = Settings(relay=relay, web_time_limit=LIMIT, crash_file=str(tmp_path / "crashes"))
    async with DevPlane(tmp_path / "plane.db", settings=settings) as running:
        yield running


def crashes(plane: DevPlane) -> str:
    return plane.hub.crashes.last["cause"] if plane.hub.crashes.last else ""


def answers(*lines: str, body: bytes = b"", chunked: bool = False) -> bytes:
    framed = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if chunked else body
    length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body)}"
    return "\r\n".join(["HTTP/1.1 200 OK", length, *lines, "", ""]).encode() + framed


async def raw(plane: DevPlane, browser: httpx.AsyncClient, **headers: str) -> tuple[httpx.Headers, bytes]:
    async with browser.stream("GET", at(plane), headers={"Accept-Encoding": "gzip, br", **headers}) as answer:
        return answer.headers, b"".join([part async for part in answer.aiter_raw()])


async def test_an_answer_in_chunks_arrives_whole_and_compressed_by_the_deployed_one(
    web: DevPlane, server: Server, browser: httpx.AsyncClient, relay: str
) -> None:
    server.answer = answers(body=TEXT, chunked=True)
    headers, body = await raw(web, browser)
    assert (gzip.decompress(body) if relay == "deployed" else body) == TEXT
    assert headers.get("content-encoding") == ("gzip" if relay == "deployed" else None)
    headers, body = await raw(web, browser, Accept="text/event-stream")
    assert (body, "content-encoding" in headers) == (TEXT, False)
    assert crashes(web) == ""


@pytest.mark.parametrize("said", ["gzip", "identity"])
async def test_an_answers_own_encoding_stays_on_what_the_deployed_one_compresses(
    web: DevPlane, server: Server, browser: httpx.AsyncClient, relay: str, said: str
) -> None:
    sent = gzip.compress(TEXT) if said == "gzip" else TEXT
    server.answer = answers(f"Content-Encoding: {said}", body=sent, chunked=True)
    headers, body = await raw(web, browser)
    assert headers["content-encoding"] == said
    assert (zlib.decompress(body, 31) if relay == "deployed" else body) == sent


@pytest.mark.parametrize("body", [b"twenty bytes of text", TEXT], ids=["short", "long"])
async def test_an_answer_with_a_length_arrives_broken_from_the_deployed_one(
    web: DevPlane, server: Server, browser: httpx.AsyncClient, relay: str, body: bytes
) -> None:
    server.answer = answers(body=body)
    if relay == "deployed":
        with pytest.raises(httpx.RemoteProtocolError):
            await raw(web, browser)
    else:
        assert (await raw(web, browser))[1] == body
    assert crashes(web) == ""


async def test_an_answer_of_less_than_ten_bytes_with_a_length_crashes_the_deployed_one(
    web: DevPlane, server: Server, browser: httpx.AsyncClient, relay: str
) -> None:
    server.answer = answers(body=b"nope")
    if relay == "deployed":
        with pytest.raises(httpx.RemoteProtocolError):
            await raw(web, browser)
        assert crashes(web).startswith("net/http: abort Handler: an answer did not end as announced")
    else:
        assert (await raw(web, browser))[1] == b"nope"
        assert crashes(web) == ""


@pytest.mark.parametrize("framing", [b"Content-Length: 100", b"Transfer-Encoding: chunked"])
async def test_a_body_that_breaks_off_crashes_the_deployed_one(
    web: DevPlane, server: Server, browser: httpx.AsyncClient, relay: str, framing: bytes
) -> None:
    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n%b\r\n\r\n4\r\nhalf\r\n" % framing)
        await writer.drain()

    server.talk = talk
    with pytest.raises(httpx.RemoteProtocolError):
        await raw(web, browser)
    assert ("did not end as announced" in crashes(web)) == (relay == "deployed")


async def test_a_browser_that_leaves_in_the_middle_crashes_the_deployed_one(
    web: DevPlane, server: Server, browser: httpx.AsyncClient, relay: str
) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        await reader.read()

    server.talk = talk
    with pytest.raises(httpx.ReadTimeout):
        await browser.get(at(web), timeout=LIMIT / 3)
    async with asyncio.timeout(5):
        while not server.ended:
            await asyncio.sleep(0.01)
    assert ("left in the middle" in crashes(web)) == (relay == "deployed")


@pytest.mark.parametrize("began", [True, False])
async def test_the_deployed_one_cuts_an_answer_at_its_limit_and_crashes_if_it_is_under_way(
    web: DevPlane, server: Server, browser: httpx.AsyncClient, relay: str, began: bool
) -> None:
    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head, body = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"4\r\nlate\r\n0\r\n\r\n"
        writer.write(head if began else b"")
        await asyncio.sleep(2 * LIMIT)
        writer.write(body if began else head + body)
        await writer.drain()

    server.talk = talk
    if relay == "deployed":
        with pytest.raises(httpx.RemoteProtocolError):
            await raw(web, browser)
    else:
        assert (await raw(web, browser))[1] == b"late"
    assert ("under way after" in crashes(web)) == (began and relay == "deployed")


async def test_the_deployed_one_cuts_websockets_on_both_sides_at_its_limit(
    plane: DevPlane, agent: Agent, relay: str
) -> None:
    ends: list[ServerConnection] = []

    async def echo(socket: ServerConnection) -> None:
        ends.append(socket)
        async for message in socket:
            await socket.send(message)

    await start(plane, agent, SESSION, "lscr.io/linuxserver/chromium:latest")
    async with serve_websockets(echo, "127.0.0.1", 0) as there:
        plane.hub.web_gateway = f"127.0.0.1:{next(iter(there.sockets)).getsockname()[1]}"
        async with connect(at(plane, "/ws").replace("http", "ws", 1)) as viewer:
            await viewer.send("early")
            assert await viewer.recv() == "early"
            await asyncio.sleep(1.5 * LIMIT)
            if relay == "deployed":
                with pytest.raises(ConnectionClosed) as cut:
                    await asyncio.wait_for(viewer.recv(), 5)
                assert cut.value.rcvd is None
                await asyncio.wait_for(ends[0].wait_closed(), 5)
            else:
                await viewer.send("late")
                assert await viewer.recv() == "late"
    assert crashes(plane) == ""
