"""The reverse proxy to web sessions: `/api/v1/http/SESSION/...`, any method, WebSockets too.

It asks `http://SESSION.streamspace.svc.cluster.local:PORT/...`, with that name as Host. On Kubernetes it is the name of
a service; elsewhere the operator makes it resolve, as `Settings.web_gateway` does here.
"""

import asyncio
import contextlib
import re
import string
from collections.abc import AsyncIterator, Iterable
from typing import Any
from urllib.parse import quote

import httpx
from starlette.requests import ClientDisconnect, HTTPConnection, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.typing import Subprotocol

from streamspace_devplane.agents.hub import Hub
from streamspace_devplane.agents.wire import SCOPE_KEY, Wire
from streamspace_devplane.errors import TooLong
from streamspace_devplane.input_filter import refusal
from streamspace_devplane.tasks import first_done
from streamspace_devplane.templates import WEB
from streamspace_devplane.web import pages, proxy_faults
from streamspace_devplane.web.middleware import WEB_SESSIONS, as_denial

NAMESPACE = "streamspace"
HOP_BY_HOP = frozenset(
    {"connection", "proxy-connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer"}
    | {"transfer-encoding", "upgrade"}
)
CONNECT_TIMEOUT = 30.0
SAFE_IN_PATH = "/$&+,:;=@-_.~"  # what Go's net/url does not escape in a path
ADDRESS = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|[^\s:/\[\]]+)(?::(?P<port>\d{1,5}))?")


def parse_address(text: str) -> tuple[str, int | None]:
    """`HOST` or `HOST:PORT`; raises `ValueError`."""
    found = ADDRESS.fullmatch(text)
    if not found or int(found["port"] or 1) not in range(1, 65536):
        raise ValueError(f"{text!r} is no HOST or HOST:PORT")
    return found["host"].strip("[]"), int(found["port"]) if found["port"] else None


class Target:
    """The server and path that a request is sent on to."""

    def __init__(self, row: dict[str, Any], gateway: str | None, scope: Any) -> None:
        self.row = row
        session_id, port = row["sessionId"], row["streamingPort"]
        self.name = f"{session_id}.{NAMESPACE}.svc.cluster.local"
        host, other_port = parse_address(gateway) if gateway else (self.name, None)
        self.host, self.port = host, other_port or port
        self.authority = f"{self.name}:{port}"
        path = scope["path"].removeprefix(f"{WEB_SESSIONS}{session_id}") or "/"
        query = quote(scope["query_string"], safe=string.punctuation)
        self.path = quote(path, safe=SAFE_IN_PATH) + (f"?{query}" if query else "")

    @property
    def url(self) -> httpx.URL:
        return httpx.URL(scheme="http", host=self.host, port=self.port, raw_path=self.path.encode())


