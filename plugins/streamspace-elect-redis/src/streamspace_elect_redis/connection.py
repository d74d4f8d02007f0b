"""Connections to Redis that never retry by themselves. Setting one up may outlast the call that began it."""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Coroutine
from typing import Any

from redis.asyncio import Connection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError, Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError, ReadOnlyError, RedisError

from streamspace_agent.errors import BackendUnavailable
from streamspace_elect_redis.url import Address, Login

# A server that vanished without closing is noticed after 10 + 3 x 3 s by a connection that only listens.
_KEEPALIVE = {socket.TCP_KEEPIDLE: 10, socket.TCP_KEEPINTVL: 3, socket.TCP_KEEPCNT: 3}

SETUP_SHARE, LEFTOVER_SETUP_SHARE = 0.5, 0.1
"""How much of its time a call waits for a connection that it began to set up, or that an earlier call did. After more
than that, the rest may be too short for a store so slow, and a call that times out costs the connection."""

FAREWELL = 0.5
"""Seconds that :func:`close` waits for the server's end of a TLS connection."""


class Connector:
    """Makes connections to the server that ``address`` leads to now."""

    def __init__(self, address: Address, call_timeout: float, setup_timeout: float) -> None:
        self.address = address
        self._setup_timeout = setup_timeout
        self._sentinel: Sentinel | None = None
        if address.service:
            options = self._options(address.sentinel_login, call_timeout)
            if address.tls:
                options |= {"ssl": True, **self._tls()}
            self._sentinel = Sentinel(address.hosts, sentinel_kwargs=options)  # type: ignore[no-untyped-call] # redis-py leaves it bare

    def _options(self, login: Login, timeout: float) -> dict[str, Any]:
        return {
            "username": login.username,
            "password": login.password,
            "socket_timeout": timeout,
            "socket_connect_timeout": timeout,
            "retry": Retry(NoBackoff(), 0),  # the default makes a call last longer than a lease
            "decode_responses": True,
            "encoding_errors": "replace",
            # RESP2 and no library name: no round trip before the first command but AUTH and SELECT
            "protocol": 2,
            "driver_info": None,
        }

    def _tls(self) -> dict[str, Any]:
        files = self.address.files
        named = {"ssl_ca_certs": files.get("ca"), "ssl_certfile": files.get("cert"), "ssl_keyfile": files.get("key")}
        return {name: path for name, path in named.items() if path}

    async def connect(self) -> AbstractConnection:
        """A new connection, logged in. Calls have no time limit but their caller's. Raises RedisError or OSError."""
        connection = await self._make()
        try:
            await connection.connect()  # type: ignore[no-untyped-call] # redis-py leaves it bare
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        # To keep a limit of its own, redis-py would start a task for each command: a standby has four in a second.
        connection.socket_timeout = None
        return connection

    async def _make(self) -> AbstractConnection:
        address = self.address
        options = {**self._options(address.login, self._setup_timeout), "db": address.db}
        if address.path:
            return UnixDomainSocketConnection(path=address.path, **options)
        host, port = await self._sentinel.discover_master(address.service) if self._sentinel else address.hosts[0]
        options |= {"host": host, "port": port, "socket_keepalive": True, "socket_keepalive_options": _KEEPALIVE}
        return SSLConnection(**options, **self._tls()) if address.tls else Connection(**options)

    async def aclose(self) -> None:
        if self._sentinel:
            await self._sentinel.aclose()


class CommandConnection:
    """One connection, for one caller at a time. A cancelled call closes it, so that no answer reaches the wrong call.

    Setting it up may take longer than a call may. It goes on after a call was cancelled, and the next one uses it.
    """

    def __init__(
        self, connect: Callable[[], Coroutine[Any, Any, AbstractConnection]], name: str, timeout: float
    ) -> None:
        self._connect = connect
        self._name = name
        self._timeout = timeout
        self._connection: AbstractConnection | None = None
        self._setup: asyncio.Task[AbstractConnection] | None = None
        self._lock = asyncio.Lock()

    async def call(self, *words: str | int) -> Any:
        """The server's answer. Raises RedisError, OSError or TimeoutError."""
        async with asyncio.timeout(self._timeout), self._lock:
            began = asyncio.get_running_loop().time()
            limit = self._timeout * (LEFTOVER_SETUP_SHARE if self._setup else SETUP_SHARE)
            connection = await self._connected()
            if asyncio.get_running_loop().time() - began > limit:
                raise RedisError("connected just now, too late for this call")
            await connection.send_command(*words)
            try:
                return await connection.read_response()
            except ReadOnlyError:
                await self._drop()  # the next connection may find the new primary
                raise

    async def run_script(self, script: str, keys: tuple[str, ...], *arguments: str | int) -> Any:
        """Return the script's answer. Raises BackendUnavailable if there is none."""
        try:
            return await self.call("EVAL", script, len(keys), *keys, *arguments)
        except (RedisError, OSError) as error:
            raise BackendUnavailable(f"redis at {self._name}: {explain(error, self._timeout)}") from error

    async def _connected(self) -> AbstractConnection:
        if self._connection and self._connection.is_connected:
            return self._connection
        if self._setup is None:
            self._setup = asyncio.create_task(self._connect())
            self._setup.add_done_callback(_retrieve)
        try:
            return await asyncio.shield(self._setup)
        finally:
            if self._setup.done():
                self._keep(self._setup)
                self._setup = None

    def _keep(self, setup: "asyncio.Task[AbstractConnection]") -> None:
        """Keep the connection that a set-up ended with, also where its call was cancelled in that very moment."""
        if not setup.cancelled() and not setup.exception():
            self._connection = setup.result()

    async def _drop(self) -> None:
        if self._connection:
            await self._connection.disconnect(nowait=True)
        self._connection = None

    async def aclose(self) -> None:
        if self._setup:
            self._setup.cancel()
            await asyncio.wait([self._setup])
            self._keep(self._setup)
            self._setup = None
        if self._connection:
            await close(self._connection)
        self._connection = None


async def close(connection: AbstractConnection) -> None:
    """Close it in good order, so that nothing of it is left open when the event loop ends."""
    with contextlib.suppress(RedisError, OSError):
        async with asyncio.timeout(FAREWELL):
            await connection.disconnect()


def _retrieve(task: "asyncio.Task[AbstractConnection]") -> None:
    if not task.cancelled():
        task.exception()  # asyncio would warn of it; nobody waits for this set-up, and the next call tries again


def explain(error: BaseException, timeout: float) -> str:
    """Describe an error in one line, without credentials; ``timeout`` in seconds."""
    if isinstance(error, TimeoutError) or not str(error):
        return f"no answer within {timeout * 1000:.0f} ms"
    if isinstance(error, MasterNotFoundError):
        # Its own text shows how each Sentinel's client was made, logins included.
        return (
            "no Sentinel names a primary for the service "
            "(none answers, the login is refused, or the service is unknown)"
        )
    text = " ".join(str(error).split())
    if isinstance(error, AuthenticationError | NoPermissionError):
        return f"login or permission refused, see REDIS_URL: {text}"
    return text
