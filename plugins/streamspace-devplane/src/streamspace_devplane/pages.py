"""What a browser sees."""

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Route

from streamspace_devplane.settings import BANNER

HOME = f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{BANNER}</title>
<h1>StreamSpace</h1><p><strong>{BANNER}</strong></p>
<p>API: <a href="/api/v1/agents">agents</a>, <a href="/api/v1/sessions">sessions</a>,
<a href="/api/v1/commands">commands</a>, <a href="/api/v1/events">events</a>, <a href="/api/v1/faults">faults</a>,
<a href="/api/v1/diagnostics">diagnostics</a></p></html>
"""


async def home(_: Request) -> Response:
    return HTMLResponse(HOME)


def routes() -> list[BaseRoute]:
    return [Route("/", home)]
