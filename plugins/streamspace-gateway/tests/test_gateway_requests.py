"""What whoever asks gets: the session's own answer, or one sentence that says why there is none."""

import asyncio
from dataclasses import replace

import pytest

from streamspace_agent.runtime import ReadyCheck, SessionState
from streamspace_gateway import client_requests
from tests.gateway import DOMAIN, answering, head_of, parse


async def test_a_request_reaches_the_session_that_its_host_names(house):
    await house.session("ann-firefox-00000001", answering(b"of ann"))
    await house.session("bob-firefox-00000002", answering(b"of bob"))
    assert (await house.get("ann-firefox-00000001")).body == b"of ann"
    answer = await house.get("bob-firefox-00000002", "/any/path?x=1")
    assert (answer.status, answer.body) == (200, b"of bob")
    assert house.gateway.status().requests["passed"] == 2


@pytest.mark.parametrize("port", ["", ":3000", ":8080", ".:3000"])
async def test_the_port_in_the_host_says_nothing_about_the_session(house, port):
    await house.session("ann", answering())
    assert (await house.get(f"ann.{DOMAIN}{port}")).status == 200


@pytest.mark.parametrize(
    "host",
    [
        f"nobody.{DOMAIN}",
        f"x.ann.{DOMAIN}",
        f"ann.x.{DOMAIN}",
        f"../ann.{DOMAIN}",
        f"ann/../ann.{DOMAIN}",
        f"ANN.{DOMAIN}",
        f".{DOMAIN}",
        DOMAIN,
        "ann.example.com",
        f"ann.{DOMAIN}.example.com",
        f"ann.{DOMAIN}:3000x",
        "127.0.0.1",
        "[::1]:3000",
        f"ann%2e.{DOMAIN}",
    ],
)
async def test_a_name_that_is_no_session_of_this_agent_is_not_found_and_nothing_is_asked(house, host):
    await house.session("ann", answering())
    answer = await house.get(host)
    assert answer.status == 404
    assert answer.text.count("\n") == 1
    assert house.connects == []


async def test_a_session_whose_id_has_dots_is_found_by_its_whole_id(house):
    await house.session("ann.lee-firefox-00000001", answering())
    assert (await house.get(f"ann.lee-firefox-00000001.{DOMAIN}")).status == 200
    assert (await house.get(f"lee-firefox-00000001.{DOMAIN}")).status == 404


@pytest.mark.parametrize(
    ("state", "busy", "said"),
    [
        (SessionState.HIBERNATED, False, "the session is hibernated: wake it first"),
        (SessionState.HIBERNATED, True, "the session is waking up: try again in a moment"),
        (SessionState.PENDING, False, "the session is starting: try again in a moment"),
        (SessionState.FAILED, False, "the session does not run: it is failed"),
    ],
)
async def test_a_session_that_does_not_run_is_unavailable_and_is_not_woken(house, state, busy, said):
    house.put("ann", state, port=1)
    house.busy = {"ann"} if busy else set()
    answer = await house.get("ann")
    assert (answer.status, answer.text) == (503, f"{said}\n")
    assert house.connects == []


async def test_a_session_whose_start_is_under_way_is_starting(house):
    house.busy = {"ann"}
    answer = await house.get("ann")
    assert (answer.status, answer.text) == (503, "the session is starting: try again in a moment\n")


async def test_a_request_waits_until_a_new_leader_knows_its_sessions(house, monkeypatch):
    house.adopted = False
    asked = asyncio.create_task(house.get("ann"))
    await asyncio.sleep(0.2)
    await house.session("ann", answering(b"of ann"))
    house.adopted = True
    assert (await asked).body == b"of ann"
    house.adopted = False
    unknown = asyncio.create_task(house.get("nobody"))
    await asyncio.sleep(0.2)
    assert not unknown.done()
    house.adopted = True
    assert (await unknown).status == 404
    house.adopted = False
    monkeypatch.setattr(client_requests, "ADOPT_TIMEOUT", 0.2)
    assert (await house.get("nobody")).status == 503


async def test_a_session_that_speaks_no_http_has_no_web_desktop(house):
    await house.session("ann", answering(), ready_check=ReadyCheck.VNC)
    answer = await house.get("ann")
    assert (answer.status, "no web desktop" in answer.text) == (404, True)


