"""Calls to one engine, over HTTP and in its own API version."""

# ruff: noqa: PLC0415 - the first call loads httpcore: 40 ms and 2 MB, which a standby of another backend does without

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from streamspace_agent.errors import EngineUnavailable, RuntimeDriverError
from streamspace_engine.errors import NotFound, Silent, refusal

if TYPE_CHECKING:
    import httpcore

    from streamspace_engine.connection import Connection

CALL_TIMEOUT = 30.0
"""Seconds without a byte of an engine's answer to a call; starting a container on a busy host takes some."""
PING_TIMEOUT = 3.0
MINIMUM_API = (1, 41)
"""Docker Engine 20.10: one-shot stats, and the oldest engine that is tested."""
CONTAINERD_STORE = ["driver-type", "io.containerd.snapshotter.v1"]
"""In the ``DriverStatus`` of ``/info``: the default of Docker 29, optional since 24."""

Params = Mapping[str, object]
"""Query parameters: lists and mappings are sent as JSON, booleans as 1 and 0, None is left out."""
_EMPTY: Mapping[str, Any] = MappingProxyType({})


class Engine:
    """One engine at ``docker_host``, used from one event loop. The first call connects and negotiates the API version.

    ``concurrency`` limits the calls that run at the same time; streams are not counted. ``timeout`` is in seconds.
    ``require_lease`` is called immediately before each request that may change something (any but GET); what it raises
    is raised by the call, and nothing is sent.

    A cancelled call closes its connection at once. What a cancelled change did is unknown, as after any lost answer.
    Errors are those of :mod:`streamspace_engine.errors`. Paths are given without API version and unquoted:
    ``/containers/json``.
    """

    def __init__(
        self,
        docker_host: str,
        environ: Mapping[str, str],
        *,
        concurrency: int = 16,
        timeout: float | None = None,
        minimum_api: tuple[int, ...] = MINIMUM_API,
        require_lease: Callable[[], None] = lambda: None,
    ) -> None:
        self.docker_host = docker_host
        self.environ = environ
        self._timeout = timeout or CALL_TIMEOUT
        self._minimum_api = minimum_api
        self._require_lease = require_lease
        self._concurrency = concurrency
        self._slots = asyncio.Semaphore(concurrency)
        self._negotiating = asyncio.Lock()
        self._connection: Connection | None = None
        self._api = ""
        self._cores = 0
        self._podman: bool | None = None

    async def get(self, path: str, params: Params = _EMPTY) -> Any:
        """The JSON of the answer; {} for an empty one."""
        return await self._json("GET", path, params)

    async def find(self, path: str, params: Params = _EMPTY) -> Any | None:
        """As :meth:`get`; None if there is no such object."""
        try:
            return await self.get(path, params)
        except NotFound:
            return None

    async def post(self, path: str, body: object = None, params: Params = _EMPTY) -> Any:
        """As :meth:`get`; ``body`` is sent as JSON."""
        return await self._json("POST", path, params, b"" if body is None else json.dumps(body).encode())

    async def put(self, path: str, body: bytes, params: Params = _EMPTY) -> None:
        await self._json("PUT", path, params, body, "application/x-tar")

    async def delete(self, path: str, params: Params = _EMPTY) -> None:
        await self._json("DELETE", path, params, b"")

    async def raw(self, path: str, params: Params = _EMPTY, *, limit: int | None = None) -> bytes:
        """The bytes of the answer; with ``limit`` at least its first ``limit`` bytes, and the rest is not read."""
        data = bytearray()
        async with self._slots, self._answer("GET", await self._versioned(path, params)) as response:
            async for chunk in response.aiter_stream():
                data += chunk
                if limit is not None and len(data) >= limit:
                    break
        return bytes(data)

    @asynccontextmanager
    async def stream(
        self, method: str, path: str, params: Params = _EMPTY, *, headers: Mapping[str, str] = _EMPTY, silence: float
    ) -> AsyncIterator[AsyncIterator[Any]]:
        """The JSON lines of a long answer. Entered when the answer begins; leaving closes the connection.

        Raises Silent when ``silence`` seconds pass without a byte.
        """
        target = await self._versioned(path, params)
        body = None if method == "GET" else b""
        async with self._answer(method, target, body, headers, silence=silence) as response:
            yield self._lines(response)

    async def api_version(self) -> tuple[int, ...]:
        """The engine's API version; asked once."""
        async with self._negotiating:
            if not self._api:
                self._api = await self._ask_version()
        return tuple(int(part) for part in self._api.split("."))

    async def outage(self) -> RuntimeDriverError | None:
        """Why no engine answers on a *new* connection; None when one does.

        An engine that shuts down goes on serving the old connections for a while.
        """
        from streamspace_engine.connection import Connection

        try:
            connection = Connection(self.docker_host, self.environ, keep=0)
            try:
                await self._ask_version(connection, PING_TIMEOUT)
            finally:
                await connection.aclose()
        except RuntimeDriverError as error:
            return error
        return None

    async def info(self) -> Mapping[str, Any]:
        """What the engine tells about itself and its host now."""
        found: Mapping[str, Any] = await self.get("/info")
        return found

    async def version(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = await self.get("/version")
        return found

    async def cores(self) -> int:
        """Processors of the engine's host; asked once."""
        if not self._cores:
            self._cores = int((await self.info()).get("NCPU") or 1)
        return self._cores

    async def is_podman(self) -> bool:
        """Asked once."""
        if self._podman is None:
            components = (await self.version()).get("Components") or []
            self._podman = any(component.get("Name") == "Podman Engine" for component in components)
        return self._podman

    async def has_containerd_store(self) -> bool:
        """Are images kept by containerd? Not remembered: the engine may be restarted with the other store."""
        return CONTAINERD_STORE in [list(pair) for pair in (await self.info()).get("DriverStatus") or []]

    async def aclose(self) -> None:
        """Close every connection; calls and streams under way fail."""
        if self._connection is not None:
            await self._connection.aclose()

    async def _json(
        self, method: str, path: str, params: Params, body: bytes | None = None, kind: str = "application/json"
    ) -> Any:
        async with self._slots:
            target = await self._versioned(path, params)
            async with self._answer(method, target, body, {"Content-Type": kind} if body else {}) as response:
                answer = await response.aread()
        if method != "GET" and answer.strip() == b"OK":
            return {}  # how Podman answers a disconnected network
        return self._parsed(answer)

    def _parsed(self, body: bytes) -> Any:
        try:
            return json.loads(body) if body.strip() else {}
        except ValueError as error:
            raise EngineUnavailable(f"the engine at {self.docker_host} answered what is not JSON") from error

    async def _versioned(self, path: str, params: Params) -> str:
        version = await self.api_version()
        if version < self._minimum_api:
            wanted = ".".join(map(str, self._minimum_api))
            raise RuntimeDriverError(
                f"DOCKER_HOST={self.docker_host} speaks API {self._api}, {wanted} is needed: "
                "update the engine to Docker 20.10 or newer"
            )
        query = urlencode({name: _text(value) for name, value in params.items() if value is not None})
        return f"/v{self._api}{quote(path, safe='/:')}{'?' if query else ''}{query}"

    async def _ask_version(self, connection: "Connection | None" = None, timeout: float | None = None) -> str:
        async with self._answer("GET", "/version", connection=connection, timeout=timeout) as response:
            answer = self._parsed(await response.aread())
        found = str(answer.get("ApiVersion", "")) if isinstance(answer, dict) else ""
        if not all(part.isdecimal() for part in found.split(".")):
            raise EngineUnavailable(f"DOCKER_HOST={self.docker_host} tells no API version: it is no container engine")
        return found

    @asynccontextmanager
    async def _answer(
        self,
        method: str,
        target: str,
        body: bytes | None = None,
        headers: Mapping[str, str] = _EMPTY,
        *,
        timeout: float | None = None,
        silence: float | None = None,
        connection: "Connection | None" = None,
    ) -> "AsyncIterator[httpcore.Response]":
        """A successful response whose body is still to be read. Meanwhile httpcore's errors become ours, too."""
        from streamspace_engine.connection import FAILURES, Connection, ReadTimeout
        from streamspace_engine.unreachable import explain

        async def trace(event: str, _: object) -> None:
            if event == "http11.send_request_headers.started" and method != "GET":
                self._require_lease()  # here, since connecting may have taken long

        limit = timeout or self._timeout
        timeouts = {"connect": limit, "write": limit, "read": silence or limit}
        try:
            if connection is None:
                connection = self._connection = self._connection or Connection(
                    self.docker_host, self.environ, keep=self._concurrency
                )
            extensions = {"timeout": timeouts, "trace": trace}
            async with connection.request(method, target, headers, body, extensions) as response:
                if response.status >= 400:
                    raise self._refused(response.status, await response.aread())
                yield response
        except FAILURES as error:
            if silence is not None and isinstance(error, ReadTimeout):
                raise Silent("the engine sent nothing in time") from error
            raise explain(error, self.docker_host) from error

    def _refused(self, status: int, body: bytes) -> RuntimeDriverError:
        text = body.decode("utf-8", "replace")
        if "sent an HTTP request to an HTTPS server" in text:
            from streamspace_engine.unreachable import spoke_plainly_to_tls

            return spoke_plainly_to_tls(self.docker_host)
        with suppress(ValueError, KeyError, TypeError):
            text = str(json.loads(text)["message"])
        return refusal(status, text, self.docker_host)

    async def _lines(self, response: "httpcore.Response") -> AsyncIterator[Any]:
        rest = b""
        async for chunk in response.aiter_stream():
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                if line.strip():
                    yield self._parsed(line)
        if rest.strip():
            yield self._parsed(rest)


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(int(value))
    return value if isinstance(value, str) else json.dumps(value)
