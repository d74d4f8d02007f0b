"""The whole control plane as one ASGI application."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute

from streamspace_devplane import pages
from streamspace_devplane.api import Api
from streamspace_devplane.bridge import Bridge
from streamspace_devplane.hub import Hub
from streamspace_devplane.registration import Door, Misbehaviour


class Label:
    """Every answer says what this is."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def labelled(message: Any) -> None:
            if message["type"] in ("http.response.start", "websocket.accept", "websocket.http.response.start"):
                message.setdefault("headers", [])
                message["headers"] = [*message["headers"], (b"x-streamspace-devplane", b"development only")]
            await send(message)

        await self.app(scope, receive, labelled)


async def explain(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail}, error.status_code)


def build(hub: Hub, door: Door) -> Starlette:
    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        watch = asyncio.create_task(hub.watch())
        try:
            yield
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)

    return Starlette(
        routes=[
            Route("/api/v1/agents/register", door.register, methods=["POST"]),
            WebSocketRoute("/api/v1/agents/connect", door.connect),
            WebSocketRoute("/api/v1/sessions/{session}/vnc", Bridge(hub).vnc),
            *Api(door).routes(),
            *pages.routes(),
        ],
        middleware=[Middleware(Label), Middleware(Misbehaviour, hub=hub)],
        exception_handlers={HTTPException: explain},
        lifespan=lifespan,
    )
