"""Before the deployed control plane's proxy: no answer has a form, and none an end, that would harm it."""

import asyncio
import contextlib
import gzip
import os
import zlib

import pytest

from lab.until import until
from streamspace_agent.gateway import keep_serving
from streamspace_agent.runtime import SessionState
from streamspace_gateway import credentials, proxy_rules
from tests.gateway import DOMAIN, House, answering, chunked_body, head_of, parse

TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJ1c2VyIjoiYW5uIn0.c2lnbmF0dXJl-_0"
TEXT = b"a page's text, which is long enough to be compressed. " * 2000


@pytest.fixture
async def house():
    async with House.open(relay="deployed") as house:
        yield house


def bare(data):
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize("body", [b"ok", b"twenty bytes of text", TEXT], ids=["short", "middle", "long"])
async def test_an_answer_comes_in_chunks_without_its_length(house, body):
    await house.session("ann", answering(body, "200 OK", "Content-Encoding: identity", "X-Own: 1"))
    answer = await house.get("ann")
    assert (answer.status, answer.body) == (200, body)
    assert answer.headers["transfer-encoding"] == "chunked"
    assert answer.headers["x-own"] == "1"
    assert not {"content-length", "content-encoding"} & answer.headers.keys()


async def test_answers_of_any_length_follow_each_other_on_one_connection_in_chunks(house):
    async def handler(reader, writer):
        while head := await head_of(reader):
            size = int(head.split()[1][1:] or 0)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size)
            await writer.drain()

    await house.session("ann", handler)
    sizes = [10, 1_000_000, 20, 65_536, 65_535, 5]
    reader, writer = await house.stream()
    for size in sizes:
        writer.write(f"GET /{size} HTTP/1.1\r\nHost: ann.{DOMAIN}\r\n\r\n".encode())
    for size in sizes:
        await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        assert await chunked_body(reader) == b"x" * size
    writer.close()


async def test_a_client_that_knows_no_chunks_gets_a_long_answer_as_it_is(house):
    await house.session("ann", answering(TEXT))
    answer = parse(await house.raw(f"GET / HTTP/1.0\r\nHost: ann.{DOMAIN}\r\n\r\n".encode()))
    assert (answer.status, answer.body) == (200, TEXT)
    assert not {"content-length", "transfer-encoding"} & answer.headers.keys()


@pytest.mark.parametrize("host", ["nobody", "asleep", "broken"])
async def test_the_gateways_own_answers_have_no_length_either(house, host):
    house.put("asleep", SessionState.HIBERNATED, port=1)
    (await house.session("broken", answering())).close()
    answer = await house.get(host)
    assert answer.status == {"nobody": 404, "asleep": 503, "broken": 502}[host]
    assert answer.text.endswith("\n")
    assert "content-length" not in answer.headers


async def test_a_refused_source_is_answered_without_a_length():
    async with House.open(allow="192.0.2.0/24", relay="deployed") as house:
        answer = await house.get("ann")
        assert (answer.status, "content-length" in answer.headers) == (403, False)


@pytest.mark.parametrize(
    ("method", "said", "length"),
    [
        ("GET", "204 No Content\r\n", None),
        ("GET", "304 Not Modified\r\nETag: x\r\nContent-Length: 5\r\n", None),
        ("GET", "302 Found\r\nContent-Length: 0\r\n", "0"),
        ("HEAD", "200 OK\r\nContent-Length: 5\r\n", None),
    ],
)
async def test_an_answer_without_a_body_ends_with_its_head(house, method, said, length):
    async def handler(reader, writer):
        while await head_of(reader):
            writer.write(f"HTTP/1.1 {said}\r\n".encode())

    await house.session("ann", handler)
    reader, writer = await house.stream()
    for _ in range(2):  # the second shows that nothing came behind the first
        writer.write(f"{method} / HTTP/1.1\r\nHost: ann.{DOMAIN}\r\n\r\n".encode())
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        assert head.startswith(f"HTTP/1.1 {said[:3]}".encode())
        assert parse(head.replace(b"chunked", b"")).headers.get("content-length") == length
    writer.close()


@pytest.mark.parametrize(
    ("encoding", "encode"),
    [("gzip", gzip.compress), ("x-gzip", gzip.compress), ("deflate", zlib.compress), ("deflate", bare)],
)
async def test_what_a_server_encodes_unasked_is_decoded(house, encoding, encode):
    random = os.urandom(700_000)
    await house.session("ann", answering(encode(TEXT + random), "200 OK", f"Content-Encoding: {encoding}"))
    answer = await house.get("ann", Accept_Encoding="gzip")
    assert answer.body == TEXT + random
    assert "content-encoding" not in answer.headers


