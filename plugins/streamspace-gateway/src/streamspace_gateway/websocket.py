"""A WebSocket that is open: bytes both ways, as they come."""

import asyncio
from collections.abc import Callable

from streamspace_gateway.peer import Peer


async def carry(client: Peer, server: Peer, saw: Callable[[bytes], None]) -> None:
    """Pass everything on until one side ends; the other then gets what was on its way, and the end. ``saw`` sees the client's bytes."""
    ways = {client.pour(server, saw=saw), server.pour(client)}
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    finally:
        client.close()
        server.close()
