"""What a person sees if a web session's page cannot be shown: the viewer's page, which says why, and tries again.

Only the body differs from the answer that a program gets; the status is the same.
"""

from collections.abc import Mapping

from starlette.requests import HTTPConnection
from starlette.responses import FileResponse, Response

from streamspace_devplane.settings import LABEL
from streamspace_devplane.web.middleware import HEADERS
from streamspace_devplane.web.pages import STATIC


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
    return page(answer.status_code) if navigates(connection) else answer


def page(status: int) -> Response:
    headers = {name: value for name, value in HEADERS.items() if name != LABEL} | {"cache-control": "no-store"}
    return FileResponse(STATIC / "view.html", status, headers, media_type="text/html; charset=utf-8")
