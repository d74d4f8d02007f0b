"""A session's server, as a tunnel meets it: connecting, its greeting, and what its failures mean."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

from streamspace_agent.backoff import Backoff
from streamspace_agent.clock import Clock
from streamspace_agent.errors import (
    CommandFailed,
    LeaseLost,
    RuntimeDriverError,
    ServerRefused,
    ServerUnreachable,
    SessionNotFound,
)
from streamspace_agent.runtime import ReadyCheck, Session
from streamspace_agent.tunnel.channel import Channel
from streamspace_agent.tunnel.multiplexer import Multiplexer
from streamspace_agent.tunnel.rfb import VERSION, VERSION_SIZE
from streamspace_agent.tunnel.stream import Stream, Streams

log = logging.getLogger(__name__)

Connect = Callable[[str, int], Awaitable[Streams]]

GREETING_TIMEOUT = 10.0
"""Seconds for a connection to the session and its server's greeting."""
REFUSAL = b"RFB 003.003\n\0\0\0\0"
"""How TigerVNC begins when it refuses a connection before any handshake: RFB 3.3, no security type, then the reason (RFC 6143, 7.1.2)."""
REFUSAL_FOLLOWS = 0.05
"""Seconds after a greeting of RFB 3.3 in which a refusal's second half is on its way."""
REFUSED_PAUSE = 60.0
"""Seconds until a server that refused is connected to again for nobody: each connection without a login makes its ban longer."""


async def read_greeting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """The 12 bytes with which a server of RFB begins. Raises ConnectionError, EOFError; the connection is then closed."""
    try:
        greeting = await reader.readexactly(VERSION_SIZE)
        if greeting == REFUSAL[:VERSION_SIZE]:
            await _raise_if_refused(reader)
    except BaseException:
        writer.transport.abort()
        raise
    if not greeting.startswith(VERSION):
        writer.transport.abort()
        raise ConnectionError(f"its server does not speak RFB: it began with {greeting!r}")
    return greeting


async def _raise_if_refused(reader: asyncio.StreamReader) -> None:
    """A server of RFB 3.3 waits for the viewer's version; one that goes on by itself refuses."""
    with contextlib.suppress(TimeoutError, asyncio.IncompleteReadError):
        async with asyncio.timeout(REFUSAL_FOLLOWS):
            head = await reader.readexactly(8)
            reason = await reader.read(min(200, int.from_bytes(head[4:])))
            raise ServerRefused(f"its server refuses connections: {reason.decode(errors='replace')}")


def is_over(error: Exception) -> bool:
    """The session has ended or sleeps: a tunnel sees that before its owner hears of it, and only its owner knows whether it should."""
    return isinstance(error, SessionNotFound) or (isinstance(error, CommandFailed) and error.code == "not_running")


def reason_of(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"no greeting within {GREETING_TIMEOUT:.0f} s"
    if isinstance(error, EOFError):
        return "its server closed the connection without a greeting"
    return str(error) or type(error).__name__


def has_server(session: Session) -> bool:
    return session.port > 0 and session.ready_check is not ReadyCheck.NONE


def same_server(old: Session, new: Session) -> bool:
    """Whether what was made for the one serves the other."""
    return (old.place, old.port, old.ready_check) == (new.place, new.port, new.ready_check)


class SessionServer:
    """One session's: opens connections to it, whose greeting has been read, and knows whether it is there.

    With :meth:`run` it keeps one open in advance while no viewer has one. That shows that the server is there, and the next viewer
    takes it, so that no connection is made for nothing: servers count those without a login, and shut everybody out after a few.
    """

    def __init__(
        self, session: Session, connect: Connect, multiplexer: Multiplexer, clock: Clock, *, filtered: bool = False
    ) -> None:
        """``filtered``: see :class:`.Channel`; only where the server speaks RFB."""
        self.session = session
        self._connect = connect
        self._multiplexer = multiplexer
        self._clock = clock
        self._silent = session.ready_check is not ReadyCheck.VNC
        self._filtered = filtered and not self._silent
        self._told = ""
        """What was last logged of a failure, until the next success."""
        self._spare: Channel | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self.working = self._silent
        """The server has been reached and has greeted, and nothing was heard to the contrary."""
        self.greeting: bytes | None = b"" if self._silent else None
        """What it greeted with last; None before it did."""

    async def run(self) -> None:
        """Keep the spare connection until cancelled. A server that waits for its client needs none."""
        if self._silent:
            return
        backoff = Backoff(base=0.2, cap=REFUSED_PAUSE, healthy_after=10 * REFUSED_PAUSE)
        try:
            while True:
                await self._idle.wait()
                try:
                    self._spare = spare = await self.open()
                except LeaseLost:
                    return
                except ServerUnreachable as error:
                    pause = REFUSED_PAUSE if error.refused else backoff.delay()
                except Exception:
                    log.exception(
                        "session %s: connecting to its server failed for a reason that is a fault of the agent",
                        self.session.session_id,
                    )
                    pause = backoff.delay()
                else:
                    began = self._clock.now()
                    await asyncio.wait({spare.ended})
                    backoff.worked_for(self._clock.now() - began)
                    if self._spare is not spare:
                        continue  # a viewer took it
                    self._drop_spare()
                    pause = backoff.delay()
                await asyncio.sleep(pause)
        finally:
            self.working = False
            self._drop_spare()

    def _drop_spare(self) -> None:
        if self._spare is not None:
            self._spare.close()
            self._spare = None

    async def take(self) -> Channel:
        """A connection for a viewer, until :meth:`give_back`. As :meth:`open` otherwise."""
        self._idle.clear()
        spare, self._spare = self._spare, None
        if spare is not None:
            if not spare.ended.done():
                return spare
            spare.close()
        try:
            return await self.open()
        except BaseException:
            self.give_back()
            raise

    def give_back(self) -> None:
        """The viewer's connection is of no more use."""
        self._idle.set()

    async def open(self) -> Channel:
        """A new connection whose greeting has been read. Raises ServerUnreachable, LeaseLost."""
        session = self.session
        try:
            async with asyncio.timeout(GREETING_TIMEOUT):
                streams = await self._connect(session.session_id, session.port)
                greeting = b"" if self._silent else await read_greeting(*streams)
                stream = await Stream.over(streams, self._multiplexer.buffers)
        except LeaseLost:
            raise
        except (OSError, EOFError, RuntimeDriverError, CommandFailed) as error:
            raise self._failed(error) from error
        except Exception:
            self.working = False
            raise
        self.working, self.greeting, self._told = True, greeting, ""
        return Channel(
            session.session_id,
            stream,
            greeting,
            budget=self._multiplexer.budget,
            offer=self._multiplexer.offer,
            clock=self._clock,
            filtered=self._filtered,
        )

    def _failed(self, error: Exception) -> ServerUnreachable:
        refused = self.working = isinstance(error, ServerRefused)
        if (why := reason_of(error)) != self._told:
            level = logging.DEBUG if is_over(error) else logging.WARNING
            log.log(level, "session %s cannot be viewed: %s", self.session.session_id, why)
            self._told = why
        return ServerUnreachable(why, refused=refused)
