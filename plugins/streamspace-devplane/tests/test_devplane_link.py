import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from uvicorn.protocols.websockets import websockets_sansio_impl
from websockets.exceptions import ConnectionClosed
from websockets.frames import CloseCode

from lab.until import until
from streamspace_devplane import DevPlane, Settings
from streamspace_devplane.agents import link as link_module

from .conftest import AGENT, Agent, counted, tasks_of


@pytest.fixture
async def hasty(tmp_path: Path) -> AsyncIterator[Agent]:
    """An agent of a plane whose times are short."""
    settings = Settings(ping_interval=0.3, pong_timeout=2, stale_after=4, stale_check=0.1)
    async with DevPlane(tmp_path / "plane.db", settings=settings) as plane:
        agent = Agent(plane, key=await plane.issue_key(AGENT))
        await agent.register()
        yield agent


@pytest.mark.parametrize(
    ("stamp", "counter"),
    [
        (1700000000, "numericTimestamp"),
        (1.5, "numericTimestamp"),
        ("yesterday", "badTimestamp"),
        ("1700000000", "badTimestamp"),
    ],
)
async def test_a_timestamp_that_is_no_rfc_3339_string_makes_the_whole_message_vanish(
    plane: DevPlane, agent: Agent, stamp: Any, counter: str
) -> None:
    command_id = await plane.start_session()
    await agent.send("ack", stamp, commandId=command_id)
    assert await counted(plane, counter) == 1
    assert (await plane.command(command_id))["state"] == "sent"
    await agent.send("ack", commandId=command_id)  # the link goes on
    await plane.wait_command(command_id, "ack")


async def test_several_envelopes_in_one_frame_of_ours_are_not_understood(plane: DevPlane, agent: Agent) -> None:
    one = json.dumps({"type": "pong", "timestamp": "2026-01-01T00:00:00Z", "payload": {}})
    await agent.socket.send(f"{one}\n{one}")
    await counted(plane, "notJson")


@pytest.mark.parametrize(
    ("frame", "counter"),
    [
        ("[]", "notAnObject"),
        ('{"type":"ack","payload":3}', "badEnvelope"),
        ("{", "notJson"),
        ('{"type":"status","payload":{"platformMetadata":{"usage":{"cpuCores":NaN}}}}', "notJson"),
        ('{"type":"status","payload":{"sessionId":"s","state":"running","vncPort":{}}}', "badPayload"),
        ('{"type":"heartbeat","payload":{"activeSessions":true}}', "badPayload"),
        ('{"type":"heartbeat","payload":{"activeSessions":9223372036854775808}}', "badPayload"),
        ('{"type":"status","payload":{"sessionId":"s","state":"running","vncPort":-1' + "0" * 30 + "}}", "badPayload"),
        ('{"type":"status","payload":{"platformMetadata":{"usage":{"cpuCores":1e400}}}}', "badPayload"),
        ('{"type":"status","payload":{"sessionId":' + "[" * 90_000 + "]" * 90_000 + "}}", "notJson"),
        ('{"type":"status","payload":{"platformMetadata":' + '{"a":' * 900 + "1" + "}" * 902, "notJson"),
    ],
)
async def test_a_malformed_frame_is_dropped_and_counted(
    plane: DevPlane, agent: Agent, frame: str, counter: str
) -> None:
    await agent.socket.send(frame)
    await counted(plane, counter)
    await agent.send("heartbeat", status="online", activeSessions=1)
    await plane.wait_agent(AGENT)


async def test_half_of_a_surrogate_pair_becomes_a_replacement_character_and_harms_no_answer(
    plane: DevPlane, agent: Agent
) -> None:
    command = await plane.start_session(session_id="s")
    frame = {
        "type": "status",
        "payload": {"sessionId": "s", "state": "running", "platformMetadata": {"reason": "\ud83d!"}},
    }
    await agent.socket.send(json.dumps(frame))
    await agent.socket.send(
        json.dumps({"type": "failed", "payload": {"commandId": command, "error": "😀 \\ud800 \udc80"}})
    )
    assert (await plane.wait_command(command, "failed"))["error"] == "😀 \\ud800 \ufffd"
    [session] = await plane.sessions()
    assert session["platformMetadata"] == {"reason": "\ufffd!"}
    assert (await plane.events(type="failed"))[0]["payload"]["error"] == "😀 \\ud800 \ufffd"
    assert (await plane.call("GET", "/sessions/s/log"))["events"]


