"""The engine's API as the election needs it: few calls, each bounded, each with one of four outcomes.

A result, :exc:`~streamspace_elect_swarm.errors.Missing`, :exc:`~streamspace_elect_swarm.errors.Conflict`, or
:exc:`~streamspace_agent.errors.BackendUnavailable`.
"""

import asyncio
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import requests
from docker import APIClient
from docker.errors import DockerException
from docker.transport import UnixHTTPAdapter
from docker.utils import kwargs_from_env

from streamspace_agent.errors import BackendUnavailable
from streamspace_elect_swarm.errors import Conflict, Forbidden, Missing

# One call of the core, one look for a sign of death, and what a cancelled call may still occupy.
THREADS = 4


class _OnePool(UnixHTTPAdapter):
    """The SDK's own adapter keeps a pool of connections for each URL, and closes old ones under running calls."""

    def get_connection(self, url: Any, proxies: Any = None) -> Any:
        del url
        return super().get_connection("http+docker://localhost", proxies)


class Engine:
    """A client made at the first call, and threads for its blocking calls. ``timeout`` in seconds, for each call."""

    def __init__(self, docker_host: str, environ: Mapping[str, str], timeout: float) -> None:
        self.docker_host = docker_host
        self._environ = environ
        self._timeout = timeout
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="elect-swarm")
        self._making = threading.Lock()
        self._client: APIClient | None = None

    async def get(self, path: str) -> dict[str, Any]:
        return await self._run("GET", path, None, {})

    async def post(self, path: str, body: Mapping[str, Any], **params: str) -> dict[str, Any]:
        return await self._run("POST", path, body, params)

    async def api_version(self) -> tuple[int, ...]:
        client = await asyncio.get_running_loop().run_in_executor(self._pool, self._connect)
        return tuple(int(part) for part in client.api_version.split("."))

    def open_events(self, filters: str, silence: float) -> requests.Response:
        """Blocking: the stream of events. Its reader gets an error after ``silence`` seconds without any."""
        return self._request("GET", "/events", None, {"filters": filters}, (self._timeout, silence), stream=True)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        if self._client:
            self._client.close()

    async def _run(self, method: str, path: str, body: Any, params: Mapping[str, str]) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        answer: dict[str, Any] = await loop.run_in_executor(self._pool, self._call, method, path, body, params)
        return answer

    def _call(self, method: str, path: str, body: Any, params: Mapping[str, str]) -> Any:
        response = self._request(method, path, body, params, self._timeout)
        try:
            return response.json() if response.content else {}
        except ValueError as error:
            raise BackendUnavailable(f"the engine at {self.docker_host} answered what is not JSON") from error

    def _request(
        self, method: str, path: str, body: Any, params: Mapping[str, str], timeout: Any, *, stream: bool = False
    ) -> requests.Response:
        client = self._connect()
        url = f"{client.base_url}/v{client.api_version}{path}"
        try:
            response = client.request(method, url, params=dict(params), json=body, timeout=timeout, stream=stream)
        except (requests.RequestException, OSError) as error:
            raise BackendUnavailable(f"the engine at {self.docker_host} does not answer: {cause(error)}") from error
        if response.status_code >= 400:
            raise self._judged(response)
        return response

    def _connect(self) -> APIClient:
        with self._making:
            if self._client is None:
                arguments = kwargs_from_env({**self._environ, "DOCKER_HOST": self.docker_host})
                # The SDK's stubs know whole seconds only.
                timeout: Any = self._timeout
                try:
                    client = APIClient(**arguments, version="auto", timeout=timeout)
                except (DockerException, requests.RequestException, OSError) as error:
                    raise BackendUnavailable(
                        f"the engine at {self.docker_host} does not answer: {cause(error)}"
                    ) from error
                if self.docker_host.startswith("unix://"):
                    client.mount("http+docker://", _OnePool(f"http+{self.docker_host}", timeout))
                self._client = client
            return self._client

    def _judged(self, response: requests.Response) -> Exception:
        try:
            text = str(response.json()["message"])
        except (ValueError, KeyError, TypeError):
            text = response.text or response.reason
        finally:
            response.close()
        text = " ".join(text.split())[:300]
        if response.status_code == 404 and "page not found" not in text:
            return Missing(text)
        # A lost race for a version has no status code of its own: swarmkit's store.ErrSequenceConflict comes as a 500.
        if response.status_code == 409 or "update out of sequence" in text:
            return Conflict(text)
        kind = Forbidden if response.status_code in {401, 403} else BackendUnavailable
        return kind(f"the engine at {self.docker_host} answered {response.status_code}: {text}")


def cause(error: BaseException) -> str:
    """The operating system's own words, which the SDK wraps several times."""
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    inner: BaseException | None = error
    while inner:
        if isinstance(inner, OSError) and inner.strerror:
            return inner.strerror.lower()
        inner = inner.__cause__ or inner.__context__
    return " ".join(str(error).split())[:200]
