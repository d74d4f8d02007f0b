"""Seeing that a session can be used: its VNC greeting or an HTTP answer, through whatever stream a driver opens."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress

from streamspace_agent.runtime import ReadyCheck

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect = Callable[[], Awaitable[Stream]]
"""Opens a new stream to the session's port; OSError while nothing listens there yet."""

FIRST_POLL, POLL = 0.005, 0.05
"""Seconds between two tries: a tenth of the time waited so far, within these bounds. A small session answers in milliseconds."""
ANSWER_TIMEOUT = 5.0
"""Seconds that one open stream may stay silent. A server busy with its start answers late, but on that stream."""

# RFC 6143, section 7.1.1: "RFB xxx.yyy\n", sent by the server at once.
_GREETING = 12
_REQUEST = b"GET / HTTP/1.1\r\nHost: session\r\nUser-Agent: streamspace-agent\r\nConnection: close\r\n\r\n"


async def wait_ready(check: ReadyCheck, connect: Connect, timeout: float) -> bool:
    """Poll until the session answers as ``check`` demands; False when ``timeout`` seconds have passed without.

    Cancel it when the session is known to have ended. Errors of ``connect`` other than OSError come through.
    """
    if check is ReadyCheck.NONE:
        return True
    loop = asyncio.get_running_loop()
    begun, tries = loop.time(), 0
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout):
            while not await answers(check, connect, encrypted=tries % 2 == 1):
                await asyncio.sleep(min(max((loop.time() - begun) / 10, FIRST_POLL), POLL))
                tries += 1
            return True
    return False


async def answers(check: ReadyCheck, connect: Connect, *, encrypted: bool = False) -> bool:
    """One try. ``encrypted`` asks for HTTP inside TLS, as some desktop images serve nothing else; for VNC it means nothing."""
    try:
        reader, writer = await connect()
    except OSError:
        return False
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT):
            if check is ReadyCheck.VNC:
                return (await reader.readexactly(_GREETING)).startswith(b"RFB ")
            if encrypted:
                await writer.start_tls(_any_certificate())
            writer.write(_REQUEST)
            return _usable(await reader.readline())
    except (OSError, EOFError, ValueError, TimeoutError):
        return False
    finally:
        writer.transport.abort()


def _usable(status_line: bytes) -> bool:
    words = status_line.split()
    return len(words) >= 2 and words[0].startswith(b"HTTP/") and words[1].isdigit() and int(words[1]) < 500


def _any_certificate() -> ssl.SSLContext:
    """Nothing is said on this stream but "are you there?", and a desktop signs its own certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