async def test_a_session_where_nothing_listens_is_a_bad_gateway_or_starting_while_it_has_not_been_ready(house):
    server = await house.session("ann", answering())
    server.close()
    answer = await house.get("ann")
    assert (answer.status, "gave no answer" in answer.text) == (502, True)
    house.sessions["ann"] = replace(house.sessions["ann"], ready=False)
    assert (await house.get("ann")).status == 503


async def test_what_the_sessions_server_sees_is_what_was_asked_without_headers_between_neighbours(house):
    seen = []

    async def handler(reader, writer):
        seen.append(await head_of(reader))
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")

    await house.session("ann", handler)
    await house.get("ann", "/first")  # the gateway's own first question comes before it
    seen.clear()
    asked = {
        "Connection": "X-Private, Host",
        "X-Private": "1",
        "Keep-Alive": "timeout=5",
        "Proxy-Authorization": "Basic c2VjcmV0",
        "TE": "trailers",
        "X-Forwarded-For": "192.0.2.1",
        "X-Forwarded-Proto": "https",
        "Cookie": "a=b",
        "Accept-Encoding": "gzip",
    }
    lines = [f"GET /a%2Fb/../c?d=%20 HTTP/1.1\r\nHost: ann.{DOMAIN}:3000", *(f"{k}: {v}" for k, v in asked.items())]
    reader, writer = await house.stream()
    writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
    assert (await reader.readline()).startswith(b"HTTP/1.1 204")
    writer.close()
    head = seen[0].decode().split("\r\n")
    assert head[0] == "GET /a%2Fb/../c?d=%20 HTTP/1.1"
    assert sorted(line for line in head[1:] if line) == sorted(
        [
            f"Host: ann.{DOMAIN}:3000",
            "X-Forwarded-For: 192.0.2.1",
            "X-Forwarded-Proto: https",
            "Cookie: a=b",
            "Accept-Encoding: gzip",
        ]
    )


async def test_an_answers_headers_come_through_but_those_between_neighbours(house):
    await house.session(
        "ann",
        answering(b"x", "418 Short And Stout", "Set-Cookie: a=1", "X-Own: 2", "Connection: X-Hop", "X-Hop: 3"),
    )
    raw = await house.raw(f"GET / HTTP/1.1\r\nHost: ann.{DOMAIN}\r\nConnection: close\r\n\r\n".encode())
    assert raw.startswith(b"HTTP/1.1 418 Short And Stout\r\n")
    answer = parse(raw)
    assert (answer.headers["set-cookie"], answer.headers["x-own"]) == ("a=1", "2")
    assert "x-hop" not in answer.headers
    assert answer.headers["connection"] == "close"


async def test_one_connection_carries_requests_for_many_sessions(house):
    await house.session("ann", answering(b"of ann"))
    await house.session("bob", answering(b"of bob"))
    reader, writer = await house.stream()
    for name in ["ann", "nobody", "bob", "ann", "bob"]:
        writer.write(f"GET / HTTP/1.1\r\nHost: {name}.{DOMAIN}\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        body = await reader.readexactly(int(parse(head).headers["content-length"]))
        assert body == f"of {name}".encode() or (name == "nobody" and head.startswith(b"HTTP/1.1 404"))
    writer.close()


async def test_a_page_with_many_parts_uses_few_connections_to_the_session(house):
    await house.session("ann", answering())
    for _ in range(20):
        assert (await house.get("ann")).status == 200
    assert len(house.connects) == 2  # the first one only asked how the server speaks


async def test_a_connection_that_the_sessions_server_closed_meanwhile_costs_no_request(house):
    async def handler(reader, writer):
        await head_of(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")  # says nothing of closing
        await writer.drain()
        await asyncio.sleep(0.05)

    await house.session("ann", handler)
    for _ in range(5):
        assert (await house.get("ann")).body == b"ok"
        await asyncio.sleep(0.05)


async def test_a_head_request_has_no_body_whoever_answers(house):
    async def handler(reader, writer):
        while await head_of(reader):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n")

    await house.session("ann", handler)
    answer = await house.get("ann", method="HEAD")
    assert (answer.status, answer.headers["content-length"], answer.body) == (200, "99", b"")
    answer = await house.get("nobody", method="HEAD")
    assert (answer.status, answer.body) == (404, b"")
