"""One end of the way: a connection that speaks HTTP/1.1, as its server or its client, and may be poured into another."""

import asyncio
import socket
import struct
import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress

import h11

MAX_HEAD = 32 * 1024
"""Bytes of a request's head: twice what browsers' cookies come to."""
MAX_ANSWER_HEAD = 128 * 1024
AHEAD = 256 * 1024
"""Bytes read, and written, before the other end has taken them: what asyncio reads at once may come on top."""
READ = 512 * 1024
"""Bytes of a long body that are read at once."""
CHUNK_HEAD = 16
"""Bytes before them in which the head of a chunk finds room."""
CHUNK_END = b"\r\n"
KEPT = sys.version_info >= (3, 12)
"""Whether asyncio keeps what it is given to write and cannot send at once; before, it copied that."""
TURN = 32
"""Events of one connection in a row: so many may lie in what was read at once, and others have their turn in between."""
UNSENT = 10.0
"""Seconds that a closed connection may take to deliver what was written to it."""

E = h11.Request | h11.Response | h11.InformationalResponse | h11.Data | h11.EndOfMessage
Role = type[h11.CLIENT] | type[h11.SERVER]
CLOSED = "it closed the connection"


class Peer(asyncio.Protocol):
    """Memory is bounded: nothing more is read while what was read has not been taken.

    Bytes go from the socket to the parser, or as they come to another peer: streams of asyncio's would copy them three times more.
    """

    def __init__(self, role: Role, *, on_lost: Callable[[], None] = lambda: None) -> None:
        self._role = role
        self._on_lost = on_lost
        self.http = self._anew()
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
        """Nothing can be sent any more either."""
        self._room = asyncio.Event()
        self._room.set()
        self._sink: Peer | None = None
        self._source: Peer | None = None
        self._saw: Callable[[bytes], None] | None = None
        self._left: int | None = None
        self._in_chunks = False
        self._poured: asyncio.Future[None] | None = None

    def _anew(self) -> h11.Connection:
        return h11.Connection(self._role, MAX_HEAD if self._role is h11.SERVER else MAX_ANSWER_HEAD)

    # HTTP

    async def event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """The next that comes. Raises RemoteProtocolError for what is no HTTP or ends too early, OSError for a broken connection."""
        self._events += 1
        if self._events % TURN == 0:
            await asyncio.sleep(0)
        while True:
            event = self.http.next_event()
            if event is not h11.NEED_DATA:
                return event
            self.http.receive_data(await self.read())

    async def read(self) -> bytes:
        """What came, b"" at the end."""
        while not self._waiting:
            if self._error is not None:
                raise ConnectionResetError(str(self._error) or CLOSED)
            if self.ended:
                return b""
            self._more.clear()
            await self._more.wait()
        data = self._waiting.popleft()
        self._held -= len(data)
        self._read_on()
        return data

    async def send(self, event: E) -> None:
        """Returns once there is room for the next."""
        self.transport.writelines(self.http.send_with_data_passthrough(event) or [])
        await self.room()

    async def room(self) -> None:
        await self._room.wait()
        if self.transport.is_closing():
            raise ConnectionResetError(CLOSED)

    def next_exchange(self) -> bool:
        """Whether one exchange is over and the connection may carry another; from then on it does."""
        if self.http.our_state is h11.DONE and self.http.their_state is h11.DONE:
            self.http.start_next_cycle()
        return self.http.our_state is h11.IDLE and not self.transport.is_closing() and self._poured is None

    @property
    def stalled(self) -> bool:
        """It does not take what is sent to it, or nobody takes what it sends: it holds as much as it may."""
        return self._paused or not self._room.is_set()

    def stall_changed(self) -> None:
        """For whoever has to know of :attr:`stalled`; called when it may have changed."""

    @property
    def untouched(self) -> bool:
        """Nothing has come that nobody asked for, nor the end."""
        return not (self._waiting or self.ended or self.http.trailing_data[0])

    def begin_anew(self) -> None:
        """After a body that was poured into it, of which the parser has seen nothing: the next message is the first again."""
        held, _ = self.http.trailing_data
        self.http = self._anew()
        if held:
            self.http.receive_data(held)

    # Pouring

    def pour(
        self,
        sink: "Peer",
        size: int | None = None,
        *,
        in_chunks: bool = False,
        saw: Callable[[bytes], None] | None = None,
    ) -> asyncio.Future[None]:
        """Write to ``sink`` what comes, ``size`` bytes or all until the end, as fast as it takes it. ``saw`` sees each piece.

        Done when that is over; ConnectionResetError where the end comes before ``size`` bytes. This peer's parser sees nothing
        of it, and what comes next is the first message again. ``in_chunks`` writes each piece as a chunk, as the sink's own
        parser would: the last chunk is its :class:`h11.EndOfMessage`.
        """
        held, _ = self.http.trailing_data
        self.http = self._anew()
        pieces, self._held = [held, *self._waiting], 0
        self._waiting.clear()
        self._sink, self._saw, self._left, self._in_chunks = sink, saw, size, in_chunks
        poured = self._poured = asyncio.get_running_loop().create_future()
        sink._source = self  # noqa: SLF001 - it is one of us
        for piece in pieces:
            if piece:
                self.data_received(piece)
        self._read_on()
        if self.ended:
            self._stop_pouring()
        elif size is not None and not poured.done():
            self.transport.set_protocol(_Reader(self))
        return poured

    def pour_from(self, view: memoryview, count: int, sink: "Peer") -> None:
        """As :meth:`_pour`, for what :class:`_Reader` read: it is written from where it lies, and so is a chunk around it."""
        assert self._left is not None
        size = min(count, self._left)
        end = CHUNK_HEAD + size
        rest = bytes(view[end : CHUNK_HEAD + count])
        self._left -= size
        if self._in_chunks:
            head = b"%x\r\n" % size
            view[(start := CHUNK_HEAD - len(head)) : CHUNK_HEAD] = head
            view[end : end + len(CHUNK_END)] = CHUNK_END
            sink.transport.write(view[start : end + len(CHUNK_END)])
        else:
            sink.transport.write(view[CHUNK_HEAD:end])
        if self._left == 0:
            self._stop_pouring()
            if rest:
                self.data_received(rest)

    @property
    def sink(self) -> "Peer | None":
        return self._sink

    def _pour(self, data: bytes, sink: "Peer") -> None:
        if self._saw is not None:
            self._saw(data)
        rest = b""
        if self._left is not None:
            if len(data) > self._left:
                data, rest = data[: self._left], data[self._left :]
            self._left -= len(data)
        if self._in_chunks:
            sink.transport.writelines((b"%x\r\n" % len(data), data, b"\r\n"))
        else:
            sink.transport.write(data)
        if self._left == 0:
            self._stop_pouring()
            if rest:
                self.data_received(rest)

    def _stop_pouring(self) -> None:
        poured, sink = self._poured, self._sink
        self._sink = self._poured = None
        if sink is not None:
            sink._source = None  # noqa: SLF001
            self.transport.set_protocol(self)
        if poured is not None and not poured.done():
            if self._left:
                poured.set_exception(ConnectionResetError(str(self._error or CLOSED)))
            else:
                poured.set_result(None)
        self._read_on()

    def _read_on(self) -> None:
        """Read, unless too much waits here or at the sink."""
        full = self._held >= AHEAD if self._sink is None else not self._sink._room.is_set()  # noqa: SLF001
        if full == self._paused or self.ended:
            return
        self._paused = full
        if full:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()
        self.stall_changed()

    # asyncio's calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.set_write_buffer_limits(high=AHEAD)

    def data_received(self, data: bytes) -> None:
        if self._sink is not None:
            self._pour(data, self._sink)
            return
        self._waiting.append(data)
        self._held += len(data)
        self._more.set()
        self._read_on()

    def pause_writing(self) -> None:
        self._room.clear()
        self.stall_changed()
        if self._source is not None:
            self._source._read_on()  # noqa: SLF001

    def resume_writing(self) -> None:
        self._room.set()
        self.stall_changed()
        if self._source is not None:
            self._source._read_on()  # noqa: SLF001

    def eof_received(self) -> bool:
        self.ended = True
        self._more.set()
        self._stop_pouring()
        return False  # who says no more waits for nothing either: the transport closes

    def connection_lost(self, exc: Exception | None) -> None:
        self._error = exc
        self.ended = True
        self._more.set()
        self._room.set()
        self.lost.set()
        self._stop_pouring()
        self._on_lost()

    # Ends

    def close(self) -> None:
        """Close it once what was written is sent, or soon, where the other end does not take it."""
        transport = self.transport
        unsent = not transport.is_closing() and transport.get_write_buffer_size()
        transport.close()
        if unsent:
            asyncio.get_running_loop().call_later(UNSENT, transport.abort)

    def end_answer(self) -> bool:
        """Close it once what was written is sent, an answer under way ended as if it were whole. True where there was one."""
        began = self.http.our_state is h11.SEND_BODY and not self.transport.is_closing()
        if began:
            self.transport.writelines(self.http.send_with_data_passthrough(h11.EndOfMessage()) or [])
        self.close()
        return began

    def reset(self) -> None:
        """End it so that the other side sees an error: an orderly end might pass for the end of an answer."""
        with suppress(OSError):
            connection = self.transport.get_extra_info("socket")
            # Closed with a linger time of 0 it sends a reset (Linux, socket(7)).
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.abort()

    def abort(self) -> None:
        self.transport.abort()


class _Reader(asyncio.BufferedProtocol):
    """Reads for a peer while a long body is poured from it, into one buffer; all else is the peer's."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._view = _buffer()

    def get_buffer(self, sizehint: int) -> memoryview:
        del sizehint
        return self._view[CHUNK_HEAD : CHUNK_HEAD + READ]

    def buffer_updated(self, nbytes: int) -> None:
        if (sink := self._peer.sink) is None:
            self._peer.data_received(bytes(self._view[CHUNK_HEAD : CHUNK_HEAD + nbytes]))
            return
        self._peer.pour_from(self._view, nbytes, sink)
        if KEPT and sink.transport.get_write_buffer_size():
            self._view = _buffer()

    def pause_writing(self) -> None:
        self._peer.pause_writing()

    def resume_writing(self) -> None:
        self._peer.resume_writing()

    def eof_received(self) -> bool:
        return self._peer.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._peer.connection_lost(exc)


def _buffer() -> memoryview:
    return memoryview(bytearray(CHUNK_HEAD + READ + len(CHUNK_END)))
