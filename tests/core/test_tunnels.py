"""Viewers, through the control plane's twin and the agent, to a server of RFB on loopback."""

import asyncio
import base64
import hashlib
import os
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from lab.loopback import served
from lab.until import until
from streamspace_agent import logs, protocol
from streamspace_agent.errors import CommandFailed
from tests.core.memory_driver import AGENT
from tests.core.vnc import GREETING, KEY, POINTER, REQUEST, VncServer, viewer

HASH_BYTES = 300 * 10**6
"""Bytes of the transfer that is compared by hash; tests/integration/test_whole_stream.py does it with real processes,
at any size."""


@pytest.fixture
async def server(driver):
    server = await VncServer().start()
    driver.servers["s1"] = server
    yield server
    await server.die()


@pytest.fixture
async def other(driver):
    """The server of session s2."""
    server = driver.servers["s2"] = await VncServer().start()
    yield server
    await server.die()


@asynccontextmanager
async def beside(work):
    """Let it run while inside, not longer."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def ready(plane, session_id="s1", **wish):
    await plane.wait_agent(AGENT)
    await plane.wait_command(await plane.start_session("desktop", session_id=session_id, **wish))
    await announced(plane, session_id)


async def announced(plane, session_id="s1", times=1, after=0):
    """Wait until a viewer may come; `times` counts the greetings since the plane's event `after`."""
    await counted(lambda: _greetings(plane, session_id, after), times)


async def _greetings(plane, session_id, after):
    told = await plane.events(after, type="vnc_data", direction="from_agent")
    return sum(e["payload"]["sessionId"] == session_id and e["payload"]["data"].startswith("UkZC") for e in told)


async def counted(count, wanted):
    async def enough():
        return await count() >= wanted

    await until(enough)


async def errors(plane):
    return [e["payload"]["error"] for e in await plane.events(type="vnc_error")]


async def last(plane):
    return (await plane.events())[-1]["seq"]


async def counters(plane):
    return (await plane.diagnostics())["counters"]


async def test_a_viewer_finds_the_greeting_and_speaks_with_the_server(plane, lead, server):
    async with lead():
        await ready(plane)
        [told] = await plane.events(type="vnc_ready")
        assert told["payload"] == {"sessionId": "s1", "vncPort": 5900, "podName": "streamspace-s1"}
        async with viewer(plane) as one:
            await one.handshake()
            await one.press()
            await one.say(POINTER)
        assert server.input[:8] == KEY
        assert await errors(plane) == []


async def test_a_long_stream_arrives_whole_in_frames_below_the_limit(plane, lead, server, monkeypatch):
    frames = []
    original = protocol.vnc_data
    monkeypatch.setattr(protocol, "vnc_data", lambda s, d: frames.append(len(f := original(s, d))) or f)
    server.update = 1 << 20
    got = hashlib.sha256()
    async with lead():
        await ready(plane)
        async with viewer(plane) as one:
            await one.handshake()
            received = 0
            for _ in range(4):
                await one.say(REQUEST)
            while received < HASH_BYTES:
                data = await one.read(server.update, timeout=60)
                got.update(data)
                received += len(data)
                if received + 3 * server.update < HASH_BYTES:
                    await one.say(REQUEST)
        assert received == server.sent
        assert got.digest() == server.digest.digest()
    assert max(frames) <= protocol.MAX_FRAME
    assert received / len(frames) > 32 * 1024, "many small messages fill the control plane's queue"
    assert (await counters(plane)).get("vncDropped", 0) == 0


@pytest.mark.timeout(300)
async def test_bytes_from_the_viewer_arrive_whole(plane, lead, server):
    async with lead():
        await ready(plane)
        async with viewer(plane) as one:
            await one.handshake()
            blob = os.urandom(1 << 20)
            for _ in range(8):
                cut = b"\x06\0\0\0" + len(blob).to_bytes(4) + blob
                for start in range(0, len(cut), 60_000):
                    await one.say(cut[start : start + 60_000])
            await one.press()
        assert hashlib.sha256(server.input[:-8]).digest() == hashlib.sha256(blob * 8).digest()


