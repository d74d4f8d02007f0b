"""Announces a session to the control plane: that a viewer may connect, and its server's greeting, exactly once."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from streamspace_agent.runtime import Session
from streamspace_agent.tunnel.channel import Channel
from streamspace_agent.tunnel.multiplexer import Multiplexer
from streamspace_agent.tunnel.tunnels import RENEWED

RETRY = 0.05
"""Seconds until a message that found no connection is sent again."""
ECHO = 0.1
"""Seconds within which the control plane reports that a viewer left, once it has read that it must be closed."""


@dataclass(slots=True)
class _Announced:
    connection: int
    greeting: bytes
    acknowledged: bool
    """The control plane has read it, so a viewer that leaves after this may have received it."""

    def acknowledge(self) -> None:
        self.acknowledged = True


@dataclass(eq=False)
class Announcement:
    """The announcement of one session.

    A greeting that no viewer has read stays valid when the connection to the server is made anew. It is not sent twice:
    two greetings would corrupt the next viewer's stream.
    """

    _session: Session
    _multiplexer: Multiplexer
    _closing: Callable[[], bool]
    """Drops what a viewer has sent early, and returns whether there was anything. Called when a viewer is closed, and
    once nothing more can arrive from it."""
    _pending_error: str
    """Sent before the next announcement, to a viewer that an earlier leader may have left; "" for none."""
    _closed: bool
    """The agent closed a viewer. Its ``vnc_close`` may still come, and must not be taken for the next viewer's."""
    _announced: _Announced | None = None

    async def announce(self, greeting: bytes, channel: Channel | None = None) -> None:
        """Tell the control plane that a viewer may connect, and send the channel's greeting unless it waits there
        already.

        Retries until it is done. May be cancelled at any moment.
        """
        session = self._session
        while True:
            number = await self._multiplexer.wait_up()
            if not await self._ready():
                await asyncio.sleep(RETRY)
                continue
            announced = self._announced
            if announced is not None and (announced.connection, announced.greeting) == (number, greeting):
                if channel is not None:
                    channel.greeted()
                return
            while not (channel is None or _unwanted(channel) or self._multiplexer.budget.allows_greeting):
                await asyncio.sleep(0.5)
            ready = {"sessionId": session.session_id, "vncPort": session.port, "podName": session.place}
            if _unwanted(channel):
                return
            if await self._multiplexer.send("vnc_ready", ready) and self._multiplexer.connection == number:
                if _unwanted(channel):
                    return
                if not (channel is None or self._multiplexer.budget.allows_greeting):
                    continue  # other greetings used up the budget meanwhile
                # Set before sending: the greeting is on its way even if this is cancelled while a slow socket takes it.
                announced = self._announced = _Announced(number, greeting, acknowledged=channel is None)
                if channel is None or await self._multiplexer.greet(channel, announced.acknowledge):
                    return
                self._announced = None
            await asyncio.sleep(RETRY)

    async def _ready(self) -> bool:
        """Wait until nothing more can arrive from a viewer that had to be closed. False if there is no connection."""
        if self._pending_error:
            await self.close_viewer(self._pending_error)
        if self._pending_error or (self._closed and not await self._multiplexer.acknowledged(ECHO)):
            return False
        if self._closed and self._closing():
            # Either it sent something before it was closed, or this is the next viewer, which would get no answer.
            await self.close_viewer(RENEWED)
            return False
        self._closed = False
        return True

    async def close_viewer(self, why: str) -> None:
        """Send ``vnc_error`` now, or as soon as there is a connection."""
        self._closing()
        self._announced = None
        self._closed = await self._multiplexer.send("vnc_error", {"sessionId": self._session.session_id, "error": why})
        self._pending_error = "" if self._closed else why

    @property
    def waiting(self) -> bool:
        """A greeting waits at the control plane, so a viewer may begin."""
        return self._announced is not None

    def set_pending_error(self, why: str) -> None:
        """Close a viewer that may still be there before the next announcement."""
        self._announced, self._pending_error = None, why

    def over(self) -> None:
        """No greeting waits any more: a viewer has received it, or the connection to the control plane is gone."""
        self._announced = None

    def left(self) -> bool:
        """A viewer left. False if that was an earlier one, so that the greeting still waits for the next."""
        if self._announced is not None and not self._announced.acknowledged:
            return False
        self._announced, self._closed = None, False
        return True


def _unwanted(channel: Channel | None) -> bool:
    """The channel has ended, or a viewer has the greeting already: a second one would corrupt its stream."""
    return channel is not None and (channel.answered or channel.ended.done())
