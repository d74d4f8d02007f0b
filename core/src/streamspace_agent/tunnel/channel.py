"""Carries the bytes of one viewer both ways, over one connection to a session's server."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

from streamspace_agent.clock import Clock
from streamspace_agent.tunnel.flow_control import MAX_CHUNK, Budget, chunk, even, hold
from streamspace_agent.tunnel.rfb import ClientActivity, ClientStream
from streamspace_agent.tunnel.stream import HEAD, LOW, Stream

PATIENCE = 0.25
SLOWEST = 4 * 1024**2
"""A server whose backlog is full has PATIENCE seconds, plus the time for its backlog at SLOWEST bytes a second, to
make room. Nothing else is read from the control plane meanwhile: no command, no other viewer's keys. A slower server
loses its viewer."""
QUIET, QUIET_PER_MESSAGE = 3.0, 0.3
"""Seconds of silence on both sides after which a viewer that asked for more is presumed to have read everything, plus
seconds for each message. Most viewers ask once they have the whole update; one that asks at its start, on a slow link,
has had this long for the rest."""
OPAQUE_SHARE = 64
OPAQUE_RATE = 6 * 1024**2
"""A viewer with an opaque stream shows that it is alive, but not what it has read. So OPAQUE_RATE bytes count as read
for each second that passed, at most one second at a time. While places are scarce, it may have OPAQUE_SHARE messages
unread."""


class End(Enum):
    LEFT = auto()
    """The viewer left."""
    SERVER = auto()
    """The server closed the connection; everything before that has been sent."""
    LINK = auto()
    """The connection to the control plane broke: bytes in flight may be lost."""
    BROKEN = auto()
    """The stream can no longer be delivered completely."""


@dataclass(frozen=True, slots=True)
class Ended:
    how: End
    why: str = ""


@dataclass(eq=False)
class Channel:
    """One viewer's connection.

    Nothing but the greeting is sent before the viewer has sent something: until then there may be no viewer, and unread
    messages take room in the control plane's queue. An RFB server sends nothing more before that anyway.

    Memory is bounded: towards the viewer by one full message, towards the server by :data:`.stream.BACKLOG`.
    """

    session_id: str
    _stream: Stream
    greeting: bytes
    """The server's first bytes; b"" for a server that waits for its client."""
    _budget: Budget
    _offer: Callable[["Channel"], None]
    _clock: Clock
    stepwise: bool
    """The viewer gets one update per request (:meth:`fall_silent`). Each message must be confirmed before the next."""

    def __post_init__(self) -> None:
        self.answered = not self.greeting
        """The viewer has sent something."""
        self.ended: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()
        self.last_read_sign = self._clock.now()
        """When the viewer last showed that it reads."""
        self._unanswered_since = self.last_read_sign
        """When the first message after that was sent."""
        self._sizes: deque[int] = deque()
        """Sizes of the unread messages, oldest first."""
        self._credit = 0.0
        """Bytes that a viewer with an opaque stream may have read beyond those counted."""
        self._viewer = ClientStream(filtered=self.stepwise)
        self._unread = [0, 0]
        self.last_sent = self._last_arrived = self._clock.now()
        """``last_sent``: the clock time of the last message to the viewer."""
        self.spoken = 0
        """Bytes sent to the viewer beyond the greeting."""
        self.held = False
        """Nothing is sent to the viewer for now."""
        self.steps = 0
        """Messages sent, probes included."""
        self._confirmed = 0
        """How many of them the viewer has read, or would have been reported gone after. The next message waits for
        this."""
        self.deadline = float("inf")
        """The clock time after which nothing may be sent to the viewer."""
        self._stream.arrived = self._arrived
        self._arrived()

    # From the server to the viewer

    def _arrived(self) -> None:
        self._last_arrived = self._clock.now()
        if len(self._viewer.server_head) < HEAD:
            self._viewer.server_head = (self.greeting + self._stream.head)[:HEAD]
        self._offer_if_any()
        self._ended_by_server()

    def _ended_by_server(self) -> None:
        if self._stream.ended and (not self._stream.waiting or not self.answered):
            self.end(End.SERVER, self._stream.ended)

    def _offer_if_any(self) -> None:
        if self.waiting:
            self._offer(self)

    @property
    def waiting(self) -> int:
        """Bytes that wait to be sent to the viewer."""
        free = self.answered and not self.held and (self.confirmed or not self.stepwise) and not self.ended.done()
        return self._stream.waiting if free else 0

    @property
    def unread(self) -> int:
        """Number of sent messages that the viewer has not shown to have read."""
        return sum(self._unread)

    @property
    def unread_bytes(self) -> int:
        return sum(self._sizes)

    @property
    def sent_since_read(self) -> int:
        """Messages sent since the viewer last showed that it reads."""
        return self._unread[1]

    @property
    def quiet_for(self) -> float:
        """Seconds since the server's last bytes arrived and were sent on; 0 while some wait."""
        return 0.0 if self._stream.waiting else self._clock.now() - max(self._last_arrived, self.last_sent)

    @property
    def silence(self) -> float:
        """Seconds for which the viewer has been due to show that it reads; 0 if nothing was sent since it did."""
        owes = self._unread[1] or (self.unread and self.waiting)
        return self._clock.now() - self._unanswered_since if owes else 0.0

    @property
    def allowed(self) -> bool:
        return (
            self._budget.allows(self.unread)
            and not (self._confined and self.unread >= OPAQUE_SHARE)
            and self._clock.now() < self.deadline
        )

    @property
    def _places(self) -> int:
        places = self._budget.places(self.unread)
        return min(places, OPAQUE_SHARE - self.unread) if self._confined else places

    @property
    def _confined(self) -> bool:
        return self._viewer.opaque and self._budget.scarce

    def size(self, window: int) -> int:
        """VNC bytes of the next message, if ``window`` bytes may be in flight."""
        return MAX_CHUNK if self.stepwise else even(self.waiting, chunk(self.unread, self._places, window))

    @property
    def early(self) -> float:
        """Seconds to wait for more bytes to send in the same message."""
        pause = 0.0 if self.waiting >= MAX_CHUNK else hold(self.unread, self._places)
        return pause and self.last_sent + pause - self._clock.now()

    def greeted(self) -> None:
        self._sent(len(self.greeting))

    def _sent(self, size: int) -> None:
        self._unread[1] += 1
        self._sizes.append(size)
        self._budget.used += 1

    def take(self, limit: int) -> memoryview:
        """The next bytes, at most ``limit``, counted as sent. Valid until control returns to the event loop."""
        data = self._stream.take(limit)
        self.last_sent = self._clock.now()
        if not self._unread[1]:
            self._unanswered_since = self.last_sent
        self._sent(len(data))
        self.steps += 1
        self.spoken += len(data)
        self._ended_by_server()
        return data

    def presume_read(self) -> bool:
        """Count all messages as read if the viewer asked for more and has long been silent. True if that made room."""
        unread, more = self._unread
        if not unread or more or self.waiting or not self.answered or self._viewer.opaque:
            return False
        if self._clock.now() - max(self.last_read_sign, self.last_sent) < QUIET + QUIET_PER_MESSAGE * unread:
            return False
        self.forget_sent()
        return True

    def forget_sent(self) -> None:
        """Count all messages as read: the control plane holds none for this viewer any more."""
        self._budget.used -= self.unread
        self._unread = [0, 0]
        self._sizes.clear()

    # From the viewer to the server

    def received(self, data: bytes) -> ClientActivity:
        """Pass the viewer's bytes to the server; returns what they show."""
        activity = self._viewer.feed(data)
        self._stream.write(self._viewer.passed() if self.stepwise else data)
        if ClientActivity.READ in activity:
            self._confirmed = self.steps
            before, self.last_read_sign = self.last_read_sign, self._clock.now()
            self._unanswered_since = self.last_read_sign
            if self._viewer.opaque:
                self._credit = min(OPAQUE_RATE, self._credit + (self.last_read_sign - before) * OPAQUE_RATE)
                self._has_read(self._affordable())
            else:
                # What it asks for now comes after an earlier update, which it has: but perhaps not yet all of the
                # latest.
                self._has_read(self._unread[0])
                self._unread = [self._unread[1], 0]
        self.answered = True
        self._offer_if_any()
        return activity

    def _has_read(self, messages: int) -> None:
        earlier = min(messages, self._unread[0])
        self._unread = [self._unread[0] - earlier, self._unread[1] - (messages - earlier)]
        self._budget.used -= messages
        for _ in range(messages):
            self._sizes.popleft()

    def _affordable(self) -> int:
        """How many of the oldest messages the credit is enough for; it is spent on them."""
        count = 0
        for size in self._sizes:
            if size > self._credit:
                break
            self._credit -= size
            count += 1
        return count

    async def drained(self) -> None:
        """Wait while the server's backlog is full; a server that is too slow ends the channel."""
        stream = self._stream
        if stream.writable or stream.ended or self.ended.done():
            return
        try:
            async with asyncio.timeout(PATIENCE + (stream.backlog - LOW) / SLOWEST):
                await stream.drained()
        except TimeoutError:
            self.end(End.BROKEN, "the session's server is too slow for the viewer's input")

    @property
    def confirmed(self) -> bool:
        return self._confirmed >= self.steps

    def sent_own(self) -> None:
        self.steps += 1

    def confirm(self, steps: int) -> None:
        """Confirm messages whose viewer would have been reported gone by now."""
        self._confirmed = max(self._confirmed, steps)

    def hold(self, held: bool) -> None:
        self.held = held
        self._offer_if_any()

    # The end

    def fall_silent(self) -> None:
        """Request no further update, so that the stream comes to the end of a message; only with ``filtered``."""
        self._viewer.hold_requests = True

    def has_ended(self, *how: End) -> bool:
        return self.ended.done() and self.ended.result().how in how

    def renew(self) -> None:
        """Make it ready for the next viewer: no viewer has sent anything to the server yet."""
        self.forget_sent()
        self.ended = asyncio.get_running_loop().create_future()
        self._ended_by_server()

    def end(self, how: End, why: str = "") -> None:
        if not self.ended.done():
            self.ended.set_result(Ended(how, why))

    def close(self) -> None:
        self.end(End.BROKEN, "closed")
        self.forget_sent()
        self._stream.abort()