async def test_the_next_viewer_gets_a_fresh_connection(plane, lead, server):
    async with lead():
        await ready(plane)
        for turn in range(1, 4):
            await announced(plane, times=turn)
            async with viewer(plane) as one:
                await one.handshake()
                await one.say(REQUEST)
        await announced(plane, times=4)
        assert server.connections == 4
        assert await errors(plane) == []


async def test_late_words_of_a_viewer_that_left_do_not_reach_the_next_ones_server(plane, lead, server):
    """A control plane may still pass on what a viewer said after it has said that this viewer left."""
    late = {"sessionId": "s1", "data": base64.b64encode(REQUEST + KEY).decode()}
    async with lead():
        await ready(plane)
        async with viewer(plane) as one:
            await one.handshake()
        await until(lambda: _told(plane, "vnc_close"), 1)
        await plane.send_message(AGENT, "vnc_data", late)  # before the next connection is there
        await announced(plane, times=2)
        await plane.send_message(AGENT, "vnc_data", late)  # and after
        async with viewer(plane) as two:
            await two.handshake()
            await two.press()
        assert server.connections == 2
        assert await errors(plane) == []


async def _told(plane, kind):
    return len(await plane.events(type=kind))


async def test_a_viewer_that_leaves_without_a_word_costs_no_connection(plane, lead, server):
    async with lead():
        await ready(plane)
        for turn in range(2, 5):
            async with viewer(plane) as one:
                assert await one.read(12) == GREETING
            await announced(plane, times=turn)
        async with viewer(plane) as one:
            await one.handshake()
        assert server.connections in {1, 2}  # 2 once the last one's leaving was noticed


async def test_a_server_that_dies_closes_its_viewer_and_is_found_again(plane, lead, server):
    async with lead() as running:
        await ready(plane)
        async with viewer(plane) as one:
            await one.handshake()
            await server.die()
            assert "server closed the connection" in await one.closed() or "broke" in (await errors(plane))[0]
        seq = await last(plane)
        await until(lambda: _truth(not running.tenure.tunnels.works(running.tenure.reconciler.sessions["s1"])), 1)
        await server.start()
        await announced(plane, after=seq)
        async with viewer(plane) as two:
            await two.handshake()


async def _truth(value):
    return int(value)


async def test_a_server_that_restarts_unseen_leaves_one_greeting_for_the_next_viewer(plane, lead, server):
    async with lead():
        await ready(plane)
        await server.die()
        await server.start()
        await until(lambda: _truth(server.connections >= 2), 1)
        async with viewer(plane) as one:
            await one.handshake()
            await one.press()
        assert await _greetings(plane, "s1", 0) in {1, 2}


async def test_a_viewer_that_speaks_while_its_server_is_away_is_answered_once_it_is_back(plane, lead, server):
    async with lead():
        await ready(plane)
        async with viewer(plane) as one:
            assert await one.read(12) == GREETING
            for writer in list(server.writers):
                writer.transport.abort()
            await asyncio.sleep(0.01)
            await one.say(GREETING)
            assert await one.read(2) == b"\x01\x01"


async def test_a_stopped_session_closes_its_viewer(plane, lead, server):
    async with lead():
        await ready(plane)
        async with viewer(plane) as one:
            await one.handshake()
            server.flood = True
            await one.say(REQUEST)
            await one.read(1 << 20)
            await plane.wait_command(await plane.stop_session("s1"))
            assert "terminated" in await one.closed()
        server.flood = False
        assert server.writers == set()


async def test_a_woken_session_greets_again(plane, lead, server):
    async with lead():
        await ready(plane)
        for _ in range(2):
            await plane.wait_command(await plane.hibernate_session("s1"))
            seq = await last(plane)
            await plane.wait_command(await plane.wake_session("s1"))
            await announced(plane, after=seq)
            async with viewer(plane) as one:
                await one.handshake()
                await one.press()


async def test_a_link_that_breaks_mid_stream_closes_the_viewer_and_the_next_one_works(plane, lead, server):
    async with lead():
        await ready(plane)
        server.flood = True
        seq = await last(plane)
        async with viewer(plane) as one:
            await one.handshake()
            await one.say(REQUEST)
            await one.read(1 << 20)
            await plane.set_faults(cut={})
            assert "gone" in await one.closed()
        server.flood = False
        await announced(plane, after=seq)
        async with viewer(plane) as two:
            await two.handshake()
            await two.press()
        assert any("control plane broke" in error for error in await errors(plane))


