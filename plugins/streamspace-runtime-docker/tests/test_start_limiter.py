"""How many containers start at once; the clock is the loop's own."""

import asyncio

from streamspace_runtime_docker.start import limiter
from streamspace_runtime_docker.start.limiter import StartLimiter


async def cores():
    return 2


async def test_no_more_start_at_once_than_there_are_cores():
    under_way, most = 0, 0
    each = StartLimiter(0, cores)

    async def start():
        nonlocal under_way, most
        async with each.slot():
            under_way += 1
            most = max(most, under_way)
            await asyncio.sleep(0.01)
            under_way -= 1

    await asyncio.gather(*(start() for _ in range(9)))
    assert most == 2


async def test_a_start_that_hangs_holds_up_the_others_for_a_moment_only(monkeypatch):
    monkeypatch.setattr(limiter, "LONGEST_START", 0.05)
    each, never = StartLimiter(0, cores), asyncio.Event()

    async def hang():
        async with each.slot():
            await never.wait()

    hanging = [asyncio.create_task(hang()) for _ in range(5)]
    async with asyncio.timeout(5), each.slot():
        pass
    for task in hanging:
        task.cancel()
    await asyncio.gather(*hanging, return_exceptions=True)
    async with asyncio.timeout(5), each.slot(), each.slot():
        pass
