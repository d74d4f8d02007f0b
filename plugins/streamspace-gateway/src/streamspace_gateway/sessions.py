"""Connections to the sessions' own web servers: opened through the driver, encrypted where the server demands it, used again."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field

import h11

from streamspace_agent.runtime import Session
from streamspace_agent.runtime.readiness import Stream
from streamspace_gateway.peer import CLOSED, Peer

Place = tuple[str, str, int]
"""Session id, container, port: what a connection leads to."""

MAX_IDLE = 8
"""Connections to one session kept open for what comes next: as many as a browser opens, and the control plane's proxy for it."""
MAX_IDLE_AGE = 4.0
"""Seconds that such a connection waits; many servers close theirs after five."""
PROBE_TIMEOUT = 5.0
_PROBE = h11.Request(
    method="GET",
    target="/",
    headers=[("Host", "session"), ("User-Agent", "streamspace-gateway"), ("Connection", "close")],
)


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
            if now - waiting.idle_since <= MAX_IDLE_AGE and waiting.peer.untouched:
                return waiting
            waiting.peer.abort()
        if known.encrypted is None:
            async with known.asking:
                if known.encrypted is None:
                    known.encrypted = await self._asks_for_tls(place)
        try:
            return Upstream(place, await self._peer(place, encrypted=bool(known.encrypted)))
        except ssl.SSLError:
            known.encrypted = None  # another server has the port by now
            raise

    def give_back(self, upstream: Upstream) -> None:
        """An exchange is over: keep its connection for another if it can carry one."""
        known = self._known.get(upstream.place)
        peer = upstream.peer
        if known is None or not peer.next_exchange() or not peer.untouched or len(known.idle) >= MAX_IDLE:
            peer.close()
            return
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

    async def _peer(self, place: Place, *, encrypted: bool) -> Peer:
        session_id, _, port = place
        reader, writer = await self._connect(session_id, port)
        peer = _Taken(writer)
        try:
            if encrypted:
                async with asyncio.timeout(PROBE_TIMEOUT):
                    transport = await asyncio.get_running_loop().start_tls(writer.transport, peer, self._tls)
                if transport is None:
                    raise ConnectionResetError(CLOSED)
                peer.connection_made(transport)
            else:
                writer.transport.set_protocol(peer)
                peer.connection_made(writer.transport)
                reader.feed_eof()
                if early := await reader.read():
                    peer.data_received(early)
        except BaseException:
            writer.transport.abort()
            raise
        return peer

    async def _asks_for_tls(self, place: Place) -> bool | None:
        """Whether the server answers inside TLS only. Some say so in plain text, with a 400; others hang up. None: it never answered."""
        if (plain := await self._status(place, encrypted=False)) not in {0, 400}:
            return False
        if (inside := await self._status(place, encrypted=True)) in {0, plain}:
            return False if plain else None
        return bool(inside)

    async def _status(self, place: Place, *, encrypted: bool) -> int:
        """The status of an answer to a first request; 0 where none comes. Raises what ``connect`` does."""
        try:
            async with asyncio.timeout(PROBE_TIMEOUT):
                peer = await self._peer(place, encrypted=encrypted)
        except ssl.SSLError:
            return 0
        try:
            await peer.send(_PROBE)
            await peer.send(h11.EndOfMessage())
            async with asyncio.timeout(PROBE_TIMEOUT):
                while isinstance(event := await peer.event(), h11.InformationalResponse):
                    pass
            return event.status_code if isinstance(event, h11.Response) else 0
        except (OSError, h11.RemoteProtocolError):
            return 0
        finally:
            peer.abort()


class _Taken(Peer):
    """A connection that was made as a pair of asyncio's streams. A writer that is forgotten closes its connection, so it is kept."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        super().__init__(h11.CLIENT)
        self._writer = writer


def _any_certificate() -> ssl.SSLContext:
    """A desktop signs its own certificate, and the way to it is the engine's own network."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
