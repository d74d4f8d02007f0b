"""The way to the engine: one client, bounded threads for its blocking calls, and the one gate for side effects."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from streamspace_agent.errors import RuntimeDriverError
from streamspace_runtime_docker.streams import Reader

if TYPE_CHECKING:
    import docker

    from streamspace_runtime_docker.client import Stream

T = TypeVar("T")
Call = Callable[["docker.APIClient"], T]

CALL_TIMEOUT = 30
"""Seconds an engine may take over one short call; starting a container on a busy host takes some."""
PING_TIMEOUT = 3
CONTAINERD_STORE = ["driver-type", "io.containerd.snapshotter.v1"]
"""In the ``DriverStatus`` of ``/info``: the default of Docker 29, on choice since 24."""


class Engine:
    """Blocking SDK calls run in threads: short ones in one pool, streams in another, so that no pull holds up a call.

    ``pulls`` streams and the events may run at once. ``guard`` is asked in the thread that makes a side effect, immediately before it.
    """

    def __init__(
        self,
        docker_host: str,
        environ: Mapping[str, str],
        *,
        concurrency: int,
        pulls: int,
        guard: Callable[[], None],
    ) -> None:
        self.docker_host = docker_host
        self.environ = environ
        self._guard = guard
        self._concurrency = concurrency
        self._calls = ThreadPoolExecutor(concurrency, thread_name_prefix="engine")
        self._pulls = ThreadPoolExecutor(pulls, thread_name_prefix="engine-pull")
        # Of their own: where all pulls are at work, the events would wait for them. One may still be leaving.
        self._events = ThreadPoolExecutor(2, thread_name_prefix="engine-events")
        self._readers: set[Reader] = set()
        self._client: docker.APIClient | None = None
        self._lock = threading.Lock()
        self._info: Mapping[str, Any] = {}
        self._podman: bool | None = None

    async def read(self, call: Call[T]) -> T:
        """Run a call without side effects. Raises EngineUnavailable, NotFound, Conflict or EngineError."""
        return await asyncio.get_running_loop().run_in_executor(self._calls, self._run, call, False)

    async def change(self, call: Call[T]) -> T:
        """Run a call with side effects: the only way to make one."""
        return await asyncio.get_running_loop().run_in_executor(self._calls, self._run, call, True)

    async def cores(self) -> int:
        """Processors of the engine's host."""
        return int((await self._about()).get("NCPU") or 1)

    async def is_podman(self) -> bool:
        if self._podman is None:
            version = await self.read(lambda client: client.version())
            names = {str(component.get("Name", "")) for component in version.get("Components") or []}
            self._podman = "Podman Engine" in names
        return self._podman

    async def has_containerd_store(self) -> bool:
        """Are images kept by containerd? Asked each time: the engine may have been started anew with the other store."""
        info = await self.read(lambda client: client.info())
        return CONTAINERD_STORE in [list(pair) for pair in info.get("DriverStatus") or []]

    async def _about(self) -> Mapping[str, Any]:
        """What the engine says of itself and its host; asked once."""
        if not self._info:
            self._info = await self.read(lambda client: client.info())
        return self._info

    def _run(self, call: Call[T], changes: bool) -> T:
        from streamspace_runtime_docker.client import translate  # noqa: PLC0415  # loads the SDK, at first use only

        try:
            client = self._connected()
            if changes:
                self._guard()
            return call(client)
        except Exception as error:
            raise translate(error, self.docker_host) from error

    def _connected(self) -> "docker.APIClient":
        from streamspace_runtime_docker.client import make_client  # noqa: PLC0415  # as above

        with self._lock:
            if self._client is None:
                self._client = make_client(
                    self.docker_host, self.environ, timeout=CALL_TIMEOUT, connections=self._concurrency + 4
                )
            return self._client

    async def outage(self) -> RuntimeDriverError | None:
        """Why no engine answers us on a *new* connection, None where one does: one that shuts down goes on serving the old
        connections for a while.
        """
        return await asyncio.get_running_loop().run_in_executor(self._calls, self._outage)

    def _outage(self) -> RuntimeDriverError | None:
        from streamspace_runtime_docker.client import make_client, translate  # noqa: PLC0415  # as above

        try:
            client = make_client(self.docker_host, self.environ, timeout=PING_TIMEOUT, connections=1)
            client.close()
        except Exception as error:
            translated = translate(error, self.docker_host)
            if isinstance(translated, RuntimeDriverError):
                return translated
            raise
        return None

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str],
        headers: Callable[[], Mapping[str, str]] = dict,
        read_timeout: float,
        changes: bool = False,
    ) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
        """The JSON lines of a long answer, opened when the context is entered and cut when it is left.

        One that ``changes`` something is a pull. ``headers`` is called in the thread, since making some runs a credential helper.
        """
        from streamspace_runtime_docker.client import open_stream, translate  # noqa: PLC0415  # as above

        def opener() -> "Stream":
            client, made = self._connected(), headers()
            if changes:
                self._guard()
            return open_stream(client, method, path, params=params, headers=made, read_timeout=read_timeout)

        reader = Reader(opener, lambda error: translate(error, self.docker_host))
        self._readers.add(reader)
        try:
            threads = self._pulls if changes else self._events
            asyncio.get_running_loop().run_in_executor(threads, reader.run)
            await reader.opened()
            yield reader
        finally:
            self._readers.discard(reader)
            reader.leave()

    def close(self) -> None:
        """Wake every blocked stream and let the threads end by themselves; a call under way is not waited for."""
        for reader in self._readers:
            reader.leave()
        self._calls.shutdown(wait=False, cancel_futures=True)
        self._pulls.shutdown(wait=False, cancel_futures=True)
        self._events.shutdown(wait=False, cancel_futures=True)
        if self._client is not None:
            self._client.close()
