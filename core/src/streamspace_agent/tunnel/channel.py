"""One connection to a session's server: the bytes of one viewer, both ways."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

from streamspace_agent.elector.clock import Clock
from streamspace_agent.tunnel.pace import MAX_CHUNK, Budget
from streamspace_agent.tunnel.rfb import ClientStream, Said

BACKLOG = 512 * 1024
"""Bytes from the viewer that wait for the server before the next are held up."""
BACKLOG_PATIENCE = 1.0
"""Seconds that a server may take nothing of a full backlog; meanwhile nothing else is read from the control plane."""


class End(Enum):
    LEFT = auto()
    """The viewer left."""
    SERVER = auto()
    """The server closed the connection; all it said before has been sent."""
    LINK = auto()
    """The connection to the control plane broke: what was on its way may be lost."""
    BROKEN = auto()
    """The stream cannot be delivered whole any more."""


@dataclass(frozen=True, slots=True)
class Ended:
    how: End
    why: str = ""


class Channel:
    """``greeting`` is what the server said first; b"" for one that waits for its client.

    Nothing beyond the greeting leaves before the viewer has spoken: until then there may be none, and what nobody reads takes
    room in the control plane's queue from those who do. A server of RFB has nothing to say before that anyway.

    Memory is bounded: reading stops at one full message, and :data:`BACKLOG` holds for the other way.
    """

    def __init__(
        self,
        session_id: str,
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        greeting: bytes,
        *,
        budget: Budget,
        offer: Callable[["Channel"], None],
        clock: Clock,
    ) -> None:
        self.session_id = session_id
        self.greeting = greeting
        self.answered = not greeting
        """The viewer has spoken."""
        self.ended: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()
        self.last_sign = clock.now()
        """When the viewer last showed that it reads."""
        self._reader, self._writer = streams
        self._budget = budget
        self._offer = offer
        self._clock = clock
        self._viewer = ClientStream()
        self._head = bytearray(greeting)
        self._out = bytearray()
        self._unread = [0, 0]
        self._eof = ""
        self._room = asyncio.Event()
        self._pull = asyncio.create_task(self._read(), name=f"tunnel {session_id} reader")

    # From the server to the viewer

    async def _read(self) -> None:
        eof = "the session's server closed the connection"
        try:
            while data := await self._reader.read(MAX_CHUNK):
                if len(self._head) < 16:
                    self._head += data[: 16 - len(self._head)]
                    self._viewer.server_head = bytes(self._head)
                self._out += data
                self._offer_if_any()
                while len(self._out) >= MAX_CHUNK or not self.answered:
                    self._room.clear()
                    await self._room.wait()
        except OSError as error:
            eof = f"the connection to the session's server broke: {error}"
        self._eof = eof
        self._ended_by_server()

    def _ended_by_server(self) -> None:
        if self._eof and (not self._out or not self.answered):
            self.end(End.SERVER, self._eof)

    def _offer_if_any(self) -> None:
        if self._out and self.answered and not self.ended.done():
            self._offer(self)

    @property
    def waiting(self) -> int:
        """Bytes that wait to be sent to the viewer."""
        return len(self._out) if self.answered and not self.ended.done() else 0

    @property
    def unread(self) -> int:
        """Messages sent that the viewer has not shown to have read."""
        return sum(self._unread)

    @property
    def allowed(self) -> bool:
        return self._budget.allows(self.unread)

    def greeted(self) -> None:
        """The greeting was sent."""
        self._unread[1] += 1
        self._budget.used += 1

    def take(self, limit: int) -> bytes:
        """The next bytes for a message, at most ``limit``; counted as sent."""
        data = bytes(memoryview(self._out)[:limit])
        del self._out[: len(data)]
        self._unread[1] += 1
        self._budget.used += 1
        self._room.set()
        self._ended_by_server()
        return data

    def forget_sent(self) -> None:
        """The control plane holds nothing for this viewer any more."""
        self._budget.used -= self.unread
        self._unread = [0, 0]

    # From the viewer to the server

    def received(self, data: bytes) -> Said:
        """Pass the viewer's bytes on; returns what they showed."""
        said = self._viewer.feed(data)
        if not self._eof:
            self._writer.write(data)
        if Said.READ in said:
            # What it asks for now comes after an earlier update, which it has: but perhaps not yet all of the latest.
            self._budget.used -= self._unread[0]
            self._unread = [self._unread[1], 0]
            self.last_sign = self._clock.now()
        if not self.answered:
            self.answered = True
            self._room.set()
        self._offer_if_any()
        return said

    async def drained(self) -> None:
        """Wait while the server is far behind; one that takes nothing ends the channel."""
        backlog = self._writer.transport.get_write_buffer_size
        before = backlog()
        while before > BACKLOG and not self.ended.done():
            try:
                async with asyncio.timeout(BACKLOG_PATIENCE):
                    await self._writer.drain()
            except TimeoutError:
                if backlog() >= before:
                    self.end(End.BROKEN, "the session's server does not take the viewer's input")
            except OSError as error:
                self.end(End.BROKEN, f"the connection to the session's server broke: {error}")
            before = backlog()

    # The end

    def has_ended(self, *how: End) -> bool:
        return self.ended.done() and self.ended.result().how in how

    def renew(self) -> None:
        """Wait for the next viewer: nobody has spoken to the server yet."""
        self.forget_sent()
        self.ended = asyncio.get_running_loop().create_future()
        self._ended_by_server()

    def end(self, how: End, why: str = "") -> None:
        if not self.ended.done():
            self.ended.set_result(Ended(how, why))

    async def aclose(self) -> None:
        self.end(End.BROKEN, "closed")
        self.forget_sent()
        self._pull.cancel()
        await asyncio.gather(self._pull, return_exceptions=True)
        self._writer.transport.abort()
