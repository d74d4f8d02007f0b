"""Requests and answers as the control plane's reverse proxy can bear them.

What the deployed one does, each seen in a running one:

* It compresses with gzip what it passes to a browser that accepts that (all do), but no WebSockets and nothing for
  ``Accept: text/event-stream``, and keeps the answer's headers. An answer with a Content-Length arrives broken, one with a
  Content-Length of 1 to 9 bytes ends the whole control plane (``net/http: abort Handler``). A Content-Encoding of the answer's own
  is kept for what is compressed once more. An answer in chunks, without either header, arrives whole.
* A body that does not end as announced ends the control plane: the session's server, or the agent, dies in the middle, with a
  Content-Length or in chunks; whoever asked leaves.
* 30 s after a request came, everything ends. Without an answer, the connection is closed; a body under way ends the control
  plane; a WebSocket is cut on both sides, without a close frame.
* It passes on the person's sign-in: see ``credentials``.

So a body that breaks off is ended as if it were whole, which for once is better than the truth: nobody but the one
person sees it cut, and everybody else's control plane lives.
"""

import zlib
from collections.abc import Iterator
from typing import ClassVar

import h11

from streamspace_gateway import credentials, headers
from streamspace_gateway.headers import Items

PIECE = 256 * 1024
"""Bytes of a body that is decoded at a time, so that a small answer cannot become a large one in memory."""


class Undecodable(ValueError):
    """An answer in an encoding that was not asked for and cannot be undone."""


class Shape:
    """For a proxy without faults: everything as it came, and what is broken is seen to be."""

    limit: ClassVar[float | None] = None
    """Seconds from a request until its answer has to be over."""
    ends_broken: ClassVar[bool] = False
    """Whether an answer that breaks off is ended in order."""

    unsent: ClassVar[int] = 0
    """Bytes that the kernel may hold for the proxy; 0 for as many as it likes."""

    def to_session(self, request: h11.Request) -> h11.Request:
        return headers.to_session(request)

    def to_client(self, answer: h11.Response) -> h11.Response:
        """Of an answer to HEAD too."""
        return headers.to_client(answer)

    def decoder(self, answer: h11.Response) -> "Decoder | None":
        """What its body has to pass through; raises Undecodable."""
        del answer
        return None

    def own(self, length: int) -> Items:
        """The headers that tell the length of an answer of the gateway's own."""
        return [(b"Content-Length", b"%d" % length)]


class Deployed(Shape):
    limit: ClassVar[float | None] = 27.0
    ends_broken: ClassVar[bool] = True
    unsent: ClassVar[int] = 512 * 1024  # what is written when the time is up has three seconds to reach the browser

    def to_session(self, request: h11.Request) -> h11.Request:
        passed = headers.to_session(request)
        items = [item for item in passed.headers.raw_items() if item[0].lower() != b"accept-encoding"]
        return h11.Request(
            method=request.method,
            target=credentials.out_of_target(request.target),
            headers=[*credentials.out_of_headers(items), (b"Accept-Encoding", b"identity")],
        )

    def to_client(self, answer: h11.Response) -> h11.Response:
        passed = headers.to_client(answer)
        items = [item for item in passed.headers.raw_items() if not _harms(*item)]
        return h11.Response(status_code=answer.status_code, reason=answer.reason, headers=items)

    def decoder(self, answer: h11.Response) -> "Decoder | None":
        encodings = headers.tokens(answer.headers, b"content-encoding") - {b"identity"}
        if not encodings:
            return None
        if len(encodings) == 1 and encodings <= Decoder.KNOWN:
            return Decoder()
        raise Undecodable(b", ".join(sorted(encodings)).decode("latin-1"))

    def own(self, length: int) -> Items:
        del length
        return []


def _harms(name: bytes, value: bytes) -> bool:
    lower = name.lower()
    return lower == b"content-encoding" or (lower == b"content-length" and value != b"0")


class Decoder:
    """Undoes the encoding of a body that a session's server encoded though it was asked not to; raises zlib.error."""

    KNOWN: ClassVar[frozenset[bytes]] = frozenset({b"gzip", b"x-gzip", b"deflate"})

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(32 + zlib.MAX_WBITS)  # gzip or zlib, as its first bytes say
        self._began = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What comes of it, piece by piece."""
        if data and not self._began:
            self._began = True
            if data[0] & 0x0F != 8 and data[0] != 0x1F:
                self._inflate = zlib.decompressobj(
                    -zlib.MAX_WBITS
                )  # some send "deflate" bare (RFC 9110, section 8.4.1.2)
        while data:
            if self._inflate.eof:
                if not data.startswith(b"\x1f\x8b"):
                    return
                self._inflate = zlib.decompressobj(32 + zlib.MAX_WBITS)  # gzip may have several members
            if piece := self._inflate.decompress(data, PIECE):
                yield piece
            data = self._inflate.unconsumed_tail or self._inflate.unused_data

    @property
    def whole(self) -> bool:
        """Whether the body has ended where its encoding says."""
        return self._inflate.eof or not self._began


def of(relay: str) -> Shape:
    """The one for the agent's setting ``VIEWER_RELAY``."""
    return Shape() if relay == "repaired" else Deployed()
