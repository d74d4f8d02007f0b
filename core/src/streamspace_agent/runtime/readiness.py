"""Finding out what a session speaks, and so that it can be used, through whatever stream a driver opens.

A server of RFB greets whoever connects (RFC 6143, section 7.1.1); one of HTTP waits to be asked. So a connection first listens,
then asks on the same connection: a server of RFB that is slow to greet still greets, and its greeting is what is read
first. Nothing else is taken for a proof, and a port's name or number never is.
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import IntEnum

from streamspace_agent.runtime import ReadyCheck
from streamspace_agent.units import format_seconds

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]
"""An open connection to a port inside a session."""
Connect = Callable[[], Awaitable[Stream]]
"""Opens a new stream to the session's port; OSError while nothing listens there yet."""

FIRST_POLL, POLL, CONNECTED_POLL = 0.005, 0.05, 0.5
"""Seconds between two tries: a tenth of the time waited so far, within the first two bounds; once something took a connection,
within the first and the last: some servers count those. A small session answers in milliseconds."""
ANSWER_TIMEOUT = 5.0
"""Seconds that one open stream may stay silent. A server busy with its start answers late, but on that stream."""
LISTEN = {ReadyCheck.VNC: 1.0, ReadyCheck.ANY: 0.5, ReadyCheck.HTTP: 0.0}
"""Seconds that the first stream waits for a greeting before it asks, by what is expected.

Later ones listen twice as long each: some servers of RFB (LibVNCServer) look whether a client begins with an HTTP request
before they greet, and close on ours; in a busy start they must get their chance."""
_LATER = 0.5

LOGIN_TIMEOUT = 0.5
"""Seconds that a server which has greeted may take to let us in; whatever comes of it, the greeting was the proof."""
_MOST_KINDS = 32
"""Security types that a server may offer; who names more is none of RFB's that we know, and is not waited for."""

_NO_PASSWORD = 1
"""The security type None (RFC 6143, section 7.2.1)."""
_GREETING = 12
"""Bytes of ``RFB xxx.yyy\\n``. A server that refuses us (TigerVNC, after too many connections without a login) sends it as well."""
_LINE = 1024
"""Bytes of a first line that are read at most."""
_SILENT = "connected, but nothing was said"


@dataclass(frozen=True, slots=True)
class Proof:
    """What a session was found to speak (``found``), or None and in ``tried`` what was seen and asked, for people."""

    found: ReadyCheck | None
    tried: str = ""

    def failure(self, port: int, timeout: float) -> str:
        """The sentence for a session that proved nothing on ``port`` within ``timeout`` seconds."""
        return (
            f"no VNC greeting and no usable HTTP answer on port {port} within {format_seconds(timeout)} (READY_TIMEOUT): "
            f"{self.tried}"
        )


async def wait_ready(expected: ReadyCheck, connect: Connect, timeout: float, *, path: str = "/") -> Proof:
    """Try until the session proves what it speaks, or until ``timeout`` seconds have passed.

    ``expected`` decides what is tried first, never what counts; NONE is proved at once. ``path`` is asked for over HTTP.
    Cancel it when the session is known to have ended. Errors of ``connect`` other than OSError come through.
    """
    if expected is ReadyCheck.NONE:
        return Proof(ReadyCheck.NONE)
    loop = asyncio.get_running_loop()
    begun, search = loop.time(), _Search(connect, path, LISTEN[expected])
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout):
            while (found := await search.attempt()) is None:
                longest = POLL if search.seen is _Seen.UNREACHED else CONNECTED_POLL
                await asyncio.sleep(min(max((loop.time() - begun) / 10, FIRST_POLL), longest))
            return Proof(found)
    return Proof(None, search.tried)


class _Seen(IntEnum):
    """How telling what was seen is: a server that said something once is described by that, though it be gone later."""

    UNREACHED = 0
    CONNECTED = 1
    WORDS = 2


