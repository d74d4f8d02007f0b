"""What the page tells while the control plane, or an agent, does not answer: what was last known, and what to do."""

from playwright.async_api import expect

from tests.integration.browser.cards import card
from tests.integration.browser.puppet import Puppet

PHONE = {"width": 375, "height": 740}
GONE = "The control plane does not answer."
# Is it what one sees at its place? Something may lie over it, and it may lie outside.
SEEN = """node => {
  const box = node.getBoundingClientRect();
  const points = [[box.left + 5, box.top + 5], [box.right - 5, box.bottom - 5]];
  return points.every(([x, y]) => node.contains(document.elementFromPoint(x, y)));
}"""


async def is_grey(part):
    return "grayscale" in await part.evaluate("node => getComputedStyle(node).filter")


async def test_a_plane_that_is_away_is_told_where_it_is_seen_and_forgiven_when_it_is_back(plane, agent_id, visit):
    async with Puppet(plane, agent_id) as puppet:
        await puppet.runs("one")
        home = await visit(plane.url, viewport=PHONE)
        page, notice, one = home.page, home.page.get_by_role("alert"), card(home, "one")
        await expect(one.get_by_role("link", name="View")).to_be_visible()
        assert not await is_grey(one)
        await page.get_by_role("contentinfo").scroll_into_view_if_needed()
        await plane.stop()
        await expect(page.get_by_role("status").filter(has_text="the control plane is away")).to_be_visible()
        await expect(notice).to_contain_text(GONE)
        await expect(notice).to_contain_text("still running?")
        assert await notice.evaluate(SEEN)
        await home.picture("away")
        for part in (one, card(home, agent_id)):
            assert await is_grey(part)
        await expect(one.get_by_role("link", name="View")).to_have_count(0)
        await one.get_by_role("button", name="Log").click()
        await expect(one.get_by_role("button", name="Log")).not_to_have_attribute("aria-busy", "true")
        await expect(notice).to_contain_text(GONE)
        assert await notice.evaluate(SEEN)
        await plane.start()
        await expect(notice).to_have_count(0)
        await puppet.connect()
        await expect(one.get_by_role("link", name="View")).to_be_visible()
        assert not await is_grey(one)
    home.complaints.clear()  # the browser's own lines on refused connections


async def test_a_plane_that_is_frozen_leaves_no_button_busy(plane, agent_id, visit):
    async with Puppet(plane, agent_id):
        home = await visit(plane.url)
        page = home.page
        await page.get_by_role("button", name="Start a session").click()
        await page.route("**/api/v1/sessions", lambda _: None)
        await page.evaluate(
            "const limit = AbortSignal.timeout; AbortSignal.timeout = (ms) => limit.call(AbortSignal, ms / 20)"
        )
        start = page.get_by_role("button", name="Start", exact=True)
        await start.click()
        await expect(page.get_by_role("dialog").get_by_role("alert")).to_contain_text(GONE)
        await expect(start).not_to_have_attribute("aria-busy", "true")
        await home.picture("frozen")


async def test_a_session_whose_agent_is_away_is_what_was_last_known_and_its_commands_fail(plane, agent_id, visit):
    async with Puppet(plane, agent_id) as puppet:
        await puppet.runs("one")
        home = await visit(plane.url)
        one = card(home, "one")
        await puppet.leave()
        await expect(one).to_contain_text("Its agent is away; this is what was last known.")
        await expect(one.get_by_role("link", name="View")).to_have_count(0)
        assert await is_grey(one)
        await expect(card(home, agent_id)).to_contain_text("Is docker-agent still running on a-host?")
        await one.get_by_role("button", name="Hibernate").click()
        await expect(one).to_contain_text("Hibernating failed: agent is not connected")
        await home.picture("agent-away")
        await stops(home)
        await expect(one).to_contain_text("Stopping failed: agent is not connected")
        await puppet.connect()
        await stops(home)
        await expect(one).to_have_count(0)
        assert (await plane.session("one"))["state"] == "terminated"


async def stops(visitor, name="one"):
    await card(visitor, name).get_by_role("button", name="Stop").click()
    await visitor.page.get_by_role("button", name="Stop it").click()


async def test_a_command_that_was_lost_leaves_its_session_usable(plane, agent_id, visit):
    async with Puppet(plane, agent_id) as puppet:
        await puppet.runs("one")
        home = await visit(plane.url)
        one = card(home, "one")
        await plane.set_faults(drop={"types": ["command"], "count": 1})
        await stops(home)
        await expect(one.get_by_role("button", name="Stopping …")).to_be_disabled()
        await expect(one.get_by_role("button", name="Hibernate")).to_have_count(0)
        plane.hub.store.change("UPDATE commands SET created_at = created_at - 130")
        await expect(one).to_contain_text("Stopping: not done after 2 min")
        await expect(one.get_by_role("button", name="Stop", exact=False)).to_be_enabled()
        await home.picture("lost")
        await stops(home)
        await expect(one).to_have_count(0)


async def test_a_stop_that_hangs_keeps_no_other_session_from_stopping(plane, agent_id, visit):
    async with Puppet(plane, agent_id) as puppet:
        await puppet.runs("one")
        await puppet.runs("two")
        home = await visit(plane.url)
        await home.page.route("**/one/stop", lambda _: None)
        await stops(home)
        await expect(card(home, "one").get_by_role("button", name="Stop")).to_have_attribute("aria-busy", "true")
        await stops(home, "two")
        await expect(card(home, "two")).to_have_count(0)
