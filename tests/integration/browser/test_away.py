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
