"""`until` returns what it waited for, or says what that was."""

import asyncio
import time

import pytest

from lab.until import NeverCameTrueError, until, until_sync


async def test_it_returns_what_the_condition_returned_be_it_awaited_or_not():
    looks = iter([0, None, "found"])
    assert await until(lambda: next(looks), every=0) == "found"

    looks = iter([[], [5]])

    async def awaited():
        return next(looks)

    assert await until(awaited, every=0) == [5]
    assert until_sync(lambda: 7) == 7


async def test_it_gives_up_with_the_conditions_source_and_its_last_result():
    light = "red"
    with pytest.raises(NeverCameTrueError, match=r"0.01 s in vain.*light == \"green\".*\n.*False"):
        await until(lambda: light == "green", timeout=0.01)
    with pytest.raises(NeverCameTrueError, match="for: the light\nlast result: False"):
        until_sync(lambda: light == "green", lambda: "the light", timeout=0.01)


async def test_a_condition_that_hangs_is_given_up_too():
    begun = time.monotonic()
    with pytest.raises(NeverCameTrueError, match="for: nothing"):
        await until(lambda: asyncio.Event().wait(), "nothing", timeout=0.05)
    assert time.monotonic() - begun < 5


async def test_only_tolerated_errors_count_as_not_yet():
    calls = []

    def refuses():
        calls.append(1)
        if len(calls) < 3:
            raise ConnectionRefusedError
        return True

    assert await until(refuses, tolerate=(OSError,), every=0)
    with pytest.raises(KeyError):
        await until(lambda: {}["missing"], tolerate=(OSError,))


async def test_a_time_limit_of_the_conditions_own_is_not_taken_for_its_own():
    async def limited():
        async with asyncio.timeout(0.01):
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        await until(limited)


async def test_what_takes_long_to_look_at_is_looked_at_half_of_the_time():
    looks = []

    def slow():
        looks.append(time.sleep(0.1))

    with pytest.raises(NeverCameTrueError):
        await until(slow, timeout=1, every=0)
    assert len(looks) <= 6
    with pytest.raises(NeverCameTrueError):
        until_sync(slow, timeout=1, every=0)
    assert len(looks) <= 12
