"""A headless Chromium that sees what a newcomer sees; its pictures stay under artifacts/browser."""

import asyncio
import contextlib
import os
from pathlib import Path

import pytest
from playwright.async_api import TimeoutError, async_playwright, expect  # noqa: A004 - playwright's own

from lab import browser as lab_browser
from lab import novnc
from streamspace_devplane import DevPlane, Settings
from tests.integration.browser.puppet import Puppet
from tests.relay import KIND

PICTURES = Path(__file__).parents[3] / "artifacts" / "browser"
PATIENCE = 30_000  # milliseconds that a page may take for any step
expect.set_options(timeout=PATIENCE)


@pytest.fixture
async def plane(tmp_path, engine, desktop, played):
    folder = await asyncio.to_thread(novnc.folder, engine.state)
    settings = Settings(**{"relay": KIND, **played})
    async with DevPlane(
        tmp_path / "plane.db", settings=settings, templates={"desktop": desktop}, novnc=folder
    ) as plane:
        yield plane


@pytest.fixture
async def chromium():
    executable = await asyncio.to_thread(lab_browser.executable, os.environ)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=executable, args=[*lab_browser.FLAGS])
        yield browser
        await browser.close()


@pytest.fixture
async def taker(plane, agent_id):
    """An agent that takes sessions, and does nothing with them."""
    async with Puppet(plane, f"{agent_id}-taker", obeys=False) as puppet:
        yield puppet


class Visitor:
    """One browser window. What its scripts complain of, or the page's policy refuses, fails the test."""

    def __init__(self, page, name):
        self.page = page
        self.name = name
        self.complaints = []
        self._pictures = 0
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", self._heard)

    def _heard(self, message):
        # Chromium drops its connections when an interface of a container comes or goes; the page connects again.
        # noVNC waits for a picture to be drawn before it reads on, and complains of the rest if it was ended meanwhile
        # (rfb.js: _onFlush).
        # With the deployed relay an agent ends a viewer by a message type that there is not.
        harmless = "ERR_NETWORK_CHANGED", "Got data while disconnected", "Unexpected server message (type 127)"
        if any(words in message.text for words in harmless):
            return
        if message.type == "error" or "Content Security Policy" in message.text:
            self.complaints.append(message.text)

    def forget(self, *complaints):
        """Take back what noVNC told the console of something that the test itself brought about."""
        self.complaints[:] = [said for said in self.complaints if not any(words in said for words in complaints)]

    async def picture(self, what):
        PICTURES.mkdir(parents=True, exist_ok=True)
        self._pictures += 1
        await self.page.screenshot(path=PICTURES / f"{self.name}-{self._pictures:02}-{what}.png")


@pytest.fixture
async def visit(chromium, request):
    visitors = []

    async def visit(url, **options):
        context = await chromium.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        context.set_default_timeout(PATIENCE)
        page = await context.new_page()
        visitors.append(Visitor(page, f"{request.node.name[:76]}-{len(visitors)}"))
        await page.goto(url)
        for _ in range(3):
            # Where the network changed while the scripts came, the page has none: a person would load it again.
            with contextlib.suppress(TimeoutError):
                await page.locator("body[data-feed=live]").wait_for(timeout=8_000)
                return visitors[-1]
            await page.reload()
        raise AssertionError(f"{url} did not become live, though it was loaded again and again")

    yield visit
    for visitor in visitors:
        await visitor.picture("end")
    assert [complaint for visitor in visitors for complaint in visitor.complaints] == []
