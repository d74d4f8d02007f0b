"""All that touches the docker SDK. Imported at the engine's first call, never before: it costs memory and time."""

import io
import json
import re
import socket
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import docker
import requests
from docker import auth
from docker.errors import APIError, DockerException
from docker.types.daemon import CancellableStream
from docker.utils import kwargs_from_env, parse_repository_tag
from urllib3.exceptions import ReadTimeoutError

from streamspace_agent.errors import EngineUnavailable, RuntimeDriverError
from streamspace_runtime_docker.errors import Conflict, EngineError, NotFound, Silent
from streamspace_runtime_docker.transport import SocketAdapter
from streamspace_runtime_docker.unreachable import explain

MAX_TEXT = 4000
"""Characters of an engine's own words that are kept: a registry, or a session, may have written most of them."""

MINIMUM_API = (1, 41)
"""Docker Engine 20.10: one-shot stats, and the oldest engine this driver is tested on."""


def make_client(docker_host: str, environ: Mapping[str, str], *, timeout: int, connections: int) -> docker.APIClient:
    """A client that speaks the engine's own API version. Raises what :func:`translate` understands."""
    path = docker_host.removeprefix("unix://") if docker_host.startswith("unix://") else ""
    if path:
        with socket.socket(socket.AF_UNIX) as probe:  # the SDK's first request leaves a socket open where this fails
            probe.settimeout(timeout)
            probe.connect(path)
    arguments = kwargs_from_env({**environ, "DOCKER_HOST": docker_host})
    client = docker.APIClient(**arguments, version="auto", timeout=timeout, max_pool_size=connections)
    version = tuple(int(part) for part in client.api_version.split("."))
    if version < MINIMUM_API:
        client.close()
        wanted = ".".join(map(str, MINIMUM_API))
        raise RuntimeDriverError(
            f"DOCKER_HOST={docker_host} speaks API {client.api_version}, {wanted} is needed: update the engine to Docker 20.10 or newer"
        )
    if path:
        client.get_adapter(client.base_url).close()
        client.mount("http+docker://", SocketAdapter(path, timeout, connections))
    return client


def translate(error: Exception, docker_host: str) -> Exception:
    """The driver's own error for one of the SDK's; anything else as it is."""
    if isinstance(error, APIError):
        status = error.status_code or 500
        text = " ".join(str(error.explanation or error)[:MAX_TEXT].split())
        if status == 503:
            return EngineUnavailable(f"the engine at {docker_host} is not ready: {text}")
        if re.search(r"already (in use|used|exists)", text):
            status = 409  # Podman reports a taken name as its own failure
        kind = {404: NotFound, 409: Conflict}.get(status, EngineError)
        return kind(status, text)
    if isinstance(error, DockerException | requests.RequestException | OSError):
        return explain(error, docker_host)
    return error


def parse_image(image: str) -> tuple[str, str]:
    """Repository and tag (or digest) of a reference; an untagged one means ``latest``, not every tag there is."""
    repository, tag = parse_repository_tag(image)
    return repository, tag or "latest"


def registry_header(image: str, environ: Mapping[str, str]) -> dict[str, str]:
    """The header with the credentials of the image's registry, from the Docker configuration as it stands now."""
    folder = environ.get("DOCKER_CONFIG", "")
    path = f"{folder}/config.json" if folder else None
    try:
        registry, _ = auth.resolve_repository_name(parse_image(image)[0])
        found = auth.load_config(path, credstore_env=dict(environ)).resolve_authconfig(registry)
    except (DockerException, OSError, ValueError) as error:
        # The error's own text may quote what a credential helper printed.
        raise RuntimeDriverError(
            f"the registry credentials in the Docker configuration cannot be read ({type(error).__name__}): check config.json and its credential helper"
        ) from None
    return {"X-Registry-Auth": auth.encode_header(found).decode()} if found else {}


class Stream:
    """A running answer of JSON lines. :meth:`close` may be called from another thread and ends the iteration."""

    def __init__(self, response: requests.Response) -> None:
        self.headers = response.headers
        self._response = response

    def __iter__(self) -> Iterator[dict[str, Any]]:
        try:
            for line in self._response.iter_lines():
                if line:
                    yield json.loads(line)
        except requests.ConnectionError as error:
            if error.args and isinstance(error.args[0], ReadTimeoutError):
                raise Silent("the engine sent nothing in time") from error
            raise

    def close(self) -> None:
        # The SDK's own way to wake a blocked reader: it shuts the socket down under it.
        with suppress(OSError, AttributeError):
            CancellableStream(iter(()), self._response).close()


def read_file(client: docker.APIClient, container: str, path: str, *, limit: int) -> bytes:
    """A regular file out of a container, from which anything may come; b"" for one that is larger, a folder, a link.

    Raises EngineError.
    """
    try:
        with tarfile.open(fileobj=io.BytesIO(_archive(client, container, path, limit)), mode="r:") as tar:
            info = tar.next()
            file = tar.extractfile(info) if info and info.isreg() and not info.sparse and info.size <= limit else None
            return file.read(limit) if file else b""
    except (tarfile.TarError, OSError, ValueError):
        return b""


def folder_entry(client: docker.APIClient, container: str, path: str) -> tarfile.TarInfo | None:
    """Owner and mode of a folder in a container, None for what is none. Raises EngineError."""
    try:
        with tarfile.open(fileobj=io.BytesIO(_archive(client, container, path, 0)), mode="r:") as tar:
            info = tar.next()
            return info if info and info.isdir() else None
    except (tarfile.TarError, OSError, ValueError):
        return None


def _archive(client: docker.APIClient, container: str, path: str, limit: int) -> bytes:
    """The beginning of an archive: its first header, with a long name perhaps, and ``limit`` bytes of the first file.

    The SDK reads an archive to its end, however long.
    """
    url = f"{client.base_url}/v{client.api_version}/containers/{container}/archive"
    data = b""
    with client.request("GET", url, params={"path": path}, stream=True, timeout=client.timeout) as response:
        _check(response)
        for chunk in response.iter_content(tarfile.RECORDSIZE):
            data += chunk
            if len(data) >= limit + 4 * tarfile.RECORDSIZE:
                break
    return data


def open_stream(
    client: docker.APIClient,
    method: str,
    path: str,
    *,
    params: Mapping[str, str],
    headers: Mapping[str, str],
    read_timeout: float,
) -> Stream:
    """The SDK hides the answer behind its streams, and with it the means to stop one: so ask for it directly."""
    url = f"{client.base_url}/v{client.api_version}{path}"
    response = client.request(
        method, url, params=dict(params), headers=dict(headers), stream=True, timeout=(30.0, read_timeout)
    )
    _check(response)
    return Stream(response)


def _check(response: requests.Response) -> None:
    if response.status_code < 400:
        return
    try:
        text = str(response.json().get("message", ""))
    except (ValueError, AttributeError):
        text = response.reason
    finally:
        response.close()
    raise {404: NotFound, 409: Conflict}.get(response.status_code, EngineError)(response.status_code, text)
