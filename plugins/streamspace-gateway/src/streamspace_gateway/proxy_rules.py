"""The form that requests and answers must have for the control plane's reverse proxy.

What the deployed proxy does (all of it was seen in a running one):

* It compresses with gzip what it passes to a browser that accepts gzip (all do), and keeps the answer's headers;
  WebSockets and answers to ``Accept: text/event-stream`` are excepted. An answer with a Content-Length then arrives
  broken; a Content-Length of 1 to 9 bytes ends the whole control plane (``net/http: abort Handler``). The answer's
  own Content-Encoding is kept although the body is compressed once more. A chunked answer without either header arrives
  whole.
* A body that does not end as announced ends the control plane, chunked or with a Content-Length: because the session's
  server or the agent died, or because the client left.
* 30 s after a request came, everything ends. Without an answer, the connection is closed; a body under way ends the
  control plane; a WebSocket is cut on both sides, without a close frame.
* It passes on the person's sign-in: see ``credentials``.

So a body that breaks off is ended as if it were complete: one person sees it cut, and the control plane lives on for
everybody else.
"""

import zlib
from collections.abc import Iterator
from typing import ClassVar

import h11

from streamspace_gateway import credentials, headers
from streamspace_gateway.errors import Undecodable
from streamspace_gateway.headers import Items

PIECE = 256 * 1024
"""Bytes decoded at a time, so that a small answer cannot become a large one in memory."""


class ProxyRules:
    """The rules for a repaired proxy: everything is passed on as it came, and a broken answer is seen to be broken."""

    limit: ClassVar[float | None] = None
    """Seconds from a request to the end of its answer."""
    ends_broken: ClassVar[bool] = False
    """Whether an answer that breaks off is ended as if it were complete."""
    unsent: ClassVar[int] = 0
    """Bytes that the kernel may hold for the proxy; 0 leaves that to the kernel."""

    def to_session(self, request: h11.Request) -> h11.Request:
        return headers.to_session(request)

    def to_client(self, answer: h11.Response) -> h11.Response:
        """The head of an answer, to HEAD too."""
        return headers.to_client(answer)

    def decoder(self, answer: h11.Response) -> "Decoder | None":
        """The decoder that the body has to pass, if any. Raises Undecodable."""
        del answer
        return None

    def length_headers(self, length: int) -> Items:
        """The headers that tell the length of an answer of the gateway's own."""
        return [(b"Content-Length", b"%d" % length)]


class DeployedRules(ProxyRules):
    limit: ClassVar[float | None] = 27.0
    ends_broken: ClassVar[bool] = True
    unsent: ClassVar[int] = 512 * 1024  # what is written at the limit has three seconds to reach the browser

    def to_session(self, request: h11.Request) -> h11.Request:
        passed = headers.to_session(request)
        items = [item for item in passed.headers.raw_items() if item[0].lower() != b"accept-encoding"]
        return h11.Request(
            method=request.method,
            target=credentials.clean_target(request.target),
            headers=[*credentials.clean_headers(items), (b"Accept-Encoding", b"identity")],
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

    def length_headers(self, length: int) -> Items:
        del length
        return []


def rules_for(relay: str) -> ProxyRules:
    """The rules for the agent's setting ``VIEWER_RELAY``."""
    return ProxyRules() if relay == "repaired" else DeployedRules()


def _harms(name: bytes, value: bytes) -> bool:
    lower = name.lower()
    return lower == b"content-encoding" or (lower == b"content-length" and value != b"0")


class Decoder:
    """Decodes a body that a session's server encoded although it was asked not to. Raises zlib.error."""

    KNOWN: ClassVar[frozenset[bytes]] = frozenset({b"gzip", b"x-gzip", b"deflate"})

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(32 + zlib.MAX_WBITS)  # gzip or zlib: its first bytes say which
        self._began = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The decoded bytes, piece by piece."""
        if data and not self._began:
            self._began = True
            if data[0] & 0x0F != 8 and data[0] != 0x1F:
                # Some servers send "deflate" without zlib's header (RFC 9110, section 8.4.1.2).
                self._inflate = zlib.decompressobj(-zlib.MAX_WBITS)
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
        """Whether the body ended where its encoding does."""
        return self._inflate.eof or not self._began
