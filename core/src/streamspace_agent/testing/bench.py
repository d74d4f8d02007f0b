"""What the suite of runtime drivers works with: drivers and specs that go with the test, a guard that refuses, streams."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Protocol

from streamspace_agent.errors import LeaseLost
from streamspace_agent.runtime import Progress, RuntimeDriver, RuntimeEvent, Session, SessionSpec, SessionState
from streamspace_agent.testing.engine import GREETING, Behaviour

PATIENCE = 30.0
"""Seconds for what an engine on a busy machine does at once."""


class DriverFactory(Protocol):
    """Makes a driver of the engine under test."""

    def __call__(self, *, hibernate_mode: str = "stop", engine_away: bool = False) -> RuntimeDriver: ...


class MakeSpec(Protocol):
    """Makes the specification of a session that behaves as named."""

    def __call__(self, behaviour: Behaviour, **fields: object) -> SessionSpec: ...


DataOf = Callable[[str], Awaitable[bool]]
"""Whether the engine still holds the data of a session, by its id."""


def quiet(step: Progress) -> None:
    """A report that nobody reads."""


class Refusing:
    """A guard that lets some steps through and then none, like a lease that was lost. Safe to call from any thread."""

    def __init__(self, allowed: int) -> None:
        self.left = allowed
        self.asked = 0
        self._lock = threading.Lock()

    def __call__(self) -> None:
        with self._lock:
            self.asked += 1
            self.left -= 1
            if self.left < 0:
                raise LeaseLost("the suite's guard refuses")


class Bench:
    """Drivers and specs of one test; what they made goes with it."""

    def __init__(self, driver_factory: DriverFactory, make_spec: MakeSpec) -> None:
        self._factory = driver_factory
        self._make_spec = make_spec
        self._drivers: list[RuntimeDriver] = []
        self._specs: list[SessionSpec] = []

    def driver(
        self, *, guard: Callable[[], None] | None = None, hibernate_mode: str = "stop", engine_away: bool = False
    ) -> RuntimeDriver:
        driver = self._factory(hibernate_mode=hibernate_mode, engine_away=engine_away)
        if guard is not None:
            driver.guard = guard
        self._drivers.append(driver)
        return driver

    def spec(self, behaviour: Behaviour = Behaviour.GREETS, **fields: object) -> SessionSpec:
        self._specs.append(self._make_spec(behaviour, **fields))
        return self._specs[-1]

    async def state(self, session_id: str) -> SessionState | None:
        """As a driver sees it that had no part in it."""
        found = await self.driver().inspect(session_id)
        return found.state if found else None

    async def until(self, condition: Callable[[], Awaitable[bool]]) -> None:
        async with asyncio.timeout(PATIENCE):
            while not await condition():
                await asyncio.sleep(0.05)

    async def clean_up(self) -> None:
        last = self.driver()
        for spec in self._specs:
            await last.stop(spec.session_id, delete_volumes=True)
        for driver in self._drivers:
            await driver.aclose()


def known(session: Session) -> Session:
    """What every look at a session must tell alike: all but what only one that has seen it usable can know."""
    return replace(session, ready=False, created_at=float(int(session.created_at)), details={})


async def echoes(driver: RuntimeDriver, session: Session, data: bytes) -> bool:
    reader, writer = await driver.connect(session.session_id, session.port)
    try:
        async with asyncio.timeout(PATIENCE):
            assert await reader.readexactly(len(GREETING)) == GREETING
            writer.write(data)
            return await reader.readexactly(len(data)) == data
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


@asynccontextmanager
async def listening(driver: RuntimeDriver, *, resync: bool = True) -> AsyncIterator[list[RuntimeEvent]]:
    """The driver's events, as they come; after the first, unless told otherwise."""
    events: list[RuntimeEvent] = []
    begun = asyncio.Event()

    async def listen() -> None:
        async for event in driver.events():
            events.append(event)
            begun.set()

    task = asyncio.create_task(listen())
    try:
        if resync:
            async with asyncio.timeout(PATIENCE):
                await begun.wait()
        yield events
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
