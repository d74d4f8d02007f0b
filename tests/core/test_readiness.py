"""Finding out what a session speaks, on real sockets."""

import asyncio
import re
import ssl
import struct
import time
from contextlib import AsyncExitStack

import pytest
import trustme

from lab.loopback import served
from streamspace_agent.runtime import ReadyCheck, readiness
from streamspace_agent.runtime.readiness import wait_ready

pytestmark = pytest.mark.slow


GREETING = b"RFB 003.008\n"
# TigerVNC's answer to a client whose host has connected too often without a login: RFB 3.3, no security type, why.
BLACKLISTED = b"RFB 003.003\n" + struct.pack(">II", 0, 26) + b"Too many security failures"
OK = b"HTTP/1.1 200 OK\r\n\r\n"
ENDLESS = b"X-Filler: " + b"x" * 1014
EXPECTED = [ReadyCheck.ANY, ReadyCheck.VNC, ReadyCheck.HTTP]


class Server:
    """What a server says on its own after ``late`` seconds, and what to a request; ``connections`` and ``requests``
    count."""

    def __init__(self, greeting=b"", answer=b"", *, late=0.0, hangs=False, gap=0.0):
        self.greeting, self.answer, self.late, self.hangs, self.gap = greeting, answer, late, hangs, gap
        self.connections = 0
        self.requests = []

    async def talk(self, reader, writer):
        self.connections += 1
        if self.greeting:
            await asyncio.sleep(self.late)
            await self.say(writer, self.greeting)
        if self.answer:
            self.requests.append(await reader.readuntil(b"\r\n\r\n"))
            await self.say(writer, self.answer)
        if self.hangs:
            await asyncio.sleep(60)

    async def say(self, writer, words):
        for piece in [bytes([byte]) for byte in words] if self.gap else [words]:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(self.gap)


@pytest.fixture
async def serve():
    """Serve on loopback, inside TLS with a certificate of its own where asked. Returns how to connect."""
    async with AsyncExitStack() as servers:

        async def start(server, *, tls=False):
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) if tls else None
            if context:
                trustme.CA().issue_cert("session").configure_cert(context)
            port = await servers.enter_async_context(served(getattr(server, "talk", server), context))
            return lambda: asyncio.open_connection("127.0.0.1", port)

        yield start


@pytest.mark.parametrize("expected", EXPECTED)
async def test_one_connection_is_enough_to_know_a_server_of_rfb_whatever_was_expected(serve, expected):
    server = Server(GREETING, hangs=True)
    assert (await wait_ready(expected, await serve(server), timeout=10)).found is ReadyCheck.VNC
    assert server.connections == 1


@pytest.mark.parametrize("expected", EXPECTED)
async def test_one_connection_is_enough_to_know_a_server_of_http_whatever_was_expected(serve, expected):
    server = Server(answer=OK)
    assert (await wait_ready(expected, await serve(server), timeout=10)).found is ReadyCheck.HTTP
    assert server.connections == 1


@pytest.mark.parametrize("late", [0.9, 2.5])
async def test_a_server_of_rfb_that_greets_after_it_was_asked_is_still_known_by_its_greeting(serve, late):
    server = Server(GREETING, late=late, hangs=True)
    assert (await wait_ready(ReadyCheck.ANY, await serve(server), timeout=10)).found is ReadyCheck.VNC
    assert server.connections == 1


async def test_a_late_greeting_is_read_though_the_server_resets_the_connection_over_our_question(serve):
    async def talk(reader, writer):
        await asyncio.sleep(1.5)
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(1, 13, linger)  # SOL_SOCKET, SO_LINGER: closing sends a reset
        writer.write(GREETING)
        await writer.drain()
        writer.close()

    assert (await wait_ready(ReadyCheck.ANY, await serve(talk), timeout=10)).found is ReadyCheck.VNC


async def test_a_server_that_greets_only_who_does_not_begin_with_an_http_request_gets_its_chance(serve):
    """LibVNCServer, in a start so busy that our question is there before it looks."""

    async def talk(reader, writer):
        await asyncio.sleep(0.7)
        try:
            async with asyncio.timeout(0.1):
                await reader.read(1)
        except TimeoutError:
            writer.write(GREETING)

    assert (await wait_ready(ReadyCheck.HTTP, await serve(talk), timeout=10)).found is ReadyCheck.VNC


