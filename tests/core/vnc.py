"""A VNC server and a viewer that speak just enough RFB to be told apart from a pipe."""

import asyncio
import hashlib
from contextlib import asynccontextmanager

GREETING = b"RFB 003.008\n"
REQUEST = b"\x03\x01" + bytes(8)
KEY = b"\x04\x01\x00\x00" + (0x61).to_bytes(4)
POINTER = b"\x05\x00\x00\x10\x00\x10"
SERVER_INIT = bytes(20) + (4).to_bytes(4) + b"test"
BELL = b"\x02"
REFUSES = b"RFB 003.003\n\0\0\0\0" + (26).to_bytes(4) + b"Too many security failures"
"""How TigerVNC begins when it takes nobody from this address."""


class VncServer:
    """Answers each update request with the next ``update`` bytes of a stream, each key with a bell."""

    def __init__(self, update=256 * 1024):
        self.update = update
        self.connections = 0
        self.input = bytearray()
        self.sent = 0
        self.digest = hashlib.sha256()
        self.writers = set()
        self.server = None
        self.port = 0
        self.deaf = False
        """Read nothing once the handshake is over."""
        self.trickle = 0
        """Bytes a second that are read once the handshake is over; 0 for all."""
        self.flood = False
        """Answer the first request with an endless stream."""
        self.pieces = 1
        """An update comes in so many pieces, a millisecond apart."""
        self.block = bytes(range(256)) * 4096

    async def start(self):
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def die(self):
        self.server.close()
        self.deaf, self.trickle = False, 0
        for writer in self.writers:
            writer.transport.abort()
        while self.writers:
            await asyncio.sleep(0.01)

    async def _serve(self, reader, writer):
        self.connections += 1
        self.writers.add(writer)
        try:
            await self._speak(reader, writer)
        except (EOFError, ConnectionError):
            pass
        finally:
            self.writers.discard(writer)
            writer.close()

    async def _speak(self, reader, writer):
        writer.write(GREETING)
        assert (await reader.readexactly(12)).startswith(b"RFB ")
        writer.write(b"\x01\x01")
        await reader.readexactly(1)
        writer.write(bytes(4))
        await reader.readexactly(1)
        writer.write(SERVER_INIT)
        while self.deaf:
            await asyncio.sleep(0.05)
        while self.trickle:
            await reader.read(self.trickle)
            await asyncio.sleep(1)
        while True:
            kind = await reader.readexactly(1)
            if kind == b"\x03":
                await reader.readexactly(9)
                for _ in range(self.pieces):
                    await self._send(writer, self.update // self.pieces)
                    await asyncio.sleep(0.001 * (self.pieces > 1))
                while self.flood:
                    await self._send(writer, self.update)
            elif kind == b"\x04":
                self.input += kind + await reader.readexactly(7)
                writer.write(BELL)
            elif kind == b"\x05":
                self.input += kind + await reader.readexactly(5)
            elif kind == b"\x06":
                size = int.from_bytes((await reader.readexactly(7))[3:])
                self.input += await reader.readexactly(size)
            else:
                raise AssertionError(kind)

    async def _send(self, writer, size):
        while size:
            start = self.sent % 251
            data = self.block[start : start + min(size, 512 * 1024)]
            writer.write(data)
            self.digest.update(data)
            self.sent += len(data)
            size -= len(data)
            await writer.drain()


class Viewer:
    def __init__(self, socket):
        self.socket = socket
        self.held = bytearray()
        self.longest = 0

    async def read(self, size, timeout=10):
        async with asyncio.timeout(timeout):
            while len(self.held) < size:
                self.held += await self.socket.recv()
        data = bytes(self.held[:size])
        del self.held[:size]
        return data

    async def say(self, data):
        await self.socket.send(data)

    async def handshake(self):
        assert await self.read(12) == GREETING
        await self.say(GREETING)
        assert await self.read(2) == b"\x01\x01"
        await self.say(b"\x01")
        assert await self.read(4) == bytes(4)
        await self.say(b"\x01")
        assert await self.read(len(SERVER_INIT)) == SERVER_INIT
        return self

    async def press(self):
        await self.say(KEY)
        assert await self.read(1) == BELL

    async def closed(self, timeout=20):
        """The reason it was closed with; what still comes before is thrown away."""
        from websockets.exceptions import ConnectionClosed

        try:
            async with asyncio.timeout(timeout):
                while True:
                    await self.socket.recv()
        except ConnectionClosed as closed:
            return closed.rcvd.reason if closed.rcvd else "broken"


@asynccontextmanager
async def viewer(plane, session_id="s1"):
    socket = await plane.open_viewer(session_id)
    try:
        yield Viewer(socket)
    finally:
        await socket.close()
