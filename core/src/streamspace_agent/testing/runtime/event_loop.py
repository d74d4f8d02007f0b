"""The tests of runtime drivers about the agent's event loop: nothing blocks it, nothing spins on it."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

import pytest

from streamspace_agent.runtime import RuntimeDriver
from streamspace_agent.testing.loop_blocking import LIMIT, Blockage, counted
from streamspace_agent.testing.runtime.fixtures import PATIENCE, DriverKit, echoes, listening, quiet
from streamspace_agent.testing.suite import Suite

PASSES = 200
"""Passes of the event loop per second that waiting for events may cost: what a pause of 5 ms would need."""


class EventLoop(Suite):
    async def test_no_verb_blocks_the_loop(self, kit: DriverKit) -> None:
        """Heartbeats, the lease and all screens depend on it."""
        driver, spec = kit.driver(), kit.spec()
        session = await driver.start(kit.spec(), quiet)  # what is imported or set up once does not count
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "start": lambda: driver.start(spec, quiet),
            "prove": lambda: driver.prove(spec.session_id),
            "inspect": lambda: driver.inspect(spec.session_id),
            "sessions": driver.sessions,
            "connect": lambda: echoes(driver, session, b"free"),
            "stats": lambda: driver.stats(spec.session_id),
            "leftovers": lambda: driver.leftovers(frozenset()),
            "check": driver.check,
            "describe": driver.describe,
            "hibernate": lambda: driver.hibernate(spec.session_id),
            "wake": lambda: driver.wake(spec.session_id, quiet),
            "stop": lambda: driver.stop(spec.session_id, delete_volumes=True),
        }
        for name, call in calls.items():
            async with Blockage() as blockage:
                await call()
            assert blockage.longest < LIMIT, f"{name}() blocked the event loop for {blockage.longest:.1f} s"

    @pytest.mark.parametrize("engine_away", [False, True])
    async def test_waiting_for_events_is_no_busy_loop(self, kit: DriverKit, engine_away: bool) -> None:
        driver = kit.driver(engine_away=engine_away)
        passes = await counted(partial(_passes_while_idle, driver, engine_away))
        assert passes < PASSES, f"the event loop made {passes} passes in a second in which nothing happened"


async def _passes_while_idle(driver: RuntimeDriver, engine_away: bool, passes: Callable[[], int]) -> int:
    """The least of three counts: something may happen on the engine."""
    least = 1_000_000
    async with asyncio.timeout(PATIENCE), listening(driver, resync=not engine_away):
        await asyncio.sleep(0.3)
        for _ in range(3):
            before = passes()
            await asyncio.sleep(1.0)
            least = min(least, passes() - before)
            if least < PASSES:
                break
    return least
