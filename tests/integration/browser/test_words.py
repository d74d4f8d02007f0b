"""What the page tells when something is not as it should be: plainly, and with a way out."""

import re

import httpx
import pytest
from playwright.async_api import expect

from streamspace_agent.commands import names
from streamspace_agent.errors import CommandFailed
from tests.integration.browser.cards import card
from tests.integration.browser.puppet import Puppet
from tests.names import sid


async def test_a_session_whose_start_was_refused_says_so_and_can_be_removed(plane, agent, visit):
    name = "Bad Name!"
    await plane.wait_command(await plane.start_session("desktop", session_id=name), "failed")
    home = await visit(plane.url)
    refused = card(home, name)
    await expect(refused).to_have_attribute("data-state", "failed")
    await expect(refused).to_contain_text("Starting failed: ")
    await expect(refused.get_by_role("progressbar")).to_have_count(0)
    await expect(refused.get_by_role("button", name="Stop")).to_have_count(0)
    await home.picture("refused")
    viewer = await visit(f"{plane.url}/sessions/{name}/view")
    await expect(viewer.page.get_by_text("It failed: ")).to_be_visible()
    await refused.get_by_role("button", name="Remove").click()
    await home.page.get_by_role("button", name=re.compile("(Stop|Remove) it")).click()
    await expect(refused).to_have_count(0)


async def test_a_session_that_no_agent_ever_reported_on_says_so_and_is_forgotten(plane, agent_id, visit):
    """An agent may refuse a start without a word on the session: of this control plane's agents, others do."""
    await plane.issue_key(agent_id)
    command = await plane.start_session("desktop", session_id="silent", agent_id=agent_id)
    plane.hub.store.mark(command, "failed", "refused: for a reason of its own")
    home = await visit(plane.url)
    silent = card(home, "silent")
    await expect(silent).to_contain_text("It was never started: refused: for a reason of its own")
    await expect(silent.get_by_role("progressbar")).to_have_count(0)
    viewer = await visit(f"{plane.url}/sessions/silent/view")
    await silent.get_by_role("button", name="Remove").click()
    await expect(silent).to_have_count(0)
    await expect(viewer.page.get_by_text("There is no such session.")).to_be_visible()
    assert await plane.sessions() == []


async def test_the_dialog_takes_the_names_that_an_agent_takes(plane, visit, taker):
    home = await visit(plane.url)
    await home.page.get_by_role("button", name="Start a session").click()
    field = home.page.get_by_label("Name")
    for name in ("a", "Desk_1.of-two", "1" * 100, "1" * 101, "Bad Name!", "-a", ".", "a/b", "é", "a:b", "_a"):
        await field.fill(name)
        assert await field.evaluate("field => field.validity.valid") == is_taken(name), name
    await field.fill("Bad Name!")
    await home.page.get_by_role("button", name="Start", exact=True).click()
    await expect(field).to_be_focused()
    await expect(home.page.get_by_role("dialog")).to_be_visible()
    assert "letters, digits, dots" in await field.get_attribute("title")
    assert await plane.sessions() == []


def is_taken(name):
    try:
        return names.session_id({"sessionId": name}) == name
    except CommandFailed:
        return False


async def test_a_failed_session_tells_one_line_unfolds_the_rest_and_is_removed(plane, agent, visit, manifest):
    name = sid("crashes")
    crashing = manifest(MODE="crash", AFTER=3)
    await plane.wait_command(await plane.start_session("tiny", session_id=name, manifest=crashing), timeout=60)
    await plane.wait_session(name, state="failed")
    home = await visit(plane.url)
    failed = card(home, name)
    last_words = failed.get_by_text("session: giving up")
    summary = failed.locator("summary")
    await expect(summary).to_contain_text("last log lines")
    await expect(last_words).not_to_be_visible()
    await summary.click()
    await expect(last_words).to_be_visible()
    await home.picture("unfolded")
    await expect(failed.get_by_role("button", name="Stop")).to_have_count(0)
    await failed.get_by_role("button", name="Remove").click()
    await home.page.get_by_role("button", name="Remove it").click()
    await expect(failed).to_have_count(0)
    assert (await plane.session(name))["state"] == "terminated"


async def test_messages_of_trouble_look_other_than_those_of_success(plane, agent, agent_id, visit):
    bad = await plane.send_command(agent_id, "no_such_action", {})
    await plane.wait_command(bad, "failed")
    home = await visit(plane.url)
    log = home.page.get_by_label("Messages between")
    failed, fine = (log.get_by_role("listitem").filter(has_text=text).first for text in ("← failed", "→ command"))
    for line, marked in ((failed, True), (fine, False)):
        way = line.locator(".way")
        mark = await way.evaluate("way => getComputedStyle(way, '::after').content")
        assert ("✗" in mark) == marked
    colours = [await line.locator(".what").evaluate("what => getComputedStyle(what).color") for line in (failed, fine)]
    assert colours[0] != colours[1]
    await home.picture("trouble")


