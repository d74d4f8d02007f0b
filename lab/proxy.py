"""A loopback TCP proxy to a port or a socket file that slows, stalls, loses replies, refuses and cuts."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from pathlib import Path
from typing import Self

_CHUNK = 64 * 1024


class Proxy:
    """Runs in a thread of its own, so that tests which block their event loop still have a network.

    Faults are attributes, to be set at any time:
    `rate`: bytes per second towards the clients, all connections together; None for no limit
    `stalled`: nothing passes in either direction, connections stay open
    `mute`: requests arrive, replies are held back
    `delay`: seconds that each reply is held back
    `target`: where new connections go
    `refusing`: new connections are closed at once
    """

    def __init__(self, target: int | Path) -> None:
        self.rate: float | None = None
        self.stalled = self.mute = self.refusing = False
        self.delay = 0.0
        self.replied = 0  # bytes passed to clients
        self.target = target
        self._due = 0.0
        self._connections: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="lab-proxy", daemon=True)
        self._thread.start()
        server = asyncio.start_server(self._serve, "127.0.0.1", 0)
        self._server = asyncio.run_coroutine_threadsafe(server, self._loop).result(10)
        self.port: int = self._server.sockets[0].getsockname()[1]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def cut(self) -> None:
        """Close every connection there is; new ones are served unless `refusing`."""
        asyncio.run_coroutine_threadsafe(self._cut(), self._loop).result(10)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._server.close)
        self.cut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _cut(self) -> None:
        connections = list(self._connections)
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        writers = [writer]
        try:
            if self.refusing:
                return
            far_reader, far_writer = await self._connect()
            writers.append(far_writer)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, far_writer, reply=False))
                group.create_task(self._pump(far_reader, writer, reply=True))
        except (OSError, ExceptionGroup, asyncio.CancelledError):
            pass  # the connection is over, by either side or by cut()
        finally:
            self._connections.discard(task)
            for each in writers:
                each.transport.abort() if task.cancelling() else each.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self.target, Path):
            return await asyncio.open_unix_connection(self.target)
        return await asyncio.open_connection("127.0.0.1", self.target)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, reply: bool) -> None:
        while data := await reader.read(min(_CHUNK, int(self.rate / 10) or 1) if reply and self.rate else _CHUNK):
            if reply and self.rate:
                self._due = max(self._due, self._loop.time()) + len(data) / self.rate
                await asyncio.sleep(self._due - self._loop.time())
            if reply and self.delay:
                await asyncio.sleep(self.delay)
            while self.stalled or (reply and self.mute):  # the flags are set from other threads
                await asyncio.sleep(0.01)
            writer.write(data)
            await writer.drain()
            self.replied += len(data) if reply else 0
        with suppress(OSError):
            writer.write_eof()