async def test_a_server_of_rfb_that_refuses_us_for_our_many_connections_is_there_all_the_same(serve):
    server = Server(BLACKLISTED)
    assert (await wait_ready(ReadyCheck.ANY, await serve(server), timeout=10)).found is ReadyCheck.VNC
    assert server.connections == 1


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (b"HTTP/1.1 200 OK\r\n", 200),
        (b"HTTP/1.0 401 Unauthorized\r\n", 401),
        (b"HTTP/1.1 302 Found\r\nLocation: /elsewhere\r\n\r\n", 302),
        (b"HTTP/1.1 404", 404),
        (b"HTTP/1.1 502 Bad Gateway\r\n", None),
        (b"HTTP/1.1 99999999999999999999 \r\n", None),
        (b"HTTP/1.1 OK\r\n", None),
        (b"HTTP/1.1 \xc2\xb2\r\n", None),
        (b"nonsense\r\n", None),
        (b"RFB 003", None),
        (b"\n", None),
        (b"\0" * 5000, None),
    ],
)
async def test_an_http_status_below_500_is_an_answer_and_nothing_else_is(serve, answer, status):
    proof = await wait_ready(ReadyCheck.HTTP, await serve(Server(answer=answer)), timeout=10 if status else 0.3)
    assert proof.found is (ReadyCheck.HTTP if status else None)


@pytest.mark.parametrize("greeting", [b"RFB 003", b"SSH-2.0-OpenSSH_9\r\n", b"RFB \n"])
async def test_what_is_said_unasked_is_no_proof_unless_it_is_a_whole_greeting(serve, greeting):
    proof = await wait_ready(ReadyCheck.ANY, await serve(Server(greeting)), timeout=0.3)
    assert proof.found is None
    assert proof.tried == f"it said {greeting!r}"


async def test_a_web_desktop_is_waited_for_while_it_answers_with_server_errors_and_asked_at_once(serve):
    server = Server(answer=b"HTTP/1.1 502 Bad Gateway\r\n\r\n")
    waiting = asyncio.create_task(wait_ready(ReadyCheck.ANY, await serve(server), timeout=10))
    while server.connections < 8:
        await asyncio.sleep(0.01)
    server.answer, ready_at = OK, time.monotonic()
    assert (await waiting).found is ReadyCheck.HTTP
    assert time.monotonic() - ready_at < 0.4, "no listening once it is known to answer"


async def test_the_path_is_asked_for_with_the_sessions_host(serve):
    server = Server(answer=OK)
    await wait_ready(ReadyCheck.ANY, await serve(server), timeout=10, path="/health?deep=1")
    assert server.requests == [
        b"GET /health?deep=1 HTTP/1.1\r\nHost: session\r\nUser-Agent: streamspace-agent\r\nConnection: close\r\n\r\n"
    ]


async def test_a_desktop_that_speaks_only_https_with_its_own_certificate_is_known(serve):
    server = Server(answer=b"HTTP/1.1 401 Unauthorized\r\n\r\n")
    assert (await wait_ready(ReadyCheck.ANY, await serve(server, tls=True), timeout=10)).found is ReadyCheck.HTTP


async def test_a_server_that_comes_up_later_is_waited_for_and_asked_as_at_first(serve):
    tries, server = [], Server(answer=OK)
    connect = await serve(server)

    async def late():
        tries.append(None)
        if len(tries) < 5:
            raise ConnectionRefusedError
        return await connect()

    assert (await wait_ready(ReadyCheck.ANY, late, timeout=10)).found is ReadyCheck.HTTP
    assert len(tries) == 5


async def test_a_proxy_that_accepts_for_a_server_that_is_not_there_yet_costs_no_patience_later(serve):
    """Docker's own proxy of a published port takes connections at once, and closes them until the server listens."""
    closes, server = 30, Server(answer=OK)

    async def talk(reader, writer):
        nonlocal closes
        closes -= 1
        if closes < 0:
            await server.talk(reader, writer)

    begun = time.monotonic()
    assert (await wait_ready(ReadyCheck.ANY, await serve(talk), timeout=20)).found is ReadyCheck.HTTP
    assert time.monotonic() - begun < 4


