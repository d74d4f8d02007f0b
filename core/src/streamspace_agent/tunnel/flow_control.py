"""How much may be on its way: to the control plane, and in its queue for viewers."""

from streamspace_agent.clock import Clock

MAX_CHUNK = 380 * 1024
"""VNC bytes of the largest message: with base64 and the envelope just under the control plane's limit of 512 KiB."""
SMALL_CHUNK = 64 * 1024
KEEPS_UP = 32
"""Unread messages from which on they are made as large as may be, and places left from which on downwards: a viewer behind shall
need few places in the queue, and the largest update there is (4K, uncompressed) must fit into what may be unread.
"""


def chunk(unread: int, places: int, window: int) -> int:
    """VNC bytes that the next message to a viewer may hold that has so many unread and may have so many more.

    A message that has begun holds up all others: where little may be on its way it shall be no more than a quarter of that.
    """
    large = unread >= KEEPS_UP or places <= KEEPS_UP
    return MAX_CHUNK if large else max(SMALL_CHUNK, min(MAX_CHUNK, window // 4))


def even(waiting: int, limit: int) -> int:
    """The size of the next message so that all that waits makes messages of one size: each costs about the same again."""
    return -(-waiting // -(-waiting // limit))


HOLD = 0.002


def hold(unread: int, places: int) -> float:
    """Seconds from one message to the next of a viewer that has so many unread and may have so many more, unless that is a full one.

    A server that takes seconds for one update says it in hundreds of pieces. Each sent at once, they would use up the places that
    the viewer may have, and it does not ask for more before it has the last.
    """
    return max(0, unread - KEEPS_UP, unread and KEEPS_UP - places) * HOLD


class Window:
    """VNC bytes sent that the control plane has not read yet; WebSocket pings between them tell.

    What waits in sockets delays every message behind it: key presses' echoes, acknowledgements, heartbeats. So no more is sent than keeps the
    way busy: the window grows while it is used up and pongs come back nearly as fast as on an idle link, and
    shrinks when they come later than that (as Vegas and LEDBAT do).
    """

    TARGET = 0.003
    """Seconds of delay by our own bytes that are accepted; a quarter of the fastest pong's time more, for long ways are uneven."""
    SMALLEST = 128 * 1024
    LARGEST = 4 * 1024**2
    FLOOR_LASTS = 30.0
    """Seconds after which the fastest pong is measured anew: routes change. The window is all but closed for that."""
    PROBE_EVERY = 0.002
    """Seconds between two pings, at the pace that the last pong showed: they cost both sides nearly as much as a message does."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.size = 512 * 1024
        self.in_flight = 0
        self._unprobed = 0
        self._probe_size = self.SMALLEST
        self._used_up = False
        self._floor = float("inf")
        self._floor_since = clock.now()
        self._size_before = 0
        """While the floor is measured anew: the size to go on with."""
        self._drained = 0.0
        """Since when no more than the smallest window is on its way: pings from then on measure the floor."""
        self._hold_until = 0.0

    @property
    def open(self) -> bool:
        if self.in_flight < self.size or self.in_flight == self._unprobed:  # with no pong to come, a message brings one
            return True
        self._used_up = True
        return False

    def sent(self, size: int) -> int:
        """Count a message. Returns how many bytes a ping sent now would vouch for; 0 when none is needed."""
        self.in_flight += size
        self._unprobed += size
        if self._unprobed < self._probe_size:
            return 0
        probe, self._unprobed = self._unprobed, 0
        return probe

    def answered(self, probe: int, latency: float) -> None:
        """The pong for ``probe`` bytes came ``latency`` seconds after its ping."""
        now = self._clock.now()
        self.in_flight -= probe
        self._probe_size = max(self.SMALLEST, min(self.size // 2, int(self.size * self.PROBE_EVERY / latency)))
        if self._size_before:
            if not self._drained and self.in_flight <= self.SMALLEST:
                self._drained = now
            elif self._drained and now - latency >= self._drained:
                self._floor, self._floor_since = latency, now
                self.size, self._size_before, self._drained = self._size_before, 0, 0.0
            return
        self._floor = min(self._floor, latency)
        if now - self._floor_since > self.FLOOR_LASTS:
            self.size, self._size_before = self.SMALLEST, self.size
        elif latency - self._floor > self.TARGET + self._floor / 4:
            if now >= self._hold_until:  # once a round trip: what is on its way was sent under the old size
                self.size = max(self.SMALLEST, self.size * 3 // 4)
                self._hold_until = now + latency
        elif self._used_up:
            self.size = min(self.LARGEST, self.size + SMALL_CHUNK)
        self._used_up = False


class Budget:
    """Messages that may lie in the control plane's queue for viewers, one queue for all, which drops what does not fit.

    Nobody tells what lies there, so all counts that no viewer has shown to have read (see :mod:`.rfb`). One tunnel
    may take half of what the others leave free (dynamic thresholds, Choudhury and Hahne 1998): one stuck
    viewer never blocks the rest, and the queue never fills.
    """

    LIMIT = 240
    """Of the 256 messages of the protocol; the rest is for those of viewers that have just left."""
    GREETINGS = 180
    """Of these, how many may be greetings that wait for their viewers; the sessions beyond that are shown to
    viewers one by one, as others are looked at or end.
    """

    def __init__(self) -> None:
        self.used = 0

    def allows(self, unread: int) -> bool:
        """Whether a tunnel with so many unread messages may send one more."""
        return unread < self.LIMIT - self.used

    def places(self, unread: int) -> int:
        """How many more a tunnel may send that has so many unread: each takes one of its share and one of what is free."""
        return max(0, self.LIMIT - self.used - unread + 1) // 2

    @property
    def allows_greeting(self) -> bool:
        return self.used < self.GREETINGS

    @property
    def scarce(self) -> bool:
        """Little enough is left for what is only supposed to be unread to matter."""
        return self.used > self.LIMIT // 2
