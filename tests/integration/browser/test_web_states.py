"""A web session's address while its page cannot be had: a person finds a sentence there, and a way back."""

import asyncio
import contextlib

import pytest
from playwright.async_api import expect

from tests.integration.browser.puppet import Puppet

NAME = "ann-web-00000002"
WEB = {"spec": {"baseImage": "example.org/web:1", "ports": [{"containerPort": 3000}]}}
HTML = b"Content-Type: text/html\r\nConnection: close\r\n\r\n<link rel=icon href='data:,'>"
PAGE = b"HTTP/1.1 200 OK\r\n" + HTML + b"<p>its own page"


def own(status, text):
    """As the agent's gateway answers for itself."""
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nCache-Control: "
        f"no-store\r\nConnection: close\r\n\r\n"
    )
    return f"{head}{text}\n".encode()


class Gateway:
    """A server that answers everything alike; nothing listens before `open`."""

    def __init__(self):
        self.answer = PAGE
        self.asked = 0

    async def open(self, plane):
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        plane.hub.web_gateway = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def close(self):
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader, writer):
        with contextlib.suppress(
            asyncio.IncompleteReadError, ConnectionError
        ):  # a connection that is not used after all
            await reader.readuntil(b"\r\n\r\n")
            self.asked += 1
            writer.write(self.answer)
            await writer.drain()
        writer.close()


@pytest.fixture
async def gateway(plane):
    gateway = Gateway()
    await gateway.open(plane)
    yield gateway
    await gateway.close()


@pytest.fixture
async def puppet(plane, agent_id):
    async with Puppet(plane, agent_id) as puppet:
        yield puppet


def address(plane, path="", name=NAME):
    return f"{plane.url}/api/v1/http/{name}/{path}"


def forget_statuses(visitor):
    """The browser's own lines on a status of 404, 409, 502 or 503."""
    visitor.forget("the server responded with a status of")


async def test_a_web_session_that_sleeps_or_starts_or_is_not_there_says_so_at_its_address(
    plane, puppet, gateway, visit
):
    nobody = await visit(address(plane, name="nobody"))
    await expect(nobody.page.get_by_text("There is no such session.")).to_be_visible()
    await nobody.page.get_by_role("link", name="Back to the sessions").click()
    await expect(nobody.page.get_by_role("heading", name="Sessions", exact=True)).to_be_visible()
    puppet.obeys = False
    await plane.start_session(session_id=NAME, manifest=WEB)
    page = (visitor := await visit(address(plane, "a/page?of=it"))).page
    await expect(page.get_by_text("It starts")).to_be_visible()
    await expect(page.get_by_role("link", name="Back to the sessions")).to_be_visible()
    await visitor.picture("starts")
    assert gateway.asked == 0
    await puppet.status(NAME, state="running", vncReady=True)
    await puppet.answers("complete")
    await expect(page.get_by_text("its own page")).to_be_visible()
    assert page.url == address(plane, "a/page?of=it")
    puppet.obeys = True
    await plane.wait_command(await plane.hibernate_session(NAME))
    await page.reload()
    await expect(page.get_by_text("It hibernates.")).to_be_visible()
    await visitor.picture("sleeps")
    await page.get_by_role("button", name="Wake it").click()
    await expect(page.get_by_text("its own page")).to_be_visible()
    for one in (nobody, visitor):
        forget_statuses(one)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (own("503 Service Unavailable", "the session is starting: try again in a moment"), "the session is starting"),
        (own("404 Not Found", f"no session '{NAME}' runs on this agent"), "runs on this agent"),
        (own("502 Bad Gateway", "the session's own web server broke off"), "broke off"),
        (b"HTTP/1.1 502 Bad Gateway\r\nConnection: close\r\n\r\n", "cannot be reached"),
    ],
    ids=["it starts", "it is not there", "it broke off", "a proxy's"],
)
async def test_a_gateway_that_has_no_page_is_told_and_asked_again(plane, puppet, gateway, visit, answer, told):
    await puppet.runs(NAME, manifest=WEB)
    gateway.answer = answer
    for url in (address(plane), f"{plane.url}/sessions/{NAME}/view"):
        visitor = await visit(url)
        await expect(visitor.page.locator("#why")).to_contain_text(told)
        await expect(visitor.page.locator("#feed")).to_have_text("not reachable")
        await expect(visitor.page.get_by_role("button", name="Try again")).to_be_visible()
        await expect(visitor.page.get_by_role("link", name="Back to the sessions")).to_be_visible()
        await visitor.picture("hindered")
        asked, gateway.answer = gateway.asked, PAGE
        await expect(visitor.page.get_by_text("its own page")).to_be_visible()
        assert gateway.asked > asked
        assert visitor.page.url == address(plane)
        gateway.answer = answer
        forget_statuses(visitor)


async def test_a_gateway_that_is_not_there_is_told_with_what_to_look_at(plane, puppet, gateway, visit):
    await puppet.runs(NAME, manifest=WEB)
    await gateway.close()
    refused = await visit(address(plane))
    await expect(refused.page.locator("#why")).to_contain_text("Nothing listens at its web address.")
    await expect(refused.page.locator("#why")).to_contain_text("WEB_GATEWAY")
    await refused.picture("refused")
    plane.hub.web_gateway = "no-such-name.invalid"
    await refused.page.reload()
    await expect(refused.page.locator("#why")).to_contain_text("Its web address cannot be reached: ")
    await expect(refused.page.locator("#why")).to_contain_text("serve --web-gateway")
    await gateway.open(plane)
    await refused.page.get_by_role("button", name="Try again").click()
    await expect(refused.page.get_by_text("its own page")).to_be_visible()
    forget_statuses(refused)


async def test_what_a_sessions_own_server_says_is_seen_as_it_is(plane, puppet, gateway, visit):
    gateway.answer = b"HTTP/1.1 503 Service Unavailable\r\n" + HTML + b"<p>its own trouble"
    await puppet.runs(NAME, manifest=WEB)
    visitor = await visit(f"{plane.url}")
    await visitor.page.goto(f"{plane.url}/sessions/{NAME}/view")
    await expect(visitor.page.get_by_text("its own trouble")).to_be_visible()
    assert visitor.page.url == address(plane)
    forget_statuses(visitor)


async def test_an_address_of_the_proxy_leads_a_vnc_session_to_its_viewer(plane, puppet, visit):
    await puppet.runs("one")
    visitor = await visit(plane.url)
    await visitor.page.goto(address(plane, name="one"))
    await visitor.page.wait_for_url(f"{plane.url}/sessions/one/view")
    await visitor.page.goto("about:blank")
    visitor.complaints.clear()  # noVNC's own lines: there is no desktop
