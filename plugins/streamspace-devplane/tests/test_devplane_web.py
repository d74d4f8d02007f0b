"""Web sessions through the control plane's proxy; the server of the session is a real one on loopback."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as serve_websockets
from websockets.exceptions import ConnectionClosed, InvalidStatus

from lab.until import until
from streamspace_devplane import DevPlane, Settings
from streamspace_devplane.input_filter import suspicion
from streamspace_devplane.templates import Streaming, streaming
from streamspace_devplane.web.proxy import parse_address

from .conftest import Agent

SESSION = "ada-browser-12345678"
NAME = f"{SESSION}.streamspace.svc.cluster.local"
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Server:
    """An HTTP/1.1 server of bytes: what came is kept, what goes is the test's."""

    def __init__(self) -> None:
        self.heads: list[str] = []
        self.bodies: list[bytes] = []
        self.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
        self.ended = 0
        self.talk: Talk | None = None
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                self.heads.append(head)
                lines = head.lower().split("\r\n")
                size = [int(line.partition(": ")[2]) for line in lines if line.startswith("content-length")]
                self.bodies.append(await reader.readexactly(size[0]) if size else b"")
                if self.talk:
                    await self.talk(reader, writer)
                    return
                writer.write(self.answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.ended += 1
            writer.close()

    def header(self, name: str) -> str:
        [value] = [line.partition(": ")[2] for line in self.heads[-1].split("\r\n") if line.lower().startswith(name)]
        return value


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[DevPlane]:
    async with DevPlane(tmp_path / "plane.db", settings=Settings(relay="repaired")) as running:
        yield running


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    there = Server()
    listening = await asyncio.start_server(there.serve, "127.0.0.1", 0)
    there.port = listening.sockets[0].getsockname()[1]
    async with listening:
        yield there


@pytest.fixture
async def web(plane: DevPlane, agent: Agent, server: Server) -> DevPlane:
    """A plane with a running session of a LinuxServer image, whose name leads to `server`."""
    plane.hub.web_gateway = f"127.0.0.1:{server.port}"
    await start(plane, agent, SESSION, "lscr.io/linuxserver/chromium:latest")
    return plane


async def start(plane: DevPlane, agent: Agent, session_id: str, image: str, *ports: int) -> None:
    spec = {"baseImage": image, "ports": [{"containerPort": port} for port in ports]}
    await plane.start_session(session_id=session_id, manifest={"spec": spec})
    await agent.receive()
    await agent.send("status", sessionId=session_id, state="running", vncReady=True, vncPort=3000)
    await plane.wait_session(session_id, state="running")


@pytest.fixture
async def browser(plane: DevPlane) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(trust_env=False, timeout=20) as http:
        yield http


def at(plane: DevPlane, path: str = "/", session_id: str = SESSION) -> str:
    return f"{plane.url}/api/v1/http/{session_id}{path}"


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND"])
async def test_any_request_is_asked_under_the_sessions_name_with_path_and_query_as_they_are(
    web: DevPlane, server: Server, browser: httpx.AsyncClient, method: str
) -> None:
    answer = await browser.request(method, at(web, "/a b/c%2Fd;x/?q=1&q=%20"), content=b"body", headers={"X-Own": "1"})
    assert (answer.status_code, answer.content) == (200, b"ok")
    assert server.heads[0].split("\r\n")[0] == f"{method} /a%20b/c/d;x/?q=1&q=%20 HTTP/1.1"
    assert server.header("host") == f"{NAME}:3000"
    assert server.header("x-own") == "1"
    assert server.header("x-forwarded-for") == "127.0.0.1"
    assert server.bodies == [b"body"]


async def test_headers_pass_as_they_are_except_for_those_of_one_connection(
    web: DevPlane, server: Server, browser: httpx.AsyncClient
) -> None:
    server.answer = (
        b"HTTP/1.1 404 Not There\r\nContent-Length: 3\r\n"
        b"Set-Cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Encoding: odd\r\n"
        b"Keep-Alive: timeout=5\r\nContent-Security-Policy: default-src *\r\n\r\nxyz"
    )
    async with browser.stream("GET", at(web), headers={"Cookie": "c=3", "Connection": "X-Hop", "X-Hop": "1"}) as answer:
        assert b"".join([part async for part in answer.aiter_raw()]) == b"xyz"
    assert answer.status_code == 404
    assert answer.headers.get_list("set-cookie") == ["a=1", "b=2"]
    assert answer.headers["content-security-policy"] == "default-src *"
    assert answer.headers["content-encoding"] == "odd"
    assert "keep-alive" not in answer.headers
    assert server.header("cookie") == "c=3"
    assert "x-hop" not in server.heads[0].lower()


async def test_bodies_stream_both_ways(web: DevPlane, server: Server, browser: httpx.AsyncClient) -> None:
    more = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while (size := int(await reader.readline(), 16)) > 0:
            data = (await reader.readexactly(size + 2))[:-2]
            writer.write(b"%x\r\n%b\r\n" % (len(data), data.upper()))
            more.set()
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    async def body() -> AsyncIterator[bytes]:
        yield b"first"
        async with asyncio.timeout(10):
            await more.wait()  # the server has the first part before the second is made
        yield b"second"

    server.talk = talk
    answer = await browser.post(at(web), content=body())
    assert answer.content == b"FIRSTSECOND"


async def test_each_request_is_activity(web: DevPlane, browser: httpx.AsyncClient) -> None:
    before = (await web.session(SESSION))["lastActivity"]
    await browser.get(at(web))
    assert (await web.session(SESSION))["lastActivity"] > before


async def test_a_server_that_dies_in_the_middle_ends_the_answer_as_one_that_is_broken(
    web: DevPlane, server: Server, browser: httpx.AsyncClient
) -> None:
    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        await writer.drain()

    server.talk = talk
    with pytest.raises(httpx.RemoteProtocolError):
        await browser.get(at(web))


@pytest.mark.parametrize("when", ["before the answer", "in the middle"])
async def test_a_browser_that_leaves_takes_its_request_with_it(
    web: DevPlane, server: Server, browser: httpx.AsyncClient, when: str
) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if when == "in the middle":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        await reader.read()

    server.talk = talk
    with pytest.raises(httpx.ReadTimeout):
        await browser.get(at(web), timeout=0.3)

    async def ended() -> bool:
        return server.ended == 1

    await until(ended)


async def test_what_does_not_answer_is_told_in_the_deployed_ones_words(
    web: DevPlane, browser: httpx.AsyncClient
) -> None:
    web.hub.web_gateway = "127.0.0.1:1"
    answer = await browser.get(at(web))
    assert (answer.status_code, json.loads(answer.text)["error"]) == (503, "Session service not ready")
    with pytest.raises(InvalidStatus, match="503"):
        await connect(at(web, "/ws").replace("http", "ws", 1))
    web.hub.web_gateway = None
    answer = await browser.get(at(web))
    assert (answer.status_code, json.loads(answer.text)["error"]) == (502, "Proxy error")


async def test_only_running_web_sessions_are_asked(
    web: DevPlane, agent: Agent, server: Server, browser: httpx.AsyncClient
) -> None:
    await start(web, agent, "plain", "example.org/desktop:1", 5900)
    for session_id, status, error in (
        ("nobody", 404, "Session not found"),
        ("plain", 400, "Session uses protocol 'vnc', not HTTP-based (use /vnc endpoint instead)"),
    ):
        answer = await browser.get(at(web, session_id=session_id))
        assert (answer.status_code, answer.json()["error"]) == (status, error)
    await agent.send("status", sessionId=SESSION, state="hibernated")
    await web.wait_session(SESSION, state="hibernated")
    answer = await browser.get(at(web))
    assert (answer.status_code, answer.json()["error"]) == (409, "Session is not running (state: hibernated)")
    with pytest.raises(InvalidStatus, match="409"):
        await connect(at(web, "/ws").replace("http", "ws", 1))
    assert server.heads == []


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("plain-id_1.2", None),
        ("a--b", "SQL"),
        ("union  select", "SQL"),
        ("x#1", "SQL"),
        ("a;b", "command"),
        ("a|b", "command"),
        ("$(id)", "command"),
        ("f(x)", "LDAP"),
        ("/one/path", None),
        ("(/", "LDAP"),
        ("\0", "null byte"),
        ("x" * 10_001, "too long"),
    ],
)
async def test_the_input_filter_sees_attacks_in_queries(value: str, problem: str | None) -> None:
    assert (suspicion(value) or "") == "" if problem is None else problem in str(suspicion(value))


