"""Connections to the sessions' own web servers: opened by the driver, with TLS if the server demands it, kept alive."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field

import h11

from streamspace_agent.runtime import Session
from streamspace_agent.runtime.readiness import Stream
from streamspace_gateway.connection import CLOSED, Connection

Address = tuple[str, str, int]
"""Session id, container and port."""

MAX_IDLE = 8
"""Idle connections kept for one session: a browser opens as many, and so does the control plane's proxy for it."""
MAX_IDLE_AGE = 4.0
"""Seconds that an idle connection is kept; many servers close theirs after five."""
PROBE_TIMEOUT = 5.0
_PROBE = h11.Request(
    method="GET",
    target="/",
    headers=[("Host", "session"), ("User-Agent", "streamspace-gateway"), ("Connection", "close")],
)


def address_of(session: Session) -> Address:
    return session.session_id, session.place, session.port


@dataclass(slots=True)
class Upstream:
    address: Address
    connection: Connection
    used: bool = False
    """It carried an exchange before: its server may have closed it since."""
    idle_since: float = 0.0


@dataclass(slots=True)
class _Server:
    encrypted: bool | None = None
    """Whether it demands TLS; None when that is not server."""
    probing: asyncio.Lock = field(default_factory=asyncio.Lock)
    idle: list[Upstream] = field(default_factory=list)


class Upstreams:
    def __init__(self, connect: Callable[[str, int], Awaitable[Stream]]) -> None:
        self._connect = connect
        self._servers: dict[Address, _Server] = {}
        self._tls = _any_certificate()

    async def open(self, session: Session, *, fresh: bool) -> Upstream:
        """A connection to the session's web server; a new one with ``fresh``. Raises what ``connect`` raises."""
        address = address_of(session)
        server = self._servers.setdefault(address, _Server())
        now = asyncio.get_running_loop().time()
        while server.idle and not fresh:
            waiting = server.idle.pop()
            if now - waiting.idle_since <= MAX_IDLE_AGE and waiting.connection.untouched:
                return waiting
            waiting.connection.abort()
        if server.encrypted is None:
            async with server.probing:
                if server.encrypted is None:
                    server.encrypted = await self._demands_tls(address)
        try:
            return Upstream(address, await self._connection(address, encrypted=bool(server.encrypted)))
        except ssl.SSLError:
            server.encrypted = None  # another server may have the port by now
            raise

    def give_back(self, upstream: Upstream) -> None:
        """Called after an exchange: keep its connection if it can carry another."""
        server = self._servers.get(upstream.address)
        connection = upstream.connection
        if server is None or not connection.next_exchange() or not connection.untouched or len(server.idle) >= MAX_IDLE:
            connection.close()
            return
        upstream.used, upstream.idle_since = True, asyncio.get_running_loop().time()
        server.idle.append(upstream)

    def sweep(self, running: Iterable[Address]) -> None:
        """Close what has been idle for long enough, and forget every session that no longer runs."""
        now, running = asyncio.get_running_loop().time(), set(running)
        for address, server in list(self._servers.items()):
            left = [u for u in server.idle if address in running and now - u.idle_since <= MAX_IDLE_AGE]
            for upstream in server.idle:
                if upstream not in left:
                    upstream.connection.abort()
            server.idle = left
            if address not in running:
                del self._servers[address]

    async def _connection(self, address: Address, *, encrypted: bool) -> Connection:
        session_id, _, port = address
        reader, writer = await self._connect(session_id, port)
        connection = _StreamConnection(writer)
        try:
            if encrypted:
                async with asyncio.timeout(PROBE_TIMEOUT):
                    transport = await asyncio.get_running_loop().start_tls(writer.transport, connection, self._tls)
                if transport is None:
                    raise ConnectionResetError(CLOSED)
                connection.connection_made(transport)
            else:
                writer.transport.set_protocol(connection)
                connection.connection_made(writer.transport)
                reader.feed_eof()
                if early := await reader.read():
                    connection.data_received(early)
        except BaseException:
            writer.transport.abort()
            raise
        return connection

    async def _demands_tls(self, address: Address) -> bool | None:
        """Whether the server answers in TLS only: to plain text it says 400, or hangs up. None if it never answered."""
        if (plain := await self._status(address, encrypted=False)) not in {0, 400}:
            return False
        if (inside := await self._status(address, encrypted=True)) in {0, plain}:
            return False if plain else None
        return bool(inside)

    async def _status(self, address: Address, *, encrypted: bool) -> int:
        """The status of the answer to a first request; 0 without one. Raises what ``connect`` raises."""
        try:
            async with asyncio.timeout(PROBE_TIMEOUT):
                connection = await self._connection(address, encrypted=encrypted)
        except ssl.SSLError:
            return 0
        try:
            await connection.send(_PROBE)
            await connection.send(h11.EndOfMessage())
            async with asyncio.timeout(PROBE_TIMEOUT):
                while isinstance(event := await connection.event(), h11.InformationalResponse):
                    pass
            return event.status_code if isinstance(event, h11.Response) else 0
        except (OSError, h11.RemoteProtocolError):
            return 0
        finally:
            connection.abort()


class _StreamConnection(Connection):
    """A connection that was opened as asyncio streams. It keeps the writer, which would close it when collected."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        super().__init__(h11.CLIENT)
        self._writer = writer


def _any_certificate() -> ssl.SSLContext:
    """Not verified: a desktop signs its own certificate, and is reached over the engine's own network."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
