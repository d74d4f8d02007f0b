"""The gateway's listening addresses: each is bound as soon as it is free."""

import asyncio
import logging
import os
from collections.abc import Callable, Iterable

from streamspace_agent.addresses import shown

log = logging.getLogger(__name__)

RETRY = 0.5
"""Seconds between two tries of an address: the last leader may hold it for a moment, if it ran on this host."""
LOG_AGAIN = 300.0
"""Seconds after which an address that still cannot be bound is logged again."""
BACKLOG = 512


class Listeners:
    """Keeps every address bound. ``state`` maps each to the reason why it is not bound; "" when it is."""

    def __init__(self, addresses: Iterable[tuple[str, int]]) -> None:
        self._addresses = tuple(addresses)
        self.state: dict[str, str] = {}

    async def run(self, factory: Callable[[], asyncio.Protocol]) -> None:
        """Listen until cancelled; nothing listens any more when it returns."""
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
        self._note(address, "")
        log.info("web desktops are served at http://%s", address)
        try:
            await asyncio.Event().wait()
        finally:
            server.close()

    async def _bound(self, host: str, port: int, factory: Callable[[], asyncio.Protocol]) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        address, logged, logged_at = shown(host, port), "", float("-inf")
        while True:
            try:
                # With SO_REUSEADDR (asyncio's default), lingering connections of the last leader do not matter. Without
                # SO_REUSEPORT, because a frozen leader that is still bound would get a share of the connections.
                return await loop.create_server(factory, host, port, backlog=BACKLOG)
            except OSError as error:
                why = os.strerror(error.errno).lower() if error.errno and error.errno > 0 else str(error)
            except UnicodeError as error:  # of an invalid host name
                why = str(error)
            if why != logged or loop.time() - logged_at >= LOG_AGAIN:
                log.error(
                    "WEB_GATEWAY=%s: cannot listen there: %s; trying again every %g s, and no web desktop is served"
                    " there until then: let no other program use the address, or set WEB_GATEWAY to another",
                    address,
                    why,
                    RETRY,
                )
                logged, logged_at = why, loop.time()
            self._note(address, why)
            await asyncio.sleep(RETRY)

    def _note(self, address: str, why: str) -> None:
        self.state = {**self.state, address: why}  # a new dict, because other threads read it