async def test_metadata_of_another_type_than_expected_is_kept_and_not_used(plane: DevPlane, agent: Agent) -> None:
    await plane.start_session(session_id="s")
    await agent.send("status", sessionId="s", state="running", platformMetadata={"podName": {"a": 1}, "usage": 5})
    row = await plane.wait_session("s", state="running")
    assert (row["podName"], row["platformMetadata"]) == ("", {"podName": {"a": 1}, "usage": 5})


async def test_a_message_type_it_does_not_know_is_ignored(plane: DevPlane, agent: Agent) -> None:
    await agent.send("command_result", commandId="x")
    await counted(plane, "unknownType")


async def test_its_own_timestamps_are_rfc_3339_with_nanoseconds(plane: DevPlane, agent: Agent) -> None:
    await plane.send_message(AGENT, "ping", {})
    [ping] = await agent.receive()
    age = datetime.now(UTC) - datetime.fromisoformat(ping["timestamp"])
    assert abs(age.total_seconds()) < 60
    assert ping["timestamp"].endswith("Z")


async def test_a_message_of_512_kib_passes_and_one_byte_more_closes_the_link(plane: DevPlane, agent: Agent) -> None:
    start, end = '{"type":"pong","timestamp":"2026-01-01T00:00:00Z","payload":{"x":"', '"}}'
    await agent.socket.send(start + "x" * (524_288 - len(start) - len(end)) + end)
    await until(lambda: plane.events(type="pong"))
    await agent.socket.send(start + "x" * (524_289 - len(start) - len(end)) + end)
    with pytest.raises(ConnectionClosed) as closed:
        await agent.receive()
    if closed.value.rcvd is not None:  # the reset that follows may overtake the close frame
        assert closed.value.rcvd.code == CloseCode.MESSAGE_TOO_BIG
    await plane.wait_agent(AGENT, status="offline")


async def test_compression_is_not_negotiated(agent: Agent) -> None:
    assert agent.socket.response is not None
    assert "Sec-WebSocket-Extensions" in agent.socket.request.headers  # type: ignore[union-attr]
    assert "Sec-WebSocket-Extensions" not in agent.socket.response.headers


async def test_an_agent_that_answers_pings_and_beats_stays(hasty: Agent) -> None:
    await hasty.connect(ping_interval=None)
    for _ in range(25):
        await hasty.send(
            "heartbeat", status="draining", activeSessions=2, capacity={"maxSessions": 5, "cpu": "2", "memory": "4Gi"}
        )
        await asyncio.sleep(0.1)
    row = await hasty.plane.wait_agent(AGENT, status="online", told="draining")
    assert (row["activeSessions"], row["capacity"]["maxSessions"]) == (2, 5)
    await hasty.socket.close()


async def test_an_agent_without_heartbeats_goes_stale_and_is_closed(hasty: Agent) -> None:
    await hasty.connect()
    with pytest.raises(ConnectionClosed):
        await hasty.receive(timeout=20)
    await hasty.plane.wait_agent(AGENT, status="stale")


async def test_a_link_without_pongs_and_pings_is_dropped(hasty: Agent) -> None:
    await hasty.connect(ping_interval=None)
    hasty.socket.transport.pause_reading()  # so no ping is seen, and none answered
    await hasty.plane.wait_agent(AGENT, status="offline")
    [event] = await hasty.plane.events(type="disconnected")
    assert event["payload"]["reason"] == "no pong or ping in time"
    hasty.socket.transport.abort()


async def test_pings_of_the_agent_keep_the_link_too(tmp_path: Path) -> None:
    settings = Settings(ping_interval=60, pong_timeout=2)
    async with DevPlane(tmp_path / "plane.db", settings=settings) as plane:
        agent = Agent(plane, key=await plane.issue_key(AGENT))
        await agent.register()
        await agent.connect(ping_interval=0.1)
        await asyncio.sleep(2.5)
        assert (await plane.agents())[0]["connected"]
        await agent.socket.close()


