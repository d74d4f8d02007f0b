"""The connection to the control plane: kept up while this agent leads, and nothing but a pipe of envelopes."""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn, Protocol

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

from streamspace_agent import protocol
from streamspace_agent.backoff import Backoff
from streamspace_agent.config import Settings
from streamspace_agent.controlplane.decoder import Decoder
from streamspace_agent.controlplane.http_reply import Reply
from streamspace_agent.controlplane.keys import Keys
from streamspace_agent.controlplane.proxy import proxy_for
from streamspace_agent.controlplane.registration import LOUD_EVERY, Registrar, reason
from streamspace_agent.controlplane.tls import Trust, certificate_hint
from streamspace_agent.errors import LinkDown
from streamspace_agent.units import format_seconds

log = logging.getLogger(__name__)

PATH = "/api/v1/agents/connect"
OPEN_TIMEOUT = 10.0
# The control plane drops us after 60 s without a pong or ping; asking more often finds a dead link sooner.
PING_EVERY = 10.0
PING_TIMEOUT = 15.0
CLOSE_TIMEOUT = 1.0
# The control plane packs all that waits into one message, up to 256 of them: as many as it likes, but in parts of this size.
MAX_PART = 64 * 1024**2

RENEWED = "renewed by this agent"
RENEW_AFTER = 2.0
"""Seconds that a connection must have lasted to be renewed without the back-off."""
# Seconds from connecting until changed facts are registered: a link that is closed again soon shall not show as online.
FACTS_AFTER = 5.0

CLOSED = "closed by the control plane"
# It closes a connection when the same agent id connects again: so often in a row, that is the likeliest reason.
RIVAL_AFTER = 4
RIVAL = "; does another agent use AGENT_ID={}? Only replicas with ENABLE_HA=true may share one"


LOST = (ConnectionClosed, LinkDown, OSError)
"""What a connection ends with that is merely gone."""


class Peer(Protocol):
    """What the link serves: one leadership."""

    async def received(self, message: protocol.Envelope | protocol.Malformed) -> None:
        """Handle one message at once; anything long becomes a task of its own."""

    async def connected(self, link: "Link") -> None:
        """Runs as long as a connection does, beside its reader. Returning asks for a new connection in its place, at once."""

    def require_lease(self) -> None: ...

    def registration(self) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """Capacity and metadata."""

    async def described(self) -> None:
        """Return once :meth:`registration` has all that can be known."""


@dataclass(slots=True)
class LinkStatus:
    connected: bool = False
    since: float = 0.0
    """Unix time of the last change."""
    connections: int = 0
    last_error: str = ""
    down_since: float = field(default_factory=time.monotonic)


