"""What the control plane holds of a session for its next viewer: that it may come, and its server's greeting, exactly once."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from streamspace_agent.runtime import Session
from streamspace_agent.tunnel.channel import Channel
from streamspace_agent.tunnel.multiplexer import Multiplexer

RETRY = 0.05
"""Seconds until something that found no connection is tried again."""
RENEWED = "the connection to the session is being renewed: try again"
ECHO = 0.1
"""Seconds from the control plane's having read that a viewer is to be closed until it has told us that this viewer left."""


@dataclass(slots=True)
class _Told:
    connection: int
    greeting: bytes
    there: bool
    """The control plane has read it: a viewer of whom is said after this that it left may have read it, too."""

    def arrived(self) -> None:
        self.there = True


class Announcement:
    """One session's. A greeting that lies at the control plane unread stays good if the server's connection has to be made anew,
    and is not sent twice: two would corrupt the next viewer's stream.
    """

    def __init__(
        self, session: Session, multiplexer: Multiplexer, closing: Callable[[], bool], owed: str, *, closed: bool
    ) -> None:
        """``closing`` is called when a viewer is closed, and again when no more can come of it; ``owed`` is told first to one that an earlier leader left there, "" for nothing."""
        self._session = session
        self._multiplexer = multiplexer
        self._closing = closing
        self._owed = owed
        self._told: _Told | None = None
        self._closed = closed
        """A viewer was closed by us; that it has left may still be told, and must not be taken for the next one's leaving."""

    async def make(self, greeting: bytes, channel: Channel | None = None) -> None:
        """Tell the control plane that a viewer may connect, with the channel's greeting, unless that waits there already.

        Returns when it is done, however long that takes; may be cancelled at any moment.
        """
        session = self._session
        while True:
            number = await self._multiplexer.up()
            if not await self._settled():
                await asyncio.sleep(RETRY)
                continue
            told = self._told
            if told is not None and (told.connection, told.greeting) == (number, greeting):
                if channel is not None:
                    channel.greeted()
                return
            while not (channel is None or _unwanted(channel) or self._multiplexer.budget.allows_greeting):
                await asyncio.sleep(0.5)
            ready = {"sessionId": session.session_id, "vncPort": session.port, "podName": session.place}
            if _unwanted(channel):
                return
            if await self._multiplexer.tell("vnc_ready", ready) and self._multiplexer.connection == number:
                if _unwanted(channel):
                    return
                if not (channel is None or self._multiplexer.budget.allows_greeting):
                    continue  # others were faster while that was told
                # Before it is sent: it is on its way from the first moment, also where this is cancelled in a slow socket.
                told = self._told = _Told(number, greeting, there=channel is None)
                if channel is None or await self._multiplexer.greet(channel, told.arrived):
                    return
                self._told = None
            await asyncio.sleep(RETRY)

    async def _settled(self) -> bool:
        """Wait until nothing is heard any more of a viewer that had to be closed. False when there is no connection."""
        if self._owed:
            await self.close_viewer(self._owed)
        if self._owed or (self._closed and not await self._multiplexer.heard(ECHO)):
            return False
        if self._closed and self._closing():
            # It said something before it heard of that; or it is the next, which would wait in vain for an answer.
            await self.close_viewer(RENEWED)
            return False
        self._closed = False
        return True

    async def close_viewer(self, why: str) -> None:
        """Now, or as soon as there is a connection."""
        self._closing()
        self._told = None
        self._closed = await self._multiplexer.tell("vnc_error", {"sessionId": self._session.session_id, "error": why})
        self._owed = "" if self._closed else why

    @property
    def waits(self) -> bool:
        """A greeting lies there, so a viewer may begin."""
        return self._told is not None

    def owe(self, why: str) -> None:
        """A viewer that may still be there is to be closed before the next announcement."""
        self._told, self._owed = None, why

    def used(self) -> None:
        """A viewer has the greeting."""
        self._told = None

    def lost(self) -> None:
        """The connection to the control plane is gone, and what it held with it."""
        self._told = None

    def left(self) -> bool:
        """The control plane says that a viewer left. False where that is about an earlier one, and the greeting waits for the next."""
        if self._told is not None and not self._told.there:
            return False
        self._told, self._closed = None, False
        return True


def _unwanted(channel: Channel | None) -> bool:
    """It has ended meanwhile, or a viewer has taken the greeting that lay there already: another would corrupt its stream."""
    return channel is not None and (channel.answered or channel.ended.done())