async def test_a_small_answer_that_would_be_a_large_one_is_decoded_piece_by_piece():
    pieces = list(proxy_rules.Decoder().feed(zlib.compress(bytes(50_000_000))))
    assert sum(map(len, pieces)) == 50_000_000
    assert max(map(len, pieces)) <= proxy_rules.PIECE


async def test_an_encoding_that_cannot_be_undone_is_a_bad_gateway(house):
    await house.session("ann", answering(b"rubbish", "200 OK", "Content-Encoding: br"))
    answer = await house.get("ann")
    assert (answer.status, "in the encoding br" in answer.text) == (502, True)


async def test_a_server_is_asked_not_to_encode_and_does_not_see_who_is_signed_in(house):
    seen = []

    async def handler(reader, writer):
        seen.append((await head_of(reader)).decode())
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")

    await house.session("ann", handler)
    await house.get("ann")
    seen.clear()
    await house.get(
        "ann",
        f"/p?a=1&token={TOKEN}&b=2",
        Accept_Encoding="gzip, br",
        Authorization=f"Bearer {TOKEN}",
        Cookie=f"a=b; streamspace_proxy_token={TOKEN}; token={TOKEN}",
        Referer=f"https://plane.example/api/v1/http/ann/?token={TOKEN}",
    )
    lines = seen[0].rstrip().split("\r\n")
    assert lines[0] == "GET /p?a=1&b=2 HTTP/1.1"
    assert sorted(lines[1:]) == sorted(
        [
            f"Host: ann.{DOMAIN}",
            "Accept-Encoding: identity",
            f"Cookie: a=b; token={TOKEN}",
            "Referer: https://plane.example/api/v1/http/ann/",
        ]
    )


@pytest.mark.parametrize(
    ("target", "left"),
    [
        (f"/?token={TOKEN}", "/"),
        (f"/?token={TOKEN}&x=1", "/?x=1"),
        (f"/?x=1&token={TOKEN}", "/?x=1"),
        ("/?token=secret", "/?token=secret"),
        (f"/?mytoken={TOKEN}", f"/?mytoken={TOKEN}"),
        (f"/token={TOKEN}", f"/token={TOKEN}"),
        ("/?token=&x=", "/?token=&x="),
    ],
)
def test_of_a_target_only_the_sign_in_is_taken(target, left):
    assert credentials.clean_target(target.encode()).decode() == left


@pytest.mark.parametrize(
    "header",
    [
        ("Authorization", "Basic YTpi"),
        ("Authorization", "Bearer a-desktops-own"),
        ("Cookie", "streamspace_proxy_token=short; b=c"),
        ("Cookie", "a=b;  c=d"),
        ("Referer", "https://plane.example/?token=1"),
        ("X-Token", TOKEN),
        ("X-Empty", ""),
    ],
)
def test_headers_of_a_desktops_own_stay_as_they_are(header):
    pair = (header[0].encode(), header[1].encode())
    assert credentials.clean_headers([pair]) == [pair]


def half(framing):
    async def handler(reader, writer):
        await head_of(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n%b\r\n\r\n" % framing)
        writer.write(b"5\r\nhello\r\n" if b"chunked" in framing else b"hello")
        await writer.drain()

    return handler


@pytest.mark.parametrize("framing", [b"Content-Length: 100000", b"Transfer-Encoding: chunked"])
async def test_an_answer_that_breaks_off_ends_in_order_and_is_told_loudly(house, framing, caplog):
    await house.session("ann", half(framing))
    answer = await house.get("ann")
    assert (answer.status, answer.body) == (200, b"hello")
    assert house.gateway.status().requests["broken"] == 1
    [told] = [record for record in caplog.records if "ended as if it were whole" in record.message]
    assert told.levelname == "ERROR"
    assert told.message.startswith("web gateway: session ann: its server broke off in an answer")


async def test_an_encoded_answer_that_is_cut_off_ends_in_order(house):
    await house.session("ann", answering(gzip.compress(TEXT)[:-30], "200 OK", "Content-Encoding: gzip"))
    answer = await house.get("ann")
    assert TEXT.startswith(answer.body)
    assert house.gateway.status().requests["broken"] == 1


async def endless(reader, writer):
    if b"/first" not in await head_of(reader):
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        return
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"4\r\ntick\r\n")
        await writer.drain()
        await asyncio.sleep(0.02)