async def test_the_input_filter_stands_before_web_sessions_too(
    web: DevPlane, server: Server, browser: httpx.AsyncClient
) -> None:
    answer = await browser.get(at(web, "/?file=a--b"))
    assert (answer.status_code, answer.json()["error"]) == (400, "Invalid query parameter")
    assert server.heads == []


async def test_websockets_pass_with_their_protocol_headers_and_end(web: DevPlane) -> None:
    seen: list[ServerConnection] = []

    async def echo(socket: ServerConnection) -> None:
        seen.append(socket)
        async for message in socket:
            if message == "end":
                await socket.close(4001, "as asked")
                return
            await socket.send(message)

    async with serve_websockets(echo, "127.0.0.1", 0, subprotocols=["binary"], max_size=None) as server:  # type: ignore[list-item]
        web.hub.web_gateway = f"127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
        url = at(web, "/websockify?token=1").replace("http", "ws", 1)
        headers = {"Cookie": "c=3", "Origin": web.url}
        async with connect(
            url,
            subprotocols=["other", "binary"],
            additional_headers=headers,
            max_size=None,  # type: ignore[list-item]
        ) as viewer:
            assert viewer.subprotocol == "binary"
            request = seen[0].request
            assert request is not None
            assert request.path == "/websockify?token=1"
            assert request.headers["Host"] == f"{NAME}:3000"
            assert (request.headers["Cookie"], request.headers["Origin"]) == ("c=3", web.url)
            for message in ("text", b"\x00bytes", b"x" * 1_000_000):
                await viewer.send(message)
                assert await viewer.recv() == message
            await viewer.send("end")
            with pytest.raises(ConnectionClosed) as closed:
                await viewer.recv()
            assert closed.value.rcvd is not None
            assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "as asked")
        async with connect(url, subprotocols=["binary"]) as viewer:  # type: ignore[list-item]
            await viewer.close(1000, "done")
        await asyncio.wait_for(seen[1].wait_closed(), 10)
        assert seen[1].close_code == 1000
        async with connect(url, subprotocols=["binary"]) as viewer:  # type: ignore[list-item]
            await viewer.send("x")
            await viewer.recv()
            seen[2].transport.abort()
            with pytest.raises(ConnectionClosed) as broken:
                await viewer.recv()
            assert broken.value.rcvd is None


