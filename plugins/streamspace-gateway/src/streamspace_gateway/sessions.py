"""Connections to the sessions' own web servers: opened through the driver, encrypted where the server demands it, used again."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field

import h11

from streamspace_agent.readiness import Stream
from streamspace_agent.runtime import Session
from streamspace_gateway.peer import Peer

Place = tuple[str, str, int]
"""Session id, container, port: what a connection leads to."""

MAX_IDLE = 8
"""Connections to one session kept open for what comes next: as many as a browser opens, and the control plane's proxy for it."""
MAX_IDLE_AGE = 4.0
"""Seconds that such a connection waits; many servers close theirs after five."""
PROBE_TIMEOUT = 5.0
READ_AHEAD = 64 * 1024
_PROBE = b"GET / HTTP/1.1\r\nHost: session\r\nUser-Agent: streamspace-gateway\r\nConnection: close\r\n\r\n"


def place_of(session: Session) -> Place:
    return session.session_id, session.place, session.port


@dataclass(slots=True)
class Upstream:
    """``used`` says that it carried an exchange before: its server may have closed it meanwhile."""

    place: Place
    peer: Peer
    used: bool = False
    idle_since: float = 0.0


@dataclass(slots=True)
class _Known:
    """What is known of one place: does its server speak TLS (None: not asked yet), and connections that wait."""

    encrypted: bool | None = None
    asking: asyncio.Lock = field(default_factory=asyncio.Lock)
    idle: list[Upstream] = field(default_factory=list)


class SessionServers:
    def __init__(self, connect: Callable[[str, int], Awaitable[Stream]]) -> None:
        self._connect = connect
        self._known: dict[Place, _Known] = {}
        self._tls = _any_certificate()

    async def open(self, session: Session, *, fresh: bool) -> Upstream:
        """A connection to the session's web server; with ``fresh`` a new one. Raises what ``connect`` does."""
        place = place_of(session)
        known = self._known.setdefault(place, _Known())
        now = asyncio.get_running_loop().time()
        while known.idle and not fresh:
            waiting = known.idle.pop()
            if now - waiting.idle_since <= MAX_IDLE_AGE and not waiting.peer.reader.at_eof():
                return waiting
            waiting.peer.abort()
        if known.encrypted is None:
            async with known.asking:
                if known.encrypted is None:
                    known.encrypted = await self._asks_for_tls(place)
        try:
            return Upstream(place, Peer(h11.CLIENT, *await self._stream(place, encrypted=bool(known.encrypted))))
        except ssl.SSLError:
            known.encrypted = None  # another server has the port by now
            raise

    def give_back(self, upstream: Upstream) -> None:
        """An exchange is over: keep its connection for another if it can carry one."""
        known = self._known.get(upstream.place)
        if known is None or not upstream.peer.between or len(known.idle) >= MAX_IDLE:
            upstream.peer.close()
            return
        upstream.peer.http.start_next_cycle()
        upstream.used, upstream.idle_since = True, asyncio.get_running_loop().time()
        known.idle.append(upstream)

    def sweep(self, running: Iterable[Place]) -> None:
        """Close what has waited long enough, and forget all that does not run any more."""
        now, running = asyncio.get_running_loop().time(), set(running)
        for place, known in list(self._known.items()):
            left = [u for u in known.idle if place in running and now - u.idle_since <= MAX_IDLE_AGE]
            for upstream in known.idle:
                if upstream not in left:
                    upstream.peer.abort()
            known.idle = left
            if place not in running:
                del self._known[place]

    async def _stream(self, place: Place, *, encrypted: bool) -> Stream:
        session_id, _, port = place
        reader, writer = await self._connect(session_id, port)
        try:
            return await self._encrypted(writer) if encrypted else (reader, writer)
        except BaseException:
            writer.transport.abort()
            raise

    async def _encrypted(self, writer: asyncio.StreamWriter) -> Stream:
        """TLS over an open stream. With a reader of its own: StreamWriter.start_tls leaves the old one, which would go on holding up the
        stream beneath and hang there (CPython 3.11).
        """
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=READ_AHEAD, loop=loop)
        protocol = _Beneath(writer, reader, loop)
        async with asyncio.timeout(PROBE_TIMEOUT):
            transport = await loop.start_tls(writer.transport, protocol, self._tls)
        if transport is None:
            raise ConnectionError("it closed the connection instead of speaking TLS")
        protocol.connection_made(transport)
        return reader, asyncio.StreamWriter(transport, protocol, reader, loop)

    async def _asks_for_tls(self, place: Place) -> bool | None:
        """Whether the server answers inside TLS only. Some say so in plain text, with a 400; others hang up. None: it never answered."""
        if (plain := await self._status(place, encrypted=False)) not in {0, 400}:
            return False
        if (inside := await self._status(place, encrypted=True)) in {0, plain}:
            return False if plain else None
        return bool(inside)

    async def _status(self, place: Place, *, encrypted: bool) -> int:
        """The status of an answer to a first request; 0 where none comes. Raises what ``connect`` does."""
        session_id, _, port = place
        reader, writer = await self._connect(session_id, port)
        try:
            with suppress(OSError, EOFError, ValueError):
                async with asyncio.timeout(PROBE_TIMEOUT):
                    if encrypted:
                        reader, writer = await self._encrypted(writer)
                    writer.write(_PROBE)
                    words = (await reader.readline()).split()
                if len(words) >= 2 and words[0].startswith(b"HTTP/") and words[1].isdigit():
                    return int(words[1])
        finally:
            writer.transport.abort()
        return 0


class _Beneath(asyncio.StreamReaderProtocol):
    """Keeps the writer of the stream beneath: one that is forgotten closes its connection."""

    def __init__(
        self, beneath: asyncio.StreamWriter, reader: asyncio.StreamReader, loop: asyncio.AbstractEventLoop
    ) -> None:
        super().__init__(reader, loop=loop)
        self.beneath = beneath


def _any_certificate() -> ssl.SSLContext:
    """A desktop signs its own certificate, and the way to it is the engine's own network."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
