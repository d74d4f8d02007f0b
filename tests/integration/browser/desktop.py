"""The desktop in the viewer, as a person sees and uses it."""

import asyncio

from playwright.async_api import expect

from tests.names import sid

NAME = sid("seen")
# Shades other than the most frequent one: a picture of one colour shows nothing.
SHADES = """() => {
  const canvas = document.querySelector("#screen canvas");
  if (!canvas) return 0;
  const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return new Set(new Uint32Array(data.buffer)).size;
}"""
# Points of the prompt's green, which is nowhere else on this desktop: a shell waits for its next command.
PROMPT = """() => {
  const canvas = document.querySelector("#screen canvas");
  if (!canvas || !canvas.width) return 0;
  const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  let count = 0;
  for (let at = 0; at < data.length; at += 4) {
    count += Math.abs(data[at] - 0x18) + Math.abs(data[at + 1] - 0x7a) + Math.abs(data[at + 2] - 0x41) < 12;
  }
  return count;
}"""


async def sees_the_desktop(visitor):
    await expect(visitor.page.locator("body")).to_have_attribute("data-viewer", "connected")
    await _sees(visitor, SHADES, 8)


async def sees_the_prompt(visitor):
    await sees_the_desktop(visitor)
    await _sees(visitor, PROMPT, 50)


async def _sees(visitor, what, least):
    async with asyncio.timeout(60):
        while await visitor.page.evaluate(what) < least:
            await asyncio.sleep(0.1)


async def clicks_the_terminal(page):
    """It stands in the middle."""
    box = await page.locator("#screen canvas").bounding_box()
    await page.mouse.click(box["x"] + box["width"] * 0.34, box["y"] + box["height"] * 0.35)


async def types(visitor, client, command, file, expected):
    """Type a command into the terminal, once: what it writes into `file` shows that each key arrived, once, in
    order."""
    await sees_the_prompt(visitor)
    await clicks_the_terminal(visitor.page)
    await visitor.page.keyboard.type(f"{command} > {file}", delay=20)
    await visitor.page.keyboard.press("Enter")
    assert await written(client, file) == f"{expected}\n"


async def written(client, file):
    """What is in a file of the session, once there is something."""
    container = client.containers.get(f"streamspace-{NAME}")
    async with asyncio.timeout(20):
        while True:
            found = await asyncio.to_thread(container.exec_run, ["cat", file])
            if found.exit_code == 0 and found.output:
                return found.output.decode()
            await asyncio.sleep(0.2)


async def starts_the_desktop(plane, **wish):
    await plane.wait_command(await plane.start_session("desktop", session_id=NAME, **wish), timeout=60)
    await plane.wait_session(NAME, state="running", vnc_ready=True)
    return f"{plane.url}/sessions/{NAME}/view"