async def test_a_server_that_wants_no_websocket_says_so_itself(web: DevPlane, server: Server) -> None:
    server.answer = b"HTTP/1.1 418 Teapot\r\nContent-Length: 3\r\nX-Own: 1\r\n\r\nno!"
    with pytest.raises(InvalidStatus) as refused:
        await connect(at(web, "/ws").replace("http", "ws", 1))
    answer = refused.value.response
    assert (answer.status_code, answer.body, answer.headers["x-own"]) == (418, b"no!", "1")


async def test_a_viewer_of_a_web_session_is_answered_with_its_address(web: DevPlane) -> None:
    with pytest.raises(InvalidStatus) as answered:
        await web.open_viewer(SESSION)
    told = json.loads(answered.value.response.body)
    assert answered.value.response.status_code == 200
    assert (told["type"], told["url"]) == ("http_session", f"/api/v1/sessions/{SESSION}/vnc")
    assert (told["protocol"], told["port"]) == ("selkies", 3000)


@pytest.mark.parametrize(
    ("image", "ports", "found"),
    [
        ("lscr.io/linuxserver/gimp:latest", [8080], ("selkies", 3000)),
        ("docker.io/kasmweb/desktop:1.16", [], ("selkies", 6901)),
        ("guacamole/guacamole", [9000], ("guacamole", 8080)),
        ("example.org/a:1", [3000, 80], ("selkies", 3000)),
        ("example.org/a:1", [6901], ("selkies", 6901)),
        ("example.org/a:1", [8080], ("guacamole", 8080)),
        ("example.org/a:1", [8888, 3000], ("vnc", 5900)),
        ("example.org/a:1", [5901], ("vnc", 5900)),
        ("example.org/a:1", [], ("vnc", 5900)),
    ],
)
async def test_what_a_session_is_taken_for_is_seen_from_image_and_first_port(
    image: str, ports: list[int], found: tuple[str, int]
) -> None:
    spec = {"baseImage": image, "ports": [{"containerPort": port} for port in ports]}
    assert streaming({"spec": spec})[:2] == found


