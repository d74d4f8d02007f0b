"""One WebSocket connection to the control plane, from the handshake to its end."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import NoReturn

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from streamspace_agent import protocol
from streamspace_agent.config import Settings
from streamspace_agent.controlplane.decoder import Decoder
from streamspace_agent.controlplane.keys import Keys
from streamspace_agent.controlplane.proxy import proxy_for
from streamspace_agent.controlplane.tls import Trust
from streamspace_agent.errors import LinkDown
from streamspace_agent.units import format_seconds

PATH = "/api/v1/agents/connect"
OPEN_TIMEOUT = 10.0
# The control plane drops an agent after 60 s without a pong or ping. Pinging more often finds a dead link sooner.
PING_EVERY = 10.0
PING_TIMEOUT = 15.0
CLOSE_TIMEOUT = 1.0
# The control plane packs up to 256 envelopes into one message. It is taken in parts of at most this size.
MAX_PART = 64 * 1024**2

CLOSED = "closed by the control plane"

Receive = Callable[[protocol.Message | protocol.Malformed], Awaitable[None]]


class _Connect(connect):
    """Follows no redirect: the key would be sent to another host, which would then act as the control plane."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


def handshake(settings: Settings, keys: Keys, trust: Trust) -> connect:
    """An async context manager that opens the connection and closes it at the end."""
    return _Connect(
        f"{settings.ws_url}{PATH}?agent_id={settings.agent_id}",
        ssl=trust.context(),
        additional_headers=keys.headers(),
        compression=None,
        open_timeout=OPEN_TIMEOUT,
        ping_interval=None,  # see `watch`
        close_timeout=CLOSE_TIMEOUT,
        max_size=(None, MAX_PART),
        proxy=proxy_for(settings) or None,
    )


async def read(socket: ClientConnection, receive: Receive) -> NoReturn:
    """Decode what arrives and hand over each message in order, until the connection ends."""
    while True:
        decoder = Decoder()
        async for part in socket.recv_streaming(decode=False):
            for message in decoder.feed(part):
                if message is None:
                    await asyncio.sleep(0)  # other tasks run between the messages of a packed frame
                else:
                    await receive(message)
        for message in decoder.close():
            await receive(message)


async def watch(socket: ClientConnection) -> NoReturn:
    """Raise LinkDown when the control plane stops answering pings.

    The library's own keepalive cannot be used: before its timeout starts, it waits without limit for room in a full
    socket.
    """
    while True:
        await asyncio.sleep(PING_EVERY)
        try:
            async with asyncio.timeout(PING_TIMEOUT):
                await (await socket.ping())
        except TimeoutError:
            raise LinkDown(f"no answer to a ping within {format_seconds(PING_TIMEOUT)}") from None


async def close_and_drain(socket: ClientConnection, reader: asyncio.Task[NoReturn], *, dead: bool) -> None:
    """Close the connection while the reader takes what still arrives: the control plane sends no command twice."""
    if dead:
        socket.transport.abort()
    closing = asyncio.create_task(socket.close())
    try:
        await asyncio.wait({reader}, timeout=2 * CLOSE_TIMEOUT)
    finally:
        closing.cancel()
        await asyncio.gather(closing, return_exceptions=True)


def abort_soon(socket: ClientConnection) -> None:
    """Bound the library's close, which waits without limit for room for its last frame in a full socket."""
    asyncio.get_running_loop().call_later(2 * CLOSE_TIMEOUT, socket.transport.abort)


def why_closed(closed: ConnectionClosed) -> str:
    if closed.rcvd:
        return f"{CLOSED} ({closed.rcvd.code}{closed.rcvd.reason and ' ' + closed.rcvd.reason})"
    if closed.sent:
        return f"closed by this agent ({closed.sent.code}{closed.sent.reason and ' ' + closed.sent.reason})"
    return "the connection broke"
