"""The HTTP connections to one engine: its address, TLS, and the proxy to a remote one."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpcore

from streamspace_engine.errors import Unreachable
from streamspace_engine.unreachable import TLS

PORT = 2375
FAILURES = (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError, httpcore.ProxyError)
"""What a request raises beside errors of :mod:`streamspace_engine.errors`."""
ReadTimeout = httpcore.ReadTimeout


class Connection:
    """A pool of connections to one ``DOCKER_HOST``: one for each request under way; ``keep`` idle ones stay open.

    ``DOCKER_TLS_VERIFY`` and ``DOCKER_CERT_PATH`` mean what they mean to the docker client. Raises Unreachable when the
    certificates cannot be read.
    """

    def __init__(self, docker_host: str, environ: Mapping[str, str], *, keep: int) -> None:
        address = urlsplit(docker_host)
        path = docker_host.removeprefix("unix://") if address.scheme == "unix" else None
        tls = None if path else _context(docker_host, environ)
        self._scheme = "http" if tls is None else "https"
        self._host = "docker" if path else address.hostname or "127.0.0.1"
        self._port = None if path else address.port or PORT
        self._prefix = "" if path else address.path.rstrip("/")
        self._tls = tls
        self._path = path
        self._keep = keep
        proxy = None if path else self._proxy()
        self._through_proxy = httpcore.AsyncHTTPProxy(proxy, ssl_context=tls) if proxy else None
        self._idle: list[httpcore.AsyncConnectionInterface] = []
        self._busy: set[httpcore.AsyncConnectionInterface] = set()

    def _proxy(self) -> str | None:
        proxy = getproxies().get(self._scheme)
        return proxy if proxy and not proxy_bypass(f"{self._host}:{self._port}") else None

    @asynccontextmanager
    async def request(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes | None, extensions: Mapping[str, Any]
    ) -> AsyncIterator[httpcore.Response]:
        """The response, whose body is yet to be read; leaving the context before its end closes the connection."""
        url = httpcore.URL(scheme=self._scheme, host=self._host, port=self._port, target=self._prefix + target)
        options: dict[str, Any] = {"headers": list(headers.items()), "content": body, "extensions": dict(extensions)}
        if self._through_proxy:
            async with self._through_proxy.stream(method, url, **options) as response:
                yield response
            return
        connection = await self._free(url.origin)
        self._busy.add(connection)
        try:
            async with connection.stream(method, url, **options) as response:
                yield response
        finally:
            self._busy.discard(connection)
            await self._put_back(connection)

    async def _free(self, origin: httpcore.Origin) -> httpcore.AsyncConnectionInterface:
        # Not httpcore's own pool: that looks at every connection for every request, which doubles the cost of a call.
        while self._idle:
            connection = self._idle.pop()
            if not connection.has_expired():
                return connection
            await connection.aclose()
        backend = _UnixSockets() if self._path else None
        return httpcore.AsyncHTTPConnection(origin, ssl_context=self._tls, uds=self._path, network_backend=backend)

    async def _put_back(self, connection: httpcore.AsyncConnectionInterface) -> None:
        if connection.is_idle() and not connection.is_closed() and len(self._idle) < self._keep:
            self._idle.append(connection)
        else:
            await connection.aclose()

    async def aclose(self) -> None:
        self._keep = 0
        for connection in (*self._idle, *self._busy):
            await connection.aclose()
        self._idle.clear()
        if self._through_proxy:
            await self._through_proxy.aclose()


class _UnixSockets(httpcore.AsyncNetworkBackend):
    """By asyncio's own streams: anyio's complain in the log of a read that is cancelled just as its bytes arrive."""

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None
    ) -> httpcore.AsyncNetworkStream:
        del socket_options
        try:
            async with asyncio.timeout(timeout):
                return _UnixStream(*await asyncio.open_unix_connection(path))
        except TimeoutError as error:
            raise httpcore.ConnectTimeout from error
        except OSError as error:
            raise httpcore.ConnectError(error) from error


class _UnixStream(httpcore.AsyncNetworkStream):
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        try:
            async with asyncio.timeout(timeout):
                return await self._reader.read(max_bytes)
        except TimeoutError as error:
            raise httpcore.ReadTimeout from error
        except OSError as error:
            raise httpcore.ReadError(error) from error

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        try:
            async with asyncio.timeout(timeout):
                self._writer.write(buffer)
                await self._writer.drain()
        except TimeoutError as error:
            raise httpcore.WriteTimeout from error
        except OSError as error:
            raise httpcore.WriteError(error) from error

    async def aclose(self) -> None:
        self._writer.transport.abort()
        await asyncio.sleep(0)  # in which asyncio closes the socket; its wait_closed() fails once a wait was cancelled

    def get_extra_info(self, info: str) -> Any:
        """An idle connection that can be read was closed by the engine."""
        return self._reader.at_eof() if info == "is_readable" else None


def _context(docker_host: str, environ: Mapping[str, str]) -> ssl.SSLContext | None:
    verify, folder = bool(environ.get("DOCKER_TLS_VERIFY")), environ.get("DOCKER_CERT_PATH", "")
    if not verify and not folder:
        return None
    certificates = Path(folder) if folder else Path.home() / ".docker"
    try:
        context = ssl.create_default_context(cafile=certificates / "ca.pem" if verify else None)
        if not verify:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.load_cert_chain(certificates / "cert.pem", certificates / "key.pem")
    except OSError as error:  # an ssl.SSLError is one
        why = (error.strerror or type(error).__name__).lower()
        message = f"DOCKER_HOST={docker_host}: the certificates in {certificates} cannot be read: {why}"
        raise Unreachable(message, TLS, lasting=True) from error
    return context
