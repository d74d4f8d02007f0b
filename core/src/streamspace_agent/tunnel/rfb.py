"""Parses the client side of RFB as it passes through (RFC 6143, and rfbproto for the extensions).

It tells two things. A key or pointer event is a person at work. A request for the next update, or the answer to a
fence, shows that the viewer has read what was sent before.
"""

from collections.abc import Generator
from enum import Flag, auto

from streamspace_agent.errors import OpaqueStream

VERSION = b"RFB "
"""The first bytes of both sides; the whole version message has 12 bytes."""
VERSION_SIZE = 12

_NONE, _VNC_AUTH, _VENCRYPT, _PLAIN = 1, 2, 19, 256
_EXTENDED_MOUSE_BUTTONS = -316
_CONTINUOUS_UPDATES = -313
_FENCE_IS_REQUEST = 0x80000000
_UPDATE_REQUEST, _UPDATE_REQUEST_SIZE = 3, 10


class ClientActivity(Flag):
    """What a viewer's bytes show about the person at it."""

    NOTHING = 0
    INPUT = auto()
    """A person pressed a key or moved the pointer."""
    READ = auto()
    """The viewer asked for or answered something, so it reads."""


_Bytes = Generator[int, bytes, None]
"""Yields the number of bytes that it needs next (negative: to skip), and is sent them."""


class ClientStream:
    """Parses one viewer's bytes, in pieces of any size.

    A stream becomes opaque at an unknown security type or message. From then on each piece shows that the viewer reads,
    and counts as a person's input unless it consists of update requests only. So a session whose viewer cannot be
    understood is hibernated late rather than while it is used.

    With ``filtered``, pass :meth:`passed` to the server instead of the bytes that were fed: whole messages, without an
    offer of continuous updates (so that the server sends one update for each request), and without update requests
    while ``hold_requests`` is set.
    """

    def __init__(self, *, filtered: bool = False) -> None:
        self.opaque = False
        self.hold_requests = False
        """Withhold update requests from the server, so that it stops sending after its next update."""
        self._filtered = filtered
        self._passed = bytearray()
        self._message = bytearray()
        """The current message so far, as long as it may still be changed or left out."""
        self._conversing = False
        self.server_head = b""
        """The server's first bytes, up to 16; in RFB 3.3 they hold the security type."""
        self._unparsed = bytearray()
        self._activity = ClientActivity.NOTHING
        self._extended_buttons = False
        self._reader = self._conversation()
        self._needed = next(self._reader)

    def feed(self, data: bytes) -> ClientActivity:
        """Parse the next piece; returns what it shows."""
        if self.opaque:
            self._passed += data if self._filtered else b""
            return _opaque_activity(data)
        self._activity = ClientActivity.NOTHING
        self._unparsed += data
        try:
            while self._needed < 0 or len(self._unparsed) >= self._needed:
                size = min(abs(self._needed), len(self._unparsed))
                piece = bytes(self._unparsed[:size])
                del self._unparsed[:size]
                if self._filtered:
                    self._message += piece
                    if not self._conversing or self._needed < 0:
                        self._pass()
                if self._needed < 0 and -self._needed > size:
                    self._needed += size
                    break
                self._needed = self._reader.send(piece if self._needed > 0 else b"")
        except OpaqueStream:
            self.opaque = True
            if self._filtered:
                self._message += self._unparsed
                self._pass()
            self._unparsed = bytearray()
            return self._activity | _opaque_activity(data)
        return self._activity

    def passed(self) -> bytes:
        """The bytes to pass to the server since the last call."""
        passed = bytes(self._passed)
        self._passed.clear()
        return passed

    def _pass(self) -> None:
        self._passed += self._message
        self._message.clear()

    def _conversation(self) -> _Bytes:
        version = yield VERSION_SIZE
        if not version.startswith(VERSION):
            raise OpaqueStream
        self._activity |= ClientActivity.READ
        (security,) = yield 1
        self._activity |= ClientActivity.READ
        old = version == b"RFB 003.003\n"
        if old:  # the server chose it, in answer to the version: the byte read here is ClientInit already
            security = int.from_bytes(self.server_head[12:16])
        if security == _VENCRYPT and not old:
            yield 2  # its version, then a subtype; browsers support only those without TLS
            security = int.from_bytes((yield 4))
            if security == _PLAIN:
                sizes = yield 8  # lengths of the user name and the password
                yield from _skip(int.from_bytes(sizes[:4]) + int.from_bytes(sizes[4:]))
                security = _NONE
        if security not in {_NONE, _VNC_AUTH}:
            raise OpaqueStream
        expected = 16 * (security == _VNC_AUTH) + 1  # the response to the challenge, and ClientInit
        yield from _skip(expected - old)
        self._activity |= ClientActivity.READ
        self._conversing = True
        while True:
            (kind,) = yield 1
            yield from self._one_message(kind)
            self._pass()

    def _one_message(self, kind: int) -> _Bytes:
        match kind:
            case 0:  # SetPixelFormat
                yield 19
            case 2:  # SetEncodings
                header = yield 3
                kept = bytearray()
                for _ in range(int.from_bytes(header[1:])):
                    encoding = int.from_bytes((code := (yield 4)), signed=True)
                    self._extended_buttons |= encoding == _EXTENDED_MOUSE_BUTTONS
                    kept += code if encoding != _CONTINUOUS_UPDATES else b""
                if self._filtered:
                    self._message[2:] = (len(kept) // 4).to_bytes(2) + kept
            case 3:  # FramebufferUpdateRequest
                yield 9
                self._activity |= ClientActivity.READ
                if self.hold_requests:
                    self._message.clear()
            case 4:  # KeyEvent
                yield 7
                self._activity |= ClientActivity.INPUT
            case 5:  # PointerEvent
                (buttons,) = yield 1
                yield 5 if buttons & 0x80 and self._extended_buttons else 4
                self._activity |= ClientActivity.INPUT
            case 6:  # ClientCutText: no input, since viewers send it when the clipboard changes elsewhere
                header = yield 7
                # A negative length marks the extended clipboard.
                yield from _skip(abs(int.from_bytes(header[3:], signed=True)))
            case 150:  # EnableContinuousUpdates
                yield 9
            case 248:  # ClientFence
                header = yield 8
                yield from _skip(header[7])
                if not int.from_bytes(header[3:7]) & _FENCE_IS_REQUEST:
                    self._activity |= ClientActivity.READ
            case 250:  # xvp
                yield 3
            case 251:  # SetDesktopSize
                header = yield 7
                yield from _skip(16 * header[5])
            case 255:  # QEMU
                (kind,) = yield 1
                yield from self._qemu(kind)
            case _:
                raise OpaqueStream

    def _qemu(self, kind: int) -> _Bytes:
        if kind == 0:  # extended key event
            yield 10
            self._activity |= ClientActivity.INPUT
        elif kind == 1:  # audio
            operation = yield 2
            if int.from_bytes(operation) == 2:
                yield 6
        else:
            raise OpaqueStream


def _skip(count: int) -> _Bytes:
    if count:
        yield -count


def _opaque_activity(data: bytes) -> ClientActivity:
    size, kinds = len(data), data[::_UPDATE_REQUEST_SIZE]
    only_requests = size % _UPDATE_REQUEST_SIZE == 0 and kinds == bytes([_UPDATE_REQUEST]) * len(kinds)
    return ClientActivity.READ if only_requests else ClientActivity.READ | ClientActivity.INPUT
