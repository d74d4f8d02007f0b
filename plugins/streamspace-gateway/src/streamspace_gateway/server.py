"""Connections to the gateway: each a task of its own, none longer than the session or the tenure it belongs to."""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import h11

from streamspace_agent.gateway import GatewayContext
from streamspace_agent.runtime import SessionState
from streamspace_gateway.access import Access
from streamspace_gateway.counters import Counters
from streamspace_gateway.exchange import Exchanges
from streamspace_gateway.peer import Peer
from streamspace_gateway.sessions import SessionServers, place_of
from streamspace_gateway.shared import Shared

log = logging.getLogger(__name__)

SWEEP_EVERY = 1.0
READ_AHEAD = 64 * 1024
"""Bytes; asyncio stops reading at twice as many."""
_LOST = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 6, "TCP_USER_TIMEOUT": 90_000}
"""A peer that vanished without a word (Linux, tcp(7)): noticed after a minute and a half."""


class ClientProtocol(asyncio.StreamReaderProtocol):
    """A connection whose task is cancelled as soon as the other side is gone: it may just wait for a session's server."""

    def __init__(self, serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> None:
        self._loop = asyncio.get_running_loop()
        self._incoming = asyncio.StreamReader(limit=READ_AHEAD, loop=self._loop)
        super().__init__(self._incoming, loop=self._loop)
        self._handle = serve
        self._serving: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        super().connection_made(transport)
        writer = asyncio.StreamWriter(transport, self, self._incoming, self._loop)
        self._serving = asyncio.ensure_future(self._handle(self._incoming, writer))

    def eof_received(self) -> bool:
        super().eof_received()
        return False  # who says no more waits for nothing either: the transport closes

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._serving is not None:
            self._serving.cancel()


class Server:
    """All connections of one tenure."""

    def __init__(self, context: GatewayContext, access: Access, counters: Counters) -> None:
        self._shared = Shared(context, access, counters, SessionServers(context.connect))
        self._open: dict[asyncio.Task[Any], Exchanges] = {}
        self._sweeping = asyncio.create_task(self._sweep(), name="web gateway sweep")

    def protocol(self) -> asyncio.Protocol:
        return ClientProtocol(self._handle)

    async def aclose(self) -> None:
        """Break every connection off."""
        self._sweeping.cancel()
        tasks = [self._sweeping, *self._open]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._shared.servers.sweep(())

    async def _handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        address = writer.get_extra_info("peername")
        peer = str(address[0]) if address else ""
        _notice_loss(writer.get_extra_info("socket"))
        exchanges = self._open[task] = Exchanges(Peer(h11.SERVER, reader, writer), peer, self._shared)
        self._shared.counters.connections += 1
        try:
            await exchanges.run()
        except Exception:
            log.exception("web gateway: a connection from %s failed", peer)
            writer.transport.abort()
        except asyncio.CancelledError:
            writer.transport.abort()
        finally:
            self._shared.counters.connections -= 1
            del self._open[task]

    async def _sweep(self) -> None:
        """A session that is paused leaves its connections open, and silent: they end with its run."""
        while True:
            await asyncio.sleep(SWEEP_EVERY)
            self._shared.sweep()
            sessions = self._shared.context.sessions
            for task, exchanges in list(self._open.items()):
                if (used := exchanges.session) is None:
                    continue
                now = sessions.get(used.session_id)
                if now is None or now.state is not SessionState.RUNNING or place_of(now) != place_of(used):
                    task.cancel()


def _notice_loss(connection: Any) -> None:
    with suppress(OSError, AttributeError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _LOST.items():
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
