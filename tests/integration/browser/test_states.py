"""What the page says of each situation: how it is, in people's words, and what can be done now."""

import pytest
from playwright.async_api import expect

from tests.integration.browser.cards import card
from tests.integration.browser.puppet import Puppet

PHONE = {"width": 375, "height": 740}
ELECTED = {"electionBackend": "redis", "leader": "host-1", "epoch": 7}
CAPACITY = {"maxSessions": 2, "cpu": "16 cores", "memory": "128Gi"}
# Of each plot: its left edge, then the top and the lines of the rows of its caption, and the top of its picture.
ROWS = """plots => plots.map((plot) => {
  const spans = [...plot.querySelectorAll("figcaption > span")];
  const lines = (span) => new Set([...span.getClientRects()].map((box) => Math.round(box.top))).size;
  return {
    left: plot.getBoundingClientRect().left,
    tops: [...spans, plot.querySelector("svg")].map((part) => Math.round(part.getBoundingClientRect().top)),
    lines: spans.map(lines),
  };
})"""


def badge(part):
    return part.locator(".state")


def of(visitor, name, button):
    return card(visitor, name).get_by_role("button", name=button)


@pytest.mark.parametrize("width", [1280, 768, 375, 320])
async def test_the_captions_of_a_sessions_plots_break_alike(plane, agent_id, visit, width):
    async with Puppet(plane, agent_id) as puppet:
        await puppet.runs("one")
        limits = {"cpuLimitCores": 1, "memoryLimitBytes": 2**30}
        await puppet.status("one", state="running", vncReady=True, platformMetadata=limits)
        home = await visit(plane.url, viewport={"width": width, "height": 800})
        reading = {"one": {"cpu": 0.9, "memory": int(39.4 * 2**20)}}
        await puppet.say("heartbeat", status="online", activeSessions=1, sessions=reading)
        await expect(card(home, "one")).to_contain_text("peak 39.4 MiB of 1 GiB")
        await home.picture("plots")
        cpu, memory = await card(home, "one").locator(".plot").evaluate_all(ROWS)
        if cpu["left"] != memory["left"]:  # else one stands below the other
            assert cpu["tops"] == memory["tops"]
            assert cpu["lines"] == memory["lines"]


async def test_badge_and_buttons_say_what_is_under_way_and_what_came_of_it(plane, agent_id, visit):
    async with Puppet(plane, agent_id, obeys=False) as puppet:
        await puppet.runs("one")
        await puppet.answers("complete")
        home = await visit(plane.url)
        one = card(home, "one")
        for press, begun, during, then, after in (
            ("Hibernate", "Hibernating …", "hibernating", {"state": "hibernated"}, "hibernated"),
            ("Wake", "Waking …", "waking", {"state": "running", "vncReady": True}, "running"),
        ):
            await of(home, "one", press).click()
            await expect(of(home, "one", begun)).to_be_disabled()
            await expect(of(home, "one", begun)).to_have_text(begun)
            await expect(badge(one)).to_have_text(during)
            await expect(one.get_by_role("link", name="View")).to_have_count(0)
            await expect(of(home, "one", "Stop")).to_be_enabled()
            await home.picture(during)
            await puppet.status("one", **then)
            await puppet.answers("complete")
            await expect(badge(one)).to_have_text(after)
        await expect(one.get_by_role("link", name="View")).to_be_visible()
        await of(home, "one", "Stop").click()
        await home.page.get_by_role("button", name="Stop it").click()
        await expect(badge(one)).to_have_text("stopping")
        await expect(of(home, "one", "Stopping …")).to_be_disabled()
        assert await one.get_by_role("button").all_inner_texts() == ["Stopping …", "Log"]
        await home.picture("stopping")
        await puppet.answers("failed", error="engine_error: the engine is full")
        await expect(badge(one)).to_have_text("not stopped")
        await expect(one).to_contain_text("Stopping failed: the engine is full")
        await expect(of(home, "one", "Stop")).to_be_enabled()
        await home.picture("not-stopped")


