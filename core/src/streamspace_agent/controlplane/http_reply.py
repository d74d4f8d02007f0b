"""Reads HTTP replies: who answered, the message, how long to wait, where a redirect points.

A reply is untrusted input: it is bounded in size and depth, and cleaned before it is shown.
"""

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urljoin

from streamspace_agent import protocol
from streamspace_agent.logs import redact

if TYPE_CHECKING:
    import urllib3

MAX_REPLY = 256 * 1024
"""Limit of a reply's body in bytes; an agent object takes about one thousand."""
MAX_WAIT = 300.0
"""The longest time in seconds that a server can make this agent wait."""
MAX_MESSAGE = 300
REDIRECTS = frozenset({300, 301, 302, 303, 307, 308})


@dataclass(frozen=True, slots=True)
class Reply:
    """An HTTP reply. ``body`` is its JSON object, empty for anything else."""

    status: int
    headers: Mapping[str, str]
    body: Mapping[str, Any]
    text: str

    @classmethod
    def of(cls, status: int, headers: Mapping[str, str], data: bytes | bytearray) -> Self:
        text = data[:MAX_REPLY].decode("utf-8", "replace")
        try:
            value = protocol.parse(text)
        except ValueError:
            value = None
        return cls(status, headers, value if isinstance(value, dict) else {}, text)

    @property
    def by_control_plane(self) -> bool:
        """Whether the control plane itself answered. A proxy answers in text, or in JSON without these keys."""
        return any(isinstance(self.body.get(key), str) and self.body[key] for key in ("error", "approvalStatus"))

    @property
    def message(self) -> str:
        """The reply's message for people, in one line: its ``error``, ``message`` and ``details``, if any."""
        parts = dict.fromkeys(_line(self.body.get(key)) for key in ("error", "message", "details"))
        return protocol.cut(": ".join(filter(None, parts)), MAX_MESSAGE)

    @property
    def wait(self) -> float:
        """Seconds that the server asks to wait, from its header or body; 0 if it names no usable number."""
        return _seconds(self.headers.get("Retry-After")) or _seconds(self.body.get("retryAfter"))

    def redirect(self, url: str, path: str) -> str:
        """The base address that a redirect of ``url`` points to, without ``path``; "" for no redirect."""
        location = self.headers.get("Location", "")
        if self.status not in REDIRECTS or not location:
            return ""
        try:
            target = urljoin(url, location).partition("?")[0]
        except ValueError:
            target = location
        return protocol.cut(_line(target.removesuffix(path)), MAX_MESSAGE)

    def refusal(self, url: str, path: str) -> str:
        """``HTTP 403: the reason``; for a redirect, its target and the setting to change."""
        if target := self.redirect(url, path):
            fix = "if that is the control plane, set CONTROL_PLANE_URL to it"
            return f"HTTP {self.status}, a redirect to {target}, which is not followed: {fix}"
        return f"HTTP {self.status}{self.message and ': ' + self.message}"


def read(response: "urllib3.BaseHTTPResponse", timeout: float) -> Reply:
    """Read a response that was not preloaded: at most :data:`MAX_REPLY` bytes, for at most ``timeout`` seconds."""
    data, end = bytearray(), time.monotonic() + timeout
    try:
        while len(data) < MAX_REPLY and time.monotonic() < end:
            piece = response.read1(MAX_REPLY - len(data), decode_content=False)
            if not piece:
                break
            data += piece
    finally:
        response.close()
    return Reply.of(response.status, response.headers, data)


def _line(value: object) -> str:
    """A text, or a list of texts, on one line and without control characters."""
    if isinstance(value, dict):
        value = [f"{key}: {item}" for key, item in list(value.items())[:10]]
    if isinstance(value, list):
        value = "; ".join(item[:MAX_MESSAGE] for item in value[:10] if isinstance(item, str))
    if not isinstance(value, str):
        return ""
    text = " ".join(value[: 4 * MAX_MESSAGE].split())
    return redact(text if text.isprintable() else ascii(text)[1:-1])


def _seconds(value: object) -> float:
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= 10:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        return 0.0
    return float(min(value, MAX_WAIT))