@dataclass(slots=True)
class _Search:
    """The tries for one session: what they look for next, and what they have seen."""

    connect: Connect
    path: str
    listen: float
    encrypted: bool = False
    """The next stream asks inside TLS, as some desktops serve nothing else."""
    asked: list[str] = field(default_factory=list)
    seen: _Seen = _Seen.UNREACHED
    words: str = "nothing listened there"

    @property
    def tried(self) -> str:
        question = f"; asked GET {self.path} over {' and '.join(self.asked)}" if self.asked else ""
        return f"{self.words}{question}"

    def _note(self, seen: _Seen, words: str) -> None:
        if seen >= self.seen:
            self.seen, self.words = seen, words

    async def attempt(self) -> ReadyCheck | None:
        """One stream."""
        try:
            reader, writer = await self.connect()
        except OSError as error:
            refused = isinstance(error, ConnectionRefusedError)
            why = (
                "nothing listened there"
                if refused
                else f"it could not be reached: {str(error) or type(error).__name__}"
            )
            self._note(_Seen.UNREACHED, why)
            return None
        if self.seen is _Seen.UNREACHED:  # what an earlier stream came to tells more than what this one may
            self._note(_Seen.CONNECTED, _SILENT)
        encrypted, self.encrypted = self.encrypted, False
        try:
            if encrypted:
                return await self._ask(reader, writer, "HTTPS")
            if (head := await self._heard(reader)) is None:
                return await self._ask(reader, writer, "HTTP")
            line = await _line(reader, head)
            if (found := self._judge(line, "")) is ReadyCheck.VNC:
                await _log_in(reader, writer, line)
            return found
        except TimeoutError:
            self._note(_Seen.CONNECTED, _SILENT)
        except ssl.SSLError:
            pass  # it does not speak TLS, or failed at it: what it did when asked plainly tells more
        except (OSError, EOFError, ValueError):
            self._note(_Seen.CONNECTED, "connected, but the connection was closed without a word")
        finally:
            writer.transport.abort()
        return None

    async def _heard(self, reader: asyncio.StreamReader) -> bytes | None:
        """What the server says of itself; None where it waits to be asked."""
        try:
            async with asyncio.timeout(self.listen):
                if head := await reader.read(_LINE):
                    return head
        except TimeoutError:
            self.listen = min(max(self.listen * 2, _LATER), ANSWER_TIMEOUT)
            return None
        raise EOFError

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, scheme: str) -> ReadyCheck | None:
        if scheme not in self.asked:
            self.asked.append(scheme)
        self.encrypted = scheme == "HTTP"  # next time, unless this brings an answer
        async with asyncio.timeout(ANSWER_TIMEOUT):
            if scheme == "HTTPS":
                await writer.start_tls(_any_certificate())
            writer.write(_request(self.path))
        return self._judge(await _line(reader), scheme)

    def _judge(self, line: bytes, scheme: str) -> ReadyCheck | None:
        """A server's first line. Whoever greets speaks RFB, also when our question was quicker than its greeting."""
        if line.startswith(b"RFB ") and len(line) >= _GREETING:
            return ReadyCheck.VNC
        if (status := _status(line)) is None:
            if line:
                self._note(_Seen.WORDS, f"it said {line[:40]!r}")
                return None
            raise EOFError
        if status < 500:
            return ReadyCheck.HTTP
        self._note(_Seen.WORDS, f"the last answer had the HTTP status {status}")
        self.encrypted, self.listen = scheme == "HTTPS", 0.0  # it speaks HTTP already: ask the same way, at once
        return None


async def _line(reader: asyncio.StreamReader, head: bytes = b"") -> bytes:
    """A server's first line as far as it came, at most :data:`_LINE` bytes. TimeoutError where none has begun in time."""
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT):
            while b"\n" not in head and len(head) < _LINE and (piece := await reader.read(_LINE - len(head))):
                head += piece
    except (TimeoutError, OSError):
        if not head:
            raise
    line, end, _ = head.partition(b"\n")
    return line + end


async def _log_in(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, greeting: bytes) -> None:
    """Log in to a server of RFB that asks for no password, as all session images do, and go no further.

    TigerVNC counts connections without a login, and after five shuts everybody of that address out, viewers too. One
    that logs in clears the count, those of earlier agents with it.
    """
    if greeting not in {b"RFB 003.007\n", b"RFB 003.008\n"}:
        return
    with suppress(TimeoutError, OSError, EOFError):
        async with asyncio.timeout(LOGIN_TIMEOUT):
            writer.write(greeting)
            (count,) = await reader.readexactly(1)
            if count <= _MOST_KINDS and _NO_PASSWORD in await reader.readexactly(count):
                writer.write(bytes([_NO_PASSWORD]))
                if greeting.endswith(b"8\n"):  # RFB 3.7 tells no verdict
                    await reader.readexactly(4)


def _request(path: str) -> bytes:
    return (
        f"GET {path} HTTP/1.1\r\nHost: session\r\nUser-Agent: streamspace-agent\r\nConnection: close\r\n\r\n".encode()
    )


def _status(line: bytes) -> int | None:
    words = line.split()
    if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():
        return None
    return int(words[1][:4])


def _any_certificate() -> ssl.SSLContext:
    """Nothing is said on this stream but "are you there?", and a desktop signs its own certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
