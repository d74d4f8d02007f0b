"""The whole control plane as one ASGI application."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute

from streamspace_devplane import pages
from streamspace_devplane.api import Api
from streamspace_devplane.bridge import Bridge
from streamspace_devplane.browsers import Labelled, SameOrigin
from streamspace_devplane.hub import Hub
from streamspace_devplane.live import Live
from streamspace_devplane.registration import Door, Misbehaviour
from streamspace_devplane.webproxy import WebProxy


async def explain(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 404 and pages.asked_for(request):
        return pages.nothing_here()
    return JSONResponse({"error": error.detail}, error.status_code)


def build(hub: Hub, door: Door, novnc: Path | None) -> Starlette:
    web = WebProxy(hub)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        watch = asyncio.create_task(hub.watch())
        try:
            yield
        finally:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
            await hub.relay.stop()
            await web.aclose()

    viewers = Bridge(hub)
    return Starlette(
        routes=[
            Route("/api/v1/agents/register", door.register, methods=["POST"]),
            WebSocketRoute("/api/v1/agents/connect", door.connect),
            WebSocketRoute("/api/v1/sessions/{session}/vnc", viewers.vnc),
            WebSocketRoute("/api/v1/vnc/{session}", viewers.vnc),  # the deployed one's own path
            *web.routes(),
            *Api(door).routes(),
            *Live(hub).routes(),
            *pages.routes(novnc),
        ],
        middleware=[Middleware(Labelled), Middleware(SameOrigin), Middleware(Misbehaviour, hub=hub)],
        exception_handlers={HTTPException: explain},
        lifespan=lifespan,
    )