class WebProxy:
    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self.store = hub.store
        self._transport = httpx.AsyncHTTPTransport(
            trust_env=False, limits=httpx.Limits(max_connections=None, max_keepalive_connections=100)
        )

    def routes(self) -> list[BaseRoute]:
        paths = ("/api/v1/http/{session}", "/api/v1/http/{session}/{path:path}")
        return [
            *(Route(path, self) for path in paths),
            *(WebSocketRoute(path, self) for path in paths),
        ]

    async def aclose(self) -> None:
        await self._transport.aclose()

    def _target(self, connection: HTTPConnection) -> Target | Response:
        session_id = connection.path_params["session"]
        row = self.store.session(session_id)
        if problem := refusal(connection):
            return problem
        if row is None:
            return JSONResponse({"error": "Session not found"}, 404)
        if row["streamingProtocol"] not in WEB:
            error = f"Session uses protocol '{row['streamingProtocol']}', not HTTP-based (use /vnc endpoint instead)"
            return JSONResponse({"error": error}, 400)
        if row["state"] != "running":
            return JSONResponse({"error": f"Session is not running (state: {row['state']})"}, 409)
        self.store.touch(session_id)
        return Target(row, self.hub.web_gateway, connection.scope)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await (self._http if scope["type"] == "http" else self._websocket)(scope, receive, send)

    # HTTP

    async def _http(self, scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        target = self._target(request)
        if isinstance(target, Response):
            await pages.for_person(request, target)(scope, receive, send)
            return
        body = Body(request)
        progress = Progress()
        exchange = asyncio.create_task(self._exchange(request, body, target, progress, send))
        leaving = asyncio.create_task(body.left())
        try:
            limit = proxy_faults.limit(self.hub)
            await asyncio.wait({exchange, leaving}, return_when=asyncio.FIRST_COMPLETED, timeout=limit)
            if exchange.done():
                exchange.result()
            elif leaving.done() and progress.under_way:
                proxy_faults.crash(self.hub, target.row, "the browser left in the middle of an answer")
            elif not leaving.done():
                if progress.under_way:
                    proxy_faults.crash(self.hub, target.row, f"an answer was under way after {limit:g} s")
                abort(request)
        finally:
            for task in (exchange, leaving):
                task.cancel()
            await asyncio.gather(exchange, leaving, return_exceptions=True)

    async def _exchange(self, request: Request, body: "Body", target: Target, progress: "Progress", send: Any) -> None:
        asked = httpx.Request(
            request.method,
            target.url,
            headers=[("host", target.authority), *_passed_on(request)],
            content=body.stream() if body.there else None,
            extensions={"timeout": {"connect": CONNECT_TIMEOUT}},
        )
        try:
            answer = await self._transport.handle_async_request(asked)
        except httpx.TransportError as error:
            await pages.for_person(request, _unreachable(error))(request.scope, request.receive, send)
            return
        except ClientDisconnect:
            return
        if pages.navigates(request) and pages.is_from_gateway(answer.status_code, answer.headers):
            await answer.aclose()
            await pages.error_page(answer.status_code)(request.scope, request.receive, send)
            return
        headers = [(name, value) for name, value in answer.headers.raw if name.lower().decode() not in HOP_BY_HOP]
        passed = proxy_faults.answer_for(self.hub, request, answer.status_code, headers)
        progress.under_way = True
        try:
            await send({"type": "http.response.start", "status": answer.status_code, "headers": passed.headers})
            async for data in answer.aiter_raw():
                await send({"type": "http.response.body", "body": passed.feed(data), "more_body": True})
            progress.under_way = False
            last = passed.end()
            if last is None:
                abort(request)
            else:
                await send({"type": "http.response.body", "body": last})
        except (httpx.TransportError, TooLong) as error:
            progress.under_way = False
            proxy_faults.crash(self.hub, target.row, f"an answer did not end as announced: {error!r}")
            abort(request)  # so that half an answer does not look like a whole one
        except OSError:
            pass  # the browser has left
        finally:
            await answer.aclose()

    # WebSockets

    async def _websocket(self, scope: Any, receive: Any, send: Any) -> None:
        browser = WebSocket(scope, receive, send)
        target = self._target(browser)
        if isinstance(target, Response):
            await browser.receive()
            await target({**scope, "type": "http"}, receive, as_denial(send))
            return
        try:
            server = await connect(
                f"ws://{target.authority}{target.path}",
                host=target.host,
                port=target.port,
                additional_headers=[pair for pair in _passed_on(browser) if not pair[0].startswith("sec-websocket-")],
                subprotocols=[Subprotocol(name) for name in scope["subprotocols"]] or None,
                user_agent_header=None,
                compression=None,
                max_size=None,
                ping_interval=None,
                open_timeout=CONNECT_TIMEOUT,
                proxy=None,
            )
        except (OSError, InvalidHandshake, EOFError) as error:
            await browser.receive()
            await _refusal(error)({**scope, "type": "http"}, receive, as_denial(send))
            return
        async with server:
            await browser.accept(subprotocol=server.subprotocol)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(proxy_faults.limit(self.hub)) as limit:
                    await first_done(_to_server(browser, server), _to_browser(browser, server))
            if limit.expired():
                abort(browser)
                server.transport.abort()


class Progress:
    under_way = False
    """Whether an answer has begun and is not over."""


def abort(connection: HTTPConnection) -> None:
    wire: Wire = connection.scope[SCOPE_KEY]
    wire.abort()


def _passed_on(connection: HTTPConnection) -> list[tuple[str, str]]:
    """The headers that are passed on, and X-Forwarded-For."""
    named = {name.strip().lower() for name in connection.headers.get("connection", "").split(",")}
    gone = HOP_BY_HOP | named | {"host", "x-forwarded-for", "expect"}
    came = [*connection.headers.getlist("x-forwarded-for"), connection.client.host if connection.client else ""]
    return [
        *((name, value) for name, value in connection.headers.items() if name not in gone),
        ("x-forwarded-for", ", ".join(filter(None, came))),
    ]


class Body:
    """A request's body, and the message behind it that the browser has left."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._read = asyncio.Event()
        self.there = "content-length" in request.headers or "transfer-encoding" in request.headers
        if not self.there:
            self._read.set()

    async def stream(self) -> AsyncIterator[bytes]:
        async for data in self._request.stream():
            yield data
        self._read.set()

    async def left(self) -> None:
        await self._read.wait()
        while (await self._request.receive())["type"] != "http.disconnect":
            pass


def _unreachable(error: Exception) -> Response:
    """As the deployed one answers: JSON with the wrong type."""
    if isinstance(error, httpx.ConnectError | OSError) and "refused" in _all_of(error):
        message = "The session is still starting. Please wait and try again."
        text = f'{{"error": "Session service not ready", "message": "{message}"}}'
        return PlainTextResponse(text, 503)
    return PlainTextResponse(f'{{"error": "Proxy error", "message": "{str(error) or type(error).__name__}"}}', 502)


def _all_of(error: BaseException | None) -> str:
    return "" if error is None else f"{error!r} {_all_of(error.__cause__ or error.__context__)}".lower()


def _refusal(error: Exception) -> Response:
    """The answer of a server that refused a WebSocket, or why there is none."""
    if isinstance(error, InvalidStatus):
        answer = error.response
        headers: Iterable[tuple[str, str]] = answer.headers.raw_items()
        kept = {name: value for name, value in headers if name.lower() not in HOP_BY_HOP | {"content-length"}}
        return Response(bytes(answer.body or b""), answer.status_code, kept)
    return _unreachable(error)


async def _to_server(browser: WebSocket, server: ClientConnection) -> None:
    with contextlib.suppress(ConnectionClosed):
        while (message := await browser.receive())["type"] != "websocket.disconnect":
            text, data = message.get("text"), message.get("bytes")
            await server.send(text if text is not None else data or b"")
        code = message.get("code") or 1000
        await server.close(code if code in range(1000, 1004) or code in range(1007, 5000) else 1000)


async def _to_browser(browser: WebSocket, server: ClientConnection) -> None:
    try:
        async for message in server:
            await (browser.send_text(message) if isinstance(message, str) else browser.send_bytes(message))
    except ConnectionClosed:
        if server.close_code in (None, 1006):
            abort(browser)
            return
    except (WebSocketDisconnect, RuntimeError):
        return
    with contextlib.suppress(WebSocketDisconnect, RuntimeError):
        code = server.close_code if server.close_code not in (None, 1005) else 1000
        await browser.close(code or 1000, server.close_reason)
