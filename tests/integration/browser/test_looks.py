"""What can be read and pressed, in both colour schemes, on a desk and on a phone."""

import httpx
import pytest
from playwright.async_api import expect

from tests.integration.browser.cards import card
from tests.integration.browser.desktop import NAME, sees_the_desktop, starts_the_desktop
from tests.integration.browser.puppet import Puppet

DESK = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}
# Each visible text with too little contrast (WCAG 2.2, 1.4.3) against what lies behind it. Text that is switched off
# may have less.
PALE = """() => {
  const parse = (colour) => {
    const [r, g, b, a = 1] = colour.match(/[\\d.]+/g).map(Number);
    return {r, g, b, a};
  };
  const mix = (top, below, c) => top[c] * top.a + below[c] * (1 - top.a);
  const over = (top, below) => Object.fromEntries(["r", "g", "b"].map((c) => [c, mix(top, below, c)]));
  const behind = (node) => {
    const layers = [];
    for (; node; node = node.parentElement) {
      const layer = parse(getComputedStyle(node).backgroundColor);
      if (layer.a > 0) layers.unshift(layer);
      if (layer.a === 1) break;
    }
    return layers.reduce((below, layer) => over(layer, below), {r: 255, g: 0, b: 255});
  };
  const light = ({r, g, b}) => {
    const [x, y, z] = [r, g, b].map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const found = [];
  let seen = 0;
  for (const node of document.querySelectorAll("body *")) {
    const texts = [...node.childNodes].filter((part) => part.nodeType === 3).map((part) => part.data);
    const said = node.matches("input") ? node.value || node.placeholder : texts.join("").trim();
    const box = node.getBoundingClientRect();
    if (!said || box.width < 2 || box.height < 2 || !node.checkVisibility()) continue;
    if (node.matches(":disabled, :disabled *")) continue;
    seen += 1;
    const ground = behind(node);
    const style = getComputedStyle(node, node.matches("input:placeholder-shown") ? "::placeholder" : null);
    const ink = over(parse(style.color), ground);
    const [dark, bright] = [light(ink), light(ground)].sort((a, b) => a - b);
    const contrast = (bright + 0.05) / (dark + 0.05);
    const where = `${node.tagName} ${node.className}`;
    if (!(contrast >= 4.5)) found.push(`${contrast.toFixed(2)}: ${said.slice(0, 60)} (${where})`);
  }
  return {found, seen};
}"""
SMALL = """() => [...document.querySelectorAll("button, .button, input, select, summary, .back")]
  .filter((node) => node.checkVisibility())
  .map((node) => [node.getBoundingClientRect(), node])
  .filter(([box]) => box.width < 24 || box.height < 24)
  .map(([box, node]) => `${box.width.toFixed(0)} x ${box.height.toFixed(0)}: `
    + `${node.textContent || node.name || node.id}`)"""
# What is wider than its place, unless it scrolls or is cut on purpose.
WIDE = """() => [document.documentElement, ...document.querySelectorAll(
    "dialog[open], dialog[open] *, .bar, .bar *, .card, .card *")]
  .filter((node) => node.checkVisibility() && node.clientWidth > 1 && node.scrollWidth > node.clientWidth + 1)
  .filter((node) => !node.closest(".scroll, select, input, .what"))
  .map((node) => `${node.tagName} ${node.id || node.className}: ${node.scrollWidth} in ${node.clientWidth}`)"""
GROUND = "getComputedStyle(document.documentElement).backgroundColor"


