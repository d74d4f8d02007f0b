"""The viewer where something is in its way: it says what, and there is always a way on."""

import asyncio
import re

import pytest
from playwright.async_api import expect

from tests.integration.browser.cards import card
from tests.integration.browser.desktop import NAME, sees_the_desktop, sees_the_prompt, starts_the_desktop, written
from tests.integration.browser.servers import Server
from tests.relay import REPAIRED

TAKEN = "Another viewer took over"


@pytest.fixture
async def displaced(plane, agent, visit):
    """An older viewer in whose place another came."""
    url = await starts_the_desktop(plane)
    older = await visit(url)
    await sees_the_desktop(older)
    newer = await visit(url)
    await sees_the_desktop(newer)
    await expect(older.page.get_by_text(TAKEN)).to_be_visible()
    return older, newer


@pytest.mark.parametrize("played", [REPAIRED], ids=["repaired relay"])
async def test_a_viewer_that_was_displaced_can_take_the_desktop_back_after_the_agent_was_away(
    plane, agent, agent_id, displaced
):
    older, newer = displaced
    await agent.kill()
    await expect(
        older.page.get_by_text("Its agent is not connected. This page says so when it is back.")
    ).to_be_visible()
    await expect(
        newer.page.get_by_text("Its agent is not connected. This page goes on when it is back.")
    ).to_be_visible()
    await older.picture("away")
    await agent.start()
    await plane.wait_agent(agent_id)
    await sees_the_desktop(newer)
    await expect(older.page.get_by_text(TAKEN)).to_be_visible()
    await older.page.get_by_role("button", name="Take it back").click()
    await sees_the_desktop(older)
    await expect(newer.page.get_by_text(TAKEN)).to_be_visible()
    # The agent that comes back ends what it had left half-finished, which may be the page's next try.
    newer.forget("the session was interrupted)")


async def test_a_viewer_that_was_displaced_wakes_the_session_and_sees_it(plane, displaced):
    older, newer = displaced
    await newer.page.goto(plane.url)
    await plane.wait_command(await plane.hibernate_session(NAME), timeout=60)
    await expect(older.page.get_by_text("It hibernates.")).to_be_visible()
    await older.page.get_by_role("button", name="Wake it").click()
    await sees_the_desktop(older)


async def test_a_wake_that_cannot_be_sent_is_told_and_can_be_tried_again(plane, agent, visit):
    visitor = await visit(await starts_the_desktop(plane))
    await sees_the_desktop(visitor)
    await plane.wait_command(await plane.hibernate_session(NAME), timeout=60)
    await visitor.page.route("**/wake", lambda route: route.fulfill(status=500, json={"error": "the disk is full"}))
    await visitor.page.get_by_role("button", name="Wake it").click()
    await expect(visitor.page.get_by_text("It hibernates. Waking it failed: the disk is full")).to_be_visible()
    await visitor.picture("wake-failed")
    assert len(visitor.complaints) == 1  # the browser's own line on a status of 500
    visitor.complaints.clear()
    await visitor.page.unroute("**/wake")
    await visitor.page.get_by_role("button", name="Wake it").click()
    await sees_the_desktop(visitor)


async def test_a_desktop_that_hangs_is_told_after_a_while_and_can_be_tried_again(plane, agent, visit, docker_client):
    url = await starts_the_desktop(plane)
    container = docker_client.containers.get(f"streamspace-{NAME}")

    def to_the_server(signal):
        kill = (
            f"for task in /proc/[0-9]*; do case $(cat $task/comm) in Xvnc|Xtigervnc) kill -{signal} "
            f'"${{task#/proc/}}"; esac; done'
        )
        assert container.exec_run(["sh", "-c", kill]).exit_code == 0

    to_the_server("STOP")
    visitor = await visit(url)
    await expect(visitor.page.locator("#why")).to_have_text("Connecting")
    await expect(visitor.page.get_by_text("Nothing that a viewer understands came within 15 seconds")).to_be_visible()
    await visitor.picture("hangs")
    to_the_server("CONT")
    await visitor.page.get_by_role("button", name="Try again").click()
    await sees_the_desktop(visitor)


