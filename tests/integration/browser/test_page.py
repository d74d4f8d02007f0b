"""The page and the viewer, as a person uses them: a real browser, a real agent, a real desktop."""

import asyncio
import re

import pytest
from playwright.async_api import expect

from lab.registry import Registry
from tests.integration.browser.cards import card
from tests.integration.browser.desktop import (
    NAME,
    clicks_the_terminal,
    sees_the_desktop,
    sees_the_prompt,
    starts_the_desktop,
    types,
    written,
)
from tests.relay import REPAIRED

QUICK = "The quick brown fox (0123456789) jumps: over ~the lazy [dog]; 5 < 6 & {so} on?!"
MIDDLE = re.compile(r" (1\d|2\d|3\d)\.\dL")  # a plot's line that runs neither at its floor (58) nor along its top


async def start(visitor, name=NAME):
    page = visitor.page
    await page.get_by_role("button", name="Start a session").click()
    await page.get_by_label("Name").fill(name)
    await visitor.picture("start")
    await page.get_by_role("button", name="Start", exact=True).click()
    await expect(card(visitor, name)).to_have_attribute("data-state", "running", timeout=60_000)


async def test_a_person_starts_uses_hibernates_and_wakes_a_desktop(plane, agent, visit, docker_client):
    home = await visit(plane.url)
    await expect(home.page.get_by_text("development control plane", exact=True)).to_be_visible()
    await start(home)
    await home.picture("running")

    await card(home).get_by_role("link", name="View").click()
    await sees_the_desktop(home)
    await home.picture("desktop")
    await types(home, docker_client, f"echo '{QUICK}'", "/tmp/first", QUICK)
    await home.picture("typed")

    await home.page.get_by_role("link", name="Sessions").click()
    second = await visit(f"{plane.url}/sessions/{NAME}/view")
    await sees_the_desktop(second)
    await types(second, docker_client, "cat /tmp/first", "/tmp/second", QUICK)
    await second.picture("second-viewer")

    await card(home).get_by_role("button", name="Hibernate").click()
    await expect(card(home)).to_have_attribute("data-state", "hibernated")
    await home.picture("hibernated")
    await expect(second.page.get_by_text("It hibernates.")).to_be_visible()
    await second.picture("hibernated")
    await second.page.get_by_role("button", name="Wake it").click()
    await sees_the_desktop(second)
    # The file is still there, as the desktop's greeting promises.
    await types(second, docker_client, "cat /tmp/second", "/tmp/third", QUICK)
    await second.picture("woken")

    await card(home).get_by_role("button", name="Stop").click()
    await home.page.get_by_label("delete its volumes too").check()
    await home.page.get_by_role("button", name="Stop it").click()
    await expect(card(home)).to_have_count(0)
    await expect(second.page.get_by_text("It has ended.")).to_be_visible()
    await home.picture("stopped")


async def test_a_right_click_on_the_background_opens_another_terminal(plane, agent, visit, docker_client, desktop):
    visitor = await visit(await starts_the_desktop(plane))
    await sees_the_desktop(visitor)
    box = await visitor.page.locator("#screen canvas").bounding_box()
    async with asyncio.timeout(60):
        while terminals(docker_client) < 2:
            await visitor.page.keyboard.press("Escape")  # a menu that came before the window manager listened
            await visitor.page.mouse.click(box["x"] + 30, box["y"] + 30, button="right")
            await asyncio.sleep(1)
            await visitor.picture("menu")
            await visitor.page.keyboard.press("ArrowDown")
            await visitor.page.keyboard.press("Enter")
            await asyncio.sleep(2)
    await visitor.picture("two-terminals")


def terminals(client):
    found = client.containers.get(f"streamspace-{NAME}").exec_run(["sh", "-c", "cat /proc/[0-9]*/comm"])
    return found.output.split().count(b"xterm")


@pytest.mark.parametrize("played", [REPAIRED], ids=["repaired relay"])
async def test_the_newer_viewer_has_the_desktop_and_the_older_can_take_it_back(plane, agent, visit, desktop):
    url = await starts_the_desktop(plane)
    older = await visit(url)
    await sees_the_desktop(older)
    newer = await visit(url)
    await sees_the_desktop(newer)
    await expect(older.page.get_by_text("Another viewer took over")).to_be_visible()
    await older.page.get_by_role("button", name="Take it back").click()
    await sees_the_desktop(older)
    await expect(newer.page.get_by_text("Another viewer took over")).to_be_visible()
    closed = await plane.events(type="vnc_close")
    assert [row["payload"]["reason"] for row in closed] == ["another viewer connected"] * 2


async def test_a_desktop_that_is_only_looked_at_goes_to_sleep_and_one_that_is_used_does_not(
    plane, agent, visit, desktop
):
    """A viewer asks for pictures all the time, whether anybody sits before it or not."""
    visitor = await visit(await starts_the_desktop(plane, idle_timeout="8s"))
    await sees_the_desktop(visitor)
    box = await visitor.page.locator("#screen canvas").bounding_box()
    for step in range(12):
        await visitor.page.mouse.move(box["x"] + 50 + step, box["y"] + 50)
        await asyncio.sleep(1)
    assert (await plane.session(NAME))["state"] == "running"
    await expect(visitor.page.get_by_text("It hibernates.")).to_be_visible()
    session = await plane.session(NAME)
    assert session["state"] == "hibernated"
    assert session["platformMetadata"]["reason"].startswith("idle_timeout: nobody has used it for ")


