"""Starts take turns; the clock is the loop's own."""

import asyncio

from streamspace_runtime_docker import turns
from streamspace_runtime_docker.turns import Turns


async def places():
    return 2


async def test_no_more_start_at_once_than_there_are_places():
    under_way, most = 0, 0
    each = Turns(places)

    async def start():
        nonlocal under_way, most
        async with each.take():
            under_way += 1
            most = max(most, under_way)
            await asyncio.sleep(0.01)
            under_way -= 1

    await asyncio.gather(*(start() for _ in range(9)))
    assert most == 2


async def test_a_start_that_hangs_gives_its_turn_back(monkeypatch):
    monkeypatch.setattr(turns, "LONGEST_TURN", 0.05)
    each, never = Turns(places), asyncio.Event()

    async def hang():
        async with each.take():
            await never.wait()

    hanging = [asyncio.create_task(hang()) for _ in range(5)]
    async with asyncio.timeout(5), each.take():
        pass
    for task in hanging:
        task.cancel()
    await asyncio.gather(*hanging, return_exceptions=True)
    async with asyncio.timeout(5), each.take(), each.take():
        pass
