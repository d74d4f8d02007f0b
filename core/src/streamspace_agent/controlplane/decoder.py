"""Decodes incoming messages into envelopes: part by part, in bounded memory, with pauses for other tasks.

The control plane packs any number of envelopes into one text message, separated by newlines. All of it is untrusted
input: it may be endless, nested without end, or no JSON at all.
"""

import re
from collections.abc import Iterator
from dataclasses import replace

from streamspace_agent.protocol import Malformed, Message, envelope, usable_id

MAX_VIEWER_DATA = 32 * 1024**2
"""Limit of one ``vnc_data`` envelope in bytes: more than any viewer sends at a time."""
MAX_ENVELOPE = 256 * 1024
"""Limit of any other envelope in bytes; the largest real one holds a template of a few kilobytes."""
MAX_VALUES = 20_000
"""Limit of commas and brackets in any other envelope: parsing takes time for each."""
MAX_BAD = 100
"""Malformed envelopes in one message after which the rest of it is not read."""
PART = 64 * 1024
"""Bytes examined between two pauses."""
PAUSE_EVERY = 50
"""Envelopes decoded between two pauses."""
HEAD = 1024
"""Bytes at the start of an envelope that hold the keys which tell its kind."""

_BLANK = re.compile(rb"[ \t\r\n]+")
_VIEWER_DATA = re.compile(
    rb'\s{0,8}\{\s?"type":\s?"vnc_data",\s?"timestamp":\s?"[^"\\]{0,64}",\s?"payload":\s?'
    rb'\{\s?"sessionId":\s?"([^"\\]{1,300})",\s?"data":\s?"'
)
_COMMAND_ID = re.compile(rb'"commandId":\s?"([^"\\]{1,256})"')


class Decoder:
    """Decodes one message, in as many parts as it arrives in."""

    def __init__(self) -> None:
        self._rest = bytearray()
        """The envelope that is being received; of one that is too large, only its head."""
        self._size = 0
        """Bytes of that envelope so far."""
        self._count = 0
        self._examined = 0
        """Bytes examined since the last pause."""
        self._bad = 0

    def feed(self, data: bytes) -> Iterator[Message | Malformed | None]:
        """The envelopes that end in this part, in order. None stands for a pause: let other tasks run."""
        start = 0
        while start < len(data) and self._bad <= MAX_BAD:
            stop = min(start + PART, len(data))
            if not self._size and (blank := _BLANK.match(data, start, stop)):
                start = blank.end()
                if start == stop:
                    yield None
                continue
            end = data.find(b"\n", start, stop)
            self._take(data[start : end if end >= 0 else stop])
            self._examined += (end if end >= 0 else stop) - start
            start = end + 1 if end >= 0 else stop
            if end >= 0:
                yield self._piece()
                self._count += 1
                if self._count % PAUSE_EVERY and self._examined < PART:
                    continue
            self._examined = 0
            yield None

    def close(self) -> Iterator[Message | Malformed]:
        """The last envelope of the message, which no newline ends."""
        if self._size and self._bad <= MAX_BAD:
            yield self._piece()

    def _take(self, part: bytes) -> None:
        self._size += len(part)
        self._rest += part
        if self._size > MAX_ENVELOPE and (self._size > MAX_VIEWER_DATA or not _VIEWER_DATA.match(self._rest, 0, HEAD)):
            del self._rest[HEAD:]

    def _piece(self) -> Message | Malformed:
        piece, size = bytes(self._rest), self._size
        self._rest, self._size = bytearray(), 0
        head = _VIEWER_DATA.match(piece, 0, HEAD)
        if size > len(piece) or (size > MAX_ENVELOPE and not head):
            found: Message | Malformed = _too_large(piece, size)
        elif head and piece.endswith(b'"}}') and piece.find(b'"', head.end()) == len(piece) - 3:
            # Not parsed as JSON, which would copy the bytes once more and search them for escapes.
            data = memoryview(piece)[head.end() : -3]
            session_id = head[1].decode("utf-8", "replace")
            found = Message("vnc_data", {"sessionId": session_id, "data": data if len(data) else ""})
        elif size > MAX_ENVELOPE:
            found = _too_large(piece, size)
        elif sum(map(piece.count, b",[{")) > MAX_VALUES:
            found = _too_large(piece, size, f"more than {MAX_VALUES} values")
        else:
            found = envelope(piece.decode("utf-8", "replace"))
            if isinstance(found, Malformed) and not found.command_id:
                found = replace(found, command_id=_named(piece))
        if isinstance(found, Malformed):
            self._bad += 1
            if self._bad > MAX_BAD:
                return Malformed(
                    f"{self._bad} pieces of one message were no messages: the rest of it is not read", found.text
                )
        return found


def _too_large(piece: bytes, size: int, why: str = "") -> Malformed:
    viewer = _VIEWER_DATA.match(piece, 0, HEAD)
    limit = MAX_VIEWER_DATA if viewer else MAX_ENVELOPE
    return Malformed(
        f"too large: {why or f'{size} bytes, more than {limit}'}",
        piece[:HEAD].decode("utf-8", "replace"),
        "" if viewer else _named(piece),
        viewer[1].decode("utf-8", "replace") if viewer else "",
    )


def _named(piece: bytes) -> str:
    """The id of a command that cannot be decoded, so that it can be refused."""
    found = _COMMAND_ID.search(piece, 0, HEAD)
    return usable_id(found[1].decode("utf-8", "replace")) if found else ""
