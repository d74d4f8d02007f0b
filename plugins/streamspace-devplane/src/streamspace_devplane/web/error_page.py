"""What a person sees in place of a web session's page that cannot be had: the viewer's page, which says why, leads back, and goes on
by itself. Only the body differs from the answer that anybody else gets; its status stays.
"""

from collections.abc import Mapping

from starlette.requests import HTTPConnection
from starlette.responses import FileResponse, Response

from streamspace_devplane.settings import LABEL
from streamspace_devplane.web.middleware import HEADERS
from streamspace_devplane.web.pages import STATIC


def navigates(connection: HTTPConnection) -> bool:
    """Does somebody look at this address with a browser? Parts of a page, and programs, are answered as by the deployed one."""
    headers = connection.headers
    return (
        connection.scope.get("method") == "GET"
        and "text/html" in headers.get("accept", "")
        and headers.get("sec-fetch-dest", "document") == "document"
    )


def is_no_page(status: int, headers: Mapping[str, str]) -> bool:
    """Is it an answer of a gateway's or proxy's on the way, not of the session's own server?"""
    kind = headers.get("content-type", "")
    if status in {502, 503, 504} and not kind.startswith("text/html"):
        return True
    return status >= 400 and kind.startswith("text/plain") and "no-store" in headers.get("cache-control", "")


def shown(connection: HTTPConnection, answer: Response) -> Response:
    """`answer`, or the page in its place."""
    return page(answer.status_code) if navigates(connection) else answer


def page(status: int) -> Response:
    headers = {name: value for name, value in HEADERS.items() if name != LABEL} | {"cache-control": "no-store"}
    return FileResponse(STATIC / "view.html", status, headers, media_type="text/html; charset=utf-8")
