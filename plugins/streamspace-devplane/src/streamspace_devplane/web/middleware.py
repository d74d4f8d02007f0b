"""What protects the plane from web pages of others, and its own page from what agents and users say.

A plane on loopback trusts whoever can reach it, and every web page that the developer has open can.
"""

import ipaddress
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.websockets import WebSocket

from streamspace_devplane.agents.hub import Hub
from streamspace_devplane.agents.wire import SCOPE_KEY, Wire
from streamspace_devplane.settings import LABEL

AGENT_PATHS = ("/api/v1/agents/register", "/api/v1/agents/connect")  # these ask for a key, which no page has
WEB_SESSIONS = "/api/v1/http/"
HEADERS = {
    LABEL: "development only",
    # Scripts and styles from here only, none inline: text that slipped through could still not run.
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


class Labelled:
    """ASGI middleware: every answer says what this is, and what a browser may do with it."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.headers = [(name.encode(), value.encode()) for name, value in HEADERS.items()]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        # What a session's own web server says of its pages holds for them.
        headers = self.headers[:1] if scope.get("path", "").startswith(WEB_SESSIONS) else self.headers

        async def labelled(message: Any) -> None:
            if message["type"] in ("http.response.start", "websocket.accept", "websocket.http.response.start"):
                message["headers"] = [*message.get("headers", ()), *headers]
            await send(message)

        await self.app(scope, receive, labelled)


class SameOrigin:
    """ASGI middleware: refuses what a browser sends on behalf of a page that is not ours."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] in ("http", "websocket") and scope["path"] not in AGENT_PATHS:
            headers = Headers(scope=scope)
            try:
                problem, status = stranger(headers), 403
            except ValueError:
                problem, status = f"Host {headers.get('host')!r} or Origin {headers.get('origin')!r} is no address", 400
            if problem:
                answer = JSONResponse({"error": problem}, status)
                if scope["type"] == "websocket":
                    send = as_denial(send)
                await answer({**scope, "type": "http"}, receive, send)
                return
        await self.app(scope, receive, send)


def as_denial(send: Any) -> Any:
    async def denied(message: Any) -> None:
        await send({**message, "type": "websocket." + message["type"]})

    return denied


def stranger(headers: Headers) -> str | None:
    """Why a request is not of our own page (or of no page at all, as a tool's); `None` if it is.

    A name of somebody else's that resolves to this machine (DNS rebinding) would be an origin of its own kind: only
    addresses and `localhost` are taken. Raises `ValueError` where a header holds no address at all.
    """
    host = headers.get("host", "")
    name = urlsplit(f"//{host}").hostname or ""
    if not (name == "localhost" or is_address(name)):
        return f"this plane is not called {host!r}: use 127.0.0.1 or localhost"
    origin = headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != host:
        return f"a page of {origin!r} may not use this plane"
    return None


def is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


async def tear(wire: Wire, receive: Any) -> None:
    """End a request by ending its connection; returns once uvicorn knows, so that it expects no answer."""
    wire.abort()
    while not (await receive())["type"].endswith(".disconnect"):
        pass


class Misbehaviour:
    """ASGI middleware for the switches that act before an agent's request is looked at."""

    def __init__(self, app: Any, hub: Hub) -> None:
        self.app = app
        self.hub = hub

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        faults = self.hub.faults
        faults.expire()
        path = scope.get("path", "").removeprefix("/api/v1/agents/")
        if scope["type"] == "lifespan" or path not in ("register", "connect"):
            await self.app(scope, receive, send)
            return
        wire: Wire = scope[SCOPE_KEY]
        if faults.blackhole:
            self.hub.apply_faults()
            await self.hub.listening.wait()
            if self.hub.stopping.is_set():
                await tear(wire, receive)
                return
        refuse = faults.refuse
        if not refuse or path not in refuse.paths:
            await self.app(scope, receive, send)
            return
        self.hub.store.log(None, "plane", "refused_by_switch", {"path": path, "status": refuse.status})
        if refuse.status == "connection":
            await tear(wire, receive)
            return
        headers = {} if refuse.retry_after is None else {"Retry-After": str(refuse.retry_after)}
        answer = JSONResponse({"error": "refused by a fault switch"}, refuse.status, headers)
        if scope["type"] == "websocket":
            await WebSocket(scope, receive, send).send_denial_response(answer)
        else:
            await answer(scope, receive, send)
