"""One end of the way: a byte stream that speaks HTTP/1.1, as its server or its client."""

import asyncio
import socket
import struct
from contextlib import suppress
from typing import TypeVar

import h11

CHUNK = 256 * 1024
"""Bytes read at once: as much as asyncio takes from a socket."""
MAX_HEAD = 32 * 1024
"""Bytes of a request's head: twice what browsers' cookies come to."""
MAX_ANSWER_HEAD = 128 * 1024
UNSENT = 10.0
"""Seconds that a closed connection may take to deliver what was written to it."""

E = TypeVar("E", h11.Request, h11.Response, h11.InformationalResponse, h11.Data, h11.EndOfMessage)
Role = type[h11.CLIENT] | type[h11.SERVER]


class Peer:
    """Memory is bounded by the stream's own limits: nothing is read before what was read has been taken by the other end."""

    def __init__(self, role: Role, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.http = h11.Connection(role, MAX_HEAD if role is h11.SERVER else MAX_ANSWER_HEAD)
        self.reader = reader
        self.writer = writer

    async def event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """The next that comes. Raises RemoteProtocolError for what is no HTTP or ends too early, OSError for a broken connection."""
        while True:
            event = self.http.next_event()
            if event is not h11.NEED_DATA:
                return event
            self.http.receive_data(await self.reader.read(CHUNK))

    async def send(self, event: E) -> None:
        """Returns once there is room for the next."""
        self.writer.writelines(self.http.send_with_data_passthrough(event) or [])
        await self.writer.drain()

    @property
    def between(self) -> bool:
        """Whether one exchange is over and the connection may carry another."""
        return self.http.our_state is h11.DONE and self.http.their_state is h11.DONE

    def close(self) -> None:
        """Close it once what was written is sent, or soon, where the other end does not take it."""
        transport = self.writer.transport
        unsent = not transport.is_closing() and transport.get_write_buffer_size()
        transport.close()
        if unsent:
            asyncio.get_running_loop().call_later(UNSENT, transport.abort)

    def reset(self) -> None:
        """End it so that the other side sees an error: an orderly end might pass for the end of an answer."""
        with suppress(OSError):
            connection = self.writer.get_extra_info("socket")
            # Closed with a linger time of 0 it sends a reset (Linux, socket(7)).
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.abort()

    def abort(self) -> None:
        self.writer.transport.abort()
