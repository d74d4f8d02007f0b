"""The page by keyboard and by ear: the focus stays where one works, and what changes is said, once."""

from playwright.async_api import expect

from tests.integration.browser.cards import card
from tests.integration.browser.puppet import Puppet

LISTEN = """() => {
  window.heard = [];
  const region = document.querySelector("#running").parentElement.querySelector("[role=status]");
  new MutationObserver(() => heard.push(region.textContent)).observe(region, {childList: true, characterData: true,
  subtree: true});
  }"""


async def test_the_focus_stays_with_a_session_through_its_states_and_each_is_said_once(plane, agent_id, visit):
    async with Puppet(plane, agent_id) as puppet:
        await puppet.runs("one")
        home = await visit(plane.url)
        page, one = home.page, card(home, "one")
        await one.get_by_role("button", name="Hibernate").focus()
        await page.evaluate(LISTEN)
        await page.keyboard.press("Enter")
        await expect(one.get_by_role("button", name="Wake")).to_be_focused()
        await page.keyboard.press("Enter")
        await expect(one.get_by_role("link", name="View")).to_be_focused()
        await one.get_by_role("button", name="Stop").focus()
        await page.keyboard.press("Enter")
        await expect(page.get_by_label("delete its volumes too")).to_be_focused()
        await page.keyboard.press("Tab")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("heading", name="Sessions", exact=True)).to_be_focused()
        assert await page.evaluate("heard") == ["one: hibernated", "one: running", "one: ended"]


async def test_a_button_keeps_the_focus_while_its_command_is_under_way(plane, agent_id, visit):
    async with Puppet(plane, agent_id, obeys=False) as puppet:
        await puppet.runs("one")
        start = puppet.heard[-1]["payload"]["commandId"]
        await puppet.say("complete", commandId=start)
        home = await visit(plane.url)
        hibernate = card(home, "one").get_by_role("button", name="Hibernate")
        await expect(hibernate).to_be_enabled()
        sent = []
        home.page.on("request", lambda request: sent.append(request.url) if request.method == "POST" else None)
        await hibernate.focus()
        await home.page.keyboard.press("Enter")
        begun = card(home, "one").get_by_role("button", name="Hibernating")
        await expect(begun).to_be_disabled()
        await expect(begun).to_be_focused()
        await home.page.keyboard.press("Enter")
        await expect(begun).to_be_focused()
        assert len(sent) == 1
