"""The control plane as an ASGI application."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute

from streamspace_devplane.agents.hub import Hub
from streamspace_devplane.agents.registration import AgentEndpoints
from streamspace_devplane.agents.upkeep import upkeep
from streamspace_devplane.web import pages
from streamspace_devplane.web.api import Api
from streamspace_devplane.web.live import Live
from streamspace_devplane.web.middleware import FaultSwitches, Labelled, SameOrigin
from streamspace_devplane.web.proxy import WebProxy
from streamspace_devplane.web.vnc import vnc


async def explain(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 404 and pages.wants_page(request):
        return pages.not_found()
    return JSONResponse({"error": error.detail}, error.status_code)


def build(hub: Hub, endpoints: AgentEndpoints, novnc: Path | None) -> Starlette:
    proxy = WebProxy(hub)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        clock = asyncio.create_task(upkeep(hub))
        try:
            yield
        finally:
            clock.cancel()
            await asyncio.gather(clock, return_exceptions=True)
            await hub.relay.stop()
            await proxy.aclose()

    return Starlette(
        routes=[
            Route("/api/v1/agents/register", endpoints.register, methods=["POST"]),
            WebSocketRoute("/api/v1/agents/connect", endpoints.connect),
            WebSocketRoute("/api/v1/sessions/{session}/vnc", partial(vnc, hub)),
            WebSocketRoute("/api/v1/vnc/{session}", partial(vnc, hub)),  # the deployed one's own path
            *proxy.routes(),
            *Api(endpoints).routes(),
            *Live(hub).routes(),
            *pages.routes(novnc),
        ],
        middleware=[Middleware(Labelled), Middleware(SameOrigin), Middleware(FaultSwitches, hub=hub)],
        exception_handlers={HTTPException: explain},
        lifespan=lifespan,
    )
