"""An HTTP/1.1 connection to a client or to a session's server, which can be piped into another."""

import asyncio
import socket
import struct
from collections import deque
from collections.abc import Callable
from contextlib import suppress

import h11

MAX_HEAD = 32 * 1024
"""Bytes of a request's head: twice what browsers' cookies come to."""
MAX_ANSWER_HEAD = 128 * 1024
AHEAD = 256 * 1024
"""Bytes read, and bytes written, that the other end has not taken yet. One read of asyncio's may come on top."""
READ = 448 * 1024
"""Bytes of a long body that are read at once. Two such buffers, which may wait to be sent, are less than a megabyte."""
CHUNK_HEAD = 16
"""Bytes kept free before them for the head of a chunk."""
CHUNK_END = b"\r\n"
TURN = 32
"""Events of one connection in a row, after which others have their turn: so many may come with one read."""
UNSENT = 10.0
"""Seconds that a closed connection may take to deliver what was written to it."""

Event = h11.Request | h11.Response | h11.InformationalResponse | h11.Data | h11.EndOfMessage
Role = type[h11.CLIENT] | type[h11.SERVER]
CLOSED = "it closed the connection"


class Connection(asyncio.Protocol):
    """Bytes go from the socket to the parser or, while piped, to another connection.

    Memory is bounded: nothing more is read while what was read has not been taken. asyncio's streams would copy each
    byte three times more.
    """

    def __init__(self, role: Role, *, on_lost: Callable[[], None] = lambda: None) -> None:
        self._role = role
        self._on_lost = on_lost
        self.http = self._new_parser()
        self.transport: asyncio.Transport
        self._waiting: deque[bytes] = deque()
        self._held = 0
        self._events = 0
        self._paused = False
        self.ended = False
        """Nothing more will come."""
        self._error: Exception | None = None
        self._more = asyncio.Event()
        self.lost = asyncio.Event()
        """Set once nothing can be sent any more either."""
        self._writable = asyncio.Event()
        self._writable.set()
        self._sink: Connection | None = None
        self._source: Connection | None = None
        self._saw: Callable[[bytes], None] | None = None
        self._left: int | None = None
        """Bytes of the piped body still to come; None when everything is piped until the end."""
        self._chunked = False
        self._piped: asyncio.Future[None] | None = None

    def _new_parser(self) -> h11.Connection:
        return h11.Connection(self._role, MAX_HEAD if self._role is h11.SERVER else MAX_ANSWER_HEAD)

    # HTTP

    async def event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """The next event. Raises RemoteProtocolError for what is not HTTP or ends too early, OSError when it breaks."""
        self._events += 1
        if self._events % TURN == 0:
            await asyncio.sleep(0)
        while True:
            event = self.http.next_event()
            if event is not h11.NEED_DATA:
                return event
            self.http.receive_data(await self.read())

    async def read(self) -> bytes:
        """What came; b"" at the end."""
        while not self._waiting:
            if self._error is not None:
                raise ConnectionResetError(str(self._error) or CLOSED)
            if self.ended:
                return b""
            self._more.clear()
            await self._more.wait()
        data = self._waiting.popleft()
        self._held -= len(data)
        self._adjust_reading()
        return data

    async def send(self, event: Event) -> None:
        """Write an event; returns once there is room for the next."""
        self.transport.writelines(self.http.send_with_data_passthrough(event) or [])
        await self.drain()

    async def drain(self) -> None:
        """Wait until there is room to write. Raises ConnectionResetError when the connection is closing."""
        await self._writable.wait()
        if self.transport.is_closing():
            raise ConnectionResetError(CLOSED)

    def next_exchange(self) -> bool:
        """Begin the next exchange if this one is over; returns whether the connection can carry it."""
        if self.http.our_state is h11.DONE and self.http.their_state is h11.DONE:
            self.http.start_next_cycle()
        return self.http.our_state is h11.IDLE and not self.transport.is_closing() and self._piped is None

    @property
    def stalled(self) -> bool:
        """Whether it holds as much as it may: it does not take what is sent to it, or nobody takes what it sends."""
        return self._paused or not self._writable.is_set()

    def stall_changed(self) -> None:
        """Called when :attr:`stalled` may have changed; for subclasses."""

    @property
    def untouched(self) -> bool:
        """Whether nothing came that nobody asked for, nor the end."""
        return not (self._waiting or self.ended or self.http.trailing_data[0])

    def restart_parser(self) -> None:
        """After a body was piped into this connection, unseen by its parser: the next message is the first again."""
        held, _ = self.http.trailing_data
        self.http = self._new_parser()
        if held:
            self.http.receive_data(held)

    # Piping

    def pipe(self, sink: "Connection", saw: Callable[[bytes], None] | None = None) -> asyncio.Future[None]:
        """Write to ``sink`` whatever comes until the end, as fast as ``sink`` takes it. ``saw`` sees each piece.

        Done at the end. The parser sees nothing of it.
        """
        self._saw, self._left = saw, None
        return self._start_pipe(sink)

    def pipe_body(self, sink: "Connection", size: int, *, chunked: bool) -> asyncio.Future[None]:
        """Write to ``sink`` the next ``size`` bytes, as fast as ``sink`` takes them.

        With ``chunked`` each piece becomes a chunk; the last chunk is left to the sink's own parser, as
        :class:`h11.EndOfMessage`. Fails with ConnectionResetError if the end comes before ``size`` bytes. The parser
        sees nothing of the body, and takes what comes next for its first message.
        """
        self._left, self._chunked = size, chunked
        piped = self._start_pipe(sink)
        if not piped.done():
            self.transport.set_protocol(_BodyReader(self))
        return piped

    def _start_pipe(self, sink: "Connection") -> asyncio.Future[None]:
        before = b"".join((self.http.trailing_data[0], *self._waiting))
        self.http = self._new_parser()
        self._waiting.clear()
        self._held = 0
        self._sink, sink._source = sink, self  # noqa: SLF001 - the same class
        piped = self._piped = asyncio.get_running_loop().create_future()
        if before:
            self.data_received(before)
        self._adjust_reading()
        if self.ended:
            self._end_pipe()
        return piped

    @property
    def piping(self) -> bool:
        return self._sink is not None

    def write_body(self, view: memoryview, size: int) -> bool:
        """Write ``size`` bytes that lie in ``view`` behind ``CHUNK_HEAD``, in place, to the sink.

        Returns whether ``view`` may be used again: what cannot be sent at once stays in it (from Python 3.12 on).
        """
        assert self._sink is not None
        assert self._left is not None
        start, end = CHUNK_HEAD, CHUNK_HEAD + min(size, self._left)
        rest = bytes(view[end : CHUNK_HEAD + size])
        self._left -= end - start
        if self._chunked:
            head = b"%x\r\n" % (end - start)
            start -= len(head)
            view[start:CHUNK_HEAD] = head
            view[end : end + len(CHUNK_END)] = CHUNK_END
            end += len(CHUNK_END)
        transport = self._sink.transport
        transport.write(view[start:end])
        if self._left == 0:
            self._end_pipe()
            if rest:
                self.data_received(rest)
        return not transport.get_write_buffer_size()

    def _end_pipe(self) -> None:
        piped, sink = self._piped, self._sink
        self._sink = self._piped = None
        if sink is not None:
            sink._source = None  # noqa: SLF001
            self.transport.set_protocol(self)
        if piped is not None and not piped.done():
            if self._left:
                piped.set_exception(ConnectionResetError(str(self._error or CLOSED)))
            else:
                piped.set_result(None)
        self._adjust_reading()

    def _adjust_reading(self) -> None:
        """Read, unless too much waits here or at the sink."""
        full = self._held >= AHEAD if self._sink is None else not self._sink._writable.is_set()  # noqa: SLF001
        if full == self._paused or self.ended:
            return
        self._paused = full
        if full:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()
        self.stall_changed()

    # Called by asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.set_write_buffer_limits(high=AHEAD)

    def data_received(self, data: bytes) -> None:
        if self._sink is None:
            self._waiting.append(data)
            self._held += len(data)
            self._more.set()
            self._adjust_reading()
        elif self._left is None:
            if self._saw is not None:
                self._saw(data)
            self._sink.transport.write(data)
        else:  # the beginning of a body, which came with its head
            view = _buffer(len(data))
            view[CHUNK_HEAD : CHUNK_HEAD + len(data)] = data
            self.write_body(view, len(data))

    def pause_writing(self) -> None:
        self._writable.clear()
        self._writable_changed()

    def resume_writing(self) -> None:
        self._writable.set()
        self._writable_changed()

    def _writable_changed(self) -> None:
        self.stall_changed()
        if self._source is not None:
            self._source._adjust_reading()  # noqa: SLF001

    def eof_received(self) -> bool:
        self.ended = True
        self._more.set()
        self._end_pipe()
        return False  # the transport closes: who sends no more waits for nothing either

    def connection_lost(self, exc: Exception | None) -> None:
        self._error = exc
        self.ended = True
        self._more.set()
        self._writable.set()
        self.lost.set()
        self._end_pipe()
        self._on_lost()

    # Ends

    def close(self) -> None:
        """Close it once what was written is sent, or after ``UNSENT`` seconds if the other end does not take it."""
        transport = self.transport
        unsent = not transport.is_closing() and transport.get_write_buffer_size()
        transport.close()
        if unsent:
            asyncio.get_running_loop().call_later(UNSENT, transport.abort)

    def end_answer(self) -> bool:
        """Close it once what was written is sent, with an answer under way ended as if it were complete.

        Returns whether there was one.
        """
        began = self.http.our_state is h11.SEND_BODY and not self.transport.is_closing()
        if began:
            self.transport.writelines(self.http.send_with_data_passthrough(h11.EndOfMessage()) or [])
        self.close()
        return began

    def reset(self) -> None:
        """End it so that the other side sees an error: an orderly end might pass for the end of an answer."""
        with suppress(OSError):
            connection = self.transport.get_extra_info("socket")
            # With a linger time of 0, closing sends a reset (Linux, socket(7)).
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.abort()

    def abort(self) -> None:
        self.transport.abort()


class _BodyReader(asyncio.BufferedProtocol):
    """Reads for a connection whose body is piped, into one buffer; passes on all other calls."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._view: memoryview | None = None
        """None while the connection waits for the sink: it then holds no buffer of its own."""

    def get_buffer(self, sizehint: int) -> memoryview:
        del sizehint
        if self._view is None:
            self._view = _buffer(READ)
        return self._view[CHUNK_HEAD : CHUNK_HEAD + READ]

    def buffer_updated(self, nbytes: int) -> None:
        assert self._view is not None
        if not self._connection.piping:
            self._connection.data_received(bytes(self._view[CHUNK_HEAD : CHUNK_HEAD + nbytes]))
        elif not self._connection.write_body(self._view, nbytes):
            self._view = None

    def pause_writing(self) -> None:
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        self._connection.resume_writing()

    def eof_received(self) -> bool:
        return self._connection.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.connection_lost(exc)


def _buffer(size: int) -> memoryview:
    return memoryview(bytearray(CHUNK_HEAD + size + len(CHUNK_END)))
