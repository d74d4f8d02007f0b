"""The deployed control plane's input filter: any query that looks like an attack is answered with 400."""

import re

from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse, Response

SQL = re.compile(
    r"union\s+select|select\s+.*\s+from|insert\s+into|delete\s+from|drop\s+table|update\s+.*\s+set"
    r"|exec\s*\(|execute\s*\(|script\s*>|javascript:|onerror\s*=|onload\s*=|--|#|/\*",
    re.IGNORECASE,
)
COMMAND = re.compile(r"[;&|`]|\$\(")
LDAP = ("*", "(", ")", "\\", "/", "\0")
MAX_LENGTH = 10_000


def suspicion(value: str) -> str | None:
    """Why a value is refused; `None` if it is not."""
    if len(value.encode()) > MAX_LENGTH:
        return f"value too long (max {MAX_LENGTH} characters)"
    if "\0" in value:
        return "null byte detected"
    if SQL.search(value):
        return "potential SQL injection detected"
    if COMMAND.search(value):
        return "potential command injection detected"
    if sum(character in value for character in LDAP) >= 2:
        return "potential LDAP injection detected"
    return None


def refusal(connection: HTTPConnection) -> Response | None:
    """The answer to a request whose query looks like an attack; `None` for any other."""
    for name, value in connection.query_params.multi_items():
        if problem := suspicion(value):
            message = f"Parameter '{name}': {problem}"
            return JSONResponse({"error": "Invalid query parameter", "message": message}, 400)
    return None
