import asyncio
import base64
import contextlib
import os
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.websockets import WebSocket
from websockets.exceptions import ConnectionClosed, InvalidStatus

from streamspace_devplane import DevPlane, Settings
from streamspace_devplane.agents.viewers.repaired_queue import ViewerQueue
from streamspace_devplane.cli.main import copy_to_tcp
from streamspace_devplane.web.vnc import vnc

from .conftest import AGENT, Agent, counted

SESSION = "s-1"
GREETING = b"RFB 003.008\n"


def coded(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[DevPlane]:
    async with DevPlane(tmp_path / "plane.db", settings=Settings(relay="repaired")) as running:
        yield running


@pytest.fixture
async def ready(plane: DevPlane, agent: Agent) -> Agent:
    """An agent whose session may be viewed, its VNC server's greeting on its way."""
    await plane.start_session(session_id=SESSION)
    await agent.receive()
    await agent.send("status", sessionId=SESSION, state="running")
    await agent.send("vnc_ready", sessionId=SESSION, vncPort=5900, podName="c")
    await agent.send("vnc_data", sessionId=SESSION, data=coded(GREETING))
    await plane.wait_session(SESSION, vnc_ready=True)
    return agent


async def waiting(plane: DevPlane) -> int:
    return int((await plane.diagnostics())["viewerQueues"][AGENT])


async def test_bytes_pass_both_ways_unchanged_and_the_greeting_waited_for_the_viewer(
    plane: DevPlane, ready: Agent
) -> None:
    viewer = await plane.open_viewer(SESSION)
    assert viewer.subprotocol == "binary"
    assert await viewer.recv() == GREETING
    await viewer.send(b"\x00\xff" * 50)
    [message] = await ready.receive()
    assert message["type"] == "vnc_data"
    assert base64.b64decode(message["payload"]["data"]) == b"\x00\xff" * 50
    blob = os.urandom(200_000)
    await ready.send("vnc_data", sessionId=SESSION, data=coded(blob))
    assert await viewer.recv() == blob
    await viewer.close()
    [message] = await ready.receive()
    assert (message["type"], message["payload"]["sessionId"]) == ("vnc_close", SESSION)
    assert message["payload"]["reason"]


async def test_the_next_viewer_sees_only_the_fresh_connection(plane: DevPlane, ready: Agent) -> None:
    first = await plane.open_viewer(SESSION)
    await first.recv()
    await first.close()
    await ready.receive()
    await ready.send("vnc_data", sessionId=SESSION, data=coded(b"left over"))
    await ready.send("vnc_data", sessionId=SESSION, data=coded(GREETING))
    second = await plane.open_viewer(SESSION)
    assert await second.recv() == GREETING
    assert (await plane.diagnostics())["counters"]["vncAfterClose"] == 1
    await second.close()


async def test_a_newer_viewer_takes_the_place_of_the_older(plane: DevPlane, ready: Agent) -> None:
    first = await plane.open_viewer(SESSION)
    await first.recv()
    second = await plane.open_viewer(SESSION)
    with pytest.raises(ConnectionClosed, match="another viewer"):
        await first.recv()
    assert (await ready.receive())[0]["type"] == "vnc_close"
    await ready.send("vnc_data", sessionId=SESSION, data=coded(GREETING))
    assert await second.recv() == GREETING
    await second.close()


async def test_nothing_that_a_viewer_says_is_passed_on_once_the_agent_was_told_that_it_left(
    plane: DevPlane, ready: Agent
) -> None:
    older = await plane.open_viewer(SESSION)

    async def talk() -> None:
        with contextlib.suppress(ConnectionClosed):
            while True:
                await older.send(b"older")
                await asyncio.sleep(0)

    talking = asyncio.create_task(talk())
    newer = await plane.open_viewer(SESSION)
    await newer.send(b"newer")
    told: list[tuple[str, str]] = []
    while ("vnc_data", coded(b"newer")) not in told:
        told += [(message["type"], message["payload"].get("data", "")) for message in await ready.receive()]
    after = told[[kind for kind, _ in told].index("vnc_close") :]
    assert ("vnc_data", coded(b"older")) not in after
    await newer.close()
    await talking


async def test_an_error_from_the_agent_closes_the_viewer(plane: DevPlane, ready: Agent) -> None:
    viewer = await plane.open_viewer(SESSION)
    await viewer.recv()
    await ready.send("vnc_error", sessionId=SESSION, error="connection refused on port 5900")
    with pytest.raises(ConnectionClosed, match="connection refused on port 5900"):
        await viewer.recv()


async def test_a_lost_agent_closes_its_viewers(plane: DevPlane, ready: Agent) -> None:
    viewer = await plane.open_viewer(SESSION)
    await viewer.recv()
    await ready.socket.close()
    with pytest.raises(ConnectionClosed, match="agent's connection is gone"):
        await viewer.recv()


async def test_a_viewer_that_comes_while_the_agent_leaves_is_closed_too(plane: DevPlane, ready: Agent) -> None:
    """The agent's link ends while the viewer's handshake is being answered."""
    link = plane.hub.links[AGENT]
    told: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        told.append(message)
        if message["type"] == "websocket.accept":
            link.cut()
            await plane.wait_agent(AGENT, status="offline")

    async def receive() -> Any:
        if not told:
            return {"type": "websocket.connect"}
        return await asyncio.Event().wait()  # it waits for pictures

    scope = {
        "type": "websocket",
        "path_params": {"session": SESSION},
        "subprotocols": ["binary"],
        "headers": [],
        "query_string": b"",
    }
    async with asyncio.timeout(5):
        await vnc(plane.hub, WebSocket(scope, receive, send))
    assert [message["type"] for message in told] == ["websocket.accept", "websocket.close"]
    assert (told[1]["code"], told[1]["reason"]) == (1011, "the agent's connection is gone")


async def test_a_viewer_whose_socket_takes_nothing_is_closed_all_the_same(plane: DevPlane, ready: Agent) -> None:
    told: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        told.append(message)
        if message["type"] == "websocket.send":
            await asyncio.Event().wait()

    async def receive() -> Any:
        return {"type": "websocket.connect"} if not told else await asyncio.Event().wait()

    scope = {
        "type": "websocket",
        "path_params": {"session": SESSION},
        "subprotocols": [],
        "headers": [],
        "query_string": b"",
    }
    viewing = asyncio.create_task(vnc(plane.hub, WebSocket(scope, receive, send)))
    async with asyncio.timeout(5):
        while "websocket.send" not in [message["type"] for message in told]:
            await asyncio.sleep(0.01)
        await ready.send("vnc_error", sessionId=SESSION, error="it died")
        await viewing
    assert (told[-1]["type"], told[-1]["code"]) == ("websocket.close", 1011)


async def test_what_is_forgotten_in_the_middle_of_a_viewers_stream_is_counted_once() -> None:
    queue = ViewerQueue(256, Counter())
    viewer = queue.join(SESSION)
    for _ in range(10):
        queue.offer(SESSION, b"x")
    stream = queue.stream(viewer)
    await anext(stream)
    queue.forget(SESSION)
    assert queue.size == 0
    queue.offer(SESSION, b"y")
    assert await anext(stream) == b"y"
    assert queue.size == 0


async def test_the_queue_shared_by_all_viewers_drops_in_silence_when_full(plane: DevPlane, ready: Agent) -> None:
    for number in range(300):  # one place of 256 is taken by the greeting
        await ready.send("vnc_data", sessionId=f"other-{number % 2}", data=coded(b"x"))
    await counted(plane, "vncMessages", 301)
    assert (await plane.diagnostics())["counters"]["vncDropped"] == 45
    assert await waiting(plane) == 256
    viewer = await plane.open_viewer(SESSION)
    assert await viewer.recv() == GREETING
    assert await waiting(plane) == 255
    await viewer.close()


async def test_a_viewer_that_does_not_read_fills_the_queue(plane: DevPlane, ready: Agent) -> None:
    viewer = await plane.open_viewer(SESSION)
    await viewer.recv()
    viewer.transport.pause_reading()
    data = coded(os.urandom(131_072))
    for _ in range(400):
        await ready.send("vnc_data", sessionId=SESSION, data=data)
    await counted(plane, "vncDropped", 1)
    viewer.transport.abort()


async def test_data_that_is_no_base64_is_skipped(plane: DevPlane, ready: Agent) -> None:
    viewer = await plane.open_viewer(SESSION)
    await viewer.recv()
    await ready.send("vnc_data", sessionId=SESSION, data="A")
    await ready.send("vnc_data", sessionId=SESSION, data=coded(b"good"))
    assert await viewer.recv() == b"good"
    assert (await plane.diagnostics())["counters"]["vncNotBase64"] == 1
    await viewer.close()


async def test_no_viewer_is_let_in_without_session_agent_or_vnc(plane: DevPlane, agent: Agent) -> None:
    with pytest.raises(InvalidStatus, match="404"):
        await plane.open_viewer("no-such-session")
    await plane.start_session(session_id="not-ready")
    with pytest.raises(InvalidStatus, match="409"):
        await plane.open_viewer("not-ready")
    await agent.send("status", sessionId="not-ready", state="running")
    await plane.wait_session("not-ready", state="running")
    with pytest.raises(InvalidStatus, match="409"):
        await plane.open_viewer("not-ready")
    await agent.socket.close()
    await plane.wait_agent(AGENT, status="offline")
    with pytest.raises(InvalidStatus, match="503"):
        await plane.open_viewer("not-ready")


async def test_a_plain_vnc_viewer_can_attach_over_tcp(plane: DevPlane, ready: Agent, tmp_path: Path) -> None:
    server: Any = await copy_to_tcp(plane, SESSION, 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        assert await reader.readexactly(len(GREETING)) == GREETING
        writer.write(GREETING)
        [message] = await ready.receive()
        assert base64.b64decode(message["payload"]["data"]) == GREETING
        writer.close()
        assert (await ready.receive())[0]["type"] == "vnc_close"


async def test_a_stop_is_quick_whatever_is_open_and_a_start_goes_on(
    plane: DevPlane, ready: Agent, caplog: pytest.LogCaptureFixture
) -> None:
    viewer = await plane.open_viewer(SESSION)
    await viewer.recv()
    waiting_for_state = asyncio.create_task(plane.call("GET", f"/sessions/{SESSION}", state="failed", timeout=60))
    async with httpx.AsyncClient(trust_env=False) as http:
        headers = {"Accept": "text/event-stream"}
        async with http.stream("GET", f"{plane.url}/api/v1/events", headers=headers) as live:
            ready.socket.transport.pause_reading()  # an agent that hangs, with much on its way to it
            blob = "x" * 500_000
            for _ in range(20):
                await plane.send_message(AGENT, "ping", {"filler": blob})
            await plane.set_faults(blackhole={})
            stuck = asyncio.create_task(ready.register())
            async with asyncio.timeout(10):
                await plane.stop()
            assert (await waiting_for_state)["state"] == "running"
            with contextlib.suppress(httpx.RemoteProtocolError):  # it is torn where it does not end in time
                async for _ in live.aiter_bytes():
                    pass
    with pytest.raises(ConnectionClosed):
        await viewer.recv()
    with pytest.raises(httpx.TransportError):
        await stuck
    ready.socket.transport.abort()
    plane.faults.clear()
    await plane.start()
    await ready.connect()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
