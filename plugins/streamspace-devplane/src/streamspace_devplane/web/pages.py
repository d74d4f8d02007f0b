"""Serves the pages, their scripts, and noVNC if it is installed. Nothing is rendered from input."""

from pathlib import Path
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

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
