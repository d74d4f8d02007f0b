"""The HTTP endpoint on ``HEALTH_ADDRESS``: /healthz, /readyz, /status, /metrics.

Its own threads serve it, so that it answers even while the main loop is blocked.
"""

import errno
import logging
import socket
import threading
import time
from contextlib import suppress
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self

from streamspace_agent.errors import ConfigError, why
from streamspace_agent.health import Snapshot, Source, to_json
from streamspace_agent.logs import redact

if TYPE_CHECKING:
    from streamspace_agent.health.metrics import Metrics

log = logging.getLogger(__name__)

RETRY = 5.0
"""Seconds between two tries to bind an address that is in use."""
POLL = 0.5
"""Seconds within which the thread notices that the endpoint is closed."""


def refusal(address: str) -> OSError | None:
    """Why no port of the address (as for :class:`HealthEndpoint`) can be bound now; None if one can. Binds none."""
    try:
        _bound(address).server_close()
    except OSError as error:
        return error
    return None


class HealthEndpoint:
    """Listens at the first free port of ``HOST:PORT`` or ``HOST:FIRST-LAST`` while the context is open.

    Raises ConfigError if it cannot. With ``shared``, it tries again if all ports are in use: the replicas on one host
    have the same setting, and one of them may end.
    """

    def __init__(self, address: str, source: Source, *, shared: bool = False) -> None:
        self._wanted = address
        self._host = address.rpartition(":")[0]
        self._source = source
        self._server: _Server | None = None
        self._ended = threading.Event()
        try:
            self._server = _bound(address)
        except OSError as error:
            if not shared or error.errno != errno.EADDRINUSE:
                raise ConfigError([f"HEALTH_ADDRESS={address}: cannot listen there: {why(error)}"]) from error
            log.warning(
                "HEALTH_ADDRESS=%s: cannot listen there: %s, perhaps by another replica; trying again every %.0f s. "
                "A range, such as 127.0.0.1:9100-9109, has a port for each replica",
                address,
                why(error),
                RETRY,
            )
        self._thread = threading.Thread(target=self._serve, name="health-endpoint", daemon=True)

    @property
    def port(self) -> int:
        """The port that it listens at; 0 while it does not."""
        return int(self._server.server_address[1]) if self._server else 0

    @property
    def address(self) -> str:
        """``host:port`` with the host as set; "" while it does not listen."""
        return f"{self._host}:{self.port}" if self._server else ""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        if self._server:
            self._server.server_close()

    def _serve(self) -> None:
        while self._server is None and not self._ended.wait(RETRY):
            with suppress(OSError):
                self._server = _bound(self._wanted)
        if self._server:
            self._server.source = self._source
            log.info("health and metrics are served at http://%s", self.address)
        while self._server and not self._ended.is_set():
            self._server.handle_request()


def _bound(address: str) -> "_Server":
    """A server at the first free port. Raises OSError; if all ports are in use, that of the last one."""
    host, _, ports = address.rpartition(":")
    first, _, last = ports.partition("-")
    for port in range(int(first), int(last or first) + 1):
        try:
            return _Server((host.removeprefix("[").removesuffix("]"), port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE or port == int(last or first):
                raise
    raise AssertionError("a range has a port")


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    timeout = POLL
    source: Source

    def __init__(self, address: tuple[str, int]) -> None:
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        # HTTPServer's own method asks DNS for the host's full name, which may take seconds and is not needed.
        socket.socket.setsockopt(self.socket, socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    def get_request(self) -> Any:
        try:
            return super().get_request()
        except OSError:  # for example too many open files: the client waits on, and select() would report it at once
            time.sleep(POLL)
            raise

    @cached_property
    def metrics(self) -> "Metrics":
        from streamspace_agent.health.metrics import Metrics  # noqa: PLC0415 - takes 0.1 s, which only a scrape needs

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
