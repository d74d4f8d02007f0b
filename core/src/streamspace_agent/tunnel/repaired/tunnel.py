"""The tunnel of one session: one viewer after another, each over a new connection to the session's server."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import InitVar, dataclass
from typing import Any, NoReturn

from streamspace_agent import logs, protocol
from streamspace_agent.backoff import Backoff
from streamspace_agent.clock import Clock
from streamspace_agent.errors import LeaseLost, ServerUnreachable
from streamspace_agent.runtime import ReadyCheck, Session
from streamspace_agent.tunnel.channel import Channel, End, Ended
from streamspace_agent.tunnel.flow_control import KEEPS_UP
from streamspace_agent.tunnel.multiplexer import Multiplexer
from streamspace_agent.tunnel.repaired.announcement import Announcement
from streamspace_agent.tunnel.rfb import VERSION
from streamspace_agent.tunnel.session_server import REFUSED_PAUSE, Connect, SessionServer
from streamspace_agent.tunnel.tunnels import MAX_EARLY

log = logging.getLogger(__name__)

STALL = 10.0
"""Seconds after which a viewer is closed that reads nothing and has no place left for unread messages."""
LINGER = 2.0
"""Seconds that a viewer has to show a server's last message, such as a refusal, before it is closed."""
INTERRUPTED = "the connection to the session was interrupted"
HEALTHY = 5.0
"""Seconds after which a connection counts as working."""


