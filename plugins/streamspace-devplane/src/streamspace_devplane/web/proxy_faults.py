"""The faults of the deployed web proxy: it compresses answers but keeps their headers, and dies of broken ones."""

import zlib
from collections.abc import Iterable

from starlette.requests import Request

from streamspace_devplane.agents.hub import Hub
from streamspace_devplane.errors import TooLong

Headers = list[tuple[bytes, bytes]]
ABORT = "net/http: abort Handler"
GZIP_HEAD = 10
"""Bytes that gzip writes before the body: an answer that has no room for them ends the process."""


class Plain:
    """An answer, as a proxy without faults passes it on."""

    def __init__(self, headers: Headers) -> None:
        self.headers = headers

    def feed(self, data: bytes) -> bytes:
        return data

    def end(self) -> bytes | None:
        """The last bytes; `None` if the answer is shorter than announced."""
        return b""


class Compressed(Plain):
    def __init__(self, headers: Headers, *, has_body: bool) -> None:
        named = {name.lower(): value for name, value in headers}
        added = [] if b"content-encoding" in named else [(b"content-encoding", b"gzip")]
        super().__init__([*headers, *added, (b"vary", b"Accept-Encoding")])
        self._pack = zlib.compressobj(wbits=16 + zlib.MAX_WBITS)
        length = named.get(b"content-length")
        self._left = float("inf") if length is None else int(length)
        self._has_body = has_body and self._left > 0
        self._wrote_head = False

    def feed(self, data: bytes) -> bytes:
        if data and not self._wrote_head:
            self._wrote_head = True
            if self._left < GZIP_HEAD:
                raise TooLong
        packed = self._pack.compress(data)
        self._left -= len(packed)
        if self._left < 0:
            raise TooLong
        return packed

    def end(self) -> bytes | None:
        if not self._has_body:
            return b""
        packed = self._pack.flush()
        if self._left == float("inf"):
            return packed
        self._left -= len(packed)
        return packed if self._left == 0 else None


def answer_for(hub: Hub, request: Request, status: int, headers: Iterable[tuple[bytes, bytes]]) -> Plain:
    """How the answer to `request` is passed on."""
    accepted = "gzip" in request.headers.get("accept-encoding", "")
    if hub.settings.relay == "repaired" or not accepted or "text/event-stream" in request.headers.get("accept", ""):
        return Plain([*headers])
    return Compressed([*headers], has_body=request.method != "HEAD" and status not in {204, 304})


def limit(hub: Hub) -> float | None:
    """Seconds after which a request is ended, whatever is under way; `None` for never."""
    return hub.settings.web_time_limit if hub.settings.relay == "deployed" else None


def crash(hub: Hub, row: dict[str, object], why: str) -> None:
    """Called when a body does not end as announced, which the deployed one does not survive."""
    if hub.settings.relay == "deployed":
        hub.crashes.note(f"{ABORT}: {why}", str(row["sessionId"]), str(row["agentId"] or ""))
