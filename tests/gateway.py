"""A web gateway with sessions made of plain asyncio servers, and an HTTP client that shows every byte."""

import asyncio
import contextlib
from dataclasses import dataclass, replace

from lab.process import free_port
from lab.until import until
from streamspace_agent.clock import BoottimeClock
from streamspace_agent.errors import CommandFailed
from streamspace_agent.gateway import GatewayContext, keep_serving
from streamspace_agent.runtime import ReadyCheck, Session, SessionState
from streamspace_gateway import WebGateway

DOMAIN = "streamspace.svc.cluster.local"


@dataclass
class Answer:
    status: int
    headers: dict
    body: bytes

    @property
    def text(self):
        return self.body.decode()


class Asker:
    """Asks a gateway at 127.0.0.1."""

    def __init__(self, port):
        self.port = port
        self._writers = []

    async def stream(self):
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self._writers.append(writer)
        return reader, writer

    async def hang_up(self):
        """Every stream that is still open; a moment later none is."""
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.sleep(0)

    async def raw(self, data):
        """Everything that comes back until the connection ends."""
        reader, writer = await self.stream()
        writer.write(data)
        try:
            return await asyncio.wait_for(reader.read(), 20)
        finally:
            writer.close()

    async def get(self, host, path="/", *, method="GET", body=b"", **headers):
        """`host` is a session id, or a whole name with a dot in it."""
        name = host if "." in host else f"{host}.{DOMAIN}"
        head = [f"{method} {path} HTTP/1.1", f"Host: {name}", "Connection: close"]
        head += [f"{key.replace('_', '-')}: {value}" for key, value in headers.items()]
        if body:
            head.append(f"Content-Length: {len(body)}")
        return parse(await self.raw("\r\n".join([*head, "", ""]).encode() + body))


class House(Asker):
    """Sessions, what a person was seen to do in them, and the gateway before them."""

    def __init__(self, allow="private", relay="repaired"):
        self.sessions = {}
        self.busy = set()
        self.adopted = True
        self.used = []
        self.connects = []
        self.failure = None
        self._handling = set()
        self.servers = {}
        super().__init__(free_port())
        self.gateway = WebGateway(f"127.0.0.1:{self.port}", allow, relay)
        self.context = GatewayContext(
            self.sessions,
            busy=lambda: self.busy,
            adopted=lambda: self.adopted,
            connect=self.connect,
            saw_input=self.used.append,
            clock=BoottimeClock(),
        )

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, **options):
        house = cls(**options)
        async with contextlib.AsyncExitStack() as house.stack, house.serving():
            yield house
            await house.hang_up()

    @contextlib.asynccontextmanager
    async def serving(self):
        serving = asyncio.create_task(keep_serving(self.gateway, self.context))
        try:
            await until(lambda: self.gateway.status().addresses == {f"127.0.0.1:{self.port}": ""})
            yield
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)

    async def connect(self, session_id, port):
        self.connects.append(session_id)
        if self.failure is not None:
            raise self.failure
        if self.sessions[session_id].state is not SessionState.RUNNING:
            raise CommandFailed("not_running", "the session does not run")
        return await asyncio.open_connection("127.0.0.1", port)

    async def session(self, session_id, handler, *, tls=None, **more):
        """A session whose web server is `handler(reader, writer)`, for one connection."""

        async def serve(reader, writer):
            handling = asyncio.current_task()
            self._handling.add(handling)
            try:
                with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                    await handler(reader, writer)
            finally:
                self._handling.discard(handling)
                writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
        self.stack.push_async_callback(self._end, server)
        self.servers[session_id] = server
        port = server.sockets[0].getsockname()[1]
        self.put(session_id, port=port, **more)
        return server

    async def _end(self, server):
        server.close()
        for task in self._handling:
            task.cancel()
        await asyncio.gather(*self._handling, return_exceptions=True)

    def put(self, session_id, state=SessionState.RUNNING, **more):
        made = Session(session_id, state, f"place-{session_id}", ready=True, ready_check=ReadyCheck.HTTP)
        self.sessions[session_id] = replace(made, **more)


def parse(data):
    head, _, body = data.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    headers = {}
    for line in lines[1:]:
        name, _, value = line.partition(":")
        headers.setdefault(name.lower(), value.strip())
    if headers.get("transfer-encoding") == "chunked":
        body = b"".join(chunks(body))
    return Answer(int(lines[0].split()[1]), headers, body)


def chunks(body):
    while body:
        size, _, body = body.partition(b"\r\n")
        if not (length := int(size, 16)):
            return
        yield body[:length]
        body = body[length + 2 :]
    raise AssertionError("the last chunk is missing")


async def chunked_body(reader):
    """The next body in chunks; the connection goes on behind it."""
    body = b""
    while piece := int(await reader.readline(), 16):
        body += await reader.readexactly(piece)
        assert await reader.readline() == b"\r\n"
    assert await reader.readline() == b"\r\n"
    return body


async def head_of(reader):
    """A request's head as a session's server reads it; b"" when there is none."""
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return b""


def answering(body=b"hello", status="200 OK", *more):
    """A server that answers every request alike and keeps its connections open."""

    async def handler(reader, writer):
        while await head_of(reader):
            head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *more, "", ""]
            writer.write("\r\n".join(head).encode() + body)
            await writer.drain()

    return handler