async def test_a_new_leader_serves_the_viewers_of_the_old(plane, lead, driver, server):
    async with lead() as first:
        await ready(plane)
        async with viewer(plane) as one:
            await one.handshake()
            server.flood = True
            await one.say(REQUEST)
            await one.read(4 << 20)  # in the middle of an update that has no end
            await first.kill()
            assert "gone" in await one.closed()
    server.flood = False
    seq = await last(plane)
    driver.queue = asyncio.Queue()
    async with lead():
        await announced(plane, after=seq)
        async with viewer(plane) as two:
            await two.handshake()
            await two.press()
        assert any("interrupted" in error for error in await errors(plane))


async def test_bytes_that_are_not_base64_close_the_viewer_instead_of_corrupting_its_stream(plane, lead, server):
    async with lead():
        await ready(plane)
        async with viewer(plane) as one:
            await one.handshake()
            await plane.send_message(AGENT, "vnc_data", {"sessionId": "s1", "data": "@@@"})
            assert "base64" in await one.closed()
        await announced(plane, times=2)
        async with viewer(plane) as two:
            await two.handshake()
        assert server.input == b""


async def test_data_for_an_unknown_session_is_answered_with_an_error(plane, lead):
    async with lead():
        await plane.wait_agent(AGENT)
        await plane.send_message(AGENT, "vnc_data", {"sessionId": "ghost", "data": "UkZC"})
        await until(lambda: _count(errors(plane)), 1)
        assert (await plane.events(type="vnc_error"))[0]["payload"]["sessionId"] == "ghost"


async def _count(items):
    return len(await items)


async def test_a_viewer_that_stops_reading_is_closed_and_nothing_is_dropped(plane, lead, server, other, monkeypatch):
    monkeypatch.setattr("streamspace_agent.tunnel.repaired.tunnel.STALL", 1.0)
    server.flood = True
    async with lead():
        await ready(plane)
        await ready(plane, "s2")
        async with viewer(plane, "s2") as busy:
            await busy.handshake()
            async with viewer(plane) as stuck:
                await stuck.handshake()
                seq = await last(plane)
                await stuck.say(REQUEST)
                stuck.socket.transport.pause_reading()
                async with asyncio.timeout(60):
                    while not await errors(plane):
                        await busy.press()
                        await busy.say(REQUEST)
                        await busy.read(other.update)
                assert "has not read" in (await errors(plane))[0]
                stuck.socket.transport.resume_reading()
                assert "has not read" in await stuck.closed()
            await busy.press()
            server.flood = False
            await announced(plane, after=seq)
            async with viewer(plane) as next_one:
                await next_one.handshake()
                await next_one.press()
        assert (await counters(plane)).get("vncDropped", 0) == 0
        assert server.sent < 256 * protocol.MAX_FRAME


async def test_an_update_in_a_thousand_pieces_reaches_a_viewer_that_asks_for_the_next_only_after_it(
    plane, lead, server
):
    server.update, server.pieces = 1000 * 1000, 1000
    async with lead():
        await ready(plane)
        async with viewer(plane) as one:
            await one.handshake()
            for _ in range(2):
                await one.say(REQUEST)
                await one.read(server.update)
        assert await errors(plane) == []
    assert (await counters(plane))["vncMessages"] < 2 * 120


async def test_a_server_that_reads_nothing_ends_its_viewer_and_nothing_else_waits_for_it(plane, lead, server, other):
    server.deaf = True
    async with lead():
        await ready(plane)
        await ready(plane, "s2")
        async with viewer(plane) as pasting, viewer(plane, "s2") as typing:
            await pasting.handshake()
            await typing.handshake()
            text = bytes(60_000)
            await pasting.say(b"\x06\0\0\0" + (1 << 30).to_bytes(4))
            async with beside(_paste(pasting, text)), asyncio.timeout(60):
                while not await errors(plane):
                    await typing.press()
                    await asyncio.sleep(0.02)
            assert "too slow" in (await errors(plane))[0]
            await typing.press()


