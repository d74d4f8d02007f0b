"""How the link comes back: from silence, from a proxy's answers, from redirects, and with which reason."""

import asyncio
import logging
import random

import pytest
from websockets.asyncio.server import serve
from websockets.exceptions import ConnectionClosedError

from lab.until import until
from streamspace_agent import config
from streamspace_agent.controlplane import connection, link
from streamspace_agent.controlplane.keys import Keys
from streamspace_agent.controlplane.link import Link, until_one_ends
from streamspace_agent.controlplane.registration import Registrar, RegistrationRecord
from streamspace_agent.controlplane.tls import Trust
from streamspace_agent.errors import LinkDown
from tests.core.memory_driver import AGENT
from tests.core.test_registration import TEXT_404, UNKNOWN, answering


class Peer:
    def require_lease(self):
        pass

    def registration(self):
        return {}, {}

    async def described(self):
        pass

    async def connected(self, link):
        await asyncio.Event().wait()

    async def received(self, message):
        pass


@pytest.fixture
async def linked(tmp_path, monkeypatch):
    """`linked(url, peer)`: a link of an agent that was accepted there before, as it runs."""
    running = []

    def start(url, peer=None):
        settings = config.load(
            {"AGENT_ID": AGENT, "CONTROL_PLANE_URL": url, "AGENT_API_KEY": "k" * 64, "STATE_DIR": str(tmp_path)}
        )
        keys, trust, rng = Keys(settings, lambda _secret: None), Trust(settings), random.Random(1)
        registrar = Registrar(settings, keys, trust, rng)
        RegistrationRecord(settings).keep(registrar.body({}, {}))
        made = Link(settings, keys, trust, rng, registrar)
        running.append(asyncio.create_task(made.run(peer or Peer())))
        return made

    start.running = running
    yield start
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_of_the_handshake_does_not_take_the_key_elsewhere(linked, status):
    async with answering(TEXT_404) as (other, asked_there):
        target = other.replace("ws://", "http://")
        async with answering((status, "", {"Location": f"{target}{connection.PATH}?agent_id={AGENT}"})) as (url, asked):
            made = linked(url)
            await until(lambda: len(asked) >= 2 and made.status.last_error)
        assert asked_there == []
    assert f"HTTP {status}, a redirect to {target}, which is not followed" in made.status.last_error
    assert "set CONTROL_PLANE_URL to it" in made.status.last_error


async def test_a_proxys_404_does_not_make_a_known_agent_register_and_is_told_loudly(linked, caplog, monkeypatch):
    monkeypatch.setattr(link, "LOUD_EVERY", 0.0)
    async with answering(TEXT_404) as (url, asked):
        linked(url)
        await until(lambda: len(asked) >= 3)
    told = [record for record in caplog.records if "not connected to CONTROL_PLANE_URL" in record.message]
    assert len(told) >= 2
    assert {record.levelno for record in told} == {logging.ERROR}
    assert "the answer is HTTP 404" in told[0].message
    assert {head.split()[1].partition("?")[0] for head in asked} == {connection.PATH}


async def test_the_control_planes_own_404_makes_it_register(linked):
    async with answering(UNKNOWN) as (url, asked):
        linked(url)
        await until(lambda: len(asked) >= 2)
    assert [head.split()[0] for head in asked[:2]] == ["GET", "POST"]


