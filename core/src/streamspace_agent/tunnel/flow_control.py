"""Limits the bytes in flight to the control plane, and the messages in its queue for viewers."""

from streamspace_agent.clock import Clock

MAX_CHUNK = 380 * 1024
"""VNC bytes of the largest message: in base64 and its envelope, just under the control plane's limit of 512 KiB."""
SMALL_CHUNK = 64 * 1024
KEEPS_UP = 32
"""Messages get the full size from this many unread ones on, or when this few places are left: a slow viewer must not
take many places in the queue, and the largest update (4K, uncompressed) must fit in what may be unread."""


def chunk(unread: int, places: int, window: int) -> int:
    """The largest size in VNC bytes of a viewer's next message.

    ``unread``: messages that the viewer has not read; ``places``: messages that it may still be sent; ``window``: bytes
    that may be in flight. A message delays all others behind it, so it takes at most a quarter of a small window.
    """
    large = unread >= KEEPS_UP or places <= KEEPS_UP
    return MAX_CHUNK if large else max(SMALL_CHUNK, min(MAX_CHUNK, window // 4))


def even(waiting: int, limit: int) -> int:
    """Split ``waiting`` bytes into messages of equal size, at most ``limit``: each message has a fixed cost."""
    return -(-waiting // -(-waiting // limit))


HOLD = 0.002


def hold(unread: int, places: int) -> float:
    """Seconds between two messages to a viewer, unless a full one is ready. Parameters as of :func:`chunk`.

    A slow server sends one update in hundreds of pieces. Sent at once, they would use up the viewer's places, and it
    asks for more only after the last one.
    """
    return max(0, unread - KEEPS_UP, unread and KEEPS_UP - places) * HOLD


class Window:
    """Limits the VNC bytes that the control plane has not read yet, measured by WebSocket pings between messages.

    Bytes in socket buffers delay every message behind them: echoes of keys, acknowledgements, heartbeats. So only as
    much is sent as keeps the link busy. The window grows while it is used up and pongs return nearly as fast as on an
    idle link, and shrinks when they return later (as TCP Vegas and LEDBAT do). No fixed size serves both a long fast
    link, which needs megabytes, and a slow one, where 512 KiB would be a delay of seconds.
    """

    TARGET = 0.003
    """Accepted delay in seconds by our own bytes, plus a quarter of the fastest round trip, since long routes vary."""
    SMALLEST = 128 * 1024
    LARGEST = 4 * 1024**2
    FLOOR_LASTS = 30.0
    """Seconds after which the fastest round trip is measured anew, with a nearly closed window: routes change."""
    PROBE_EVERY = 0.002
    """Seconds between two pings at the current rate: a ping costs both sides nearly as much as a message."""

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
        """The size to return to while the floor is measured anew."""
        self._drained = 0.0
        """When the bytes in flight fell to the smallest window: pings from then on measure the floor."""
        self._hold_until = 0.0

    @property
    def open(self) -> bool:
        # no pong is outstanding: a message brings one
        if self.in_flight < self.size or self.in_flight == self._unprobed:
            return True
        self._used_up = True
        return False

    def sent(self, size: int) -> int:
        """Count a message. Returns the bytes that a ping sent now would acknowledge; 0 if none is needed."""
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
            if now >= self._hold_until:  # once per round trip: what is in flight was sent under the old size
                self.size = max(self.SMALLEST, self.size * 3 // 4)
                self._hold_until = now + latency
        elif self._used_up:
            self.size = min(self.LARGEST, self.size + SMALL_CHUNK)
        self._used_up = False


class Budget:
    """Limits the messages in the control plane's queue for viewers: one queue for all, which drops what does not fit.

    Its length is unknown, so every message counts that no viewer has shown to have read (see :mod:`.rfb`). One tunnel
    may take half of what the others leave free (dynamic thresholds, Choudhury and Hahne 1998), so that a stuck viewer
    never blocks the others and the queue never fills.
    """

    LIMIT = 240
    """Of the queue's 256 messages; the rest is for messages to viewers that have just left."""
    GREETINGS = 180
    """How many of these may be greetings that wait for their viewers. Further sessions are announced one by one, as
    others are viewed or end."""

    def __init__(self) -> None:
        self.used = 0

    def allows(self, unread: int) -> bool:
        """Whether a tunnel with this many unread messages may send one more."""
        return unread < self.LIMIT - self.used

    def places(self, unread: int) -> int:
        """How many more messages a tunnel may send: each takes one of its share and one of the free places."""
        return max(0, self.LIMIT - self.used - unread + 1) // 2

    @property
    def allows_greeting(self) -> bool:
        return self.used < self.GREETINGS

    @property
    def scarce(self) -> bool:
        """More than half is in use, so messages that are only presumed unread matter."""
        return self.used > self.LIMIT // 2
