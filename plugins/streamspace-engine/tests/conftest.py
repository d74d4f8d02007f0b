"""Engines: the real one, one that misbehaves, and one that a test plays."""

import asyncio
import json
from contextlib import asynccontextmanager

import pytest

from lab.loopback import served
from lab.odd_engine import odd_engine
from streamspace_engine import Engine


@pytest.fixture
async def make_engine(docker_host):
    made = []

    def make(host=docker_host, environ=None, **options):
        made.append(Engine(host, environ or {}, **options))
        return made[-1]

    yield make
    for engine in made:
        await engine.aclose()


@pytest.fixture
async def odd(docker_host):
    async with odd_engine(docker_host) as odd:
        yield odd


class PlayedEngine:
    """Answers ``GET /version``; what happens to any other request is the test's ``serve``."""

    def __init__(self, serve, api="1.41"):
        self.requests = []
        self.connections = 0
        self._serve = serve
        self._version = json.dumps({"ApiVersion": api}).encode()

    async def talk(self, reader, writer):
        self.connections += 1
        while head := await reader.readuntil(b"\r\n\r\n"):
            request = head.decode().partition(" HTTP/")[0]
            self.requests.append(request)
            if request.endswith("/version"):
                await asyncio.sleep(0.05)
                head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(self._version)
                writer.write(head + self._version)
            else:
                await self._serve(reader, writer)


@pytest.fixture
def play():
    """``async with play(serve) as (host, played)``: an engine on a loopback port."""

    @asynccontextmanager
    async def play(serve, *, api="1.41", tls=None):
        played = PlayedEngine(serve, api)
        async with served(played.talk, tls) as port:
            yield f"tcp://127.0.0.1:{port}", played

    return play
