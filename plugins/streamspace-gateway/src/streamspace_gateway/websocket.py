"""A WebSocket that is open: bytes both ways, as they come."""

import asyncio
from collections.abc import Callable

from streamspace_gateway.peer import CHUNK, Peer


async def carry(client: Peer, server: Peer, saw: Callable[[bytes], None]) -> None:
    """Pass everything on until one side ends; the other then gets what was on its way, and the end. ``saw`` sees the client's bytes."""
    for source, sink in ((client, server), (server, client)):
        held, _ = source.http.trailing_data
        if held:
            if source is client:
                saw(held)
            sink.writer.write(held)
    ways = [
        asyncio.create_task(_copy(client, server, saw), name="from the browser"),
        asyncio.create_task(_copy(server, client, None), name="to the browser"),
    ]
    try:
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        client.close()
    finally:
        for way in ways:
            way.cancel()
        await asyncio.gather(*ways, return_exceptions=True)


async def _copy(source: Peer, sink: Peer, saw: Callable[[bytes], None] | None) -> None:
    """Nothing is read before the other end has room for it."""
    read, write, drain = source.reader.read, sink.writer.write, sink.writer.drain
    while data := await read(CHUNK):
        if saw is not None:
            saw(data)
        write(data)
        await drain()
