"""ASGI middleware: headers that protect the page, protection from other web pages, and the switches for agents.

The plane trusts everybody who can reach it on loopback, and so can any web page that is open in a browser.
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

AGENT_PATHS = ("/api/v1/agents/register", "/api/v1/agents/connect")  # they need a key, which no page has
WEB_SESSIONS = "/api/v1/http/"
HEADERS = {
    LABEL: "development only",
    # No inline scripts or styles: text of agents and users that was not escaped could still not run.
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


class Labelled:
    """Adds `HEADERS` to every answer; to those of web sessions only the label, as their own server decides the rest."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.headers = [(name.encode(), value.encode()) for name, value in HEADERS.items()]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = self.headers[:1] if scope.get("path", "").startswith(WEB_SESSIONS) else self.headers

        async def labelled(message: Any) -> None:
            if message["type"] in ("http.response.start", "websocket.accept", "websocket.http.response.start"):
                message["headers"] = [*message.get("headers", ()), *headers]
            await send(message)

        await self.app(scope, receive, labelled)


class SameOrigin:
    """Refuses requests that a browser sends for a page of another origin."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] in ("http", "websocket") and scope["path"] not in AGENT_PATHS:
            headers = Headers(scope=scope)
            try:
                problem, status = foreign_origin(headers), 403
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


def foreign_origin(headers: Headers) -> str | None:
    """Why a request is refused; `None` for those of our own page, and of tools.

    Only addresses and `localhost` are accepted as host, because any name may resolve to this machine (DNS rebinding).
    Raises `ValueError` if a header holds no address at all.
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


async def abort(wire: Wire, receive: Any) -> None:
    """Abort a request's connection; returns once uvicorn knows, as it would expect an answer otherwise."""
    wire.abort()
    while not (await receive())["type"].endswith(".disconnect"):
        pass


class FaultSwitches:
    """Applies the switches `blackhole` and `refuse` to agents' requests."""

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
                await abort(wire, receive)
                return
        refuse = faults.refuse
        if not refuse or path not in refuse.paths:
            await self.app(scope, receive, send)
            return
        self.hub.store.log(None, "plane", "refused_by_switch", {"path": path, "status": refuse.status})
        if refuse.status == "connection":
            await abort(wire, receive)
            return
        headers = {} if refuse.retry_after is None else {"Retry-After": str(refuse.retry_after)}
        answer = JSONResponse({"error": "refused by a fault switch"}, refuse.status, headers)
        if scope["type"] == "websocket":
            await WebSocket(scope, receive, send).send_denial_response(answer)
        else:
            await answer(scope, receive, send)
