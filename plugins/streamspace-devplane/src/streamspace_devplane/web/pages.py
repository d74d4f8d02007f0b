"""Serves the pages, their scripts, and noVNC if it is installed. Nothing is rendered from input."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from streamspace_devplane.settings import LABEL
from streamspace_devplane.web.middleware import HEADERS
from streamspace_devplane.web.novnc import HELP

STATIC = Path(__file__).parent / "static"


def page(name: str) -> Any:
    async def shown(_: Request) -> Response:
        return FileResponse(STATIC / name, media_type="text/html; charset=utf-8")

    return shown


def wants_page(request: Request) -> bool:
    """Whether a person opens this address in a browser. The API, and programs, are answered in JSON."""
    return not request.url.path.startswith("/api/") and "text/html" in request.headers.get("accept", "")


def not_found() -> Response:
    return FileResponse(STATIC / "missing.html", 404, media_type="text/html; charset=utf-8")


def navigates(connection: HTTPConnection) -> bool:
    """Whether a person opens this address in a browser. Programs and parts of pages get the deployed one's answer."""
    headers = connection.headers
    return (
        connection.scope.get("method") == "GET"
        and "text/html" in headers.get("accept", "")
        and headers.get("sec-fetch-dest", "document") == "document"
    )


def is_from_gateway(status: int, headers: Mapping[str, str]) -> bool:
    """Whether an answer is a gateway's or proxy's on the way, not the session's own server's."""
    kind = headers.get("content-type", "")
    if status in {502, 503, 504} and not kind.startswith("text/html"):
        return True
    return status >= 400 and kind.startswith("text/plain") and "no-store" in headers.get("cache-control", "")


def for_person(connection: HTTPConnection, answer: Response) -> Response:
    """`answer`, or the page instead of it for a person with a browser."""
    return error_page(answer.status_code) if navigates(connection) else answer


def error_page(status: int) -> Response:
    """The viewer's page, which says why a web session's page cannot be shown, and tries again."""
    headers = {name: value for name, value in HEADERS.items() if name != LABEL} | {"cache-control": "no-store"}
    return FileResponse(STATIC / "view.html", status, headers, media_type="text/html; charset=utf-8")


def routes(novnc: Path | None) -> list[BaseRoute]:
    async def viewer(_: Request) -> Response:
        return JSONResponse({"available": novnc is not None, "help": None if novnc else HELP})

    async def missing(_: Request) -> Response:
        raise HTTPException(404, HELP)

    return [
        Route("/", page("home.html")),
        Route("/sessions/{session}/view", page("view.html")),
        Route("/api/v1/viewer", viewer),
        Mount("/static", StaticFiles(directory=STATIC)),
        *(
            Mount(f"/novnc/{part}", StaticFiles(directory=novnc / part, follow_symlink=True))
            for part in ("core", "vendor")
            if novnc and (novnc / part).is_dir()
        ),
        Route("/novnc/{path:path}", missing),
    ]
