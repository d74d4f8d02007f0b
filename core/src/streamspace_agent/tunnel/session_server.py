"""Connects to a session's VNC or web server, reads its greeting and explains its failures."""

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
"""Seconds for connecting and the server's greeting."""
REFUSAL = b"RFB 003.003\n\0\0\0\0"
"""The start of TigerVNC's refusal before a handshake: RFB 3.3, no security type, then the reason (RFC 6143, 7.1.2)."""
REFUSAL_FOLLOWS = 0.05
"""Seconds within which the rest of a refusal follows a greeting of RFB 3.3."""
REFUSED_PAUSE = 60.0
"""Seconds until a server that refused is tried again without a viewer: connections without a login extend its ban."""


async def read_greeting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """Read an RFB server's version message. Raises ConnectionError, EOFError; the connection is then closed."""
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
    """Raise ServerRefused if more follows: a server of RFB 3.3 that accepts waits for the viewer's version."""
    with contextlib.suppress(TimeoutError, asyncio.IncompleteReadError):
        async with asyncio.timeout(REFUSAL_FOLLOWS):
            head = await reader.readexactly(8)
            reason = await reader.read(min(200, int.from_bytes(head[4:])))
            raise ServerRefused(f"its server refuses connections: {reason.decode(errors='replace')}")


def _reason_of(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return f"no greeting within {GREETING_TIMEOUT:.0f} s"
    if isinstance(error, EOFError):
        return "its server closed the connection without a greeting"
    return str(error) or type(error).__name__


def has_server(session: Session) -> bool:
    return session.port > 0 and session.ready_check is not ReadyCheck.NONE


def same_server(old: Session, new: Session) -> bool:
    """Whether both describe the same server, so that a connection stays valid."""
    return (old.place, old.port, old.ready_check) == (new.place, new.port, new.ready_check)


class SessionServer:
    """The server of one session: opens connections, reads their greeting, and knows whether the server works.

    :meth:`run` keeps one spare connection open while no viewer has one. It shows that the server works, and the next
    viewer uses it. So no connection stays without a login: VNC servers count those and then refuse everybody.
    """

    def __init__(
        self, session: Session, connect: Connect, multiplexer: Multiplexer, clock: Clock, *, filtered: bool = False
    ) -> None:
        """``filtered``: see :attr:`.Channel.stepwise`; applies to RFB servers only."""
        self.session = session
        self._connect = connect
        self._multiplexer = multiplexer
        self._clock = clock
        self._client_first = session.ready_check is not ReadyCheck.VNC
        self._filtered = filtered and not self._client_first
        self._logged = ""
        """The last failure that was logged since the last success."""
        self._spare: Channel | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self.working = self._client_first
        """Whether the last connection found the server there: it sent a greeting or a refusal."""
        self.greeting: bytes | None = b"" if self._client_first else None
        """Its last greeting; None before the first."""

    async def run(self) -> None:
        """Keep a spare connection until cancelled. A server that waits for its client needs none."""
        if self._client_first:
            return
        session, backoff = self.session, Backoff(base=0.2, cap=REFUSED_PAUSE, healthy_after=10 * REFUSED_PAUSE)
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
                    what = "session %s: connecting to its server failed for a reason that is a fault of the agent"
                    log.exception(what, session.session_id)
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
        """A connection for a viewer, until :meth:`give_back`. Raises what :meth:`open` raises."""
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
        """The viewer no longer uses its connection."""
        self._idle.set()

    async def open(self) -> Channel:
        """Open a connection and read its greeting. Raises ServerUnreachable, LeaseLost."""
        session = self.session
        try:
            async with asyncio.timeout(GREETING_TIMEOUT):
                streams = await self._connect(session.session_id, session.port)
                greeting = b"" if self._client_first else await read_greeting(*streams)
                stream = await Stream.over(streams, self._multiplexer.buffers)
        except LeaseLost:
            raise
        except (OSError, EOFError, RuntimeDriverError, CommandFailed) as error:
            raise self._failed(error) from error
        except Exception:
            self.working = False
            raise
        self.working, self.greeting, self._logged = True, greeting, ""
        budget, offer = self._multiplexer.budget, self._multiplexer.offer
        return Channel(session.session_id, stream, greeting, budget, offer, self._clock, self._filtered)

    def _failed(self, error: Exception) -> ServerUnreachable:
        refused = self.working = isinstance(error, ServerRefused)
        if (why := _reason_of(error)) != self._logged:
            # A tunnel may notice an end or hibernation before the agent does, and cannot know whether it is expected.
            over = isinstance(error, SessionNotFound)
            over = over or (isinstance(error, CommandFailed) and error.code == "not_running")
            level = logging.DEBUG if over else logging.WARNING
            log.log(level, "session %s cannot be viewed: %s", self.session.session_id, why)
            self._logged = why
        return ServerUnreachable(why, refused=refused)