async def test_the_viewer_says_how_its_session_is_and_leads_back(plane, agent_id, visit):
    async with Puppet(plane, agent_id) as puppet:
        await puppet.runs("one")
        await plane.wait_command(await plane.hibernate_session("one"))
        for name, told, tone in (("nobody", "no such session", "bad"), ("one", "hibernated", "quiet")):
            viewer = await visit(f"{plane.url}/sessions/{name}/view")
            feed = viewer.page.locator("#feed")
            await expect(feed).to_have_text(told)
            await expect(feed).to_have_attribute("data-tone", tone)
            await viewer.picture(told)
        await plane.wait_command(await plane.stop_session("one"))
        await expect(feed).to_have_text("ended")
        await expect(viewer.page.get_by_text("It has ended.")).to_be_visible()
        await viewer.picture("ended")
        await viewer.page.get_by_role("link", name="Back to the sessions").click()
        await expect(viewer.page.get_by_role("heading", name="Sessions", exact=True)).to_be_visible()


async def test_what_agents_say_reaches_people_without_the_words_for_machines(plane, agent_id, visit):
    why = "image_not_found: there is no image x:1\nthe_registry: said so"
    async with Puppet(plane, agent_id, obeys=False) as puppet:
        await plane.start_session("desktop", session_id="one", agent_id=agent_id)
        await puppet.status("one", state="failed", platformMetadata={"reason": why})
        await puppet.runs("two")
        idle = {"reason": "idle_timeout: nobody has used it for 8 s"}
        await puppet.status("two", state="hibernated", platformMetadata=idle)
        await puppet.runs("three")
        await puppet.status("three", state="failed", platformMetadata={"reason": "agent_unavailable"})
        home = await visit(plane.url)
        viewer = await visit(f"{plane.url}/sessions/one/view")
        await expect(viewer.page.locator("#why")).to_have_text(
            "It failed: there is no image x:1\nthe_registry: said so"
        )
        await expect(card(home, "one")).to_contain_text("There is no image x:1")
        # Only what comes first is a word for machines.
        await expect(card(home, "one")).to_contain_text("the_registry: said so")
        await expect(card(home, "two")).to_contain_text("Nobody has used it for 8 s")
        await expect(card(home, "three")).to_contain_text("Its agent was away for too long")
        for name, code in (("one", "image_not_found"), ("two", "idle_timeout"), ("three", "agent_unavailable")):
            await expect(card(home, name)).not_to_contain_text(code)
        await home.picture("codes")
        await of(home, "one", "Log").click()
        await expect(home.page.get_by_label("Messages about")).to_contain_text("image_not_found")


async def test_an_agents_limits_are_not_called_free_room(plane, agent_id, visit):
    async with Puppet(plane, agent_id, capacity=CAPACITY) as puppet:
        await puppet.runs("one")
        home = await visit(plane.url)
        told = "1 session runs, of at most 2 that share 16 cores and 128 GiB"
        await expect(card(home, agent_id)).to_contain_text(told)
        await expect(card(home, agent_id)).not_to_contain_text("room")
        await home.picture("limits")


async def test_a_start_is_offered_where_an_agent_could_take_it(plane, agent_id, visit):
    home = await visit(plane.url)
    start, why = home.page.get_by_role("button", name="Start a session"), home.page.locator("#start-why")
    await expect(home.page.get_by_text("No agent has registered yet.")).to_be_visible()
    await expect(start).to_be_disabled()
    puppet = Puppet(plane, agent_id, capacity=CAPACITY)
    assert (await puppet.register(key=await plane.bootstrap_key())).status_code == 202
    await expect(why).to_contain_text(f"Approve {agent_id} first")
    await expect(start).to_be_disabled()
    await home.picture("pending")
    await plane.approve(agent_id)
    await expect(why).to_contain_text("No agent is connected")
    await expect(start).to_be_disabled()
    async with puppet:
        await expect(start).to_be_enabled()
        await expect(why).not_to_be_visible()
        for name in ("one", "two"):
            await puppet.runs(name)
        await expect(why).to_contain_text("stop or hibernate one first")
        await expect(start).to_be_disabled()
        await home.picture("full")
        await plane.wait_command(await plane.hibernate_session("one"))
        await expect(start).to_be_enabled()
        await puppet.say("heartbeat", status="draining", activeSessions=1)
        await expect(start).to_be_disabled()
        await expect(card(home, agent_id)).to_contain_text("draining")
    await expect(why).to_contain_text("No agent is connected")
    await plane.stop()
    await expect(why).not_to_be_visible()
    await expect(start).to_be_disabled()
    await home.page.goto("about:blank")
    home.complaints.clear()  # the browser's own lines on refused connections


