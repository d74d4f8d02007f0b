"""Seeing that a session can be used, on real sockets."""

import asyncio
import ssl
from contextlib import AsyncExitStack

import pytest
import trustme

from lab.loopback import served
from streamspace_agent.readiness import answers, wait_ready
from streamspace_agent.runtime import ReadyCheck


@pytest.fixture
async def serve():
    """Serve bytes on loopback: what to say first, and what after a request. Returns how to connect."""
    async with AsyncExitStack() as servers:

        async def start(greeting=b"", answer=b"", context=None):
            async def talk(reader, writer):
                writer.write(greeting)
                if answer and await reader.readline():
                    writer.write(answer)
                await writer.drain()

            port = await servers.enter_async_context(served(talk, context))
            return lambda: asyncio.open_connection("127.0.0.1", port)

        yield start


async def test_a_vnc_greeting_is_an_answer(serve):
    assert await answers(ReadyCheck.VNC, await serve(b"RFB 003.008\n"))


@pytest.mark.parametrize("greeting", [b"", b"RFB 003", b"SSH-2.0-OpenSSH_9\n"])
async def test_anything_else_is_no_vnc_greeting(serve, greeting):
    assert not await answers(ReadyCheck.VNC, await serve(greeting))


@pytest.mark.parametrize(
    ("line", "usable"),
    [
        (b"HTTP/1.1 200 OK\r\n", True),
        (b"HTTP/1.0 401 Unauthorized\r\n", True),
        (b"HTTP/1.1 502 Bad Gateway\r\n", False),
        (b"nonsense\r\n", False),
    ],
)
async def test_an_http_status_below_500_is_an_answer(serve, line, usable):
    assert await answers(ReadyCheck.HTTP, await serve(answer=line)) == usable


async def test_a_desktop_that_speaks_only_https_with_its_own_certificate_is_ready(serve):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("session").configure_cert(context)
    connect = await serve(answer=b"HTTP/1.1 200 OK\r\n", context=context)
    assert await wait_ready(ReadyCheck.HTTP, connect, timeout=10)


async def test_a_server_that_comes_up_later_is_waited_for(serve):
    tries = []
    connect = await serve(b"RFB 003.008\n")

    async def late():
        tries.append(None)
        if len(tries) < 5:
            raise ConnectionRefusedError
        return await connect()

    assert await wait_ready(ReadyCheck.VNC, late, timeout=10)
    assert len(tries) == 5


async def test_silence_ends_with_the_timeout(serve):
    async def silent(reader, writer):
        await reader.read()

    async with served(silent) as port:
        assert not await wait_ready(ReadyCheck.VNC, lambda: asyncio.open_connection("127.0.0.1", port), timeout=0.2)


async def test_a_session_without_a_port_is_asked_nothing():
    async def never():
        raise AssertionError("asked")

    assert await wait_ready(ReadyCheck.NONE, never, timeout=1)
