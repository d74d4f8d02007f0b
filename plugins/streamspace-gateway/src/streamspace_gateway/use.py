"""What shows that a person is there, in what a browser sends: keys, the pointer, a form; and what a page sends by itself.

* A request with a body that is not GET, and the loading of a page, are a person's. A page's own GETs are not.
* On a WebSocket, pings and pongs are the browser's own. Where it carries RFB (noVNC), keys and pointer are told from the rest.
* Any other message counts, unless its kind has come as a clock ticks: :class:`Rhythm`.

What cannot be told apart counts as use: a session may sleep too late, never under somebody's hands.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

import h11

from streamspace_agent.tunnel.rfb import VERSION, ClientStream, Said
from streamspace_gateway.headers import has_body, value

WINDOW = 60.0
"""Seconds over which a rhythm is measured."""
STEADY = 3
"""Windows in a row in which a kind of message has ticked: from then on it is a page's own."""
NEAR = 0.9
"""Of its gaps, so many must lie between half and one and a half of the usual one. Of a typist's two thirds do."""
MAX_KINDS = 64
"""Kinds of message remembered for a session."""
SMALL = 4096
"""Bytes of a WebSocket frame that is looked into; whatever is larger is a person's: text pasted, a file."""
FLOOD = 32 * 1024
"""Bytes to be looked into in one piece, each frame counted as 16 more: no page sends so many small messages within one reading."""

_READS = frozenset({b"GET", b"HEAD", b"OPTIONS"})
_DIGITS = re.compile(rb"\d+")


@dataclass(slots=True)
class _Kind:
    began: float
    last: float
    gap: float = 0.0
    """The usual one, of the window before; 0 while there was none."""
    count: int = 0
    near: int = 0
    ticked: int = 0
    """Windows in a row."""


class Rhythm:
    """Tells a heartbeat from a person: it comes at even gaps of up to a minute, for minutes on end, whoever looks away.

    Its content may change by numbers only (a counter, a time). Messages of a kind count as a person's until it has
    ticked through three windows of a minute, and again as soon as it misses one.
    """

    def __init__(self) -> None:
        self._kinds: dict[bytes, _Kind] = {}

    def is_person(self, kind: bytes, now: float) -> bool:
        """A message of this kind has come. Kinds are short."""
        known = self._kinds.pop(kind, None) or _Kind(now, now)
        if now - known.began >= WINDOW:
            self._end_window(known, now)
        elif known.count:
            gap = now - known.last
            known.near += known.gap == 0.0 or known.gap / 2 <= gap <= known.gap * 1.5
        known.count += 1
        known.last = now
        self._kinds[kind] = known  # the most recent last
        if len(self._kinds) > MAX_KINDS:
            del self._kinds[next(iter(self._kinds))]
        return known.ticked < STEADY

    @staticmethod
    def _end_window(known: _Kind, now: float) -> None:
        length = now - known.began
        if length >= 2 * WINDOW:  # silent for a whole one
            known.ticked = 0
            known.gap = 0.0
        else:
            gaps = known.count  # the one that ends the window counts
            gap = now - known.last
            near = known.near + (known.gap == 0.0 or known.gap / 2 <= gap <= known.gap * 1.5)
            known.ticked = known.ticked + 1 if known.gap and near >= NEAR * gaps else 0
            known.gap = length / gaps
        known.began, known.count, known.near = now, 0, 0


def by_request(request: h11.Request, rhythm: Rhythm, now: float) -> bool:
    """Whether a person made the request."""
    if request.method in _READS:
        return value(request.headers, b"sec-fetch-mode").lower() == b"navigate"
    if not has_body(request):
        return False
    path = request.target.partition(b"?")[0]
    size = value(request.headers, b"content-length")
    return rhythm.is_person(b"%s %s %d" % (request.method, _DIGITS.sub(b"#", path[:100]), len(size)), now)


class FromBrowser:
    """The frames of one WebSocket as the browser sends them (RFC 6455, section 5.2), read as they pass by."""

    def __init__(self, rhythm: Rhythm, now: Callable[[], float], saw_person: Callable[[], None]) -> None:
        self._rhythm = rhythm
        self._now = now
        self._saw_person = saw_person
        self._held = bytearray()
        self._skip = 0
        self._frames = 0
        self._left = 0
        """Of this piece, to be looked into."""
        self._flooded = False
        self._rfb: ClientStream | None = None

    def feed(self, data: bytes) -> None:
        """What a flood says is not looked into, for it would hold up the agent: from then on all of it counts."""
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
        """Look at the next whole frame; False when there is none yet."""
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
            said = Said.INPUT in self._rfb.feed(payload)
            if not self._rfb.foreign or not said:
                return said
        if compressed:
            kind = b"z%d" % len(payload)
        elif opcode == 1:
            kind = b"t" + _DIGITS.sub(b"#", payload[:48])
        else:
            kind = b"b%d %d" % (payload[0], len(payload))
        return self._rhythm.is_person(kind, self._now())


def _unmasked(payload: bytes, mask: bytes) -> bytes:
    if not mask or not payload:
        return payload
    size = len(payload)
    key = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(payload) ^ int.from_bytes(key)).to_bytes(size)