async def looks_right(visitor, what, least):
    """`least`: so many texts there are at least, or the page was not there."""
    page = visitor.page
    await visitor.picture(what)
    pale = await page.evaluate(PALE)
    assert pale["seen"] >= least, f"{what}: {pale}"
    assert pale["found"] == [], what
    assert await page.evaluate(SMALL) == [], what
    wide = await page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert wide[0] <= wide[1], what


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("viewport", [DESK, PHONE], ids=["desk", "phone"])
async def test_all_of_it_can_be_read_and_pressed(plane, agent, agent_id, visit, manifest, scheme, viewport):
    await plane.wait_command(await plane.send_command(agent_id, "no_such_action", {}), "failed")
    await plane.wait_command(await plane.start_session("desktop", session_id="Bad Name!"), "failed")
    url = await starts_the_desktop(plane)
    web = manifest(MODE="http", spec={"vnc": {"enabled": False}, "kasmvnc": {"enabled": True, "port": 5900}})
    await plane.wait_command(await plane.start_session("tiny", session_id=f"web-{agent_id}", manifest=web), timeout=60)
    waiting = {"agentId": f"{agent_id}-new", "platform": "docker"}
    await registers(plane, waiting)
    visitor = await visit(plane.url, viewport=viewport, color_scheme=scheme, has_touch=viewport is PHONE)
    page = visitor.page
    await expect(card(visitor)).to_have_attribute("data-state", "running")
    await expect(card(visitor, f"{agent_id}-new")).to_contain_text("waits for approval")
    ground = [int(number) for number in (await page.evaluate(GROUND)).removeprefix("rgb(").rstrip(")").split(",")]
    assert max(ground) < 64 if scheme == "dark" else min(ground) > 192
    await looks_right(visitor, "home", 40)
    await page.get_by_role("button", name="Start a session").click()
    await page.get_by_text("More", exact=True).click()
    await looks_right(visitor, "dialog", 50)
    await page.get_by_role("button", name="Cancel").click()
    await card(visitor).get_by_role("button", name="Log").click()
    await looks_right(visitor, "log", 45)
    await page.goto(url)
    await sees_the_desktop(visitor)
    await looks_right(visitor, "viewer", 12)
    box = await page.locator("#screen canvas").bounding_box()
    assert box["width"] >= 0.9 * min(viewport["width"], 1280 / 800 * box["height"])
    await plane.wait_command(await plane.hibernate_session(NAME), timeout=60)
    await expect(page.get_by_role("button", name="Wake it")).to_be_visible()
    await looks_right(visitor, "veil", 5)
    await page.goto(f"{plane.url}/sessions/web-{agent_id}/view")
    await expect(page.get_by_text("There is no view of it")).to_be_visible()
    await looks_right(visitor, "no-view", 5)


@pytest.mark.parametrize("width", [320, 375])
async def test_the_longest_names_fit_a_phone(plane, agent_id, visit, width):
    name = "s" * 100
    async with Puppet(plane, agent_id) as puppet:
        await puppet.runs(name)
        visitor = await visit(plane.url, viewport={"width": width, "height": 740})
        page = visitor.page
        await expect(card(visitor, name)).to_have_attribute("data-state", "running")
        assert await page.evaluate(WIDE) == []
        for button in ("Start a session", "Stop", "Log"):
            await page.get_by_role("button", name=button).first.click()
            await expect(page.get_by_role("dialog")).to_be_visible()
            await visitor.picture(button)
            assert await page.evaluate(WIDE) == [], button
            await page.keyboard.press("Escape")
        await page.goto(f"{plane.url}/sessions/{name}/view")
        await expect(page.get_by_role("heading", name=name)).to_be_visible()
        await visitor.picture("viewer")
        assert await page.evaluate(WIDE) == []
        await page.goto("about:blank")
        visitor.complaints.clear()  # noVNC's own lines: there is no desktop


async def test_a_phone_with_its_keyboard_up_leaves_the_desktop_most_of_the_room(plane, agent_id, visit):
    async with Puppet(plane, agent_id) as puppet:
        await puppet.runs("one")
        visitor = await visit(
            f"{plane.url}/sessions/one/view", viewport={"width": 375, "height": 400}, has_touch=True, is_mobile=True
        )
        page = visitor.page
        await page.evaluate("document.querySelector('#keys').hidden = false")  # as with a desktop
        room = await page.locator("#screen").bounding_box()
        await visitor.picture("keyboard-up")
        assert (room["width"], await page.evaluate("innerWidth")) == (375, 375)
        assert room["height"] >= 230
        right = page.get_by_role("button", name="Right")
        await right.scroll_into_view_if_needed()
        box = await right.bounding_box()
        assert box["x"] + box["width"] <= 375
        await page.goto("about:blank")
        visitor.complaints.clear()  # noVNC's own lines: there is no desktop


async def registers(plane, body):
    async with httpx.AsyncClient(base_url=plane.url, trust_env=False) as http:
        key = {"X-Agent-API-Key": await plane.bootstrap_key()}
        answer = await http.post("/api/v1/agents/register", json=body, headers=key)
        assert answer.status_code == 202
