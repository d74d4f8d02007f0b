"""One connection to a session's server: the bytes of one viewer, both ways."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

from streamspace_agent.clock import Clock
from streamspace_agent.tunnel.flow_control import MAX_CHUNK, Budget, chunk, even, hold
from streamspace_agent.tunnel.rfb import ClientStream, Said
from streamspace_agent.tunnel.stream import HEAD, LOW, Stream

PATIENCE = 0.25
SLOWEST = 4 * 1024**2
"""A server with a full backlog may take so many seconds, and one more for so many bytes a second, until there is room again. Nothing
else is read from the control plane meanwhile: no command, no other viewer's keys. A slower one is not waited for.
"""
SETTLED, SETTLES = 3.0, 0.3
"""Seconds of silence on both sides, after a viewer has asked for more, until it is taken to have read all, and how many more for each
message: most ask once they have the whole update; one that asks where it begins, on a slow way, has had this long for the rest.
"""
FOREIGN_SHARE = 64
FOREIGN_RATE = 6 * 1024**2
"""A viewer whose words cannot be told apart shows with each that it lives, but not what it has read: so many bytes count as read for
each second that passed, though not for more than one. Where places are scarce it may have so many messages unread.
"""


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

    Memory is bounded: reading stops at one full message, and :data:`.stream.BACKLOG` holds for the other way.
    """

    def __init__(
        self,
        session_id: str,
        stream: Stream,
        greeting: bytes,
        *,
        budget: Budget,
        offer: Callable[["Channel"], None],
        clock: Clock,
        filtered: bool = False,
    ) -> None:
        """``filtered``: the viewer gets one update for each request and no more, one message at a time, and
        :meth:`fall_silent` works.
        """
        self.session_id = session_id
        self.greeting = greeting
        self.answered = not greeting
        """The viewer has spoken."""
        self.ended: asyncio.Future[Ended] = asyncio.get_running_loop().create_future()
        self.last_sign = clock.now()
        """When the viewer last showed that it reads."""
        self._owes_since = self.last_sign
        """When the first message was sent after that."""
        self._sizes: deque[int] = deque()
        """Of the messages that are unread, the oldest first."""
        self._credit = 0.0
        """Bytes that a foreign viewer may have read beyond what was counted."""
        self._stream = stream
        self._budget = budget
        self._offer = offer
        self._clock = clock
        self._filtered = filtered
        self._viewer = ClientStream(filtered=filtered)
        self._unread = [0, 0]
        self._last_sent = self._last_arrived = clock.now()
        self.spoken = 0
        """Bytes sent to the viewer beyond the greeting."""
        self.held = False
        """Nothing more is sent to the viewer, for now."""
        self.steps = 0
        """Messages sent, probes among them."""
        self._confirmed = 0
        """So many of them the viewer has read, or the control plane has had the time to say that it is gone. The next waits for that."""
        self.deadline = float("inf")
        """The clock's time after which nothing more may be sent to the viewer."""
        stream.arrived = self._arrived
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
        free = self.answered and not self.held and (self.settled or not self._filtered) and not self.ended.done()
        return self._stream.waiting if free else 0

    @property
    def unread(self) -> int:
        """Messages sent that the viewer has not shown to have read."""
        return sum(self._unread)

    @property
    def unread_bytes(self) -> int:
        """Bytes in those messages."""
        return sum(self._sizes)

    @property
    def sent_since_sign(self) -> int:
        """Messages sent since the viewer last showed that it reads."""
        return self._unread[1]

    @property
    def last_sent(self) -> float:
        """When the last message was sent to the viewer, by the clock."""
        return self._last_sent

    @property
    def quiet_for(self) -> float:
        """Seconds for which the server has said nothing, all it said before having been sent; 0 while something waits."""
        return 0.0 if self._stream.waiting else self._clock.now() - max(self._last_arrived, self._last_sent)

    @property
    def silence(self) -> float:
        """Seconds for which the viewer has owed a sign that it reads; 0 for one that has all that there is, since its last."""
        owes = self._unread[1] or (self.unread and self.waiting)
        return self._clock.now() - self._owes_since if owes else 0.0

    @property
    def allowed(self) -> bool:
        return (
            self._budget.allows(self.unread)
            and not (self._confined and self.unread >= FOREIGN_SHARE)
            and self._clock.now() < self.deadline
        )

    @property
    def _places(self) -> int:
        places = self._budget.places(self.unread)
        return min(places, FOREIGN_SHARE - self.unread) if self._confined else places

    @property
    def _confined(self) -> bool:
        return self._viewer.foreign and self._budget.scarce

    def size(self, window: int) -> int:
        """VNC bytes of the next message, where so many may be on their way."""
        return MAX_CHUNK if self._filtered else even(self.waiting, chunk(self.unread, self._places, window))

    @property
    def early(self) -> float:
        """Seconds for which more is waited for, to be sent in the same message."""
        pause = 0.0 if self.waiting >= MAX_CHUNK else hold(self.unread, self._places)
        return pause and self._last_sent + pause - self._clock.now()

    def greeted(self) -> None:
        """The greeting was sent."""
        self._sent(len(self.greeting))

    def _sent(self, size: int) -> None:
        self._unread[1] += 1
        self._sizes.append(size)
        self._budget.used += 1

    def take(self, limit: int) -> memoryview:
        """The next bytes for a message, at most ``limit``; counted as sent. Good until control goes back to the event loop."""
        data = self._stream.take(limit)
        self._last_sent = self._clock.now()
        if not self._unread[1]:
            self._owes_since = self._last_sent
        self._sent(len(data))
        self.steps += 1
        self.spoken += len(data)
        self._ended_by_server()
        return data

    def settle(self) -> bool:
        """Count all as read if the viewer has been silent for long enough after it asked for more. True if that made room."""
        unread, more = self._unread
        if not unread or more or self.waiting or not self.answered or self._viewer.foreign:
            return False
        if self._clock.now() - max(self.last_sign, self._last_sent) < SETTLED + SETTLES * unread:
            return False
        self.forget_sent()
        return True

    def forget_sent(self) -> None:
        """The control plane holds nothing for this viewer any more."""
        self._budget.used -= self.unread
        self._unread = [0, 0]
        self._sizes.clear()

    # From the viewer to the server

    def received(self, data: bytes) -> Said:
        """Pass the viewer's bytes on; returns what they showed."""
        said = self._viewer.feed(data)
        self._stream.write(self._viewer.passed() if self._filtered else data)
        if Said.READ in said:
            self._confirmed = self.steps
            before, self.last_sign = self.last_sign, self._clock.now()
            self._owes_since = self.last_sign
            if self._viewer.foreign:
                self._credit = min(FOREIGN_RATE, self._credit + (self.last_sign - before) * FOREIGN_RATE)
                self._has_read(self._affordable())
            else:
                # What it asks for now comes after an earlier update, which it has: but perhaps not yet all of the latest.
                self._has_read(self._unread[0])
                self._unread = [self._unread[1], 0]
        self.answered = True
        self._offer_if_any()
        return said

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
        """Wait while the server is far behind; one that is too slow ends the channel."""
        stream = self._stream
        if stream.writable or stream.ended or self.ended.done():
            return
        try:
            async with asyncio.timeout(PATIENCE + (stream.backlog - LOW) / SLOWEST):
                await stream.drained()
        except TimeoutError:
            self.end(End.BROKEN, "the session's server is too slow for the viewer's input")

    @property
    def stepwise(self) -> bool:
        """Each message has to be confirmed before the next is sent."""
        return self._filtered

    @property
    def settled(self) -> bool:
        """Every message has been confirmed."""
        return self._confirmed >= self.steps

    def said(self) -> None:
        """A message of the agent's own is sent to the viewer."""
        self.steps += 1

    def confirm(self, steps: int) -> None:
        """The control plane has had the time to say that the viewer is gone, up to that message."""
        self._confirmed = max(self._confirmed, steps)

    def hold(self, held: bool) -> None:
        """Send nothing more to the viewer, or go on."""
        self.held = held
        self._offer_if_any()

    # The end

    def fall_silent(self) -> None:
        """Ask the server for no further update, so that its stream comes to the end of a message; only where ``filtered``."""
        self._viewer.hold_requests = True

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

    def close(self) -> None:
        self.end(End.BROKEN, "closed")
        self.forget_sent()
        self._stream.abort()
