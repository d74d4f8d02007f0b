"""Keeps this agent connected to the control plane while it leads: registers, connects, reconnects with back-off."""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn, Protocol

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

from streamspace_agent import protocol
from streamspace_agent.backoff import Backoff
from streamspace_agent.config import Settings
from streamspace_agent.controlplane import connection
from streamspace_agent.controlplane.connection import CLOSE_TIMEOUT, CLOSED, PATH
from streamspace_agent.controlplane.http_reply import Reply
from streamspace_agent.controlplane.keys import Keys
from streamspace_agent.controlplane.registration import LOUD_EVERY, Registrar, reason
from streamspace_agent.controlplane.tls import Trust, certificate_hint
from streamspace_agent.errors import LinkDown
from streamspace_agent.units import format_seconds

log = logging.getLogger(__name__)

RENEWED = "renewed by this agent"
RENEW_AFTER = 2.0
"""Seconds that a connection must have lasted to be renewed without a back-off."""
# Seconds from connecting until changed facts are registered: a connection that is closed again at once must not show
# the agent as online.
FACTS_AFTER = 5.0

# The control plane closes a connection when the same agent id connects again. After so many in a row, that is the
# likeliest reason.
RIVAL_AFTER = 4
RIVAL = "; does another agent use AGENT_ID={}? Only replicas with ENABLE_HA=true may share one"

LOST = (ConnectionClosed, LinkDown, OSError)
"""The errors of a connection that is merely lost."""


class Peer(Protocol):
    """The leadership that a link serves."""

    async def received(self, message: protocol.Message | protocol.Malformed) -> None:
        """Handle one message without waiting; anything long becomes a task of its own."""

    async def connected(self, link: "Link") -> None:
        """Run as long as a connection does, beside its reader. Returning asks for a new connection at once."""

    def require_lease(self) -> None: ...

    def registration(self) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        """Capacity and metadata to register."""

    async def described(self) -> None:
        """Return once :meth:`registration` is complete."""


@dataclass(slots=True)
class LinkStatus:
    connected: bool = False
    since: float = 0.0
    """Unix time of the last change."""
    connections: int = 0
    last_error: str = ""
    down_since: float = field(default_factory=time.monotonic)

    @property
    def reconnects(self) -> int:
        return max(0, self.connections - 1)


