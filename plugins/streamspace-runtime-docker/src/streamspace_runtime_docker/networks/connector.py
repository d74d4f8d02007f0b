"""Connects to the ports of sessions: by the container's address if there is a route to it, else by a published port."""

import asyncio
from urllib.parse import urlsplit

from streamspace_agent.runtime.readiness import Stream
from streamspace_runtime_docker.containers.info import ContainerInfo
from streamspace_runtime_docker.networks.network import SessionNetwork

CONNECT_TIMEOUT = 5.0


class Connector:
    def __init__(self, docker_host: str, networks: SessionNetwork) -> None:
        self._networks = networks
        host = urlsplit(docker_host)
        self._engine_address = (host.hostname or "127.0.0.1") if host.scheme == "tcp" else "127.0.0.1"

    async def open(self, found: ContainerInfo, port: int) -> Stream:
        """Open a stream to a container. Raises OSError when nothing listens."""
        address, number = await self._place(found, port)
        async with asyncio.timeout(CONNECT_TIMEOUT):  # a TimeoutError is an OSError
            return await asyncio.open_connection(address, number)

    async def _place(self, found: ContainerInfo, port: int) -> tuple[str, int]:
        published = found.published.get(port)
        if found.address and (not published or (await self._networks.ensure()).direct):
            return found.address, port
        if not published:
            raise ConnectionError(
                f"{found.name} has no address to connect to: it does not run, or its network gives it none"
            )
        address, number = published
        return self._engine_address if address in {"", "0.0.0.0", "::"} else address, number  # noqa: S104  # read, not bound
