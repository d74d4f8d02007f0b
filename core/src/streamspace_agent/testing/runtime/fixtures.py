"""What the tests of runtime drivers share: drivers and specs that are removed after the test, and a lost lease."""

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
"""Seconds for what takes an engine no time, on a busy machine."""


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


class LimitedLease:
    """A ``require_lease`` that lets some steps through and then none: a lost lease. Safe to call from any thread."""

    def __init__(self, allowed: int) -> None:
        self.left = allowed
        self.asked = 0
        self._lock = threading.Lock()

    def __call__(self) -> None:
        with self._lock:
            self.asked += 1
            self.left -= 1
            if self.left < 0:
                raise LeaseLost("the suite's lease is lost")


class DriverKit:
    """Makes the drivers and specs of one test, and removes all that they have made."""

    def __init__(self, driver_factory: DriverFactory, make_spec: MakeSpec) -> None:
        self._factory = driver_factory
        self._make_spec = make_spec
        self._drivers: list[RuntimeDriver] = []
        self._specs: list[SessionSpec] = []

    def driver(
        self,
        *,
        require_lease: Callable[[], None] | None = None,
        hibernate_mode: str = "stop",
        engine_away: bool = False,
    ) -> RuntimeDriver:
        driver = self._factory(hibernate_mode=hibernate_mode, engine_away=engine_away)
        if require_lease is not None:
            driver.guard = require_lease
        self._drivers.append(driver)
        return driver

    def spec(self, behaviour: Behaviour = Behaviour.GREETS, **fields: object) -> SessionSpec:
        self._specs.append(self._make_spec(behaviour, **fields))
        return self._specs[-1]

    async def state(self, session_id: str) -> SessionState | None:
        """The state as another driver sees it."""
        found = await self.driver().inspect(session_id)
        return found.state if found else None

    async def failed(self, session_id: str) -> None:
        """Wait until the session has failed."""
        async with asyncio.timeout(PATIENCE):
            while await self.state(session_id) is not SessionState.FAILED:
                await asyncio.sleep(0.05)

    async def clean_up(self) -> None:
        last = self.driver()
        for spec in self._specs:
            await last.stop(spec.session_id, delete_volumes=True)
        for driver in self._drivers:
            await driver.aclose()


def comparable(session: Session) -> Session:
    """The part of a session that every driver must show alike: without what only one that has proved it ready knows."""
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
    """Collect the driver's events, from the first one on unless ``resync`` is False."""
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