async def test_who_leads_is_told_where_somebody_else_could(plane, agent, agent_id, visit):
    elected = f"{agent_id}-elected"
    about = {"electionBackend": "redis", "leader": "host-1", "hostname": "host-1", "epoch": 7}
    async with httpx.AsyncClient(base_url=plane.url, trust_env=False) as http:
        registered = await http.post(
            "/api/v1/agents/register",
            json={"agentId": elected, "platform": "docker", "metadata": about},
            headers={"X-Agent-API-Key": await plane.issue_key(elected)},
        )
        assert registered.status_code == 201
    home = await visit(plane.url)
    await expect(card(home, elected)).to_contain_text("Last led by host-1, epoch 7 (elected by redis)")
    await expect(card(home, agent_id)).to_contain_text("Runs on ")
    await expect(card(home, agent_id)).not_to_contain_text("epoch")
    await home.picture("agents")
    await agent.kill()
    await expect(card(home, agent_id)).to_contain_text("Last ran on ")


async def test_the_viewer_of_a_session_that_is_not_there_has_nothing_to_press(plane, visit):
    visitor = await visit(f"{plane.url}/sessions/nobody/view")
    page = visitor.page
    await expect(page.get_by_text("There is no such session.")).to_be_visible()
    for name in ("Full screen", "Type it", "Enter"):
        await expect(page.get_by_role("button", name=name)).to_be_disabled()
    await expect(page.get_by_label("Text to type into the session")).to_be_disabled()
    await visitor.picture("nobody")


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_an_address_with_nothing_behind_it_leads_back_to_the_first_page(plane, visit, scheme):
    visitor = await visit(plane.url, viewport={"width": 390, "height": 844}, color_scheme=scheme)
    page = visitor.page
    await page.goto(f"{plane.url}/nonesuch")
    await expect(page.get_by_role("heading", name="There is nothing at this address")).to_be_visible()
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    await visitor.picture("nothing")
    await page.get_by_role("link", name="first page").click()
    await expect(page.get_by_text("live", exact=True)).to_be_visible()
    # The browser tells its console of the status, which is right; of anything else it would be wrong.
    assert all(re.search("status of 404", complaint) for complaint in visitor.complaints)
    visitor.complaints.clear()


async def test_ten_open_pages_of_one_browser_are_all_live_and_can_act(plane, agent, visit):
    """A browser has six HTTP connections for one host, whatever its pages want."""
    visitor = await visit(plane.url)
    pages = [visitor.page, *[await visitor.page.context.new_page() for _ in range(9)]]
    for page in pages[1:]:
        await page.goto(plane.url)
    for page in pages:
        await expect(page.get_by_text("live", exact=True)).to_be_visible()
    await pages[-1].get_by_role("button", name="Start a session").click()
    await expect(pages[-1].get_by_label("Template")).to_be_focused()


async def test_a_page_whose_plane_was_away_goes_on_and_repeats_no_line(plane, agent, agent_id, visit):
    home = await visit(plane.url)
    lines = home.page.get_by_label("Messages between").locator("li")
    connected = lines.filter(has=home.page.get_by_text("connected", exact=True))
    await expect(connected).to_have_count(1)
    await plane.restart(down_for=1)
    await plane.wait_agent(agent_id)
    await expect(home.page.get_by_text("live", exact=True)).to_be_visible()
    await expect(connected).to_have_count(2)
    registers = lines.filter(has=home.page.get_by_text("register", exact=True))
    assert await registers.count() == len(await plane.events(type="register"))
    home.complaints.clear()  # the browser's own lines on refused connections


async def test_a_start_that_is_pressed_twice_starts_one_session(plane, agent, visit):
    home = await visit(plane.url)
    await home.page.get_by_role("button", name="Start a session").click()
    await home.page.get_by_label("Name").fill("")
    await home.page.get_by_role("button", name="Start", exact=True).dblclick()
    await expect(home.page.get_by_role("dialog")).to_have_count(0)
    [session] = await plane.sessions()
    await plane.wait_session(session["sessionId"], state="running", timeout=60)
    assert len(await plane.sessions()) == 1


