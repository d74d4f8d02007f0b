"""What a viewer says: the client's side of RFB, read as it passes by (RFC 6143, and rfbproto for the extensions).

Two things are learnt from it. A key or a pointer is a person at work. A request for the next update, or the answer to a fence,
shows how far the viewer has read: it comes only after what was sent before.
"""

from collections.abc import Generator
from enum import Flag, auto

from streamspace_agent.errors import OpaqueStream

VERSION = b"RFB "
"""How both sides begin; the whole version message has 12 bytes."""
VERSION_SIZE = 12

_NONE, _VNC_AUTH, _VENCRYPT, _PLAIN = 1, 2, 19, 256
_EXTENDED_MOUSE_BUTTONS = -316
_CONTINUOUS_UPDATES = -313
_FENCE_IS_REQUEST = 0x80000000
_UPDATE_REQUEST, _UPDATE_REQUEST_SIZE = 3, 10


class Said(Flag):
    """What a viewer's bytes show about the person at it."""

    NOTHING = 0
    INPUT = auto()
    """A person pressed a key or moved the pointer."""
    READ = auto()
    """Something was asked or answered that shows that the viewer reads."""


_Bytes = Generator[int, bytes, None]
"""Yields how many bytes it needs next (negative: how many to pass over) and is sent them."""


class ClientStream:
    """One viewer's bytes, in pieces of any size.

    A stream that turns out to be foreign (an unknown security type or message) is judged by its pieces: each shows that the viewer
    reads, and each counts as a person's input unless it is made of nothing but update requests. So a session whose
    viewer cannot be understood hibernates too late rather than under somebody's hands.

    With ``filtered``, the server is to be given :meth:`passed` instead of what was fed: whole messages, without an offer of continuous
    updates (the server then sends one update for each request, and no more), and without requests while ``hold_requests``.
    """

    def __init__(self, *, filtered: bool = False) -> None:
        self.foreign = False
        self.hold_requests = False
        """Keep requests for updates from the server: it falls silent once it has answered the last."""
        self._filtered = filtered
        self._passed = bytearray()
        self._message = bytearray()
        """What has been read of the present message, as long as it may still be changed or left out."""
        self._conversing = False
        self.server_head = b""
        """The server's first bytes, up to 16: in RFB 3.3 they hold the security type."""
        self._held = bytearray()
        self._said = Said.NOTHING
        self._extended_buttons = False
        self._reader = self._conversation()
        self._needed = next(self._reader)

    def feed(self, data: bytes) -> Said:
        """Read the next piece; returns what it showed."""
        if self.foreign:
            self._passed += data if self._filtered else b""
            return _judge(data)
        self._said = Said.NOTHING
        self._held += data
        try:
            while self._needed < 0 or len(self._held) >= self._needed:
                size = min(abs(self._needed), len(self._held))
                piece = bytes(self._held[:size])
                del self._held[:size]
                if self._filtered:
                    self._message += piece
                    if not self._conversing or self._needed < 0:
                        self._pass()
                if self._needed < 0 and -self._needed > size:
                    self._needed += size
                    break
                self._needed = self._reader.send(piece if self._needed > 0 else b"")
        except OpaqueStream:
            self.foreign = True
            if self._filtered:
                self._message += self._held
                self._pass()
            self._held = bytearray()
            return self._said | _judge(data)
        return self._said

    def passed(self) -> bytes:
        """What the server is to be given of all that was fed since the last call."""
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
        self._said |= Said.READ
        (security,) = yield 1
        self._said |= Said.READ
        old = version == b"RFB 003.003\n"
        if old:  # the server named it, in answer to the version: what was read here is the viewer's next already
            security = int.from_bytes(self.server_head[12:16])
        if security == _VENCRYPT and not old:
            yield 2  # its version, then a type within it; browsers know those without TLS only
            security = int.from_bytes((yield 4))
            if security == _PLAIN:
                sizes = yield 8  # of the user's name and the password
                yield from _pass_over(int.from_bytes(sizes[:4]) + int.from_bytes(sizes[4:]))
                security = _NONE
        if security not in {_NONE, _VNC_AUTH}:
            raise OpaqueStream
        expected = 16 * (security == _VNC_AUTH) + 1  # the response to the challenge, and ClientInit
        yield from _pass_over(expected - old)
        self._said |= Said.READ
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
                self._said |= Said.READ
                if self.hold_requests:
                    self._message.clear()
            case 4:  # KeyEvent
                yield 7
                self._said |= Said.INPUT
            case 5:  # PointerEvent
                (buttons,) = yield 1
                yield 5 if buttons & 0x80 and self._extended_buttons else 4
                self._said |= Said.INPUT
            case 6:  # ClientCutText: no input, viewers send it by themselves when a clipboard changes elsewhere
                header = yield 7
                # A negative length marks the extended clipboard.
                yield from _pass_over(abs(int.from_bytes(header[3:], signed=True)))
            case 150:  # EnableContinuousUpdates
                yield 9
            case 248:  # ClientFence
                header = yield 8
                yield from _pass_over(header[7])
                if not int.from_bytes(header[3:7]) & _FENCE_IS_REQUEST:
                    self._said |= Said.READ
            case 250:  # xvp
                yield 3
            case 251:  # SetDesktopSize
                header = yield 7
                yield from _pass_over(16 * header[5])
            case 255:  # QEMU
                (kind,) = yield 1
                yield from self._qemu(kind)
            case _:
                raise OpaqueStream

    def _qemu(self, kind: int) -> _Bytes:
        if kind == 0:  # extended key event
            yield 10
            self._said |= Said.INPUT
        elif kind == 1:  # audio
            operation = yield 2
            if int.from_bytes(operation) == 2:
                yield 6
        else:
            raise OpaqueStream


def _pass_over(count: int) -> _Bytes:
    if count:
        yield -count


def _judge(data: bytes) -> Said:
    size, kinds = len(data), data[::_UPDATE_REQUEST_SIZE]
    only_requests = size % _UPDATE_REQUEST_SIZE == 0 and kinds == bytes([_UPDATE_REQUEST]) * len(kinds)
    return Said.READ if only_requests else Said.READ | Said.INPUT