async def test_an_answer_that_takes_too_long_ends_in_order_before_the_proxy_cuts_it(house, monkeypatch, caplog):
    monkeypatch.setattr(proxy_rules.DeployedRules, "limit", 0.5)
    await house.session("ann", endless)
    answer = await asyncio.wait_for(house.get("ann", "/first"), 5)
    assert answer.body.startswith(b"tick")
    assert house.gateway.status().requests["time_limit"] == 1
    assert "an answer took more than 0.5 s" in caplog.text


async def test_a_server_that_gives_no_answer_in_time_is_told_while_the_proxy_still_waits(house, monkeypatch):
    async def handler(reader, writer):
        if b"/first" in await head_of(reader):
            await asyncio.sleep(60)
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")

    monkeypatch.setattr(proxy_rules.DeployedRules, "limit", 0.5)
    await house.session("ann", handler)
    answer = await asyncio.wait_for(house.get("ann", "/first"), 5)
    assert (answer.status, answer.text.count("\n"), "content-length" in answer.headers) == (504, 1, False)
    assert house.gateway.status().requests["time_limit"] == 1


async def test_a_session_that_goes_in_the_middle_of_an_answer_ends_it_in_order(house):
    await house.session("ann", endless)
    asked = asyncio.create_task(house.get("ann", "/first"))
    await asyncio.sleep(0.3)
    house.put("ann", SessionState.HIBERNATED, port=house.sessions["ann"].port)
    assert (await asyncio.wait_for(asked, 5)).body.startswith(b"tick")


async def test_the_end_of_a_leadership_ends_answers_in_order_and_cuts_connections_that_wait():
    house = House(relay="deployed")
    async with contextlib.AsyncExitStack() as house.stack:
        async with house.serving():
            await house.session("ann", endless)
            asked = asyncio.create_task(house.get("ann", "/first"))
            kept, writer = await house.stream()
            writer.write(f"GET / HTTP/1.1\r\nHost: ann.{DOMAIN}\r\n\r\n".encode())
            await kept.readuntil(b"\r\n\r\n")
            await until(lambda: house.gateway.status().connections == 2)
            await asyncio.sleep(0.2)
        assert house.gateway.status().connections == 0
        assert (await asyncio.wait_for(asked, 5)).body.startswith(b"tick")
        assert await asyncio.wait_for(kept.read(), 5) == b""  # no request reaches this replica any more
        writer.close()


async def test_a_websocket_has_no_time_limit_of_the_gateways(house, monkeypatch):
    async def handler(reader, writer):
        if b"Upgrade" not in await head_of(reader):
            writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
            return
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        await reader.readexactly(4)
        writer.write(b"pong")
        await writer.drain()

    monkeypatch.setattr(proxy_rules.DeployedRules, "limit", 0.3)
    await house.session("ann", handler)
    reader, writer = await house.stream()
    asked = f"GET /first HTTP/1.1\r\nHost: ann.{DOMAIN}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    writer.write(asked.encode())
    await reader.readuntil(b"\r\n\r\n")
    await asyncio.sleep(0.6)
    writer.write(b"ping")
    assert await asyncio.wait_for(reader.read(), 5) == b"pong"
    writer.close()


async def test_a_leadership_that_ends_in_a_hurry_leaves_no_connection_to_whoever_does_not_read():
    async def handler(reader, writer):
        await head_of(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while True:
            writer.write(b"10000\r\n%b\r\n" % bytes(65536))
            await writer.drain()

    house = House(relay="deployed")
    async with contextlib.AsyncExitStack() as house.stack:
        serving = asyncio.create_task(keep_serving(house.gateway, house.context))
        await until(lambda: house.gateway.status().addresses == {f"127.0.0.1:{house.port}": ""})
        await house.session("ann", handler)
        reader, writer = await house.stream()
        writer.write(f"GET /first HTTP/1.1\r\nHost: ann.{DOMAIN}\r\n\r\n".encode())
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(0.5)  # by now nothing more can be written
        for _ in range(2):
            serving.cancel()
            await asyncio.sleep(0.1)
        await asyncio.gather(serving, return_exceptions=True)
        left = await asyncio.wait_for(reader.read(), 5)
        assert not left.endswith(b"0\r\n\r\n")  # it was not kept until this could be said
        writer.close()
