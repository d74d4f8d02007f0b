"""Connections to the gateway: each is a task, and ends with the session or the leadership that it belongs to."""

import asyncio
import logging
import resource
import socket
from contextlib import suppress
from typing import Any

import h11

from streamspace_agent.gateway import GatewayContext
from streamspace_agent.runtime import SessionState
from streamspace_gateway.access import Access
from streamspace_gateway.client_requests import ClientRequests
from streamspace_gateway.connection import Connection
from streamspace_gateway.counters import Counters
from streamspace_gateway.proxy_rules import ProxyRules
from streamspace_gateway.shared import Shared
from streamspace_gateway.upstreams import Upstreams, address_of

log = logging.getLogger(__name__)

SWEEP_EVERY = 1.0
END_TIMEOUT = 1.0
"""Seconds for the ends of answers that are broken off to be delivered."""
OWN_FILES = 512
"""Open files left to the agent itself: engine, journal, link, screens."""
MAX_CONNECTIONS = 4096
"""However many files may be open: connections cost memory too, some 40 MB if all of these are idle."""
MAX_REFUSED = 64
"""Connections at once that are told why they are refused; any more are closed without an answer."""
MAX_STALLED = 250
"""Connections at once that hold as much as they may because somebody does not read.

Each holds up to a megabyte: together half of the memory that the shipped limits give the agent.
"""
FULL = "the gateway carries as many connections as it can: try again later"
_KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 6, "TCP_USER_TIMEOUT": 90_000}
"""A client that vanished is noticed after a minute and a half (Linux, tcp(7))."""


class _ClientConnection(Connection):
    """Its task is cancelled as soon as the client is gone: the task may be waiting for a session's server."""

    def __init__(self, server: "Server") -> None:
        super().__init__(h11.SERVER, on_lost=self._lost)
        self._server = server
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._task = asyncio.create_task(self._server.serve(self), name="web gateway")

    def stall_changed(self) -> None:
        self._server.note_stall(self)

    def _lost(self) -> None:
        self._server.note_stall(self)
        if self._task is not None:
            self._task.cancel()


class Server:
    """All connections of one leadership."""

    def __init__(self, context: GatewayContext, access: Access, counters: Counters, rules: ProxyRules) -> None:
        self._shared = Shared(context, access, counters, Upstreams(context.connect), rules, _max_connections())
        self._open: dict[asyncio.Task[Any], ClientRequests] = {}
        self._stalled: dict[Connection, None] = {}
        """Those that have stalled longest come first."""
        self._refused = 0
        self._closed = False
        self._sweeping = asyncio.create_task(self._sweep(), name="web gateway sweep")

    def protocol(self) -> asyncio.Protocol:
        return _ClientConnection(self)

    async def aclose(self) -> None:
        """Break off every connection, and any that still comes."""
        self._closed = True
        self._sweeping.cancel()
        clients = [requests.client for requests in self._open.values()]
        tasks = [self._sweeping, *self._open]
        for task in tasks:
            task.cancel()
        try:
            await asyncio.gather(*tasks, return_exceptions=True)
            with suppress(TimeoutError):
                async with asyncio.timeout(END_TIMEOUT):
                    await asyncio.gather(*(client.lost.wait() for client in clients))
        finally:  # this may be cancelled, too
            self._shared.upstreams.sweep(())
            for client in clients:
                client.abort()

    async def serve(self, client: Connection) -> None:
        """Serve a connection that has just been made, until its end."""
        task = asyncio.current_task()
        assert task is not None
        address = client.transport.get_extra_info("peername")
        source = str(address[0]) if address else ""
        connection = client.transport.get_extra_info("socket")
        _set_keepalive(connection)
        if self._shared.rules.unsent:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self._shared.rules.unsent)
        refusal = self._refusal(source)
        if self._closed or (refusal and self._refused >= MAX_REFUSED):
            client.abort()
            return
        requests = self._open[task] = ClientRequests(client, source, self._shared, refusal)
        self._shared.counters.connections += 1
        self._refused += bool(refusal)
        try:
            await requests.run()
        except Exception:
            log.exception("web gateway: a connection from %s failed", source)
        except asyncio.CancelledError:
            pass
        finally:
            self._shared.counters.connections -= 1
            self._refused -= bool(refusal)
            del self._open[task]

    def _refusal(self, source: str) -> str:
        """Why a new connection from there may not make requests; "" when it may."""
        full = self._shared.counters.connections - self._refused >= self._shared.max_connections
        return self._shared.access.refusal(source) or (FULL if full else "")

    def note_stall(self, client: Connection) -> None:
        """Called when a connection may have stalled or gone on, and when it is lost; ends the longest of too many."""
        if not client.stalled or client.lost.is_set():
            self._stalled.pop(client, None)
            return
        self._stalled.setdefault(client)
        if len(self._stalled) > MAX_STALLED:
            longest = next(iter(self._stalled))
            del self._stalled[longest]
            log.warning("web gateway: ended a connection that was not read: %d others are not read either", MAX_STALLED)
            longest.reset()

    async def _sweep(self) -> None:
        """End the connections of sessions that stopped running: a paused session leaves them open, and silent."""
        while True:
            await asyncio.sleep(SWEEP_EVERY)
            self._shared.sweep()
            sessions = self._shared.context.sessions
            for task, requests in list(self._open.items()):
                if (asked := requests.session) is None:
                    continue
                now = sessions.get(asked.session_id)
                if now is None or now.state is not SessionState.RUNNING or address_of(now) != address_of(asked):
                    task.cancel()


def _max_connections() -> int:
    """Connections for which there are open files: each takes one more to its session, and the agent needs some itself.

    Raises the soft limit to the hard one: the soft limit is for programs that use select(2), which asyncio does not.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return min(MAX_CONNECTIONS, max(64, (files - OWN_FILES) // 2))


def _set_keepalive(connection: Any) -> None:
    with suppress(OSError, AttributeError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE.items():
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