class Link:
    """One a process; :meth:`run` once a leadership."""

    def __init__(self, settings: Settings, keys: Keys, trust: Trust, rng: random.Random, registrar: Registrar) -> None:
        self._settings = settings
        self._keys = keys
        self._trust = trust
        self._rng = rng
        self._registrar = registrar
        self._socket: ClientConnection | None = None
        self._connected = asyncio.Event()
        self._finished: asyncio.Event | None = None
        """There once no more connection is to be made; set when the last one has been read to its end."""
        self.status = LinkStatus()
        registrar.on_problem = self._not_registered

    def _not_registered(self, problem: str) -> None:
        if not self.status.connected:
            self.status.last_error = problem

    async def run(self, peer: Peer) -> None:
        """Keep connected until cancelled. Raises Refused when the control plane says no for good."""
        self._finished = None
        backoff = Backoff(rng=self._rng)
        registered = self._registrar.known
        complaint, told = "", 0.0
        try:
            while True:
                wait, level = 0.0, logging.WARNING
                try:
                    if not registered:
                        await self._registrar.register(*peer.registration())
                        registered = True
                    self._keys.look()
                    peer.require_lease()
                    began = time.monotonic()
                    ended = await self._connection(peer, backoff)
                    if ended == RENEWED and time.monotonic() - began >= RENEW_AFTER:
                        continue
                    if backoff.failures >= RIVAL_AFTER and ended.startswith(CLOSED):
                        ended += RIVAL.format(self._settings.agent_id)
                except InvalidStatus as error:
                    response = error.response
                    reply = Reply.of(response.status_code, response.headers, response.body)
                    # Registering again tells why, and whether that is final.
                    registered = not (reply.by_control_plane and reply.status in {401, 403, 404})
                    wait = reply.wait
                    if not reply.by_control_plane and reply.status < 500:
                        level = logging.ERROR  # nobody would look for it at the proxy otherwise
                    ended = f"the answer is {reply.refusal(self._settings.http_url + PATH, PATH)}"
                except InvalidURI as error:
                    ended = f"CONTROL_PLANE_URL: {error}"
                except (OSError, InvalidHandshake, ConnectionClosed, EOFError, LinkDown) as error:
                    ended = "no answer in time" if isinstance(error, TimeoutError) else reason(error)
                    ended += certificate_hint(self._settings, error)
                await self._pause_if_finished()
                self.status.last_error = ended
                delay = max(wait, backoff.delay())
                now = time.monotonic()
                if ended != complaint or backoff.failures <= 1 or now - told >= LOUD_EVERY:
                    log.log(
                        level,
                        "not connected to CONTROL_PLANE_URL=%s: %s; next try in %s",
                        self._settings.control_plane_url,
                        ended,
                        format_seconds(delay),
                    )
                    complaint, told = ended, now
                await asyncio.sleep(delay)
        finally:
            await self.close()

    async def _pause_if_finished(self) -> None:
        if self._finished is not None:
            self._finished.set()
            await asyncio.Event().wait()

    async def _connection(self, peer: Peer, backoff: Backoff) -> str:
        """One connection from handshake to end; returns why it ended."""
        uri = f"{self._settings.ws_url}{PATH}?agent_id={self._settings.agent_id}"
        async with _Connect(
            uri,
            ssl=self._trust.context(),
            additional_headers=self._keys.headers(),
            compression=None,
            open_timeout=OPEN_TIMEOUT,
            ping_interval=None,  # see _watch
            close_timeout=CLOSE_TIMEOUT,
            max_size=(None, MAX_PART),
            proxy=proxy_for(self._settings) or None,
        ) as socket:
            peer.require_lease()
            self._up(socket)
            began = time.monotonic()
            reader = asyncio.create_task(self._read(socket, peer), name="link reader")
            worker = asyncio.create_task(peer.connected(self), name="link worker")
            watch = asyncio.create_task(self._watch(socket), name="link watch")
            facts = asyncio.create_task(self._tell_facts(peer), name="link facts")
            tasks = (reader, worker, watch, facts)
            try:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                error = worst(done)
                if error is None or isinstance(error, LOST):
                    await self._read_on(socket, reader, dead=watch.done())
                if error is not None:
                    raise error
            except ConnectionClosed as closed:
                return _why(closed)
            finally:
                self._down()
                backoff.worked_for(time.monotonic() - began)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                _cut_off_soon(socket)
        return RENEWED

    async def _read_on(self, socket: ClientConnection, reader: asyncio.Task[None], *, dead: bool) -> None:
        """Close the connection, but take all that comes until the control plane knows: it sends no command twice."""
        self._down()
        if dead:
            socket.transport.abort()
        closing = asyncio.create_task(socket.close())
        try:
            await asyncio.wait({reader}, timeout=2 * CLOSE_TIMEOUT)
        finally:
            closing.cancel()
            await asyncio.gather(closing, return_exceptions=True)
        error = worst({reader} if reader.done() else ())
        if error is not None and not isinstance(error, LOST):
            raise error

    async def _tell_facts(self, peer: Peer) -> NoReturn:
        """Register again beside the connection if the facts have changed: nothing that is sent meanwhile is lost for it."""
        await asyncio.sleep(FACTS_AFTER)
        await peer.described()
        await self._registrar.refresh(*peer.registration())
        await asyncio.Event().wait()
        raise AssertionError

    async def _watch(self, socket: ClientConnection) -> NoReturn:
        """End a connection whose peer is silent. The library's own watch waits without limit for room in a full socket before it counts."""
        while True:
            await asyncio.sleep(PING_EVERY)
            try:
                async with asyncio.timeout(PING_TIMEOUT):
                    await (await socket.ping())
            except TimeoutError:
                raise LinkDown(f"no answer to a ping within {format_seconds(PING_TIMEOUT)}") from None

    async def _read(self, socket: ClientConnection, peer: Peer) -> None:
        while True:
            decoder = Decoder()
            async for part in socket.recv_streaming(decode=False):
                for message in decoder.feed(part):
                    await _deliver(message, peer)
            for message in decoder.close():
                await _deliver(message, peer)

    def _up(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._connected.set()
        down = time.monotonic() - self.status.down_since
        again = f" again after {format_seconds(down)}" if self.status.connections else ""
        self.status.connected, self.status.since, self.status.last_error = True, time.time(), ""
        self.status.connections += 1
        log.info("connected to %s%s", self._settings.control_plane_url, again)

    def _down(self) -> None:
        self._socket = None
        self._connected.clear()
        self.status.connected, self.status.since, self.status.down_since = False, time.time(), time.monotonic()

    async def wait_connected(self) -> None:
        """Return once there is a connection."""
        await self._connected.wait()

    async def send(self, kind: str, payload: Mapping[str, Any]) -> None:
        """Send one envelope now. Raises LinkDown, ConnectionClosed, TooLarge. Waits while the peer reads slowly."""
        await self.send_text(protocol.encode(kind, payload))

    async def send_text(self, frame: str | bytes) -> None:
        """Send a ready-made frame; bytes are UTF-8."""
        if self._socket is None:
            raise LinkDown
        await self._socket.send(frame, text=True)

    async def ping(self) -> Awaitable[float]:
        """Send a ping; the awaitable returns its latency in seconds when the pong is there."""
        if self._socket is None:
            raise LinkDown
        return await self._socket.ping()

    async def finish(self) -> None:
        """End the connection for good: :meth:`run` makes no other. What comes until the control plane knows is still received. Bounded."""
        if self._socket is None:
            return
        self._finished = asyncio.Event()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(4 * CLOSE_TIMEOUT):
                await self.close()
                await self._finished.wait()

    async def close(self) -> None:
        """End the present connection, if there is one. Bounded: a peer that does not answer is cut off."""
        socket, self._socket = self._socket, None
        if socket is not None:
            _cut_off_soon(socket)
            await socket.close()

    def abort(self) -> None:
        """Cut the connection at once, without a word: another may lead already."""
        if self._socket is not None:
            self._socket.transport.abort()


def worst(tasks: Iterable[asyncio.Task[Any]]) -> BaseException | None:
    """What ended these tasks, if anything did. Of several errors the one that is no lost connection; others are logged."""
    errors = [error for task in tasks if not task.cancelled() and (error := task.exception()) is not None]
    errors.sort(key=lambda error: isinstance(error, LOST))
    for error in errors[1:]:
        if not isinstance(error, LOST):
            log.error("the link ended for another reason as well: %s", reason(error), exc_info=error)
    return errors[0] if errors else None


def raise_worst(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Raise :func:`worst`, if there is any."""
    if (error := worst(tasks)) is not None:
        raise error


class _Connect(connect):
    """Follows no redirect: the key would go to another host, which would then be the control plane."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


async def _deliver(message: protocol.Envelope | protocol.Malformed | None, peer: Peer) -> None:
    if message is None:
        await asyncio.sleep(0)  # others have their turn between the messages of a packed frame
    else:
        await peer.received(message)


def _cut_off_soon(socket: ClientConnection) -> None:
    """The library's close waits without limit, too, for room for its last frame."""
    asyncio.get_running_loop().call_later(2 * CLOSE_TIMEOUT, socket.transport.abort)


def _why(closed: ConnectionClosed) -> str:
    if closed.rcvd:
        return f"{CLOSED} ({closed.rcvd.code}{closed.rcvd.reason and ' ' + closed.rcvd.reason})"
    if closed.sent:
        return f"closed by this agent ({closed.sent.code}{closed.sent.reason and ' ' + closed.sent.reason})"
    return "the connection broke"