@pytest.mark.parametrize("played", [{"keep_commands": True}], ids=["commands are kept"])
async def test_a_start_that_would_wait_for_its_agent_can_be_asked_for(plane, agent_id, visit):
    assert (await Puppet(plane, agent_id).register()).status_code == 201
    home = await visit(plane.url)
    await home.page.get_by_role("button", name="Start a session").click()
    offered = await home.page.locator("#start-agent option").all_text_contents()
    assert offered == ["any", f"{agent_id} (away: it would wait)"]
    await home.page.get_by_role("button", name="Start", exact=True).click()
    [session] = await plane.sessions()
    await expect(card(home, session["sessionId"])).to_contain_text("Waiting for its agent")


async def test_messages_and_facts_hold_no_separators(plane, agent_id, visit):
    async with Puppet(plane, agent_id) as puppet:
        await puppet.runs("one")
        await puppet.status("one", state="running", vncReady=True, platformMetadata={"image": "an/image:1"})
        home = await visit(plane.url)
        one = card(home, "one")
        await expect(one).to_contain_text("an/image:1")
        await expect(one.get_by_text(f"desktop for dev on {agent_id}", exact=True)).to_be_visible()
        log = home.page.get_by_label("Messages between")
        connected = log.get_by_role("listitem").filter(has=home.page.get_by_text("connected", exact=True))
        assert (await connected.locator(".way").inner_text()).strip() == "connected"
        assert await connected.locator(".who").inner_text() == agent_id
        for part in (one, log):
            assert "·" not in await part.inner_text()
        edges = await log.locator(".way").evaluate_all("""ways => [...new Set(ways.map((way) => {
          const range = document.createRange();
          range.selectNode(way.lastChild);
          return Math.round(range.getBoundingClientRect().left);
        }))]""")
        assert len(edges) == 1, "the words stand below each other, with an arrow or without"


async def test_a_failover_is_told_as_what_it_is_until_nobody_has_come(plane, agent_id, visit):
    async with Puppet(plane, agent_id, **ELECTED) as puppet:
        await puppet.runs("one")
        home = await visit(plane.url)
        one, agent = card(home, "one"), card(home, agent_id)
        viewer = await visit(f"{plane.url}/sessions/one/view")
        await puppet.leave()
        await expect(badge(agent)).to_have_text("changing leader")
        await expect(agent).to_contain_text("another replica takes over")
        await expect(one).to_contain_text("Its agent is changing its leader; the session stays as it is.")
        await expect(one.get_by_role("link", name="View")).to_be_visible()
        assert "grayscale" not in await one.evaluate("node => getComputedStyle(node).filter")
        await expect(viewer.page.get_by_text("Its agent is changing its leader.")).to_be_visible()
        await expect(viewer.page.locator("#feed")).to_have_text("changing leader")
        await home.picture("failover")
        await viewer.picture("failover")
        assert await home.page.locator(".problem").count() == 0
        plane.hub.left[agent_id] -= 60
        plane.hub.store.note_change()
        await expect(badge(agent)).to_have_text("offline")
        await expect(one).to_contain_text("Its agent is away; this is what was last known.")
        await expect(viewer.page.get_by_text("Its agent is not connected.")).to_be_visible()
        await puppet.connect()
        await expect(badge(agent)).to_have_text("online")
        await viewer.page.goto("about:blank")
        viewer.complaints.clear()  # noVNC's own lines: there is no desktop


async def test_a_viewer_that_is_interrupted_by_a_failover_is_no_trouble(plane, agent_id, visit):
    async with Puppet(plane, agent_id) as puppet:
        await puppet.runs("one")
        home = await visit(plane.url)
        for error in ("the connection to the session was interrupted", "the server hung up"):
            await puppet.say("vnc_error", sessionId="one", error=error)
        lines = home.page.get_by_label("Messages between").get_by_role("listitem")
        await expect(lines.filter(has_text="was interrupted")).not_to_have_class("from_agent problem")
        await expect(lines.filter(has_text="hung up")).to_have_class("from_agent problem")