async def test_what_cannot_be_done_is_told_where_it_was_asked_for(plane, agent_id, visit, taker):
    async with httpx.AsyncClient(base_url=plane.url, trust_env=False) as http:
        key = {"X-Agent-API-Key": await plane.bootstrap_key()}
        body = {"agentId": agent_id, "platform": "docker"}
        assert (await http.post("/api/v1/agents/register", json=body, headers=key)).status_code == 202
    home = await visit(plane.url)
    page, notice = home.page, home.page.get_by_role("alert")
    why = "the disk is full"
    for path, button in (("**/approve", "Approve"), ("**/reject", "Reject"), ("**/templates", "Start a session")):
        await page.evaluate("document.querySelector('#notice').textContent = 'nothing was told'")
        await page.route(path, lambda route: route.fulfill(status=500, json={"error": why}))
        await page.get_by_role("button", name=button).click()
        if button == "Reject":
            await page.get_by_role("button", name="Reject it").click()
        await expect(notice).to_have_text(why)
        await page.unroute(path)
    await home.picture("told")
    assert len(home.complaints) == 3  # the browser's own lines on a status of 500
    home.complaints.clear()
    await page.get_by_role("button", name="Approve").click()
    await expect(notice).to_have_count(0)
    await expect(card(home, agent_id).get_by_role("button", name="Approve")).to_have_count(0)
    assert (await plane.agents())[0]["approval"] == "approved"


async def test_the_first_words_of_an_empty_page_lead_to_a_desktop(plane, visit):
    home = await visit(plane.url)
    command = home.page.locator("pre").first
    await expect(command).to_contain_text(f"AGENT_ID=my-agent CONTROL_PLANE_URL={plane.ws_url} ")
    await expect(command).to_contain_text("AGENT_API_KEY_FILE=<the file that serve named> docker-agent")
    await expect(home.page.get_by_text("then View shows its desktop")).to_be_visible()
    await home.picture("empty")


async def test_an_agent_is_rejected_when_that_was_meant_and_one_that_was_approved_is_expected(plane, agent_id, visit):
    meant, other = Puppet(plane, f"{agent_id}-one"), Puppet(plane, f"{agent_id}-two")
    for puppet in (meant, other):
        assert (await puppet.register(key=await plane.bootstrap_key())).status_code == 202
    home = await visit(plane.url)
    page = home.page
    await card(home, other.agent_id).get_by_role("button", name="Reject").click()
    await expect(page.get_by_role("heading", name=f"Reject {other.agent_id}?")).to_be_visible()
    await home.picture("asked")
    await page.get_by_role("button", name="Cancel").click()
    await expect(card(home, other.agent_id)).to_contain_text("waits for approval")
    await card(home, meant.agent_id).get_by_role("button", name="Reject").click()
    await page.get_by_role("button", name="Reject it").click()
    await expect(card(home, meant.agent_id)).to_contain_text("rejected")
    await card(home, other.agent_id).get_by_role("button", name="Approve").click()
    await expect(card(home, other.agent_id)).to_contain_text("Approved; it connects within 30 s")
    await expect(card(home, other.agent_id)).not_to_contain_text("offline")
    await home.picture("approved")


async def test_a_start_is_offered_those_agents_that_take_one_and_a_name_that_is_free(plane, agent_id, visit):
    away, waiting = Puppet(plane, f"{agent_id}-away"), Puppet(plane, f"{agent_id}-waiting")
    assert (await away.register()).status_code == 201
    assert (await waiting.register(key=await plane.bootstrap_key())).status_code == 202
    async with Puppet(plane, agent_id) as puppet:
        await puppet.runs("one")
        home = await visit(plane.url)
        page = home.page
        await page.get_by_role("button", name="Start a session").click()
        offered = await page.locator("#start-agent option").all_text_contents()
        assert offered == ["any", agent_id, f"{away.agent_id} (away)"]
        await page.get_by_label("Name").fill("one")
        await page.get_by_role("button", name="Start", exact=True).click()
        await expect(page.get_by_role("dialog").get_by_role("alert")).to_have_text(
            "There is a session of this name: one."
        )
        await expect(page.get_by_label("Name")).to_be_focused()
        await home.picture("taken")
        assert len(await plane.commands()) == 1
        await plane.wait_command(await plane.stop_session("one"))
        await expect(page.locator("#ended [data-session=one]")).to_have_count(1)
        await page.get_by_role("button", name="Start", exact=True).click()
        await expect(page.get_by_role("dialog")).to_have_count(0)


async def test_an_address_that_is_no_text_is_a_session_that_is_not_there(plane, visit):
    visitor = await visit(plane.url)
    await visitor.page.goto(f"{plane.url}/sessions/%zz/view")
    await expect(visitor.page.get_by_text("There is no such session.")).to_be_visible()