class Link:
    """One object per process; each leadership calls :meth:`run`."""

    def __init__(self, settings: Settings, keys: Keys, trust: Trust, rng: random.Random, registrar: Registrar) -> None:
        self._settings = settings
        self._keys = keys
        self._trust = trust
        self._rng = rng
        self._registrar = registrar
        self._socket: ClientConnection | None = None
        self._connected = asyncio.Event()
        self._finished: asyncio.Event | None = None
        """Not None once no more connections are made; set when the last one has been read to its end."""
        self.status = LinkStatus()

    def _not_registered(self, problem: str) -> None:
        if not self.status.connected:
            self.status.last_error = problem

    async def run(self, peer: Peer) -> None:
        """Keep connected until cancelled. Raises Refused when the control plane refuses this agent for good."""
        self._finished = None
        backoff = Backoff(rng=self._rng)
        registered = self._registrar.known
        logged, logged_at = "", 0.0
        try:
            while True:
                wait, level = 0.0, logging.WARNING
                try:
                    if not registered:
                        await self._registrar.register(*peer.registration(), on_problem=self._not_registered)
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
                    # Registering again tells the reason, and whether it is final.
                    registered = not (reply.by_control_plane and reply.status in {401, 403, 404})
                    wait = reply.wait
                    if not reply.by_control_plane and reply.status < 500:
                        level = logging.ERROR  # a proxy answered: nobody would look there otherwise
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
                if ended != logged or backoff.failures <= 1 or now - logged_at >= LOUD_EVERY:
                    log.log(
                        level,
                        "not connected to CONTROL_PLANE_URL=%s: %s; next try in %s",
                        self._settings.control_plane_url,
                        ended,
                        format_seconds(delay),
                    )
                    logged, logged_at = ended, now
                await asyncio.sleep(delay)
        finally:
            await self.close()

    async def _pause_if_finished(self) -> None:
        if self._finished is not None:
            self._finished.set()
            await asyncio.Event().wait()

    async def _connection(self, peer: Peer, backoff: Backoff) -> str:
        """Serve one connection from handshake to end; returns why it ended."""
        async with connection.handshake(self._settings, self._keys, self._trust) as socket:
            peer.require_lease()
            self._up(socket)
            began = time.monotonic()
            reader = asyncio.create_task(connection.read(socket, peer.received), name="link reader")
            worker = asyncio.create_task(peer.connected(self), name="link worker")
            watch = asyncio.create_task(connection.watch(socket), name="link watch")
            facts = asyncio.create_task(self._register_changes(peer), name="link facts")
            tasks = (reader, worker, watch, facts)
            try:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                error = worst(done)
                if error is None or isinstance(error, LOST):
                    self._down()
                    await connection.close_and_drain(socket, reader, dead=watch.done())
                    late = worst({reader} if reader.done() else ())
                    if late is not None and not isinstance(late, LOST):
                        raise late
                if error is not None:
                    raise error
            except ConnectionClosed as closed:
                return connection.why_closed(closed)
            finally:
                self._down()
                backoff.worked_for(time.monotonic() - began)
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                connection.abort_soon(socket)
        return RENEWED

    async def _register_changes(self, peer: Peer) -> NoReturn:
        """Register again beside the connection if the facts have changed, so that no message is lost meanwhile."""
        await asyncio.sleep(FACTS_AFTER)
        await peer.described()
        await self._registrar.refresh(*peer.registration())
        await asyncio.Event().wait()
        raise AssertionError

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
        await self._connected.wait()

    async def send(self, kind: str, payload: Mapping[str, Any]) -> None:
        """Send one envelope now; waits while the peer reads slowly. Raises LinkDown, ConnectionClosed, TooLarge."""
        await self.send_text(protocol.encode(kind, payload))

    async def send_text(self, frame: str | bytes) -> None:
        """Send an encoded frame; bytes are UTF-8."""
        if self._socket is None:
            raise LinkDown
        await self._socket.send(frame, text=True)

    async def ping(self) -> Awaitable[float]:
        """Send a ping; awaiting the result waits for the pong and returns the latency in seconds."""
        if self._socket is None:
            raise LinkDown
        return await self._socket.ping()

    async def finish(self) -> None:
        """Close the connection for good: :meth:`run` makes no other. Returns within a bounded time.

        What arrives until the control plane has closed its side is still received.
        """
        if self._socket is None:
            return
        self._finished = asyncio.Event()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(4 * CLOSE_TIMEOUT):
                await self.close()
                await self._finished.wait()

    async def close(self) -> None:
        """Close the current connection, if any. Bounded: the connection to a peer that does not answer is aborted."""
        socket, self._socket = self._socket, None
        if socket is not None:
            connection.abort_soon(socket)
            await socket.close()

    def abort(self) -> None:
        """Abort the connection without a closing handshake: another replica may lead already."""
        if self._socket is not None:
            self._socket.transport.abort()


def worst(tasks: Iterable[asyncio.Task[Any]]) -> BaseException | None:
    """The error that ended these tasks, if any: of several, one that is not a lost connection. Others are logged."""
    errors = [error for task in tasks if not task.cancelled() and (error := task.exception()) is not None]
    errors.sort(key=lambda error: isinstance(error, LOST))
    for error in errors[1:]:
        if not isinstance(error, LOST):
            log.error("the link ended for another reason as well: %s", reason(error), exc_info=error)
    return errors[0] if errors else None


async def until_one_ends(*jobs: Coroutine[Any, Any, Any]) -> None:
    """Run these jobs beside one another until one of them ends, and end the others. Raises the :func:`worst` error."""
    tasks = [asyncio.create_task(job, name=getattr(job, "__qualname__", None)) for job in jobs]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if (error := worst(done)) is not None:
            raise error
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
