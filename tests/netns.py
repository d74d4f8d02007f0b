"""A way from inside a network namespace to a port of this machine: a socket can listen there and be served here."""

import asyncio
import contextlib
import ctypes
import os
import socket
from concurrent.futures import ThreadPoolExecutor

CLONE_NEWNET = 0x40000000


def listen_in(namespace, port=0):
    """A listening socket on the loopback address of that namespace."""

    def make():
        libc = ctypes.CDLL(None, use_errno=True)
        handle = os.open(f"/var/run/netns/{namespace}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            if libc.setns(handle, CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), f"setns {namespace}")
        finally:
            os.close(handle)
        return socket.create_server(("127.0.0.1", port))

    with ThreadPoolExecutor(1) as pool:  # a thread of its own: it never comes back to this namespace
        return pool.submit(make).result()


@contextlib.asynccontextmanager
async def relay(namespace, port, at=0):
    """Yields the port in the namespace, `at` if that is given, that leads to `port` here."""
    pumps = set()

    async def serve(reader, writer):
        task = asyncio.current_task()
        pumps.add(task)
        # Cancelled when the relay ends: streams would report that as an error.
        with contextlib.closing(writer), contextlib.suppress(OSError, asyncio.CancelledError):
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", port)
            with contextlib.closing(far_writer):
                ways = [asyncio.create_task(_pump(reader, far_writer)), asyncio.create_task(_pump(far_reader, writer))]
                try:
                    await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for way in ways:
                        way.cancel()
        pumps.discard(task)

    listener = listen_in(namespace, at)
    server = await asyncio.start_server(serve, sock=listener)
    try:
        yield listener.getsockname()[1]
    finally:
        server.close()
        for task in list(pumps):
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)


async def _pump(reader, writer):
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