@pytest.mark.parametrize(
    "manifest",
    [None, "text", {}, {"spec": None}, {"spec": {"baseImage": 1}}, {"spec": {"baseImage": "a", "ports": [1]}}],
)
async def test_rubbish_is_taken_for_vnc(manifest: Any) -> None:
    assert streaming(manifest) == Streaming("vnc", 5900, "")


def test_a_gateway_is_a_host_with_or_without_a_port(tmp_path: Path) -> None:
    assert parse_address("gateway.lan") == ("gateway.lan", None)
    assert parse_address("127.0.0.1:8000") == ("127.0.0.1", 8000)
    assert parse_address("[::1]:8000") == ("::1", 8000)
    for wrong in ("", "http://a", "a:b", "a:0", "a:70000", "::1"):
        with pytest.raises(ValueError, match="is no HOST or HOST:PORT"):
            parse_address(wrong)
    assert DevPlane(tmp_path / "x.db", settings=Settings(web_gateway="a:1")).settings.web_gateway == "a:1"


A_BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8", "Sec-Fetch-Dest": "document"}


@pytest.mark.parametrize(
    ("session_id", "headers", "is_page"),
    [
        ("nobody", A_BROWSER, True),
        (SESSION, A_BROWSER, True),
        (SESSION, {"Accept": A_BROWSER["Accept"]}, True),  # an older browser
        (SESSION, A_BROWSER | {"Sec-Fetch-Dest": "iframe"}, False),
        (SESSION, {"Accept": "*/*", "Sec-Fetch-Dest": "empty"}, False),
        (SESSION, {}, False),
    ],
    ids=["no session", "asleep", "an older browser", "a part of a page", "a script", "a program"],
)
async def test_a_person_who_looks_at_an_address_without_a_page_gets_one_under_the_same_status(
    web: DevPlane,
    agent: Agent,
    server: Server,
    browser: httpx.AsyncClient,
    session_id: str,
    headers: dict[str, str],
    is_page: bool,
) -> None:
    await agent.send("status", sessionId=SESSION, state="hibernated")
    await web.wait_session(SESSION, state="hibernated")
    answer = await browser.get(at(web, session_id=session_id), headers=headers)
    assert answer.status_code == (404 if session_id == "nobody" else 409)
    if is_page:
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert 'src="/static/view.js"' in answer.text
        assert "script-src 'self'" in answer.headers["content-security-policy"]
        assert answer.headers["cache-control"] == "no-store"
    else:
        assert answer.json()["error"]
    assert server.heads == []


@pytest.mark.parametrize(
    ("head", "is_page"),
    [
        ("503 Wait\r\nContent-Type: text/plain; charset=utf-8\r\nCache-Control: no-store", True),
        ("404 No\r\nContent-Type: text/plain; charset=utf-8\r\nCache-Control: no-store", True),
        ("404 No\r\nContent-Type: text/plain; charset=utf-8", False),
        ("502 No\r\nX-Some: proxy", True),
        ("503 Wait\r\nContent-Type: text/html", False),
        ("401 Who\r\nWWW-Authenticate: Basic", False),
        ("200 OK\r\nContent-Type: text/plain\r\nCache-Control: no-store", False),
    ],
    ids=["the gateway's", "none there", "its own 404", "a proxy's", "its own page", "its own door", "its own text"],
)
async def test_the_words_of_a_gateway_become_a_page_and_those_of_the_sessions_own_server_do_not(
    web: DevPlane, server: Server, browser: httpx.AsyncClient, head: str, is_page: bool
) -> None:
    server.answer = f"HTTP/1.1 {head}\r\nContent-Length: 3\r\n\r\nxyz".encode()
    answer = await browser.get(at(web), headers=A_BROWSER)
    assert answer.status_code == int(head[:3])
    assert ("/static/view.js" in answer.text, answer.text == "xyz") == (is_page, not is_page)
    asked = await browser.get(at(web))
    assert (asked.status_code, asked.text) == (int(head[:3]), "xyz")
