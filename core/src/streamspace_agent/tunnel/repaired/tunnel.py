"""The tunnel of one session: one viewer after another, each over a fresh connection to the session's server."""

import asyncio
import logging
from collections.abc import Callable
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
from streamspace_agent.tunnel.rfb import VERSION, Said
from streamspace_agent.tunnel.session_server import REFUSED_PAUSE, Connect, SessionServer

log = logging.getLogger(__name__)

STALL = 10.0
"""Seconds without a sign that a viewer reads, with all sent to it that may wait unread, until it is given up."""
LINGER = 2.0
"""Seconds that a viewer has for a server's last words, such as why it refuses, before it is closed."""
MAX_EARLY = 1024 * 1024
"""Bytes that a viewer may say while the connection to its server is being made."""
INTERRUPTED = "the connection to the session was interrupted"
HEALTHY = 5.0
"""Seconds after which a connection counts as one that worked."""


class Tunnel:
    """Keeps a session open to the next viewer for as long as it runs.

    A server of RFB speaks first and the control plane does not say when a viewer comes: so a connection is opened and its
    greeting sent in advance.
    A server that waits for its client (KasmVNC and other HTTP) is connected to when the viewer's first bytes come.
    """

    def __init__(
        self,
        session: Session,
        connect: Connect,
        multiplexer: Multiplexer,
        clock: Clock,
        saw_input: Callable[[], None],
        *,
        fresh: bool,
        follows: bool = False,
    ) -> None:
        """``follows``: another tunnel of this session has just told its viewer to leave."""
        self.session = session
        self._multiplexer = multiplexer
        self._clock = clock
        self._saw_input = saw_input
        self._silent = session.ready_check is not ReadyCheck.VNC
        self._channel: Channel | None = None
        self._early = bytearray()
        self._spoke = asyncio.Event()
        self._left = asyncio.Event()
        # A viewer whose stream an earlier leader, or connection, left half-finished may still be there.
        self._announcement = Announcement(
            session, multiplexer, self._forget_early, "" if fresh else INTERRUPTED, closed=follows
        )
        self.server = SessionServer(session, connect, multiplexer, clock)
        # Not the context of the command that started the session: that is over long before the tunnel is.
        self._task = asyncio.create_task(
            self._run(), name=f"tunnel {session.session_id}", context=logs.context(session=session.session_id)
        )

    async def aclose(self, why: str = "") -> bool:
        """``why`` is told to a viewer that may be there. False where there was no connection to tell it over."""
        self._task.cancel()
        self.broken(why)
        told = not why or await self._multiplexer.tell(
            "vnc_error", {"sessionId": self.session.session_id, "error": protocol.cut(why)}
        )
        await asyncio.gather(self._task, return_exceptions=True)
        return told

    def _forget_early(self) -> bool:
        early = bool(self._early)
        self._early.clear()
        return early

    # What comes from the control plane

    async def received(self, data: bytes) -> None:
        """The viewer's bytes."""
        channel = self._channel
        taken = channel is not None and channel.answered and not channel.has_ended(End.LEFT, End.LINK)
        begins = data.startswith(VERSION) and self._announcement.waits
        if not (taken or self._early or self._silent or begins):
            return  # late words of the viewer before: the next begins with its version, once there is a greeting for it
        if self._early or channel is None or channel.has_ended(End.LEFT, End.LINK):
            self._early += data
            self._spoke.set()
            if len(self._early) > MAX_EARLY:
                await self._announcement.close_viewer("the session's server cannot be reached")
        elif not channel.has_ended(End.BROKEN):
            await self._pass_on(channel, data)

    async def _pass_on(self, channel: Channel, data: bytes) -> None:
        self._announcement.used()
        said = channel.received(data)
        if Said.READ in said:
            self._multiplexer.released()
        if Said.INPUT in said:
            self._saw_input()
        await channel.drained()

    def viewer_left(self) -> None:
        if not self._announcement.left():
            return
        self._early.clear()
        self._left.set()
        self._spoke.set()
        if self._channel is not None:
            self._channel.end(End.LEFT)

    def broken(self, why: str) -> None:
        """The viewer's stream cannot be completed."""
        if self._channel is not None:
            self._channel.end(End.BROKEN, why)

    async def garbled(self, why: str) -> None:
        """What a viewer said cannot be read."""
        self.broken(why)
        if self._channel is None:
            await self._announcement.close_viewer(why)

    def link_lost(self) -> None:
        if self._early or (self._announcement.waits and not self._silent):
            # Somebody may have the greeting whose answer was lost with the connection.
            self._announcement.owe(INTERRUPTED)
        self._announcement.lost()
        self._early.clear()
        self._spoke.set()
        if self._channel is not None:
            self._channel.end(End.LINK)

    @property
    def unread(self) -> int:
        """Messages sent that the viewer has not shown to have read."""
        return self._channel.unread if self._channel is not None and self._channel.answered else 0

    def settle(self) -> bool:
        """See :meth:`.Channel.settle`."""
        return self._channel is not None and self._channel.settle()

    @property
    def stalled(self) -> bool:
        """Its viewer reads nothing of what is sent to it; one that merely has nothing to say to a bell holds few places, and none back."""
        if self._channel is None or not self.unread or self._channel.silence <= STALL:
            return False
        return self.unread >= KEEPS_UP or self._multiplexer.blocks(self._channel)

    def give_up(self) -> None:
        """Close the viewer, which is stalled."""
        if self._channel is not None:
            self.broken(f"the viewer has not read for {self._channel.silence:.0f} s")

    # The session's side

    async def _run(self) -> None:
        backoff = Backoff(base=0.2, cap=10.0)
        while True:
            try:
                await self._serve_all(backoff)
            except LeaseLost:
                return  # all tunnels end with the tenure
            except Exception:
                log.exception(
                    "session %s: its tunnel failed for a reason that is a fault of the agent", self.session.session_id
                )
                if self._early or not self._announcement.waits:  # else the greeting lies there for the next viewer
                    self._announcement.owe(INTERRUPTED)
            await self._pause(backoff.delay())

    async def _serve_all(self, backoff: Backoff) -> NoReturn:
        spare: Channel | None = None
        try:
            while True:
                if self._silent:
                    await self._wait_for_viewer()
                channel = spare or await self._open(backoff)
                if self._silent and not self._early:  # the viewer left while its server was connected to
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
        """Nobody has spoken to this server connection: its greeting is as good as a new one."""
        return ended.how in {End.LEFT, End.LINK} and not channel.answered

    async def _open(self, backoff: Backoff) -> Channel:
        """A connection and its greeting, however long that takes."""
        while True:
            try:
                return await self.server.open()
            except ServerUnreachable as error:
                problem = error
            if self._early:
                await self._announcement.close_viewer(f"the session's server cannot be reached: {problem}")
                if self._silent:
                    await self._wait_for_viewer()
            await self._pause(REFUSED_PAUSE if problem.refused else backoff.delay())

    async def _pause(self, seconds: float) -> None:
        """Wait before the server is tried again; a viewer cuts that short, but for a moment."""
        self._spoke.clear()
        await asyncio.sleep(0.05)
        try:
            async with asyncio.timeout(seconds):
                if not self._early:  # it has spoken before this began
                    await self._spoke.wait()
        except TimeoutError:
            pass

    async def _serve(self, channel: Channel) -> Ended:
        """One viewer, from the announcement to the end."""
        self._channel = channel
        self._left.clear()
        if not self._silent:
            announcing = asyncio.ensure_future(self._announcement.make(channel.greeting, channel))
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
        """For a server that waits for its client: until there is one, which has been announced as any."""
        while True:
            await self._announcement.make(b"")
            if self._early:
                return
            self._spoke.clear()
            await self._spoke.wait()  # also when the connection was lost: the next must hear of this session too

    async def _linger(self, channel: Channel) -> bool:
        """Let the viewer read a server's last words, for as long as it does. True if it leaves by itself."""
        began = self._clock.now()
        # What cannot be told apart may be a hand that moves the mouse over a picture that is dead.
        while (left := min(max(began, channel.last_sign) + LINGER, began + STALL) - self._clock.now()) > 0:
            try:
                async with asyncio.timeout(left):
                    await self._left.wait()
                    return True
            except TimeoutError:
                pass
        return False

    async def _conclude(self, channel: Channel, ended: Ended) -> None:
        unfinished = ended.how is End.BROKEN or (channel.answered and ended.how is not End.LEFT)
        channel.close()
        self._multiplexer.released()
        if not unfinished:
            return
        if ended.how is End.LINK:
            self._announcement.owe("the agent's connection to the control plane broke: what was on its way may be lost")
        else:
            log.info("session %s: closing its viewer: %s", self.session.session_id, ended.why)
            await self._announcement.close_viewer(ended.why)
