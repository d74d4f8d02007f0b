"""Tells what a person does in a web desktop from what its page sends by itself.

* A request other than GET with a body, and the loading of a page, are a person's. A page's own GETs are not.
* On a WebSocket, pings and pongs are the browser's own. If it carries RFB (noVNC), only keys and the pointer count.
* Any other message counts, unless its kind is a heartbeat: see :class:`Heartbeats`.

What cannot be told apart counts as a person's: a session may be hibernated too late, never while somebody uses it.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

import h11

from streamspace_agent.tunnel.rfb import VERSION, ClientActivity, ClientStream
from streamspace_gateway.headers import has_body, value

WINDOW = 60.0
"""Seconds over which gaps are measured."""
STEADY = 3
"""A kind of message that has been regular for so many windows in a row is a heartbeat."""
NEAR = 0.9
"""The share of its gaps that must lie between half and one and a half of the usual gap. A typist's share is 2/3."""
MAX_KINDS = 64
"""Kinds of message remembered for each session."""
SMALL = 4096
"""Bytes of a WebSocket message that is inspected; a larger one is a person's (pasted text, a file)."""
FLOOD = 32 * 1024
"""Bytes inspected in one read, each frame counted as 16 more. No page sends so many small messages at once."""

_READS = frozenset({b"GET", b"HEAD", b"OPTIONS"})
_DIGITS = re.compile(rb"\d+")


@dataclass(slots=True)
class _Kind:
    began: float
    last: float
    gap: float = 0.0
    """The usual gap, measured in the window before; 0 if there was none."""
    count: int = 0
    near: int = 0
    regular: int = 0
    """Windows in a row in which it was regular."""

    def is_near(self, gap: float) -> bool:
        return self.gap == 0.0 or self.gap / 2 <= gap <= self.gap * 1.5

    def end_window(self, now: float) -> None:
        length = now - self.began
        if length >= 2 * WINDOW:  # there was a window without any
            self.regular = 0
            self.gap = 0.0
        else:
            gaps = self.count  # the one that ends the window counts
            near = self.near + self.is_near(now - self.last)
            self.regular = self.regular + 1 if self.gap and near >= NEAR * gaps else 0
            self.gap = length / gaps
        self.began, self.count, self.near = now, 0, 0


class Heartbeats:
    """Recognises a page's heartbeats: they come at even gaps of up to a minute, for minutes on end.

    Heartbeats of a kind differ in numbers only (a counter, a time). Messages of a kind count as a person's until it has
    been regular for three windows of a minute, and again as soon as it misses one.
    """

    def __init__(self) -> None:
        self._kinds: dict[bytes, _Kind] = {}

    def is_person(self, kind: bytes, now: float) -> bool:
        """Note a message of this kind (a short key), and return whether a person sent it."""
        known = self._kinds.pop(kind, None) or _Kind(now, now)
        if now - known.began >= WINDOW:
            known.end_window(now)
        elif known.count:
            known.near += known.is_near(now - known.last)
        known.count += 1
        known.last = now
        self._kinds[kind] = known  # the most recent last
        if len(self._kinds) > MAX_KINDS:
            del self._kinds[next(iter(self._kinds))]
        return known.regular < STEADY


def is_by_person(request: h11.Request, heartbeats: Heartbeats, now: float) -> bool:
    """Whether a person made the request."""
    if request.method in _READS:
        return value(request.headers, b"sec-fetch-mode").lower() == b"navigate"
    if not has_body(request):
        return False
    path = request.target.partition(b"?")[0]
    digits = len(value(request.headers, b"content-length"))
    return heartbeats.is_person(b"%s %s %d" % (request.method, _DIGITS.sub(b"#", path[:100]), digits), now)


class FromBrowser:
    """Watches what the browser sends on one WebSocket (its frames: RFC 6455, section 5.2) as it passes by."""

    def __init__(self, heartbeats: Heartbeats, now: Callable[[], float], saw_person: Callable[[], None]) -> None:
        self._heartbeats = heartbeats
        self._now = now
        self._saw_person = saw_person
        self._held = bytearray()
        self._skip = 0
        self._frames = 0
        self._left = 0
        """Bytes that may still be inspected in this read."""
        self._flooded = False
        self._rfb: ClientStream | None = None

    def feed(self, data: bytes) -> None:
        """After a flood nothing is inspected any more, since that would hold up the agent: everything counts."""
        if self._flooded:
            self._saw_person()
            return
        if self._skip >= len(data):
            self._skip -= len(data)
            return
        self._held += data[self._skip :] if self._skip else data
        self._skip = 0
        self._left = FLOOD
        while self._left > 0 and self._frame():
            pass
        if self._left <= 0:
            self._flooded = True
            self._held.clear()
            self._saw_person()

    def _frame(self) -> bool:
        """Inspect the next complete frame; False if there is none yet."""
        held = self._held
        if len(held) < 2:
            return False
        masked, size, start = bool(held[1] & 0x80), held[1] & 0x7F, 2
        if size >= 126:
            wide = 2 if size == 126 else 8
            if len(held) < 2 + wide:
                return False
            size, start = int.from_bytes(held[2 : 2 + wide]), 2 + wide
        start += 4 * masked
        if size > SMALL:
            if held[0] & 0x0F < 8:
                self._saw_person()
            self._skip = max(0, start + size - len(held))
            del held[: start + size]
            return bool(held)
        if len(held) < start + size:
            return False
        self._left -= size + 16
        mask = bytes(held[start - 4 : start]) if masked else b""
        payload = _unmasked(bytes(held[start : start + size]), mask)
        opcode, compressed = held[0] & 0x0F, bool(held[0] & 0x40)
        del held[: start + size]
        if opcode < 8 and payload and self._is_person(opcode, payload, compressed=compressed):
            self._saw_person()
        return True

    def _is_person(self, opcode: int, payload: bytes, *, compressed: bool) -> bool:
        self._frames += 1
        if self._frames == 1 and payload.startswith(VERSION):
            self._rfb = ClientStream()
        if self._rfb is not None and not compressed:
            said = ClientActivity.INPUT in self._rfb.feed(payload)
            if not self._rfb.opaque or not said:
                return said
        if compressed:
            kind = b"z%d" % len(payload)
        elif opcode == 1:
            kind = b"t" + _DIGITS.sub(b"#", payload[:48])
        else:
            kind = b"b%d %d" % (payload[0], len(payload))
        return self._heartbeats.is_person(kind, self._now())


def _unmasked(payload: bytes, mask: bytes) -> bytes:
    if not mask or not payload:
        return payload
    size = len(payload)
    key = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(payload) ^ int.from_bytes(key)).to_bytes(size)
