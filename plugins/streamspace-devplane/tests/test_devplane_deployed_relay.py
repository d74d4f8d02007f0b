"""The faults of the deployed control plane's relay, each as it was seen to happen there."""

import asyncio
import base64
import contextlib
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from lab.until import until
from streamspace_devplane import DevPlane, Settings
from streamspace_devplane.agents.state import CRASHES_VARIABLE
from streamspace_devplane.agents.viewers.deployed_queue import Message, Messages, Routine, StopSignal

from .conftest import AGENT, Agent, counted

A, B = "session-a", "session-b"
GREETING = b"RFB 003.008\n"
# No ping comes before a test wants it.
CALM = {"viewer_ping_interval": 30.0, "viewer_activity_interval": 20.0}


def coded(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.fixture
def crash_file(tmp_path: Path) -> Path:
    return tmp_path / "crashes.jsonl"


@pytest.fixture
async def plane(tmp_path: Path, crash_file: Path, played: dict[str, Any]) -> AsyncIterator[DevPlane]:
    settings = Settings(**{**CALM, "crash_file": str(crash_file), **played})
    async with DevPlane(tmp_path / "plane.db", settings=settings) as running:
        yield running


@pytest.fixture
async def ready(plane: DevPlane, agent: Agent) -> Agent:
    """An agent with two running sessions, which says nothing by itself."""
    for session_id in (A, B):
        await plane.start_session(session_id=session_id)
        await agent.receive()
        await agent.send("status", sessionId=session_id, state="running", vncReady=True, vncPort=5900)
        await plane.wait_session(session_id, state="running")
    return agent


async def says(agent: Agent, session_id: str, *data: bytes) -> None:
    for each in data:
        await agent.send("vnc_data", sessionId=session_id, data=coded(each))


async def raw_viewer(plane: DevPlane, session_id: str = A) -> ClientConnection:
    return await connect(f"{plane.ws_url}/api/v1/vnc/{session_id}", ping_interval=None, max_size=None)


async def waiting(plane: DevPlane) -> int:
    return int((await plane.diagnostics())["viewerQueues"][AGENT])


async def left(plane: DevPlane, taken_by: str) -> None:
    """Wait until the stop signal of a viewer's leaving was taken by that routine."""
    await counted(plane, f"viewerStopTakenBy{taken_by}")


def crashes(file: Path) -> list[str]:
    return [json.loads(line)["cause"] for line in file.read_text().splitlines()] if file.exists() else []


async def test_viewers_get_base64_as_text_and_are_to_send_the_same(plane: DevPlane, ready: Agent) -> None:
    viewer = await raw_viewer(plane)
    await says(ready, A, GREETING, b"")
    assert await viewer.recv() == coded(GREETING)
    assert await viewer.recv() == ""
    await viewer.send(coded(b"\x00\xff"))
    await viewer.send(b"\x00\xff\xe2\x82!")
    told = await ready.envelopes(2)
    assert [each["payload"]["data"] for each in told] == [coded(b"\x00\xff"), "\x00\ufffd\ufffd\ufffd!"]
    assert (await plane.diagnostics())["counters"]["viewerBinaryFrames"] == 1
    await viewer.close()


async def test_the_client_of_this_package_turns_them_into_bytes_both_ways(plane: DevPlane, ready: Agent) -> None:
    viewer = await plane.open_viewer(A)
    await says(ready, A, b"", GREETING)
    assert await viewer.recv() == GREETING
    await viewer.send(b"\x00\xff")
    assert (await ready.receive())[0]["payload"]["data"] == coded(b"\x00\xff")
    await viewer.close()


async def test_a_viewer_of_a_running_session_is_let_in_whether_or_not_its_vnc_is_ready(
    plane: DevPlane, agent: Agent
) -> None:
    with pytest.raises(InvalidStatus, match="404"):
        await plane.open_viewer("no-such-session")
    await plane.start_session(session_id=A)
    with pytest.raises(InvalidStatus, match="409") as refused:
        await plane.open_viewer(A)
    assert json.loads(refused.value.response.body) == {"error": "Session is not running (state: pending)"}
    await agent.send("status", sessionId=A, state="running")
    await plane.wait_session(A, state="running", vnc_ready=False)
    await (await plane.open_viewer(A)).close()
    await agent.socket.close()
    await plane.wait_agent(AGENT, status="offline")
    with pytest.raises(InvalidStatus, match="503"):
        await plane.open_viewer(A)


async def test_one_queue_of_256_holds_what_is_for_all_sessions_and_only_viewers_empty_it(
    plane: DevPlane, ready: Agent
) -> None:
    await ready.send("vnc_ready", sessionId=B, vncPort=5900)
    await ready.send("vnc_error", sessionId=B, error="it died")
    await says(ready, A, *([b"x"] * 300))
    await counted(plane, "vncDropped", 46)
    assert await waiting(plane) == 256
    viewer = await plane.open_viewer(A)
    assert [await viewer.recv() for _ in range(254)] == [b"x"] * 254
    assert await waiting(plane) == 0
    await viewer.close()


async def test_two_viewers_of_one_agent_rob_each_other_of_half_of_all_messages(plane: DevPlane, ready: Agent) -> None:
    a, b = await plane.open_viewer(A), await plane.open_viewer(B)
    for number in range(8):
        await says(ready, A if number % 4 in (0, 3) else B, b"%d" % number)
        await until_taken(plane, number + 1)
    # Relays are served in turn: A's takes the even ones, B's the odd ones.
    assert [await a.recv() for _ in range(2)] == [b"0", b"4"]
    assert [await b.recv() for _ in range(2)] == [b"1", b"5"]
    assert (await plane.diagnostics())["counters"]["vncThrownAway"] == 4
    for viewer in (a, b):
        await viewer.close()


async def until_taken(plane: DevPlane, count: int) -> None:
    await counted(plane, "vncMessages", count)
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_viewer_that_leaves_before_anything_came_is_told_to_the_agent(plane: DevPlane, ready: Agent) -> None:
    viewer = await plane.open_viewer(A)
    await viewer.close()
    [message] = await ready.receive()
    assert (message["type"], message["payload"]) == ("vnc_close", {"sessionId": A, "reason": "client_disconnect"})


async def test_any_other_leaving_is_not_told_and_the_dead_relay_eats_the_next_greeting(
    plane: DevPlane, ready: Agent
) -> None:
    await says(ready, A, GREETING)
    first = await plane.open_viewer(A)
    assert await first.recv() == GREETING
    await first.close()
    await left(plane, "Ping")
    second = await plane.open_viewer(A)
    await says(ready, A, GREETING)  # to the dead relay, whose write fails: only now the agent is told
    [message] = await ready.receive()
    assert (message["type"], message["payload"]["sessionId"]) == ("vnc_close", A)
    await says(ready, A, GREETING)
    assert await second.recv() == GREETING
    assert (await plane.diagnostics())["counters"]["vncLostAtDeadViewer"] == 1
    await second.close()


async def test_a_newer_viewer_cuts_off_the_older_without_a_word(plane: DevPlane, ready: Agent) -> None:
    older = await plane.open_viewer(A)
    newer = await plane.open_viewer(A)
    with pytest.raises(ConnectionClosed) as closed:
        await older.recv()
    assert closed.value.rcvd is None
    await says(ready, A, GREETING)
    assert await newer.recv() == GREETING
    await newer.close()


@pytest.mark.parametrize("played", [{"viewer_activity_interval": 0.1}])
async def test_a_viewer_counts_as_activity_from_its_coming_on_and_every_interval(plane: DevPlane, ready: Agent) -> None:
    before = (await plane.session(A))["lastActivity"]
    viewer = await plane.open_viewer(A)

    async def touched() -> float:
        now = float((await plane.session(A))["lastActivity"])
        return now if now > before else 0.0

    before = await until(touched)
    await until(touched)
    await viewer.close()


async def test_a_stop_signal_wakes_the_one_that_has_waited_longest() -> None:
    ended: list[Routine] = []
    stop = StopSignal(ended.append)
    taker: asyncio.Future[Message | None] = asyncio.get_running_loop().create_future()
    stop.wait(taker, first=False)
    stop.again(Routine.PING)  # it ticked: the activity routine and the relay are ahead of it now
    stop.send()
    assert (ended, taker.done()) == ([Routine.ACTIVITY], False)
    stop.send()
    assert taker.result() is None
    stop.send()
    assert ended == [Routine.ACTIVITY, Routine.PING]
    stop.send()
    assert stop.pending == 1
    late: asyncio.Future[Message | None] = asyncio.get_running_loop().create_future()
    assert stop.wait(late, first=False)
    assert late.result() is None


async def test_a_relay_that_has_just_taken_a_message_does_not_hear_the_stop_signal() -> None:
    ended: list[Routine] = []
    stop, queue = StopSignal(ended.append), Messages(256)
    taker: asyncio.Future[Message | None] = asyncio.get_running_loop().create_future()
    queue.take(taker)
    stop.wait(taker, first=True)
    queue.put(("vnc_data", {}))
    stop.send()
    assert ended == [Routine.PING]
    assert taker.result() == ("vnc_data", {})


@pytest.mark.crashes_control_plane
async def test_an_error_for_a_session_with_a_viewer_crashes_it(
    plane: DevPlane, ready: Agent, crash_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    viewer = await plane.open_viewer(A)
    await says(ready, A, GREETING)
    await viewer.recv()
    await ready.send("vnc_error", sessionId=A, error="it died")
    with pytest.raises(ConnectionClosed):
        await viewer.recv()
    assert await counted(plane, "controlPlaneCrashes") == 1
    [cause] = crashes(crash_file)
    assert "send on closed channel" in cause
    assert "vnc_error: it died" in cause
    assert [event["payload"]["cause"] for event in await plane.events(type="crash")] == [cause]
    [record] = [record for record in caplog.records if record.levelname == "ERROR"]
    assert record.getMessage().startswith("the deployed control plane would have crashed here: send on closed channel")
    assert record.getMessage().endswith(f"(session {A}, agent {AGENT})")


@pytest.mark.crashes_control_plane
async def test_an_error_that_nobody_read_waits_for_the_next_viewer(
    plane: DevPlane, ready: Agent, crash_file: Path
) -> None:
    await ready.send("vnc_error", sessionId=A, error="it died")
    await until(lambda: waiting(plane))
    viewer = await plane.open_viewer(A)
    with pytest.raises(ConnectionClosed):
        await viewer.recv()
    assert len(crashes(crash_file)) == 1


async def test_an_error_whose_viewer_has_left_ends_the_dead_relay_and_harms_nobody(
    plane: DevPlane, ready: Agent, crash_file: Path
) -> None:
    viewer = await plane.open_viewer(A)
    await says(ready, A, GREETING)
    await viewer.recv()
    await viewer.close()
    await left(plane, "Ping")
    await ready.send("vnc_error", sessionId=A, error="it died")
    assert (await ready.receive())[0]["type"] == "vnc_close"
    assert crashes(crash_file) == []


@pytest.mark.crashes_control_plane
@pytest.mark.parametrize("played", [{"viewer_ping_interval": 0.5, "viewer_write_wait": 0.1}])
async def test_the_first_update_after_a_pings_deadline_crashes_it(
    plane: DevPlane, ready: Agent, crash_file: Path
) -> None:
    viewer = await plane.open_viewer(A)
    await asyncio.sleep(0.55)
    await says(ready, A, GREETING)  # within the deadline
    assert await viewer.recv() == GREETING
    await asyncio.sleep(0.2)
    await says(ready, A, b"late")
    with pytest.raises(ConnectionClosed):
        await viewer.recv()
    [cause] = crashes(crash_file)
    assert "the write deadline that a ping set has passed" in cause


@pytest.mark.crashes_control_plane
@pytest.mark.parametrize("played", [{"viewer_write_wait": 0.1}])
async def test_a_viewers_own_ping_sets_the_same_deadline(plane: DevPlane, ready: Agent, crash_file: Path) -> None:
    viewer = await plane.open_viewer(A)
    await (await viewer.ping())
    await asyncio.sleep(0.2)
    await says(ready, A, GREETING)
    with pytest.raises(ConnectionClosed):
        await viewer.recv()
    assert len(crashes(crash_file)) == 1


@pytest.mark.crashes_control_plane
@pytest.mark.parametrize("played", [{"viewer_ping_interval": 1.0}])
async def test_a_ping_while_a_write_is_blocked_crashes_it(plane: DevPlane, ready: Agent, crash_file: Path) -> None:
    viewer = await plane.open_viewer(A)
    viewer.transport.pause_reading()
    for _ in range(200):
        await says(ready, A, os.urandom(131_072))
    await counted(plane, "controlPlaneCrashes")
    [cause] = crashes(crash_file)
    assert "concurrent write to websocket connection" in cause
    viewer.transport.abort()


@pytest.mark.parametrize("played", [{"viewer_ping_interval": 0.3, "viewer_activity_interval": 0.2}])
async def test_a_ping_to_a_viewer_that_left_ends_its_dead_relay(
    plane: DevPlane, ready: Agent, crash_file: Path
) -> None:
    viewer = await plane.open_viewer(A)
    await says(ready, A, GREETING)
    await viewer.recv()
    await asyncio.sleep(0.35)  # the ping routine now waits behind the relay, and the activity routine behind both
    await says(ready, A, b"x")
    await viewer.recv()
    await viewer.close()
    assert (await ready.receive())[0]["type"] == "vnc_close"
    assert crashes(crash_file) == []


@pytest.mark.parametrize("played", [{"viewer_read_wait": 0.3, "viewer_ping_interval": 0.2}])
async def test_a_viewer_that_answers_pings_is_read_for_ever(plane: DevPlane, ready: Agent) -> None:
    viewer = await plane.open_viewer(A)
    reading = asyncio.create_task(viewer.recv())
    await asyncio.sleep(1)
    await viewer.send(GREETING)
    assert (await ready.receive())[0]["payload"]["data"] == GREETING.decode()
    reading.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await reading
    await viewer.close()


@pytest.mark.parametrize("played", [{"viewer_read_wait": 0.2}])
async def test_a_viewer_that_is_silent_for_too_long_is_heard_no_more_though_it_still_sees(
    plane: DevPlane, ready: Agent
) -> None:
    viewer = await plane.open_viewer(A)
    await says(ready, A, GREETING)
    assert await viewer.recv() == GREETING
    await left(plane, "Ping")
    await viewer.send(b"does it hear?")
    await says(ready, A, b"still")
    assert await viewer.recv() == b"still"
    assert await plane.events(type="vnc_data", direction="to_agent") == []
    await viewer.close()


async def test_a_viewer_open_over_an_agents_reconnection_is_frozen_but_still_heard(
    plane: DevPlane, ready: Agent
) -> None:
    viewer = await plane.open_viewer(A)
    await says(ready, A, GREETING)
    await viewer.recv()
    await ready.socket.close()
    await plane.wait_agent(AGENT, status="offline")
    await ready.connect()
    await plane.wait_agent(AGENT, status="online")
    await viewer.send(b"x")
    assert (await ready.receive())[0]["type"] == "vnc_data"
    await says(ready, A, GREETING)
    await until(lambda: waiting(plane))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(viewer.recv(), 0.3)
    await viewer.close()


async def test_a_viewer_that_speaks_while_the_agent_is_away_is_heard_no_more(plane: DevPlane, ready: Agent) -> None:
    viewer = await plane.open_viewer(A)
    await ready.socket.close()
    await plane.wait_agent(AGENT, status="offline")
    await viewer.send(b"x")
    await left(plane, "Relay")  # which has handled nothing yet, and is first in line
    with pytest.raises(ConnectionClosed):
        await viewer.recv()


async def test_a_crash_is_written_where_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "of-the-environment.jsonl"
    monkeypatch.setenv(CRASHES_VARIABLE, str(file))
    async with DevPlane(tmp_path / "plane.db") as plane:
        plane.hub.crashes.note("nothing", A, AGENT)
    assert crashes(file) == ["nothing"]


@pytest.mark.parametrize("relays", [0, 3])
async def test_a_stop_ends_relays_of_viewers_long_gone_without_a_word(
    plane: DevPlane, ready: Agent, relays: int, crash_file: Path
) -> None:
    for number in range(relays):
        viewer = await plane.open_viewer(A)
        for _ in range(number + 1):  # the dead ones take theirs first, and the first write to each ends it
            await says(ready, A, GREETING)
        await viewer.recv()
        await viewer.close()
        await counted(plane, "viewerStopTakenByPing", number + 1)
    open_one = await plane.open_viewer(B)
    async with asyncio.timeout(10):
        await plane.stop()
    with pytest.raises(ConnectionClosed):
        await open_one.recv()
    assert crashes(crash_file) == []
    await plane.start()