async def test_keys_lead_from_the_first_link_to_a_session_and_out_of_its_desktop(plane, agent, visit, docker_client):
    home = await visit(plane.url)
    page = home.page
    await page.keyboard.press("Tab")
    await expect(page.get_by_text("Skip to the sessions")).to_be_focused()
    await page.keyboard.press("Enter")
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("button", name="Start a session")).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(page.get_by_label("Template")).to_be_focused()
    await page.keyboard.press("Tab")
    await page.keyboard.type(NAME)
    await page.keyboard.press("Enter")
    await expect(card(home)).to_have_attribute("data-state", "running", timeout=60_000)
    await card(home).get_by_role("link", name="View").focus()
    await page.keyboard.press("Enter")
    await sees_the_prompt(home)
    await clicks_the_terminal(page)  # which window of the desktop has the focus is the desktop's affair
    await page.keyboard.press("Shift+F8")
    await expect(page.get_by_label("Text to type into the session")).to_be_focused()
    await page.keyboard.type(f"echo '{QUICK}' > /tmp/x")
    await page.keyboard.press("Enter")
    await page.keyboard.press("Tab")
    await page.keyboard.press("Tab")
    await expect(page.get_by_role("button", name="Enter")).to_be_focused()
    await page.keyboard.press("Enter")
    assert await written(docker_client, "/tmp/x") == f"{QUICK}\n"
    await page.get_by_label("Text to type into the session").fill("dd bs=1 count=3 2>/dev/null | cat -v > /tmp/up")
    await page.keyboard.press("Enter")
    for key in ("Enter", "Up", "Enter"):
        await page.get_by_role("button", name=key, exact=True).click()
    assert await written(docker_client, "/tmp/up") == "^[[A", "Shift is not held down any more"


async def test_plots_show_what_a_session_uses_even_to_a_page_opened_later(plane, make_agent, agent_id, visit):
    await (await make_agent()).start(USAGE_INTERVAL="200ms")
    await plane.wait_agent(agent_id)
    home = await visit(plane.url)
    await start(home)
    for number in range(2):
        visitor = home if number == 0 else await visit(plane.url)
        memory = card(visitor).get_by_role("img", name="Memory")
        await expect(memory).to_have_attribute("aria-label", re.compile(r"Memory [\d.]+ MiB, highest"))
        await expect(memory.locator(".line")).to_have_attribute("d", MIDDLE)
        cpu = card(visitor).get_by_role("img", name="CPU")
        await expect(cpu).to_have_attribute("aria-label", re.compile(r"CPU idle, highest (idle|<?[\d.]+ cores?) in"))
        await visitor.picture("plots")


async def test_a_bar_shows_how_far_the_pull_of_an_image_is(plane, agent, visit, manifest, docker_host, docker_client):
    with Registry() as registry:
        image = await asyncio.to_thread(registry.push_generated, docker_host, megabytes=6, layers=3)
        registry.proxy.rate = 1_000_000
        home = await visit(plane.url)
        command = await plane.start_session("pulled", session_id=NAME, manifest=manifest(image))
        done, positions, texts = asyncio.create_task(plane.wait_command(command, timeout=60)), [], set()
        while not done.done():
            if (
                shown := await card(home)
                .locator("progress")
                .evaluate_all(
                    "bars => bars.filter(bar => bar.checkVisibility()).map(bar => [bar.position, "
                    "bar.parentNode.innerText])"
                )
            ):
                positions.append(shown[0][0])
                texts.add(shown[0][1])
                if len(texts) == 3 and len(positions) % 5 == 0:
                    await home.picture("pull")
            await asyncio.sleep(0.1)
        await done
        await plane.wait_command(await plane.stop_session(NAME))
        await asyncio.to_thread(docker_client.images.remove, image, force=True)
    known = [position for position in positions if position >= 0]  # -1 is a bar that only says "wait"
    assert known == sorted(known)
    assert len({position for position in known if 0 < position < 1}) >= 3
    assert any(re.search(r"Pulling: [\d.]+ [kM]i?B of [\d.]+ MiB? \(\d+ %\)", text) for text in texts), texts


async def test_what_agents_and_users_say_is_shown_as_text(plane, agent, visit):
    name = "<img src=x onerror=\"document.title='run'\">"
    command = await plane.start_session("desktop", session_id=name, user="<script>document.title='run'</script>")
    await plane.wait_command(command, "failed")
    home = await visit(plane.url)
    await expect(card(home, name)).to_contain_text("Starting failed: ")
    await card(home, name).get_by_role("button", name="Log").click()
    await expect(home.page.get_by_role("dialog").get_by_role("heading", name=name)).to_be_visible()
    assert await home.page.locator("img, main script, dialog script").count() == 0
    assert await home.page.title() == "StreamSpace development control plane"
    await home.picture("hostile")