@dataclass(eq=False)
class Tunnel:
    """Keeps a session open to the next viewer while it runs.

    An RFB server speaks first, and the control plane does not report when a viewer comes. So a connection is opened and
    its greeting sent in advance. A server that waits for its client (KasmVNC and other HTTP) is connected to when the
    viewer's first bytes arrive.
    """

    session: Session
    connect: InitVar[Connect]
    _multiplexer: Multiplexer
    _clock: Clock
    _saw_input: Callable[[], None]
    fresh: InitVar[bool]
    """See :meth:`.Tunnels.note`."""
    follows: InitVar[bool]
    """Another tunnel of this session has just closed its viewer."""

    def __post_init__(self, connect: Connect, fresh: bool, follows: bool) -> None:
        session, multiplexer = self.session, self._multiplexer
        self._client_first = session.ready_check is not ReadyCheck.VNC
        self._channel: Channel | None = None
        self._early = bytearray()
        self._spoke = asyncio.Event()
        self._left = asyncio.Event()
        # Unless fresh, a viewer may still be there whose stream an earlier leader or connection left incomplete.
        pending_error = "" if fresh else INTERRUPTED
        self._announcement = Announcement(session, multiplexer, self._forget_early, pending_error, follows)
        self.server = SessionServer(session, connect, multiplexer, self._clock)
        # Not in the log context of the command that started the session, which ends long before the tunnel.
        self._task = asyncio.create_task(
            self._run(), name=f"tunnel {session.session_id}", context=logs.context(session=session.session_id)
        )

    async def aclose(self, why: str = "") -> bool:
        """Close the tunnel, and a viewer with the reason ``why``. False if there was no connection to say so."""
        self._task.cancel()
        self.broken(why)
        sent = not why or await self._multiplexer.send(
            "vnc_error", {"sessionId": self.session.session_id, "error": protocol.cut(why)}
        )
        await asyncio.gather(self._task, return_exceptions=True)
        return sent

    def _forget_early(self) -> bool:
        early = bool(self._early)
        self._early.clear()
        return early

    # What comes from the control plane

    async def received(self, data: bytes) -> None:
        channel = self._channel
        taken = channel is not None and channel.answered and not channel.has_ended(End.LEFT, End.LINK)
        begins = data.startswith(VERSION) and self._announcement.waiting
        if not (taken or self._early or self._client_first or begins):
            return  # late bytes of the previous viewer: the next answers a greeting with its version
        if self._early or channel is None or channel.has_ended(End.LEFT, End.LINK):
            self._early += data
            self._spoke.set()
            if len(self._early) > MAX_EARLY:
                await self._announcement.close_viewer("the session's server cannot be reached")
        elif not channel.has_ended(End.BROKEN):
            await self._pass_on(channel, data)

    async def _pass_on(self, channel: Channel, data: bytes) -> None:
        self._announcement.over()
        await self._multiplexer.pass_on(channel, data, self._saw_input)

    def viewer_left(self) -> None:
        if not self._announcement.left():
            return
        self._early.clear()
        self._left.set()
        self._spoke.set()
        if self._channel is not None:
            self._channel.end(End.LEFT)

    def broken(self, why: str) -> None:
        """End the viewer: its stream cannot be completed."""
        if self._channel is not None:
            self._channel.end(End.BROKEN, why)

    async def garbled(self, why: str) -> None:
        """End the viewer: what it sent cannot be decoded."""
        self.broken(why)
        if self._channel is None:
            await self._announcement.close_viewer(why)

    def link_lost(self) -> None:
        if self._early or (self._announcement.waiting and not self._client_first):
            # Somebody may have the greeting whose answer was lost with the connection.
            self._announcement.set_pending_error(INTERRUPTED)
        self._announcement.over()
        self._early.clear()
        self._spoke.set()
        if self._channel is not None:
            self._channel.end(End.LINK)

    @property
    def unread(self) -> int:
        """Number of sent messages that the viewer has not shown to have read."""
        return self._channel.unread if self._channel is not None and self._channel.answered else 0

    def presume_read(self) -> bool:
        return self._channel is not None and self._channel.presume_read()

    @property
    def stalled(self) -> bool:
        """Whether its viewer has stopped reading. One that only has no answer, such as to a bell, takes few places."""
        if self._channel is None or not self.unread or self._channel.silence <= STALL:
            return False
        return self.unread >= KEEPS_UP or self._multiplexer.blocks(self._channel)

    def give_up(self) -> None:
        if self._channel is not None:
            self.broken(f"the viewer has not read for {self._channel.silence:.0f} s")

    # The session's side

    async def _run(self) -> None:
        backoff = Backoff(base=0.2, cap=10.0)
        while True:
            try:
                await self._serve_all(backoff)
            except LeaseLost:
                return  # all tunnels end with the leadership
            except Exception:
                log.exception(
                    "session %s: its tunnel failed for a reason that is a fault of the agent", self.session.session_id
                )
                if self._early or not self._announcement.waiting:  # else the greeting still waits for the next viewer
                    self._announcement.set_pending_error(INTERRUPTED)
            await self._pause(backoff.delay())

    async def _serve_all(self, backoff: Backoff) -> NoReturn:
        spare: Channel | None = None
        try:
            while True:
                if self._client_first:
                    await self._wait_for_viewer()
                channel = spare or await self._open(backoff)
                if self._client_first and not self._early:  # the viewer left meanwhile
                    channel.close()
                    continue
                began = self._clock.now()
                ended = await self._serve(channel)
                spare = channel if self._reusable(channel, ended) else None
                if spare is not None:
                    spare.renew()
                    continue
                self._channel = None
                await self._conclude(channel, ended)
                if self._clock.now() - began > HEALTHY:
                    backoff.failures = 0
                if ended.how in {End.SERVER, End.BROKEN}:
                    await self._pause(backoff.delay())
        finally:
            self.server.working = False
            if (last := spare or self._channel) is not None:
                last.close()
            self._channel = None
            self._multiplexer.released()

    @staticmethod
    def _reusable(channel: Channel, ended: Ended) -> bool:
        """Whether no viewer has sent anything over this connection, so that the next one can use it."""
        return ended.how in {End.LEFT, End.LINK} and not channel.answered

    async def _open(self, backoff: Backoff) -> Channel:
        while True:
            try:
                return await self.server.open()
            except ServerUnreachable as error:
                problem = error
            if self._early:
                await self._announcement.close_viewer(f"the session's server cannot be reached: {problem}")
                if self._client_first:
                    await self._wait_for_viewer()
            await self._pause(REFUSED_PAUSE if problem.refused else backoff.delay())

    async def _pause(self, seconds: float) -> None:
        """Wait before the server is tried again. A viewer ends the wait, after a moment at least."""
        self._spoke.clear()
        await asyncio.sleep(0.05)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                if not self._early:  # else a viewer came before this began
                    await self._spoke.wait()

    async def _serve(self, channel: Channel) -> Ended:
        self._channel = channel
        self._left.clear()
        if not self._client_first:
            announcing = asyncio.ensure_future(self._announcement.announce(channel.greeting, channel))
            either: set[asyncio.Future[Any]] = {announcing, channel.ended}
            try:
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            finally:
                announcing.cancel()
                await asyncio.gather(announcing, return_exceptions=True)
            if not announcing.cancelled():
                announcing.result()
        if self._early and not channel.ended.done():
            data = bytes(self._early)
            self._early.clear()
            await self._pass_on(channel, data)
        await asyncio.wait({channel.ended})
        ended = channel.ended.result()
        if ended.how is End.SERVER and channel.answered and await self._linger(channel):
            return Ended(End.LEFT)
        return ended

    async def _wait_for_viewer(self) -> None:
        """Announce a server that waits for its client, and wait for a viewer."""
        while True:
            await self._announcement.announce(b"")
            if self._early:
                return
            self._spoke.clear()
            await self._spoke.wait()  # also set when the connection is lost: announce it over the next

    async def _linger(self, channel: Channel) -> bool:
        """Let the viewer read the server's last message. True if it leaves by itself."""
        began = self._clock.now()
        # Bounded by STALL: signs of an opaque stream may be a mouse that moves over a dead picture.
        while (left := min(max(began, channel.last_read_sign) + LINGER, began + STALL) - self._clock.now()) > 0:
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._left.wait()
                    return True
        return False

    async def _conclude(self, channel: Channel, ended: Ended) -> None:
        unfinished = ended.how is End.BROKEN or (channel.answered and ended.how is not End.LEFT)
        channel.close()
        self._multiplexer.released()
        if not unfinished:
            return
        if ended.how is End.LINK:
            lost = "the agent's connection to the control plane broke: what was on its way may be lost"
            self._announcement.set_pending_error(lost)
        else:
            log.info("session %s: closing its viewer: %s", self.session.session_id, ended.why)
            await self._announcement.close_viewer(ended.why)
