"""The two Go channels of the deployed relay: an agent's queue of messages, and a viewer's stop signal."""

import asyncio
import enum
from collections import deque
from collections.abc import Callable

from streamspace_devplane.store import Row

Message = tuple[str, Row]
STOP = None
"""What a relay takes instead of a message if it gets the stop signal."""
Taken = asyncio.Future[Message | None]


class Messages:
    """The queue of the `vnc_*` messages of one agent's connection, for all its sessions; it outlives that connection.

    Relays that wait for a message are served in order.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.waiting: deque[Message] = deque()
        self._takers: deque[Taken] = deque()

    def put(self, message: Message) -> bool:
        """Returns `False` if the queue is full: the message is lost."""
        while self._takers:
            taker = self._takers.popleft()
            if not taker.done():
                taker.set_result(message)
                return True
        if len(self.waiting) >= self.limit:
            return False
        self.waiting.append(message)
        return True

    def take(self, taker: Taken) -> bool:
        """Give `taker` a message, or let it wait in line for one; returns whether it has one now."""
        if self.waiting:
            taker.set_result(self.waiting.popleft())
            return True
        self._takers.append(taker)
        return False


class Routine(enum.Enum):
    """The routines that wait for a viewer's stop signal."""

    RELAY = "relay"
    PING = "ping"
    ACTIVITY = "activity"


class StopSignal:
    """An unbuffered channel with three receivers: each signal wakes one routine, the one that has waited longest."""

    def __init__(self, ended: Callable[[Routine], None]) -> None:
        self._ended = ended
        self._line = deque((Routine.PING, Routine.ACTIVITY))
        self._relay: Taken | None = None
        self.pending = 0
        """Signals that no routine has taken yet."""

    def wait(self, taker: Taken, *, first: bool) -> bool:
        """Let the relay wait, at the end of the line or as the first; returns whether a signal was there already."""
        if self.pending:
            self.pending -= 1
            taker.set_result(STOP)
            return True
        self.leave(Routine.RELAY)
        self._relay = taker
        (self._line.appendleft if first else self._line.append)(Routine.RELAY)
        return False

    def leave(self, routine: Routine) -> None:
        """A routine does something else now, such as to ping."""
        if routine in self._line:
            self._line.remove(routine)

    def again(self, routine: Routine) -> None:
        """A routine waits again, behind all others."""
        self.leave(routine)
        self._line.append(routine)

    def send(self) -> None:
        while self._line:
            routine = self._line.popleft()
            if routine is not Routine.RELAY:
                self._ended(routine)
                return
            if self._relay and not self._relay.done():  # else it has got a message meanwhile
                self._relay.set_result(STOP)
                return
        self.pending += 1
