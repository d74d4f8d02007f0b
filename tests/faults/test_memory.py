"""What a control plane may say without end: the agent lives on under the memory limit that the deployments ship
with."""

import asyncio
import json
import re
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosed

from lab.loopback import served
from lab.until import until

LIMIT = 512 * 1024**2
MB = 1024**2


def stamped(kind, payload):
    return json.dumps({"type": kind, "timestamp": "2026-01-01T00:00:00Z", "payload": payload})


def head(kind, key):
    """The beginning of an envelope whose last string has no end."""
    return stamped(kind, {"sessionId": "s", key: ""})[:-3]


ENDLESS = {
    "a command": stamped("command", {"commandId": "huge", "action": "stop_session", "payload": {"a": ""}})[:-4],
    "viewer's data": head("vnc_data", "data"),
    "a message of no known type": head("future", "text"),
    "rubbish": "",
    "lines of rubbish": "\n",
}


class Mouth:
    """A control plane that says what it is told to, in parts, and remembers the answers."""

    def __init__(self):
        self.said = asyncio.Queue()
        self.heard = []
        self.connections = 0

    async def talk(self, socket):
        self.connections += 1
        speak = asyncio.create_task(self._speak(socket))
        try:
            async for frame in socket:
                self.heard.append(json.loads(frame))
        finally:
            speak.cancel()

    async def _speak(self, socket):
        with suppress(ConnectionClosed):
            while True:
                await socket.send(await self.said.get())


@asynccontextmanager
async def mouth():
    plane = Mouth()
    # POST is no request that the library's server reads: a door before it answers registrations.
    async with serve(plane.talk, "127.0.0.1", 0, max_size=None) as server:
        port = server.sockets[0].getsockname()[1]

        async def door(reader, writer):
            request = await reader.readuntil(b"\r\n\r\n")
            if request.startswith(b"POST"):
                body = b'{"agentId": "it"}'
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (len(body), body)
                )
                await writer.drain()
                return
            onwards, back = await asyncio.open_connection("127.0.0.1", port)
            back.write(request)
            ways = [asyncio.create_task(copy(reader, back)), asyncio.create_task(copy(onwards, writer))]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                back.transport.abort()

        async with served(door) as entrance:
            yield plane, f"ws://127.0.0.1:{entrance}"


async def copy(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


def peak(agent):
    """Bytes of memory that the process had at most."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{agent.pid}/status").read_text())
    return int(found[1]) * 1024


@pytest.fixture
def limited(make_agent):
    async def make(url, **more):
        agent = await make_agent(CONTROL_PLANE_URL=url, HEALTH_CHECK_INTERVAL="1s", **more)
        agent.prefix = ("prlimit", f"--data={LIMIT}")
        return await agent.start()

    return make


@pytest.mark.timeout(240)
async def test_no_message_however_large_costs_more_memory_than_there_is(limited):
    async with mouth() as (plane, url):
        agent = await limited(url)
        await until(lambda: plane.heard)
        for number, (what, start) in enumerate(ENDLESS.items()):
            part = "x" * MB if what != "lines of rubbish" else "x\n" * (MB // 2)

            async def parts(start=start, part=part):
                yield start
                for _ in range(256):
                    yield part

            plane.said.put_nowait(parts())
            plane.said.put_nowait(stamped("command", {"commandId": f"after-{number}", "action": "make_coffee"}))
            name = f"after-{number}"
            await until(
                lambda name=name: [
                    m for m in plane.heard if m["type"] == "failed" and m["payload"]["commandId"] == name
                ],
                timeout=60,
                what=f"no answer after {what}",
            )
        assert plane.connections == 1
        (refused,) = {
            m["payload"]["error"]
            for m in plane.heard
            if m["payload"].get("commandId") == "huge" and m["type"] == "failed"
        }
        assert refused.startswith("malformed_message: too large")
        # One that comes as a single part cannot be read bit by bit: that connection is given up.
        plane.said.put_nowait("x" * 200 * MB)
        await until(lambda: plane.connections == 2, timeout=60)
        plane.said.put_nowait("x" * 60 * MB)
        plane.said.put_nowait(stamped("command", {"commandId": "last", "action": "make_coffee"}))
        await until(lambda: [m for m in plane.heard if m["payload"].get("commandId") == "last"], timeout=60)
        used = peak(agent)
        print(f"peak of {used / MB:.0f} MB")
        assert used < LIMIT * 0.75
        assert await agent.terminate() == 0


@pytest.mark.parametrize("headers", ["", "Content-Length: 100000000000\r\n", "Transfer-Encoding: chunked\r\n"])
async def test_an_endless_answer_to_the_registration_costs_none(limited, headers):
    asked = 0

    async def endless(reader, writer):
        nonlocal asked
        await reader.readuntil(b"\r\n\r\n")
        asked += 1
        writer.write(f"HTTP/1.1 200 OK\r\n{headers}\r\n".encode())
        part = b"x" * 65536
        while True:
            writer.write(b"10000\r\n" + part + b"\r\n" if "chunked" in headers else part)
            await writer.drain()

    async with served(endless) as port:
        agent = await limited(f"ws://127.0.0.1:{port}")
        await until(lambda: asked >= 3)
        assert peak(agent) < LIMIT / 2
        assert await agent.terminate() == 0


@pytest.mark.timeout(240)
async def test_commands_that_wait_for_an_engine_cost_no_more_memory_than_there_is(limited, tmp_path):
    """An empty list has three characters in a message, and takes sixteen times as much once it is read."""
    async with mouth() as (plane, url):
        agent = await limited(url, DOCKER_HOST=f"unix://{tmp_path}/none.sock", DRAIN_TIMEOUT="0s")
        await until(lambda: plane.heard)
        for number in range(1500):
            body = {"sessionId": f"s{number}", "ignored": [[]] * 9_000}
            command = {"commandId": f"c{number}", "action": "stop_session", "payload": body}
            plane.said.put_nowait(stamped("command", command))
        plane.said.put_nowait(stamped("command", {"commandId": "last", "action": "make_coffee"}))
        await until(lambda: [m for m in plane.heard if m["payload"].get("commandId") == "last"], timeout=120)
        assert peak(agent) < LIMIT / 2
        refused = {m["payload"]["commandId"] for m in plane.heard if m["payload"].get("error", "").startswith("busy: ")}
        assert 1000 < len(refused) < 1500
        assert await agent.terminate() == 0
