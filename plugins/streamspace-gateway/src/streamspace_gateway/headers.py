"""HTTP headers: which are passed on, and which are for one hop only (RFC 9110, section 7.6.1)."""

from collections.abc import Iterable

import h11

Items = list[tuple[bytes, bytes]]
Headers = Iterable[tuple[bytes, bytes]]
"""Names in lower case, as h11 gives them."""

_HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer transfer-encoding "
    b"upgrade".split()
)
_NEVER_DROPPED = frozenset({b"host", b"content-length"})
"""Even where ``Connection`` names them: without them the request would be a different one."""
_UPGRADE: Items = [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]


def value(headers: Headers, name: bytes) -> bytes:
    """The first value of a header; b"" without one."""
    return next((v for n, v in headers if n == name), b"")


def tokens(headers: Headers, name: bytes) -> set[bytes]:
    """The elements of a header that is a list, in lower case."""
    return {word.strip().lower() for n, v in headers if n == name for word in v.split(b",") if word.strip()}


def wants_websocket(request: h11.Request) -> bool:
    return b"upgrade" in tokens(request.headers, b"connection") and b"websocket" in tokens(request.headers, b"upgrade")


def is_chunked(message: h11.Request | h11.Response) -> bool:
    return any(name == b"transfer-encoding" for name, _ in message.headers)


def keeps_alive(message: h11.Request | h11.Response) -> bool:
    """Whether the connection may carry another message after this one and its answer."""
    return message.http_version >= b"1.1" and b"close" not in tokens(message.headers, b"connection")


def has_body(request: h11.Request) -> bool:
    return is_chunked(request) or value(request.headers, b"content-length") not in {b"", b"0"}


def to_session(request: h11.Request) -> h11.Request:
    """The request as the session's server gets it: same target, same Host, nothing added but the framing."""
    headers = _passed(request)
    if wants_websocket(request):
        headers += _UPGRADE
    if is_chunked(request):
        headers = [*_without_length(headers), (b"Transfer-Encoding", b"chunked")]
    return h11.Request(method=request.method, target=request.target, headers=headers)


def to_client(response: h11.Response) -> h11.Response:
    """The answer as the client gets it; h11 adds the framing that it needs."""
    headers = _passed(response)
    if is_chunked(response):
        headers = _without_length(headers)
    return h11.Response(status_code=response.status_code, reason=response.reason, headers=headers)


def interim(response: h11.InformationalResponse) -> h11.InformationalResponse:
    """An interim answer as the client gets it. With 101 the connection is a WebSocket from here on."""
    headers = _passed(response) + (_UPGRADE if response.status_code == 101 else [])
    return h11.InformationalResponse(status_code=response.status_code, reason=response.reason, headers=headers)


def length(message: h11.Response) -> int:
    """The value of Content-Length; 0 without one."""
    return int(value(message.headers, b"content-length") or 0)


def size(request: h11.Request) -> int:
    """Bytes of its head, roughly."""
    return len(request.method) + len(request.target) + sum(len(n) + len(v) + 4 for n, v in request.headers)


def _without_length(headers: Items) -> Items:
    """For a chunked message: the next server might believe a Content-Length (RFC 9112, section 6.3)."""
    return [item for item in headers if item[0].lower() != b"content-length"]


def _passed(message: h11.Request | h11.Response | h11.InformationalResponse) -> Items:
    headers = message.headers
    dropped = _HOP_BY_HOP | (tokens(headers, b"connection") - _NEVER_DROPPED)
    return [(name, content) for name, content in headers.raw_items() if name.lower() not in dropped]
