"""The gateway behind the control plane's own reverse proxy: what would end the deployed one does not, and a repaired
one hides nothing."""

import asyncio
import gzip

import httpx
import pytest

from lab.process import free_port
from streamspace_devplane import DevPlane, Settings
from streamspace_gateway import proxy_rules
from tests.gateway import House, answering, head_of
from tests.integration.browser.puppet import Puppet

NAME = "ann-web-00000001"
TEXT = b"a page's text, which is long enough to be compressed. " * 2000
CUT, ENDED = 1.5, 0.8
"""Seconds after which the proxy cuts, and the gateway ends."""


@pytest.fixture(params=["deployed", "repaired"])
def relay(request):
    return request.param


@pytest.fixture
async def house(relay, monkeypatch):
    monkeypatch.setattr(proxy_rules.DeployedRules, "limit", ENDED)
    async with House.open(relay=relay) as house:
        yield house


@pytest.fixture
async def plane(tmp_path, house, relay):
    spec = {"baseImage": "lscr.io/linuxserver/chromium:latest", "ports": [{"containerPort": 3000}]}
    settings = Settings(
        relay=relay,
        web_gateway=f"127.0.0.1:{house.port}",
        web_time_limit=CUT,
        crash_file=str(tmp_path / "crashes"),
    )
    templates = {"desktop": {"metadata": {"name": "desktop"}, "spec": spec}}
    async with DevPlane(tmp_path / "plane.db", free_port(), settings=settings, templates=templates) as plane:
        async with Puppet(plane, "agent", obeys=False) as agent:
            await agent.runs(NAME)
            yield plane
        assert plane.hub.crashes.last is None  # whatever the test did


@pytest.fixture
async def ask(plane):
    async with httpx.AsyncClient(trust_env=False, timeout=10) as browser:  # accepts gzip, as all browsers do
        yield lambda path="/": browser.get(f"{plane.url}/api/v1/http/{NAME}{path}")


@pytest.mark.parametrize("body", [b"nope", b"twenty bytes of text", TEXT], ids=["short", "middle", "long"])
async def test_an_answer_arrives_whole(house, ask, body):
    await house.session(NAME, answering(body, "404 Not Found"))
    answer = await ask()
    assert (answer.status_code, answer.content) == (404, body)


async def test_what_a_session_compresses_unasked_arrives_whole(house, ask):
    await house.session(NAME, answering(gzip.compress(TEXT), "200 OK", "Content-Encoding: gzip"))
    assert (await ask()).content == TEXT


async def test_the_gateways_own_answers_arrive(ask):
    answer = await ask()
    assert (answer.status_code, answer.text) == (404, f"no session {NAME!r} runs on this agent\n")


@pytest.mark.parametrize("framing", [b"Content-Length: 100000", b"Transfer-Encoding: chunked"])
async def test_a_server_that_dies_in_the_middle_ends_one_answer_and_no_control_plane(house, ask, relay, framing):
    async def handler(reader, writer):
        await head_of(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n%b\r\n\r\n5\r\nhello\r\n" % framing)
        await writer.drain()

    await house.session(NAME, handler)
    if relay == "deployed":
        assert b"hello" in (await ask()).content
    else:
        with pytest.raises(httpx.RemoteProtocolError):
            await ask()
    assert house.gateway.status().requests["broken"] == 1


@pytest.mark.parametrize("began", [True, False])
async def test_an_answer_that_takes_longer_than_the_proxy_allows_ends_before(house, ask, relay, began):
    async def handler(reader, writer):
        if b"/slow" not in await head_of(reader):
            writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
            return
        head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nearly\r\n"
        writer.write(head if began else b"")
        await asyncio.sleep(2 * CUT)
        writer.write((b"" if began else head) + b"4\r\nlate\r\n0\r\n\r\n")
        await writer.drain()

    await house.session(NAME, handler)
    answer = await ask("/slow")
    if relay == "repaired":
        assert (answer.status_code, answer.text) == (200, "earlylate")
    elif began:
        assert (answer.status_code, answer.text) == (200, "early")
    else:
        assert (answer.status_code, "gave no answer within" in answer.text) == (504, True)