@pytest.mark.parametrize("played", [REPAIRED], ids=["repaired relay"])
@pytest.mark.parametrize(
    ("security", "told", "viewers"),
    [
        (b"\x01\x02" + bytes(16), "Its VNC server asks for a password", 1),
        (b"\x00\x00\x00\x00\x10Too many guesses", "Its VNC server refuses: Too many guesses", 1),
        (b"\x01\x63", "The connection ended. It was tried 6 times, and no picture came.", 6),
    ],
    ids=["password", "refusal", "unknown security"],
)
async def test_a_server_that_lets_nobody_in_is_told_and_not_tried_for_ever(
    plane, agent_id, visit, security, told, viewers
):
    async with Server(plane, agent_id, NAME, security) as server:
        visitor = await visit(f"{plane.url}/sessions/{NAME}/view")
        await expect(visitor.page.get_by_text(told)).to_be_visible()
        await visitor.picture("refused")
        await asyncio.sleep(5)  # longer than any pause between two tries
        assert server.viewers == viewers
        await visitor.page.get_by_role("button", name="Try again").click()
        async with asyncio.timeout(10):
            while server.viewers == viewers:
                await asyncio.sleep(0.05)
        await expect(visitor.page.get_by_text(told)).to_be_visible()
    visitor.complaints.clear()  # noVNC's own lines on why it gave up


@pytest.mark.parametrize(
    ("sections", "reason"),
    [
        (
            {"vnc": {"enabled": False}, "kasmvnc": {"enabled": True, "port": 5900}},
            "it serves a web page of its own, not VNC",
        ),
        ({"vnc": {"enabled": True, "port": 5900, "protocol": "websocket"}}, "it serves a web page of its own, not VNC"),
        ({"vnc": {"enabled": False}}, "its template says that it has no desktop"),
    ],
    ids=["KasmVNC", "VNC in a WebSocket", "no desktop"],
)
async def test_a_view_is_not_offered_where_no_viewer_could_show_anything(
    plane, agent, visit, manifest, sections, reason
):
    start = await plane.start_session("tiny", session_id=NAME, manifest=manifest(MODE="http", spec=sections))
    await plane.wait_command(start, timeout=60)
    await plane.wait_session(NAME, state="running", vnc_ready=True)
    home = await visit(plane.url)
    await expect(card(home)).to_contain_text(f"No view: {reason}")
    await expect(card(home).get_by_role("link", name="View")).to_have_count(0)
    await expect(card(home).get_by_role("button", name="Hibernate")).to_be_visible()
    await home.picture("no-view")
    viewer = await visit(f"{plane.url}/sessions/{NAME}/view")
    await expect(viewer.page.get_by_text(f"There is no view of it: {reason}.")).to_be_visible()
    assert await plane.events(type="vnc_close") == []


async def test_hands_without_a_keyboard_have_the_keys_that_text_lacks(plane, agent, visit, docker_client):
    phone = await visit(
        await starts_the_desktop(plane), viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True
    )
    await sees_the_prompt(phone)
    page = phone.page
    text = page.get_by_label("Text to type into the session")

    async def type_in(what):
        await text.fill(what)
        await page.get_by_role("button", name="Type it").tap()

    keys = page.get_by_role("group", name="Keys of the session")
    await type_in("cat -v > /tmp/keys")
    await keys.get_by_role("button", name="Enter").tap()
    for name in ("Esc", "Left", "Up", "Down", "Right", "Tab"):
        await keys.get_by_role("button", name=name).tap()
    await type_in("xy")
    await keys.get_by_role("button", name="Backspace").tap()
    await keys.get_by_role("button", name="Enter").tap()
    await phone.picture("keys")
    assert await written(docker_client, "/tmp/keys") == "^[^[[D^[[A^[[B^[[C\tx\n"


async def test_a_browser_without_full_screen_is_not_offered_it_and_the_desktop_has_a_name(
    plane, agent, visit, chromium
):
    visitor = await visit(await starts_the_desktop(plane))
    await sees_the_desktop(visitor)
    await expect(visitor.page.get_by_role("button", name="Full screen")).to_be_visible()
    await expect(visitor.page.get_by_role("application", name=re.compile("The session's desktop"))).to_be_visible()
    await visitor.page.add_init_script("delete Element.prototype.requestFullscreen")  # as on an iPhone
    await visitor.page.reload()
    await sees_the_desktop(visitor)
    await expect(visitor.page.get_by_role("button", name="Full screen")).to_have_count(0)
    # A picture that the torn-off page left in the relay's queue is the next one's first message, which then tries
    # again.
    visitor.forget("Invalid server version")
