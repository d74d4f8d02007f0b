"""Runs the handlers of a command plugin as the agent would, and tests them against the contract of a handler.

``CommandKit(my_plugin)`` registers the plugin's handlers; :meth:`CommandKit.check` puts one of them through all that
can happen to it. Sessions live in a :class:`~streamspace_agent.testing.engine.MemoryEngine`.
"""

import asyncio
import contextlib
import copy
import json
import re
import types
from collections.abc import Callable, Coroutine, Generator, Iterable, Mapping
from functools import partial
from typing import Any, NoReturn

from streamspace_agent import protocol
from streamspace_agent.commands import Command, Registered, Registry
from streamspace_agent.commands.capacity import Capacity
from streamspace_agent.config import Settings
from streamspace_agent.errors import CommandFailed, LeaseLost
from streamspace_agent.runtime import Progress, RuntimeDriver, Session
from streamspace_agent.testing.engine import MemoryDriver
from streamspace_agent.testing.loop_blocking import LIMIT, Blockage

EPOCH = 7
MOST = 25
"""How many of a handler's waits are tried, from the first: one that polls may have any number."""
ENDS = 5.0
"""Seconds that a handler may take to end after its cancellation."""
WHOLE = 30.0
"""Seconds that a whole run may take, with an engine in memory."""
GRACE = 0.5
"""Seconds from a call of ``require_lease`` to the end of the effect that follows it, such as a call to a store."""


class RecordingContext:
    """A :class:`~streamspace_agent.commands.Context` that records all that a handler does with it."""

    def __init__(self, settings: Settings, driver: MemoryDriver, *, leads: bool = True) -> None:
        self.settings = settings
        self.driver: RuntimeDriver = driver
        self.capacity = Capacity.of(settings)
        self.leads = leads
        self.asked = 0
        """How often the handler or the driver called ``require_lease``."""
        self.steps: list[tuple[str, Progress]] = []
        self.reported: list[Session] = []
        driver.guard = self.require_lease

    def require_lease(self) -> None:
        self.asked += 1
        if not self.leads:
            raise LeaseLost("the kit's lease is lost")

    def progress(self, session_id: str, step: Progress) -> None:
        self.steps.append((session_id, step))

    def report(self, session: Session) -> None:
        self.reported.append(session)


