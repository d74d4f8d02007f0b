"""What the deployed control plane's routines wait on: an agent's queue of messages, and a viewer's stop signal."""

import asyncio
import enum
from collections import deque
from collections.abc import Callable

from streamspace_devplane.store import Row

Message = tuple[str, Row]
STOP = None
"""What a relay takes instead of a message once the stop signal is its own."""
Taken = asyncio.Future[Message | None]


class Messages:
    """`vnc_ready`, `vnc_data` and `vnc_error` of all sessions of one agent's connection; it outlives that connection.

    Relays are served in the order in which they came to wait.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.waiting: deque[Message] = deque()
        self._takers: deque[Taken] = deque()

    def put(self, message: Message) -> bool:
        """`False`: it was full, and the message is lost."""
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
        """Whether it has a message now; if not, it waits in line for one."""
        if self.waiting:
            taker.set_result(self.waiting.popleft())
            return True
        self._takers.append(taker)
        return False


class Routine(enum.Enum):
    """Who waits for a viewer's stop signal."""

    RELAY = "relay"
    PING = "ping"
    ACTIVITY = "activity"


class StopSignal:
    """One signal wakes one routine, the one that has waited longest. (It is an unbuffered channel with three receivers.)"""

    def __init__(self, ended: Callable[[Routine], None]) -> None:
        self._ended = ended
        self._line = deque((Routine.PING, Routine.ACTIVITY))
        self._relay: Taken | None = None
        self.unheard = 0
        """Signals that wait for somebody to take them."""

    def wait(self, taker: Taken, *, first: bool) -> bool:
        """The relay waits, at the end of the line or before all others; whether a signal was there already."""
        if self.unheard:
            self.unheard -= 1
            taker.set_result(STOP)
            return True
        self.leave(Routine.RELAY)
        self._relay = taker
        (self._line.appendleft if first else self._line.append)(Routine.RELAY)
        return False

    def leave(self, routine: Routine) -> None:
        """It does something else now, such as to ping."""
        if routine in self._line:
            self._line.remove(routine)

    def again(self, routine: Routine) -> None:
        """It waits again, behind all others."""
        self.leave(routine)
        self._line.append(routine)

    def send(self) -> None:
        while self._line:
            routine = self._line.popleft()
            if routine is not Routine.RELAY:
                self._ended(routine)
                return
            if self._relay and not self._relay.done():  # else it has a message, and waits no longer
                self._relay.set_result(STOP)
                return
        self.unheard += 1