@pytest.mark.parametrize("played", [{"close_second": False}])
async def test_a_second_connection_closes_the_first(plane: DevPlane, agent: Agent) -> None:
    second = Agent(plane, key=agent.key)
    await second.connect()
    with pytest.raises(ConnectionClosed):
        await agent.receive()
    await plane.send_message(AGENT, "ping", {})
    assert (await second.receive())[0]["type"] == "ping"
    assert (await plane.agents())[0]["status"] == "online"
    await second.socket.close()


async def test_the_cleanup_of_the_first_connection_closes_the_second_too_and_the_third_stays(
    plane: DevPlane, agent: Agent
) -> None:
    for _ in range(2):
        second = Agent(plane, key=agent.key)
        await second.connect()
        for closed in (agent, second):
            with pytest.raises(ConnectionClosed):
                await closed.receive()
        await plane.wait_agent(AGENT, status="offline")
        await agent.connect()
        await plane.send_message(AGENT, "ping", {})
        assert (await agent.receive())[0]["type"] == "ping"


async def test_a_raw_frame_arrives_as_it_is(plane: DevPlane, agent: Agent) -> None:
    await plane.send_frame(AGENT, '{"type": "command", broken')
    assert await agent.socket.recv() == '{"type": "command", broken'


async def test_a_command_id_used_again_is_sent_again(plane: DevPlane, agent: Agent) -> None:
    for _ in range(2):
        await plane.send_command(AGENT, "stop_session", {"sessionId": "s1"}, "cmd-1")
    first, second = await agent.envelopes(2)
    assert (
        first["payload"]
        == second["payload"]
        == {"commandId": "cmd-1", "action": "stop_session", "payload": {"sessionId": "s1"}}
    )
    assert len(await plane.commands()) == 1


async def test_every_envelope_is_logged_in_order_with_vnc_bytes_cut(plane: DevPlane, agent: Agent) -> None:
    command_id = await plane.start_session()
    await agent.send("ack", commandId=command_id)
    await agent.send("vnc_data", sessionId="s", data="A" * 1000)
    await plane.wait_command(command_id, "ack")
    rows = await until(lambda: plane.events(type="vnc_data"))
    assert rows[0]["payload"] == {"sessionId": "s", "data": "A" * 32, "dataLength": 1000}
    events = await plane.events()
    assert [event["seq"] for event in events] == sorted(event["seq"] for event in events)
    assert [event["type"] for event in events] == ["register", "connected", "command", "ack", "vnc_data"]
    assert await plane.events(after=events[-2]["seq"]) == events[-1:]


async def test_a_pong_proves_that_all_messages_before_its_ping_were_handled(
    plane: DevPlane, agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    await plane.start_session("desktop", session_id="s")
    [command] = await agent.receive()
    handling = asyncio.Event()
    monkeypatch.setattr(plane.hub.listening, "wait", handling.wait)
    await agent.send("complete", commandId=command["payload"]["commandId"], result={})
    pong = asyncio.ensure_future(await agent.socket.ping())
    assert not (await asyncio.wait({pong}, timeout=0.3))[0]
    handling.set()
    await asyncio.wait_for(pong, 10)
    assert (await plane.command(command["payload"]["commandId"]))["state"] == "completed"


async def test_what_waits_leaves_packed_in_order_and_in_frames_that_an_agent_can_hold(
    plane: DevPlane, agent: Agent
) -> None:
    link = plane.hub.links[AGENT]
    for number in range(40):
        link.send("vnc_data", {"sessionId": f"s{number}", "data": "A" * 1_000_000})
    frames = []
    while sum(map(len, frames)) < 40:
        frames.append(await agent.receive())
    assert [e["payload"]["sessionId"] for frame in frames for e in frame] == [f"s{number}" for number in range(40)]
    assert max(map(len, frames)) == 8
    link.send("vnc_data", {"sessionId": "huge", "data": "A" * 20_000_000})
    ((huge,),) = [await agent.receive()]
    assert len(huge["payload"]["data"]) == 20_000_000


async def test_nothing_of_a_link_goes_on_once_the_request_that_it_belongs_to_was_cancelled(
    plane: DevPlane, agent: Agent
) -> None:
    assert len(tasks_of(link_module)) == 3
    [request] = [task for task in tasks_of(websockets_sansio_impl) if not task.done()]
    request.cancel()
    await asyncio.wait({request}, timeout=5)
    assert tasks_of(link_module) == []
    assert AGENT not in plane.hub.links