@pytest.mark.parametrize("talk", [Server(b"SSH-2.0-OpenSSH_9\r\n"), Server(answer=b"HTTP/1.1 502 No\r\n"), Server()])
async def test_a_server_that_proves_nothing_is_connected_to_ever_more_rarely(serve, talk):
    await wait_ready(ReadyCheck.HTTP, await serve(talk), timeout=3)
    assert 10 < talk.connections < 65


@pytest.mark.parametrize(
    ("server", "found"),
    [
        (Server(GREETING, gap=0.05), ReadyCheck.VNC),
        (Server(answer=OK, gap=0.05), ReadyCheck.HTTP),
        (Server(answer=b"HTTP/1.1 200 OK\r\n" + ENDLESS * 5000, hangs=True), ReadyCheck.HTTP),
    ],
    ids=["a greeting a byte at a time", "a status a byte at a time", "headers without end"],
)
async def test_slow_and_endless_servers_are_known_by_their_first_line(serve, server, found):
    assert (await wait_ready(ReadyCheck.ANY, await serve(server), timeout=10)).found is found


async def test_a_first_line_without_end_is_read_to_a_bound_and_no_further(serve):
    sent = 0

    async def talk(reader, writer):
        nonlocal sent
        while True:
            writer.write(b"x" * 65536)
            sent += 65536
            await writer.drain()

    readers = []
    connect = await serve(talk)

    async def kept():
        readers.append(await connect())
        return readers[-1]

    proof = await wait_ready(ReadyCheck.ANY, kept, timeout=1)
    assert proof.found is None
    assert proof.tried == f"it said {b'x' * 40!r}"
    assert sent / len(readers) < 32 * 2**20, "what the kernel takes, not what we read"
    held = [int(found[1]) for reader, _ in readers if (found := re.search(r"(\d+) bytes", repr(reader)))]
    assert 0 < max(held) <= 2 * 2**16


@pytest.mark.parametrize("expected", EXPECTED)
async def test_silence_ends_with_the_timeout_and_is_told_with_what_was_asked(serve, expected, monkeypatch):
    monkeypatch.setattr(readiness, "ANSWER_TIMEOUT", 0.2)
    proof = await wait_ready(expected, await serve(Server(hangs=True)), timeout=2.5, path="/health")
    assert proof.failure(3000, 120.0) == (
        "no VNC greeting and no usable HTTP answer on port 3000 within 2 min 0 s (READY_TIMEOUT): "
        "connected, but nothing was said; asked GET /health over HTTP and HTTPS"
    )


async def test_a_short_patience_is_told_as_what_was_seen_so_far(serve):
    proof = await wait_ready(ReadyCheck.ANY, await serve(Server(hangs=True)), timeout=0.2)
    assert proof.tried == "connected, but nothing was said"


async def _closes(reader, writer):
    pass


async def _closes_when_asked(reader, writer):
    await reader.read(1)


async def _resets(reader, writer):
    writer.transport.abort()


@pytest.mark.parametrize(
    ("talk", "tried"),
    [
        (_closes, "connected, but the connection was closed without a word"),
        (_resets, "connected, but the connection was closed without a word"),
        (
            _closes_when_asked,
            "connected, but the connection was closed without a word; asked GET / over HTTP and HTTPS",
        ),
        (Server(answer=b"HTTP/1.1 503 No\r\n"), "the last answer had the HTTP status 503; asked GET / over HTTP"),
    ],
)
async def test_how_a_server_failed_is_told(serve, talk, tried):
    proof = await wait_ready(ReadyCheck.ANY, await serve(talk), timeout=1.4)
    assert (proof.found, proof.tried) == (None, tried)


async def test_nothing_that_listens_is_told_as_such():
    async def refused():
        raise ConnectionRefusedError

    async def unreachable():
        raise TimeoutError

    assert (await wait_ready(ReadyCheck.ANY, refused, timeout=0.1)).tried == "nothing listened there"
    assert (await wait_ready(ReadyCheck.ANY, unreachable, timeout=0.1)).tried == "it could not be reached: TimeoutError"


async def test_a_session_without_a_port_is_asked_nothing():
    async def never():
        raise AssertionError("asked")

    assert (await wait_ready(ReadyCheck.NONE, never, timeout=1)).found is ReadyCheck.NONE