async def test_a_server_that_reads_at_a_trickle_holds_no_command_up(plane, lead, driver, server):
    """Each second it takes a little, so it is never deaf; what others say must not wait for it all the same."""
    server.trickle = 2000
    async with lead():
        await ready(plane)
        async with viewer(plane) as pasting:
            await pasting.handshake()
            await pasting.say(b"\x06\0\0\0" + (1 << 30).to_bytes(4))
            async with beside(_paste(pasting, bytes(60_000))), asyncio.timeout(60):
                while not await errors(plane):
                    command = await plane.send_command(AGENT, "hibernate_session", {"sessionId": "nobody"})
                    await plane.wait_command(command, "failed", timeout=10)
            assert "too slow" in (await errors(plane))[0]


async def _paste(one, text):
    while True:
        await one.say(text)


async def test_a_saturated_tunnel_delays_neither_keys_of_another_nor_answers_to_commands(plane, lead, server, other):
    server.update = 4 << 20
    async with lead(HEALTH_CHECK_INTERVAL="1s"):
        await ready(plane)
        await ready(plane, "s2")
        async with viewer(plane) as watching, viewer(plane, "s2") as typing:
            await watching.handshake()
            await typing.handshake()
            async with beside(_watch(watching, server.update)) as stream:
                took = []
                loop = asyncio.get_running_loop()
                for _ in range(50):
                    began = loop.time()
                    await typing.press()
                    took.append(loop.time() - began)
                assert not stream.done()
                assert sorted(took)[25] < 1.0  # milliseconds; without turns each key waits for megabytes
                await plane.wait_command(await plane.hibernate_session("s2"), timeout=5)


async def _watch(one, size):
    await one.say(REQUEST)
    while True:
        await one.say(REQUEST)
        await one.read(size)


async def test_heartbeats_count_the_sessions_whose_server_greets(plane, lead, driver, server):
    async with lead(HEALTH_CHECK_INTERVAL="1s"):
        await ready(plane)
        driver.servers["mute"] = type("Server", (), {"port": 1})  # nobody listens there
        await plane.wait_command(await plane.start_session("desktop", session_id="mute"))
        async with asyncio.timeout(20):
            while True:
                told = [e["payload"]["activeSessions"] for e in await plane.events(type="heartbeat")]
                if told[-1] == 1 and len(told) > 2:
                    break
                await asyncio.sleep(0.1)
        assert max(told) == 1, "the mute session is never counted"


async def test_the_sessions_of_a_host_are_counted_soon_after_a_takeover(plane, lead, server):
    async with lead():
        await ready(plane)
    seq = (await plane.events())[-1]["seq"]
    async with lead(HEALTH_CHECK_INTERVAL="40s"), asyncio.timeout(10):
        while 1 not in [e["payload"]["activeSessions"] for e in await plane.events(seq, type="heartbeat")]:
            await asyncio.sleep(0.05)


async def test_a_server_that_waits_for_its_client_is_connected_to_when_the_viewer_speaks(plane, lead, driver):
    async def answer(reader, writer):
        connections.append(1)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        await writer.drain()

    connections = []
    manifest = {
        "metadata": {"name": "kasm"},
        "spec": {"baseImage": "answers", "kasmvnc": {"enabled": True, "port": 6901}},
    }
    async with served(answer) as port, lead():
        driver.servers["s1"] = type("Server", (), {"port": port})
        await plane.wait_agent(AGENT)
        await plane.wait_command(await plane.start_session("kasm", session_id="s1", manifest=manifest))
        driver.held["s1"] = replace(driver.held["s1"])
        for turn in range(1, 3):
            await until(lambda: _count(plane.events(type="vnc_ready")), turn)
            assert len(connections) == turn - 1
            async with viewer(plane) as one:
                await one.say(b"GET / HTTP/1.1\r\n\r\n")
                assert (await one.read(12)) == b"HTTP/1.1 204"
        seq = await last(plane)
        async with viewer(plane):
            pass  # one that leaves without a word
        await until(lambda: _count(plane.events(seq, type="vnc_ready")), 1)
        async with viewer(plane) as one:
            await one.say(b"GET / HTTP/1.1\r\n\r\n")
            assert (await one.read(12)) == b"HTTP/1.1 204"
        assert await errors(plane) == []


