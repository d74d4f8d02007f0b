"""The messages on the page: what is kept of them, what is found in them, and one session's."""

import asyncio

from playwright.async_api import expect

from tests.integration.browser.cards import card
from tests.integration.browser.puppet import Puppet

READING = {"cpu": 0.1, "memory": 2**27}


def lines(visitor):
    return visitor.page.get_by_label("Messages between").get_by_role("listitem")


async def test_the_log_keeps_what_it_shows_however_many_readings_come(plane, agent_id, visit):
    async with Puppet(plane, agent_id) as puppet:
        await puppet.runs("one")
        home = await visit(plane.url)
        await expect(lines(home).filter(has_text="complete")).to_have_count(1)
        shown = await lines(home).all_inner_texts()
        for _ in range(450):
            await puppet.say("heartbeat", status="online", activeSessions=1, sessions={"one": READING})
        await puppet.status("one", state="running", vncReady=True, platformMetadata={"reason": "the last"})
        await expect(lines(home).first).to_contain_text("the last")
        assert (await lines(home).all_inner_texts())[1:] == shown
        await home.page.reload()
        await expect(lines(home).first).to_contain_text("the last")
        assert (await lines(home).all_inner_texts())[1:] == shown
        await home.page.get_by_label("heartbeats").check()
        assert await lines(home).count() == len(shown) + 1 + 100


async def test_the_filter_finds_what_a_line_shows_and_says_when_there_is_nothing(plane, agent_id, visit):
    async with Puppet(plane, agent_id) as puppet:
        await puppet.runs("one")
        home = await visit(plane.url)
        await expect(lines(home).filter(has_text="complete")).to_have_count(1)
        field = home.page.get_by_label("Filter messages")
        await field.fill("start_session one")
        await expect(lines(home).filter(has_text="complete")).to_have_count(1)
        await expect(lines(home).filter(has_text="heartbeat")).to_have_count(0)
        await field.fill("no such thing")
        await expect(lines(home)).to_have_count(0)
        await expect(home.page.get_by_text("No message", exact=True)).to_be_visible()
        await home.picture("nothing-found")
        await field.fill("")
        await expect(lines(home).filter(has_text="complete")).to_have_count(1)
        await expect(home.page.get_by_text("No message", exact=True)).not_to_be_visible()


async def test_an_open_log_of_a_session_goes_on_and_keeps_what_a_reader_unfolded(plane, agent_id, visit):
    async with Puppet(plane, agent_id) as puppet:
        await puppet.runs("one")
        home = await visit(plane.url)
        await card(home, "one").get_by_role("button", name="Log").click()
        told = home.page.get_by_label("Messages about").get_by_role("listitem")
        commands = home.page.get_by_role("region", name="Commands").locator("tbody tr")
        await expect(commands).to_have_count(1)
        before = await told.count()
        await told.last.locator("summary").click()
        asked, loop = [], asyncio.get_running_loop()
        began = loop.time()
        home.page.on("request", lambda request: asked.append(request.url) if request.url.endswith("/log") else None)
        for number in range(20):
            await puppet.status("one", state="running", vncReady=True, platformMetadata={"reason": f"no {number}"})
        await plane.wait_command(await plane.hibernate_session("one"))
        await expect(told).to_have_count(before + 21)
        await expect(told.first).to_contain_text("hibernated")
        await expect(commands.first).to_contain_text("hibernate")
        await expect(commands.first).to_contain_text("completed")
        await expect(told.last.locator("pre")).to_be_visible()
        assert len(asked) <= loop.time() - began + 1, "it is asked for once a second at most"
        await home.picture("goes-on")


async def test_a_refused_key_is_trouble(plane, agent_id, visit):
    home = await visit(plane.url)
    answer = await Puppet(plane, agent_id).register(key="0" * 64)
    assert answer.status_code == 404
    refused = lines(home).filter(has_text="register_refused")
    way, what = refused.locator(".way"), refused.locator(".what")
    await expect(what).to_contain_text("Agent not found")
    assert "✗" in await way.evaluate("way => getComputedStyle(way, '::after').content")
    await home.picture("refused")
    room = await way.evaluate("way => [way.scrollWidth, way.clientWidth]")
    assert room[0] <= room[1], "it runs into the next column"
