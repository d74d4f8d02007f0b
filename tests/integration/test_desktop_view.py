"""A real VNC server, seen through the whole path."""

import asyncio

from tests.core.vnc import GREETING, KEY, viewer


async def test_viewers_one_after_another_get_a_picture_of_a_real_desktop(plane, agent, desktop):
    command = await plane.start_session("desktop", session_id="view", manifest=desktop)
    await plane.wait_command(command, timeout=60)
    for _ in range(3):
        await asyncio.sleep(0.5)
        async with viewer(plane, "view") as one:
            assert await one.read(12) == GREETING
            await one.say(GREETING)
            assert await one.read(2) == b"\x01\x01"
            await one.say(b"\x01")
            assert await one.read(4) == bytes(4)
            await one.say(b"\x01")
            init = await one.read(24)
            await one.read(int.from_bytes(init[20:]))
            width, height = init[:2], init[2:4]
            await one.say(KEY + b"\x03\x00" + bytes(4) + width + height)
            assert (await one.read(4))[0] == 0
            picture = await one.read(100_000, timeout=30)
            assert len(set(picture)) > 1
    assert await plane.events(type="vnc_error") == []
