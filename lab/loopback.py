"""A test's own server on loopback, whose connections end with it."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Awaitable, Callable

LAST = 0.05
"""Seconds in which what was accepted just before the end gets its task, or fails in its TLS handshake."""


@asynccontextmanager
async def served(
    talk: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]], context: ssl.SSLContext | None = None
) -> AsyncIterator[int]:
    """Yields the port. Each connection is closed when ``talk`` returns or breaks off, at the latest with the server.

    A client that leaves in the middle is no error; anything else that ``talk`` raises is asyncio's to report.
    """
    talking: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        talking.add(task)
        try:
            await talk(reader, writer)
            writer.close()
            await writer.wait_closed()
        except (EOFError, OSError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()
            talking.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await asyncio.sleep(LAST)
        for task in talking:
            task.cancel()
        if talking:
            await asyncio.wait(talking, timeout=10)