class CommandKit:
    """The handlers of one plugin (a module or object with the hook ``register_commands``).

    ``context`` is that of the last run. ``driver.engine`` may be filled with sessions beforehand.
    """

    def __init__(self, plugin: object, *, settings: Settings | None = None) -> None:
        hook = getattr(plugin, "register_commands", None)
        if not hasattr(hook, "streamspace_agent_impl") or asyncio.iscoroutinefunction(hook) or hook is None:
            raise TypeError(f"{plugin!r} has no plain function register_commands marked with @hookimpl")
        self.settings = settings or Settings.model_validate(
            {"agent_id": "agent-1", "control_plane_url": "ws://127.0.0.1:9"}
        )
        self.driver = MemoryDriver()
        self.context = RecordingContext(self.settings, self.driver)
        self._registry = Registry()
        hook(register=self._registry.register_for("the plugin under test"))

    @property
    def actions(self) -> tuple[str, ...]:
        return self._registry.actions

    async def run(self, action: str, payload: Mapping[str, Any], *, attempt: int = 1, leads: bool = True) -> Any:
        """Run one command to its end and return the handler's result. The handler's errors are raised."""
        self.context = RecordingContext(self.settings, self.driver, leads=leads)
        return await self._registered(action).handler(self._command(action, payload, attempt), self.context)

    async def abandon(self, action: str, payload: Mapping[str, Any]) -> None:
        """Clean up as after a command that was cancelled."""
        handler = self._registered(action).abandon
        assert handler is not None, f"{action} was registered without abandon"
        self.context = RecordingContext(self.settings, self.driver)
        await handler(self._command(action, payload, 1), self.context)

    async def check(
        self,
        action: str,
        payload: Mapping[str, Any],
        *,
        effects: Callable[[], object] = lambda: None,
        bad_payloads: Iterable[Mapping[str, Any]] = (),
    ) -> Any:
        """Test the handler against its contract with a good payload and some bad ones; return the first whole result.

        ``effects`` returns what the handler changes, as a value that can be compared. The sessions of the kit's engine
        are compared anyway.
        """
        async with Blockage() as blockage:
            await self._refuses(action, bad_payloads, effects)
            await self._does_nothing_without_a_lease(action, payload, effects)
            await self._survives_interruptions(action, payload, effects)
            result = await self._runs_again_and_again(action, payload, effects)
        assert blockage.longest < LIMIT, f"{action} blocked the event loop for {blockage.longest:.1f} s"
        return result

    async def _runs_again_and_again(
        self, action: str, payload: Mapping[str, Any], effects: Callable[[], object]
    ) -> object:
        untouched = self._world(effects)
        result = await self._whole(action, payload)
        assert self.context.asked or self._world(effects) == untouched, (
            f"{action} had effects without calling require_lease()"
        )
        self._fits_a_frame(action, result)
        after = self._world(effects)
        self._fits_a_frame(action, await self._whole(action, payload, attempt=2))
        assert self._world(effects) == after, f"{action} is not idempotent: a second run changed something"
        return result

    async def _whole(self, action: str, payload: Mapping[str, Any], *, attempt: int = 1) -> object:
        running = asyncio.ensure_future(self.run(action, payload, attempt=attempt))
        done, _ = await asyncio.wait([running], timeout=WHOLE)
        running.cancel()
        assert done, f"{action} did not end within {WHOLE:g} s"
        return running.result()

    async def _refuses(self, action: str, payloads: Iterable[Mapping[str, Any]], effects: Callable[[], object]) -> None:
        before = self._world(effects)
        for payload in payloads:
            try:
                result = await self.run(action, payload)
            except CommandFailed as error:
                refusal = error
            except Exception as error:
                raise AssertionError(f"{action} must raise CommandFailed for {payload}, not {error!r}") from error
            else:
                raise AssertionError(f"{action} must raise CommandFailed for {payload}, returned {result!r}")
            assert re.fullmatch(r"[a-z][a-z0-9_]*", refusal.code), (
                f"{refusal.code!r} is not a code of small letters, digits and underscores"
            )
            assert refusal.message, f"{action} refuses {payload} without a message"
            assert self._world(effects) == before, f"{action} had effects before it refused {payload}"

    async def _does_nothing_without_a_lease(
        self, action: str, payload: Mapping[str, Any], effects: Callable[[], object]
    ) -> None:
        before = self._world(effects)
        with contextlib.suppress(LeaseLost, CommandFailed):
            await self.run(action, payload, leads=False)
        assert self._world(effects) == before, f"{action} had effects although the lease was lost"

    async def _survives_interruptions(
        self, action: str, payload: Mapping[str, Any], effects: Callable[[], object]
    ) -> None:
        """Cancel the handler at each of its waits, and take the lease away there; later runs must complete it."""
        for wait in range(1, MOST + 1):
            if not await self._cancelled_at(wait, action, payload):
                break
            await self._loses_the_lease_at(wait, action, payload, effects)

    async def _cancelled_at(self, wait: int, action: str, payload: Mapping[str, Any]) -> bool:
        """False if it has no such wait and ran to its end."""
        loop = asyncio.get_running_loop()
        reached = asyncio.Event()

        def cancel(number: int) -> None:
            if number == wait:
                reached.set()
                loop.call_soon(running.cancel)

        async def run() -> object:
            return await watched(self.run(action, payload), cancel)

        running = asyncio.ensure_future(run())
        waiting = asyncio.ensure_future(reached.wait())
        await asyncio.wait([running, waiting], timeout=WHOLE, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        await asyncio.wait([running], timeout=ENDS)
        if not running.done():
            running.cancel()
            when = f"within {ENDS:g} s of its cancellation" if reached.is_set() else f"within {WHOLE:g} s"
            raise AssertionError(f"{action} did not end {when}")
        if not reached.is_set():
            if wait > 1 and (error := running.exception()):
                self._is_stuck(action, error)
            return False
        if running.cancelled():
            return True
        if error := running.exception():
            raise AssertionError(f"{action} turned its cancellation into {error!r}") from error
        raise AssertionError(f"{action} swallowed its cancellation: it went on, and returned a result")

    async def _loses_the_lease_at(
        self, wait: int, action: str, payload: Mapping[str, Any], effects: Callable[[], object]
    ) -> None:
        """Effects may still happen for :data:`GRACE` seconds: ``require_lease`` was called for them before."""
        worlds: list[object] = []
        timers: list[asyncio.TimerHandle] = []

        def lose(number: int) -> None:
            if number == wait:
                self.context.leads = False
                timers.append(asyncio.get_running_loop().call_later(GRACE, lambda: worlds.append(self._world(effects))))

        try:
            async with asyncio.timeout(WHOLE):
                await watched(self.run(action, payload), lose)
        except (LeaseLost, CommandFailed) as error:
            if not timers:
                self._is_stuck(action, error)
        except TimeoutError as error:
            raise AssertionError(f"{action} did not end within {WHOLE:g} s") from error
        for timer in timers:
            timer.cancel()
        assert not worlds or self._world(effects) == worlds[0], (
            f"{action} had effects more than {GRACE:g} s after the lease was lost: "
            "call require_lease() immediately before each"
        )

    @staticmethod
    def _is_stuck(action: str, error: BaseException) -> NoReturn:
        raise AssertionError(
            f"{action} is stuck after an interruption halfway: run again, it ends with {error!r}"
        ) from error

    def _fits_a_frame(self, action: str, result: object) -> None:
        assert isinstance(result, Mapping), f"{action} must return a mapping, returned {result!r}"
        try:
            plain = json.loads(json.dumps(dict(result), allow_nan=False))
        except (TypeError, ValueError) as error:
            raise AssertionError(f"the result of {action} is not JSON: {error}") from error
        protocol.encode("complete", {"commandId": "command-1", "result": plain})
        for session in self.context.reported:
            protocol.encode("status", protocol.status(session))

    def _world(self, effects: Callable[[], object]) -> object:
        engine = self.driver.engine
        return copy.deepcopy((effects(), engine.sessions, engine.volumes))

    def _command(self, action: str, payload: Mapping[str, Any], attempt: int) -> Command:
        return Command("command-1", action, copy.deepcopy(dict(payload)), EPOCH, attempt)

    def _registered(self, action: str) -> Registered:
        registered = self._registry.get(action)
        assert registered is not None, f"no handler for {action!r}; registered are {', '.join(self.actions)}"
        return registered


@types.coroutine
def watched(work: Coroutine[Any, Any, Any], on_wait: Callable[[int], None]) -> Generator[Any, Any, Any]:
    """Await ``work``, and call ``on_wait`` with a number, from 1, each time that it begins to wait."""
    step: Callable[[], Any] = partial(work.send, None)
    waits = 0
    while True:
        try:
            awaited = step()
        except StopIteration as end:
            return end.value
        waits += 1
        on_wait(waits)
        try:
            yield awaited
        except BaseException as error:  # noqa: BLE001 - the work handles it, above all a cancellation
            step = partial(work.throw, error)
        else:
            step = partial(work.send, None)