async def test_a_session_hibernates_once_nobody_touches_it_however_many_look_on(plane, lead, server):
    server.update = 1000
    async with lead():
        await ready(plane, idle_timeout="3s")
        async with viewer(plane) as one:
            await one.handshake()
            loop = asyncio.get_running_loop()
            began = loop.time()
            while loop.time() - began < 5:
                await one.press()
                await asyncio.sleep(0.2)
            assert (await plane.session("s1"))["state"] == "running"
            seq = await last(plane)
            while (await plane.session("s1"))["state"] == "running":
                await one.say(REQUEST)
                await asyncio.sleep(0.2)
        await plane.wait_session("s1", state="hibernated")
        status = (await plane.events(seq, type="status"))[-1]["payload"]
        assert status["state"] == "hibernated"
        assert status["platformMetadata"]["reason"].startswith("idle_timeout")
        assert await plane.events(seq, type="complete") == []


async def test_a_session_that_is_used_again_before_its_turn_to_hibernate_comes_stays_awake(plane, lead, driver, server):
    async with lead() as running:
        await ready(plane, idle_timeout="2s")
        driver.down = True  # its turn comes, but the engine is away
        async with viewer(plane) as one:
            await one.handshake()
            await until(lambda: _running(running), 1)
            await one.press()
            driver.down = False
            async with asyncio.timeout(10):
                while running.tenure.dispatcher.running:
                    await one.press()
                    await asyncio.sleep(0.2)
        assert ("hibernate", "s1") not in driver.effects
        assert (await plane.session("s1"))["state"] == "running"
        await plane.wait_session("s1", state="hibernated")


async def _running(running):
    return running.tenure.dispatcher.running


async def test_why_a_session_could_not_be_hibernated_for_idleness_stands_in_the_log(
    plane, lead, driver, server, caplog
):
    async def refuse(session_id):
        raise CommandFailed("engine_busy", "the freezer is full")

    driver.hibernate = refuse
    async with lead():
        await ready(plane, idle_timeout="1s")
        async with asyncio.timeout(10):
            while "the freezer is full" not in caplog.text:
                await asyncio.sleep(0.05)
    assert "hibernate_session failed: engine_busy: the freezer is full" in caplog.text


async def test_a_session_that_has_lasted_its_time_is_stopped_also_by_a_later_leader(plane, lead, driver, server):
    driver.age = 3598.0
    async with lead() as first:
        await ready(plane, max_session_duration="1h")
        await first.kill()
    driver.queue = asyncio.Queue()
    async with lead():
        await plane.wait_session("s1", state="terminated")
        status = (await plane.events(type="status"))[-1]["payload"]
        assert status["platformMetadata"]["reason"].startswith("max_session_duration")


async def test_memory_does_not_grow_with_what_passes(plane, lead, server):
    server.update = 1 << 20
    async with lead():
        await ready(plane)
        async with viewer(plane) as one:
            await one.handshake()
            sizes = []
            for _ in range(3):
                for _ in range(60):
                    await one.say(REQUEST)
                    await one.read(server.update)
                sizes.append(_resident())
        assert sizes[-1] - sizes[0] < 40 << 20


def _resident():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * 4096


async def test_a_tunnel_sees_a_session_end_without_alarm_and_without_the_command_that_started_it(
    plane, lead, driver, server, monkeypatch, caplog
):
    connect, over = driver.connect, []

    async def connect_to_what_runs(session_id, port):
        if session_id in over:
            raise CommandFailed("not_running", "the session does not run: it is exited")
        return await connect(session_id, port)

    monkeypatch.setattr(driver, "connect", connect_to_what_runs)

    def with_fields(record):
        record.fields = logs.known_fields()
        return True

    caplog.handler.addFilter(with_fields)
    caplog.set_level("DEBUG", logger="streamspace_agent.tunnel")
    async with lead():
        await ready(plane)
        over.append("s1")
        async with viewer(plane) as one:
            await one.handshake()
            await server.die()
            async with asyncio.timeout(20):
                while not any("cannot be viewed: not_running" in record.message for record in caplog.records):
                    await asyncio.sleep(0.02)
    told = [record for record in caplog.records if record.name.startswith("streamspace_agent.tunnel.")]
    assert not [record for record in told if record.levelname == "WARNING"]
    assert {str(record.fields) for record in told} == {str({"session": "s1"})}
