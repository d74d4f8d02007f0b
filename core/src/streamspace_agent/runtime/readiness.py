"""Readiness probe: finds out which protocol a session speaks, and so that it can be used.

An RFB server greets whoever connects (RFC 6143, section 7.1.1); an HTTP server waits for a request. So a probe first
listens, and then sends a request on the same connection: an RFB server that is slow still greets, and its greeting is
read first. Nothing else counts as a proof, least of all a port's name or number.
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
"""Seconds between two tries: a tenth of the time waited so far, between the first two bounds; once a connection was
accepted, between the first and the last, since some servers count connections. A small session answers in
milliseconds."""
ANSWER_TIMEOUT = 5.0
"""Seconds that an open stream may stay silent. A server that is busy starting answers late, but on that stream."""
LISTEN = {ReadyCheck.VNC: 1.0, ReadyCheck.ANY: 0.5, ReadyCheck.HTTP: 0.0}
"""Seconds that the first stream waits for a greeting before it sends a request, by the protocol expected.

Each later stream listens twice as long: some RFB servers (LibVNCServer) check for an HTTP request before they greet,
and close the connection on ours; they need the time when their start is slow."""
_LATER = 0.5

LOGIN_TIMEOUT = 0.5
"""Seconds for the login at a server that has greeted. The greeting is the proof, whether the login succeeds or not."""
_MOST_KINDS = 32
"""Security types that an RFB server offers at most; a longer list is not waited for."""

_NO_PASSWORD = 1
"""The security type None (RFC 6143, section 7.2.1)."""
_GREETING = 12
"""Bytes of ``RFB xxx.yyy\\n``. A server that refuses us (TigerVNC, after too many connections without a login) sends
it as well."""
_LINE = 1024
"""Bytes of a first line that are read, at most."""
_SILENT = "connected, but nothing was said"


@dataclass(frozen=True, slots=True)
class Proof:
    """The protocol that was ``found``; or None, and in ``tried`` what was seen and asked, for people."""

    found: ReadyCheck | None
    tried: str = ""

    def failure(self, port: int, timeout: float) -> str:
        """The message about a session that proved nothing on ``port`` within ``timeout`` seconds."""
        return (
            f"no VNC greeting and no usable HTTP answer on port {port} "
            f"within {format_seconds(timeout)} (READY_TIMEOUT): {self.tried}"
        )


async def wait_ready(expected: ReadyCheck, connect: Connect, timeout: float, *, path: str = "/") -> Proof:
    """Try until the session proves its protocol, or until ``timeout`` seconds have passed.

    ``expected`` decides what is tried first, not what counts; NONE is proved at once. ``path`` is asked for over HTTP.
    Cancel it when the session is known to have ended. Errors of ``connect`` other than OSError are raised.
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
    """How much an observation tells: the most telling one describes the session, also when later tries see less."""

    UNREACHED = 0
    CONNECTED = 1
    WORDS = 2


@dataclass(slots=True)
class _Search:
    """The tries for one session: what the next one does, and what they have seen."""

    connect: Connect
    path: str
    listen: float
    encrypted: bool = False
    """The next stream asks inside TLS: some desktops serve nothing else."""
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
        """Try once, on a stream of its own."""
        try:
            reader, writer = await self.connect()
        except ConnectionRefusedError:
            self._note(_Seen.UNREACHED, "nothing listened there")
            return None
        except OSError as error:
            self._note(_Seen.UNREACHED, f"it could not be reached: {str(error) or type(error).__name__}")
            return None
        if self.seen is _Seen.UNREACHED:  # an earlier stream tells more than this one may
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
            pass  # no TLS there, or it failed: the plain try tells more
        except (OSError, EOFError, ValueError):
            self._note(_Seen.CONNECTED, "connected, but the connection was closed without a word")
        finally:
            writer.transport.abort()
        return None

    async def _heard(self, reader: asyncio.StreamReader) -> bytes | None:
        """What the server sends without being asked; None if it waits for a request."""
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
        self.encrypted = scheme == "HTTP"  # the next stream, unless this one brings an answer
        async with asyncio.timeout(ANSWER_TIMEOUT):
            if scheme == "HTTPS":
                await writer.start_tls(_any_certificate())
            lines = f"GET {self.path} HTTP/1.1", "Host: session", "User-Agent: streamspace-agent", "Connection: close"
            writer.write("\r\n".join((*lines, "", "")).encode())
        return self._judge(await _line(reader), scheme)

    def _judge(self, line: bytes, scheme: str) -> ReadyCheck | None:
        """Judge a server's first line. A greeting means RFB, even if our request was sent before it."""
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
        # It speaks HTTP: ask the same way, without listening first.
        self.encrypted, self.listen = scheme == "HTTPS", 0.0
        return None


async def _line(reader: asyncio.StreamReader, head: bytes = b"") -> bytes:
    """A server's first line as far as it came, at most :data:`_LINE` bytes. TimeoutError if nothing came in time."""
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
    """Log in to an RFB server that asks for no password, as all session images do, and do no more.

    TigerVNC counts connections without a login, and after five it locks out that address, viewers included. A login
    clears the count, also that of earlier agents.
    """
    if greeting not in {b"RFB 003.007\n", b"RFB 003.008\n"}:
        return
    with suppress(TimeoutError, OSError, EOFError):
        async with asyncio.timeout(LOGIN_TIMEOUT):
            writer.write(greeting)
            (count,) = await reader.readexactly(1)
            if count <= _MOST_KINDS and _NO_PASSWORD in await reader.readexactly(count):
                writer.write(bytes([_NO_PASSWORD]))
                if greeting.endswith(b"8\n"):  # RFB 3.7 sends no result
                    await reader.readexactly(4)


def _status(line: bytes) -> int | None:
    words = line.split()
    if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():
        return None
    return int(words[1][:4])


def _any_certificate() -> ssl.SSLContext:
    """A TLS context that accepts any certificate: desktops sign their own, and the probe sends nothing secret."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