@pytest.mark.slow
async def test_a_link_that_worked_for_long_and_fell_silent_is_made_again_at_once(linked, monkeypatch):
    monkeypatch.setattr(connection, "PING_EVERY", 0.1)
    monkeypatch.setattr(connection, "PING_TIMEOUT", 0.2)
    made, delays = [], []

    class Backoff(link.Backoff):
        def __init__(self, **more):
            super().__init__(healthy_after=0.2, **more)
            self.worked_for(0.0)
            for _ in range(12):  # as after an outage
                super().delay()
            made.append(self)

        def delay(self):
            delays.append(self.failures)
            return min(0.05, super().delay())

    monkeypatch.setattr(link, "Backoff", Backoff)

    async def silent(reader, writer):
        pass

    async def talk(socket):
        socket.transport.pause_reading()  # it answers no ping
        await socket.wait_closed()

    async with serve(talk, "127.0.0.1", 0, ping_interval=None) as server:
        there = linked(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        await until(lambda: len(delays) >= 1)
        assert there.status.last_error == "no answer to a ping within 200 ms"
        assert delays[0] == 0


async def test_waiting_for_a_connection_ends_with_the_first_and_begins_again_when_it_is_gone(linked):
    sockets = []

    async def talk(socket):
        sockets.append(socket)
        await socket.wait_closed()

    async with serve(talk, "127.0.0.1", 0) as server:
        there = linked(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        async with asyncio.timeout(5):
            await there.wait_connected()
            assert there.status.connected
            await sockets[0].close()
            await until(lambda: not there.status.connected)
            waiting = asyncio.create_task(there.wait_connected())
            await asyncio.sleep(0)
            assert not waiting.done()
            await waiting
            assert there.status.connections == 2


async def test_of_two_errors_at_once_the_one_that_is_no_lost_connection_is_raised_and_none_is_lost(caplog):
    async def fail(error):
        raise error

    lost = [LinkDown("silent"), ConnectionClosedError(None, None)]
    for errors in ([*lost, ValueError("ours")], [ValueError("ours"), *lost]):
        with pytest.raises(ValueError, match="ours"):
            await until_one_ends(*map(fail, errors))
    with pytest.raises((ValueError, KeyError)):
        await until_one_ends(*map(fail, [ValueError("first"), KeyError("second"), lost[0]]))
    (told,) = [record for record in caplog.records if "the link ended for another reason as well" in record.message]
    assert told.exc_info
    with pytest.raises(LinkDown):
        await until_one_ends(fail(lost[0]))


COMMAND = '{"type":"command","timestamp":"","payload":{"commandId":"c1"}}'


class Noting(Peer):
    """Takes its time for each message, and asks for a new connection (or fails in that way) once `ends` is set."""

    def __init__(self, error=None):
        self.error = error
        self.ends = asyncio.Event()
        self.heard = []

    async def connected(self, link):
        await self.ends.wait()
        if self.error:
            raise self.error

    async def received(self, message):
        await asyncio.sleep(0.05)
        self.heard.append(message.payload["commandId"])


@pytest.mark.slow
async def test_a_command_that_crosses_the_renewal_of_the_connection_is_taken(linked):
    peer = Noting()

    async def talk(socket):
        socket.transport.pause_reading()  # what the agent says is on its way
        peer.ends.set()
        await asyncio.sleep(0.2)
        await socket.send(COMMAND)
        socket.transport.resume_reading()
        await socket.wait_closed()

    async with serve(talk, "127.0.0.1", 0, ping_interval=None) as server:
        there = linked(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}", peer)
        await until(lambda: there.status.connections == 2)
        assert peer.heard[:1] == ["c1"]


async def test_a_link_that_is_finished_takes_what_crosses_its_end_and_comes_back_no_more(linked, caplog):
    peer, greeted = Noting(), asyncio.Event()

    async def talk(socket):
        socket.transport.pause_reading()
        greeted.set()
        await asyncio.sleep(0.2)
        await socket.send(COMMAND)
        socket.transport.resume_reading()
        await socket.wait_closed()

    async with serve(talk, "127.0.0.1", 0, ping_interval=None) as server:
        there = linked(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}", peer)
        await greeted.wait()
        await until(lambda: there.status.connected)
        await there.finish()
        assert peer.heard == ["c1"]
        await asyncio.sleep(1)
        assert there.status.connections == 1
        assert "not connected" not in caplog.text


async def test_commands_that_came_before_the_connection_broke_are_taken(linked):
    peer = Noting(LinkDown("what was said met a broken connection"))

    async def talk(socket):
        await socket.send("\n".join([COMMAND] * 10))
        await asyncio.sleep(0.1)
        peer.ends.set()
        await asyncio.sleep(0)
        socket.transport.abort()

    async with serve(talk, "127.0.0.1", 0, ping_interval=None) as server:
        there = linked(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}", peer)
        await until(lambda: there.status.connections == 2)
        assert len(peer.heard) >= 10


async def test_a_fault_met_while_the_last_words_are_read_is_raised(linked):
    class Faulty(Noting):
        async def received(self, message):
            await super().received(message)
            raise ValueError("a fault")

    peer = Faulty()

    async def talk(socket):
        await socket.send(COMMAND)
        peer.ends.set()
        await socket.wait_closed()

    async with serve(talk, "127.0.0.1", 0, ping_interval=None) as server:
        linked(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}", peer)
        await until(linked.running[0].done)
        with pytest.raises(ValueError, match="a fault"):
            await linked.running[0]
