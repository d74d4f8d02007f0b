"""Connections to the gateway: each a task of its own, none longer than the session or the tenure it belongs to."""

import asyncio
import logging
import resource
import socket
from collections.abc import Callable, Coroutine
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
from streamspace_gateway.shape import Shape
from streamspace_gateway.shared import Shared
from streamspace_gateway.stalls import Stalls

log = logging.getLogger(__name__)

SWEEP_EVERY = 1.0
LAST_WORDS = 1.0
"""Seconds for the ends of answers that are broken off to leave."""
OWN_FILES = 512
"""Open files left to the agent itself: engine, journal, link, screens."""
MOST = 4096
"""Connections, however many files there may be: they cost memory too, some 40 MB if all are idle."""
UNWANTED = 64
"""Connections at once that are told why they are refused; what comes beside them is closed without a word."""
FULL = "the gateway carries as many connections as it can: try again later"
_LOST = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 6, "TCP_USER_TIMEOUT": 90_000}
"""A peer that vanished without a word (Linux, tcp(7)): noticed after a minute and a half."""


class Client(Peer):
    """A connection whose task is cancelled as soon as the other side is gone: it may just wait for a session's server."""

    def __init__(self, serve: Callable[["Client"], Coroutine[Any, Any, None]], stalls: Stalls) -> None:
        super().__init__(h11.SERVER, on_lost=self._lost)
        self._serve = serve
        self._stalls = stalls
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._task = asyncio.create_task(self._serve(self), name="web gateway")

    def stall_changed(self) -> None:
        self._stalls.note(self)

    def _lost(self) -> None:
        self._stalls.note(self)
        if self._task is not None:
            self._task.cancel()


class Server:
    """All connections of one tenure."""

    def __init__(self, context: GatewayContext, access: Access, counters: Counters, shape: Shape) -> None:
        self._shared = Shared(context, access, counters, SessionServers(context.connect), shape, _room())
        self._open: dict[asyncio.Task[Any], Exchanges] = {}
        self._stalls = Stalls()
        self._unwanted = 0
        self._over = False
        self._sweeping = asyncio.create_task(self._sweep(), name="web gateway sweep")

    def protocol(self) -> asyncio.Protocol:
        return Client(self._serve, self._stalls)

    async def aclose(self) -> None:
        """Break every connection off, and whatever still comes."""
        self._over = True
        self._sweeping.cancel()
        clients = [exchanges.client for exchanges in self._open.values()]
        tasks = [self._sweeping, *self._open]
        for task in tasks:
            task.cancel()
        try:
            await asyncio.gather(*tasks, return_exceptions=True)
            with suppress(TimeoutError):
                async with asyncio.timeout(LAST_WORDS):
                    await asyncio.gather(*(client.lost.wait() for client in clients))
        finally:  # whoever is in a hurry cancels this too
            self._shared.servers.sweep(())
            for client in clients:
                client.abort()

    async def _serve(self, client: Client) -> None:
        task = asyncio.current_task()
        assert task is not None
        address = client.transport.get_extra_info("peername")
        peer = str(address[0]) if address else ""
        connection = client.transport.get_extra_info("socket")
        _notice_loss(connection)
        if self._shared.shape.unsent:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self._shared.shape.unsent)
        unwanted = self._refusal(peer)
        if self._over or (unwanted and self._unwanted >= UNWANTED):
            client.abort()
            return
        exchanges = self._open[task] = Exchanges(client, peer, self._shared, unwanted)
        self._shared.counters.connections += 1
        self._unwanted += bool(unwanted)
        try:
            await exchanges.run()
        except Exception:
            log.exception("web gateway: a connection from %s failed", peer)
        except asyncio.CancelledError:
            pass
        finally:
            self._shared.counters.connections -= 1
            self._unwanted -= bool(unwanted)
            del self._open[task]

    def _refusal(self, peer: str) -> str:
        """Why a connection that has just come carries nothing, or ""."""
        full = self._shared.counters.connections - self._unwanted >= self._shared.room
        return self._shared.access.refusal(peer) or (FULL if full else "")

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


def _room() -> int:
    """Connections for which there are open files: each takes one more to its session, and the agent needs some for itself.

    As many as the system allows this process: the soft limit is for programs that use select(2), of which asyncio is none.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MOST if files == resource.RLIM_INFINITY else min(MOST, max(64, (files - OWN_FILES) // 2))


def _notice_loss(connection: Any) -> None:
    with suppress(OSError, AttributeError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _LOST.items():
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
