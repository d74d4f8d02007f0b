"""The HTTP endpoint on ``HEALTH_ADDRESS``: /healthz, /readyz, /status, /metrics.

Served by threads of its own, so that it answers, and says so, while the main loop is blocked.
"""

import logging
import socket
import threading
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Self

from streamspace_agent.errors import ConfigError
from streamspace_agent.health import Snapshot, Source, to_json
from streamspace_agent.logs import redact

if TYPE_CHECKING:
    from streamspace_agent.health.metrics import Metrics

log = logging.getLogger(__name__)


class HealthEndpoint:
    """Listens while the context is open. Raises ConfigError where the address cannot be listened on."""

    def __init__(self, address: str, source: Source) -> None:
        host, _, port = address.rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        try:
            self._server = _Server((host, int(port)), source)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise ConfigError([f"HEALTH_ADDRESS={address}: cannot listen there: {reason}"]) from error
        self._thread = threading.Thread(target=self._server.serve_forever, name="health-endpoint", daemon=True)

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], source: Source) -> None:
        self.source = source
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        # HTTPServer's own asks DNS for the host's full name, which can take seconds and is never used.
        socket.socket.setsockopt(self.socket, socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    @cached_property
    def metrics(self) -> "Metrics":
        from streamspace_agent.health.metrics import Metrics  # noqa: PLC0415 - 0.1 s at start that only a scrape needs

        return Metrics(self.source)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = 5.0
    server_version = "streamspace-agent"
    sys_version = ""

    def do_GET(self) -> None:
        try:
            status, kind, body = self._answer(self.server.source())
        except Exception:
            log.exception("cannot answer %s", self.path)
            status, kind, body = 500, "text/plain", b"internal error, see the agent's log\n"
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET  # noqa: N815 - the name http.server calls

    def _answer(self, snapshot: Snapshot) -> tuple[int, str, bytes]:
        match self.path.partition("?")[0]:
            case "/healthz":
                return _verdict([] if snapshot.alive else snapshot.unready()[:1])
            case "/readyz":
                return _verdict(snapshot.unready())
            case "/status":
                return 200, "application/json", to_json(snapshot)
            case "/metrics":
                from streamspace_agent.health.metrics import CONTENT_TYPE  # noqa: PLC0415 - as above

                return 200, CONTENT_TYPE, self.server.metrics.render()
            case _:
                return 404, "text/plain", b"one of /healthz /readyz /status /metrics\n"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name http.server gives it
        log.debug(format, *args)


def _verdict(problems: list[str]) -> tuple[int, str, bytes]:
    text = "".join(f"{redact(problem)}\n" for problem in problems) or "ok\n"
    return (503 if problems else 200), "text/plain; charset=utf-8", text.encode()
