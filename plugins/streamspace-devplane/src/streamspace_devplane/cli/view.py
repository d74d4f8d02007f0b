"""Offers a session's VNC stream on a loopback TCP port, for VNC viewers."""

import asyncio
import contextlib

from websockets.exceptions import ConnectionClosed, InvalidStatus

from streamspace_devplane.client import PlaneClient, ViewerConnection
from streamspace_devplane.tasks import first_done

CHUNK = 65_536


async def copy_to_tcp(client: PlaneClient, session_id: str, port: int) -> asyncio.Server:
    """Listen on 127.0.0.1; each connection is a viewer."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        left = contextlib.suppress(InvalidStatus, ConnectionClosed, ConnectionError)  # either side may leave
        with contextlib.closing(writer), left:
            async with await client.open_viewer(session_id) as viewer:
                await first_done(to_tcp(viewer, writer), from_tcp(viewer, reader))

    return await asyncio.start_server(serve, "127.0.0.1", port)


async def to_tcp(viewer: ViewerConnection, writer: asyncio.StreamWriter) -> None:
    async for data in viewer:
        assert isinstance(data, bytes)
        writer.write(data)
        await writer.drain()


async def from_tcp(viewer: ViewerConnection, reader: asyncio.StreamReader) -> None:
    while data := await reader.read(CHUNK):
        await viewer.send(data)
