"""The addresses of the gateway, each bound as soon as it is free."""

import asyncio
import logging
import os
from collections.abc import Callable, Iterable
from contextlib import suppress

from streamspace_agent.addresses import shown

log = logging.getLogger(__name__)

RETRY = 0.5
"""Seconds between two tries of an address: the last leader, on this host too, may hold it for a moment."""
LOUD_AGAIN = 300.0
"""Seconds after which an address that still cannot be bound is told again."""
BACKLOG = 512


class Listeners:
    """Keeps every address bound until cancelled; ``state`` says for each why it is not, "" where it is."""

    def __init__(self, addresses: Iterable[tuple[str, int]]) -> None:
        self._addresses = tuple(addresses)
        self.state: dict[str, str] = {}

    async def run(self, factory: Callable[[], asyncio.Protocol]) -> None:
        """Listen until cancelled. Nothing listens any more when it returns."""
        self.state = {shown(*address): "not bound yet" for address in self._addresses}
        try:
            async with asyncio.TaskGroup() as group:
                for address in self._addresses:
                    group.create_task(self._listen(*address, factory))
        finally:
            self.state = {}

    async def _listen(self, host: str, port: int, factory: Callable[[], asyncio.Protocol]) -> None:
        server = await self._bound(host, port, factory)
        address = shown(host, port)
        self._tell(address, "")
        log.info("web desktops are served at http://%s", address)
        try:
            await asyncio.Event().wait()
        finally:
            server.close()

    async def _bound(self, host: str, port: int, factory: Callable[[], asyncio.Protocol]) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        address, complaint, loud = shown(host, port), "", float("-inf")
        while True:
            try:
                # With SO_REUSEADDR, asyncio's default: connections of the last leader that linger do not count. Without
                # SO_REUSEPORT: a leader that is frozen and still bound would get a share of what comes.
                return await loop.create_server(factory, host, port, backlog=BACKLOG)
            except OSError as error:
                why = os.strerror(error.errno).lower() if error.errno and error.errno > 0 else str(error)
            except UnicodeError as error:  # of a name that cannot be one
                why = str(error)
            if why != complaint or loop.time() - loud >= LOUD_AGAIN:
                log.error(
                    "WEB_GATEWAY=%s: cannot listen there: %s; trying again every %g s, and no web desktop is served there until "
                    "then: let no other program use the address, or set WEB_GATEWAY to another",
                    address,
                    why,
                    RETRY,
                )
                complaint, loud = why, loop.time()
            self._tell(address, why)
            await asyncio.sleep(RETRY)

    def _tell(self, address: str, why: str) -> None:
        with suppress(KeyError):
            self.state = {**self.state, address: why}  # a new one: other threads read it
