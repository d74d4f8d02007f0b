"""An engine that misbehaves: stands between a driver and the real one, and refuses, delays or changes what it is told
to."""

from __future__ import annotations

import asyncio
import json
import re
import tempfile
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

_VERSION = re.compile(r"^/v\d+\.\d+")


@dataclass
class Rule:
    """About requests whose ``METHOD /path?query``, without the API's version, matches. ``times`` None: about all of
    them."""

    pattern: str
    times: int | None = None
    status: int = 0
    """The answer's status; 0: the real engine answers."""
    body: bytes = b""
    delay: float = 0.0
    before: Callable[[], object] | None = None
    """Called before the request goes on to the engine."""
    lost: bool = False
    """What the engine answers gets lost."""
    change: Callable[[Any], Any] | None = None
    """Makes the JSON that the client gets of the JSON that the engine sent."""
    lines: list[tuple[float, Any]] | None = None
    """The answer: lines of JSON, each at its time in seconds."""

    def takes(self, request: str) -> bool:
        if self.times == 0 or not re.search(self.pattern, request):
            return False
        if self.times is not None:
            self.times -= 1
        return True


@dataclass
class OddEngine:
    """Faults are rules, to be added at any time; the first that matches counts. ``seen`` are the requests so far."""

    engine: Path
    host: str = ""
    rules: list[Rule] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)

    def refuse(self, pattern: str, status: int, message: str, *, times: int | None = None) -> None:
        self.rules.append(Rule(pattern, times, status, json.dumps({"message": message}).encode()))

    def answer(self, pattern: str, body: object, *, times: int | None = None) -> None:
        self.rules.append(Rule(pattern, times, 200, json.dumps(body).encode()))

    def change(self, pattern: str, change: Callable[[Any], Any]) -> None:
        self.rules.append(Rule(pattern, change=change))

    def delay(self, pattern: str, seconds: float) -> None:
        self.rules.append(Rule(pattern, delay=seconds))

    def lose(self, pattern: str, *, times: int | None = None) -> None:
        """Let the engine act, and keep its answer back."""
        self.rules.append(Rule(pattern, times, lost=True))

    def play(self, pattern: str, lines: list[tuple[float, Any]], *, times: int | None = None) -> None:
        """Answer as an engine once did: with lines of JSON, each so many seconds after the request."""
        self.rules.append(Rule(pattern, times, lines=lines))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request a connection: what the engine answers ends with its connection."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.split("\r\n")
        method, target, _ = first.split(" ")
        length = next((int(line.split(":")[1]) for line in lines if line.lower().startswith("content-length:")), 0)
        body = await reader.readexactly(length)
        request = f"{method} {_VERSION.sub('', target)}"
        self.seen.append(request)
        rule = next((rule for rule in self.rules if rule.takes(request)), None)
        if rule:
            await asyncio.sleep(rule.delay)
            if rule.before:
                rule.before()
        if rule and rule.status:
            self._reply(writer, rule.status, rule.body)
            return
        if rule and rule.lines is not None:
            await self._play(writer, rule.lines)
            return
        kept = [line for line in lines if line and not line.lower().startswith("connection:")]
        far_reader, far_writer = await asyncio.open_unix_connection(self.engine)
        try:
            far_writer.write("\r\n".join([first, *kept, "Connection: close", "", ""]).encode("latin-1") + body)
            if rule and rule.lost:
                await far_reader.read()
                await reader.read()  # until the client gives up
                return
            if rule and rule.change:
                await self._changed(far_reader, writer, rule.change)
                return
            left = asyncio.create_task(reader.read())  # a client that goes ends the engine's answer, too
            while True:
                read = asyncio.create_task(far_reader.read(65536))
                await asyncio.wait({read, left}, return_when=asyncio.FIRST_COMPLETED)
                if not read.done():
                    read.cancel()
                    break
                if not (data := read.result()):
                    left.cancel()
                    break
                writer.write(data)
                await writer.drain()
        finally:
            far_writer.close()

    async def _changed(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, change: Callable[[Any], Any]
    ) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        body = await reader.read()
        if "transfer-encoding: chunked" in head.lower():
            body = _joined(body)
        status = int(head.split(" ")[1])
        self._reply(writer, status, json.dumps(change(json.loads(body))).encode() if status < 400 else body)

    @staticmethod
    async def _play(writer: asyncio.StreamWriter, lines: list[tuple[float, Any]]) -> None:
        """In chunks, as an engine: a client waits for more of an answer that has none."""
        head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n"
        writer.write(f"{head}Connection: close\r\n\r\n".encode())
        begun = asyncio.get_running_loop().time()
        for at, line in lines:
            await asyncio.sleep(begun + at - asyncio.get_running_loop().time())
            data = json.dumps(line).encode() + b"\r\n"
            writer.write(b"%x\r\n%b\r\n" % (len(data), data))
            await writer.drain()
        writer.write(b"0\r\n\r\n")

    @staticmethod
    def _reply(writer: asyncio.StreamWriter, status: int, body: bytes) -> None:
        head = f"HTTP/1.1 {status} Odd\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        writer.write(f"{head}Connection: close\r\n\r\n".encode() + body)


def _joined(chunked: bytes) -> bytes:
    whole, rest = b"", chunked
    while True:
        size, _, rest = rest.partition(b"\r\n")
        length = int(size, 16)
        if not length:
            return whole
        whole, rest = whole + rest[:length], rest[length + 2 :]


@asynccontextmanager
async def odd_engine(docker_host: str) -> AsyncIterator[OddEngine]:
    """On a Unix socket of its own, whose ``DOCKER_HOST`` is ``host``. The real one must be on a Unix socket, too."""
    odd = OddEngine(Path(docker_host.removeprefix("unix://")))
    talking: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        talking.add(task)
        try:
            with suppress(OSError, EOFError, asyncio.CancelledError):
                await odd.serve(reader, writer)
                await writer.drain()
        finally:
            talking.discard(task)
            writer.close()

    with tempfile.TemporaryDirectory(prefix="odd-") as folder:
        path = Path(folder, "docker.sock")
        server = await asyncio.start_unix_server(serve, path)
        odd.host = f"unix://{path}"
        try:
            yield odd
        finally:
            server.close()
            for task in list(talking):
                task.cancel()
            if talking:
                await asyncio.wait(talking, timeout=10)