@pytest.mark.parametrize(
    ("viewport", "count"), [(PHONE, 8), ({"width": 1280, "height": 900}, 20)], ids=["phone", "desk"]
)
async def test_many_agents_leave_the_sessions_on_the_screen(plane, agent_id, visit, viewport, count):
    for number in range(count - 2):
        assert (await Puppet(plane, f"{agent_id}-{number:02}").register()).status_code == 201
    late = Puppet(plane, f"{agent_id}-late")
    assert (await late.register(key=await plane.bootstrap_key())).status_code == 202
    async with Puppet(plane, agent_id, capacity=CAPACITY) as puppet:
        await puppet.runs("one")
        home = await visit(plane.url, viewport=viewport)
        await expect(card(home, late.agent_id).get_by_role("button", name="Approve")).to_be_visible()
        one = card(home, "one").get_by_role("heading", name="one")
        box = await one.bounding_box()
        await home.picture("many")
        assert box["y"] + box["height"] < viewport["height"]
        await expect(home.page.locator("#agents-count")).to_have_text(
            f"1 online, {count - 2} offline, 1 waiting for approval"
        )
        await expect(card(home, agent_id)).to_have_count(0)
        await home.page.get_by_role("button", name=f"Show all {count}").click()
        await expect(card(home, agent_id)).to_be_visible()
        assert await home.page.locator("#agents .card").count() == count
        await home.page.get_by_role("button", name="Show fewer").click()
        await expect(card(home, agent_id)).to_have_count(0)


@pytest.mark.parametrize("width", [375, 320])
async def test_a_phone_has_all_keys_of_the_session_beside_each_other(plane, visit, width):
    size = {"width": width, "height": 740}
    page = (await visit(f"{plane.url}/sessions/nobody/view", viewport=size, has_touch=True, is_mobile=True)).page
    tops = await page.locator(".keys button").evaluate_all("keys => keys.map((key) => key.getBoundingClientRect().top)")
    assert (len(tops), len(set(tops))) == (8, 1)
    assert await page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("width", [375, 320])
async def test_a_phone_has_all_buttons_of_a_session_beside_each_other(plane, agent_id, visit, width):
    async with Puppet(plane, agent_id) as puppet:
        await puppet.runs("one")
        home = await visit(plane.url, viewport={"width": width, "height": 740}, has_touch=True, is_mobile=True)
        await expect(card(home, "one").get_by_role("link", name="View")).to_be_visible()
        tops = (
            await card(home, "one")
            .locator(".actions > *:not([hidden])")
            .evaluate_all("buttons => buttons.map((button) => button.getBoundingClientRect().top)")
        )
        await home.picture("buttons")
        assert (len(tops), len(set(tops))) == (4, 1)
        assert await home.page.evaluate("document.documentElement.scrollWidth") <= width


async def test_a_card_has_room_for_plots_once_there_is_something_to_plot(plane, agent_id, visit):
    async with Puppet(plane, agent_id) as puppet:
        await puppet.runs("one")
        home = await visit(plane.url)
        plots = card(home, "one").locator(".plots")
        await expect(card(home, "one").get_by_role("link", name="View")).to_be_visible()
        await expect(plots).not_to_be_visible()
        await puppet.say("heartbeat", status="online", activeSessions=1, sessions={"one": {"cpu": 0.1}})
        await expect(plots).to_be_visible()
        await expect(card(home, "one").get_by_text("not measured yet")).to_have_count(1)


@pytest.mark.parametrize("touch", [False, True], ids=["desk", "phone"])
async def test_hints_on_keys_are_for_those_who_have_some(plane, agent_id, visit, touch):
    size = PHONE if touch else {"width": 1280, "height": 800}
    visitor = await visit(f"{plane.url}/sessions/nobody/view", viewport=size, has_touch=touch, is_mobile=touch)
    hint = visitor.page.get_by_text("Shift+F8 leads back here")
    await (expect(hint).not_to_be_visible() if touch else expect(hint).to_be_visible())
