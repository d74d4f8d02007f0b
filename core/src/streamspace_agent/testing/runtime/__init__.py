"""The conformance suite of runtime drivers: what the core relies on, as tests, whatever the engine.

A driver's own test file subclasses :class:`RuntimeDriverSuite` and overrides three fixtures:

* ``driver_factory``: a callable that returns a new driver object for the same agent id and engine each time, as a
  restarted agent would make one, with the given ``hibernate_mode`` (``stop`` by default), without a grace period for
  leftovers, and with a ready timeout of a few seconds. With ``engine_away=True`` its engine does not answer.
* ``make_spec``: a callable that returns a :class:`SessionSpec` with a new session id, at least one mount and the given
  :class:`Behaviour`; further keywords replace its fields.
* ``data_of``: an async callable that says whether the engine holds data (volumes) of a session id. It asks the engine,
  not the driver.

The suite tests every capability that the driver declares.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

import pytest
import pytest_asyncio

from streamspace_agent.commands.capacity import occupies
from streamspace_agent.election import Problem
from streamspace_agent.errors import CommandFailed, EngineUnavailable, LeaseLost, SessionNotFound
from streamspace_agent.runtime import Capabilities, EventKind, Progress, SessionState
from streamspace_agent.testing.engine import Behaviour
from streamspace_agent.testing.runtime.event_loop import EventLoop
from streamspace_agent.testing.runtime.events import Events
from streamspace_agent.testing.runtime.fixtures import (
    PATIENCE,
    DataOf,
    DriverFactory,
    DriverKit,
    LimitedLease,
    MakeSpec,
    comparable,
    echoes,
    listening,
    quiet,
)
from streamspace_agent.testing.runtime.lease_loss import LeaseLoss
from streamspace_agent.testing.runtime.readiness import Readiness
from streamspace_agent.testing.runtime.readonly import ReadOnly

__all__ = ["Behaviour", "DataOf", "DriverFactory", "MakeSpec", "RuntimeDriverSuite"]

PHASES = ("pulling", "creating", "starting", "waiting")


class RuntimeDriverSuite(LeaseLoss, ReadOnly, Readiness, Events, EventLoop):
    """A driver that fails one of these loses sessions, starts them twice, or acts without a lease."""

    @pytest.fixture
    def driver_factory(self) -> DriverFactory:
        raise NotImplementedError("override the fixture driver_factory")

    @pytest.fixture
    def make_spec(self) -> MakeSpec:
        raise NotImplementedError("override the fixture make_spec")

    @pytest.fixture
    def data_of(self) -> DataOf:
        raise NotImplementedError("override the fixture data_of")

    @pytest_asyncio.fixture
    async def kit(self, driver_factory: DriverFactory, make_spec: MakeSpec) -> AsyncIterator[DriverKit]:
        kit = DriverKit(driver_factory, make_spec)
        yield kit
        await kit.clean_up()

    # Declarations, and what it reports about its engine.

    async def test_it_declares_its_name_and_what_it_can(self, kit: DriverKit) -> None:
        driver = kit.driver()
        assert driver.name
        assert isinstance(driver.capabilities, Capabilities)
        modes = driver.capabilities.hibernate_modes
        assert modes
        assert modes <= {"stop", "pause"}

    async def test_the_check_of_a_sound_engine_finds_nothing_fatal_and_the_description_is_text(
        self, kit: DriverKit
    ) -> None:
        driver = kit.driver()
        problems = await driver.check()
        assert all(isinstance(problem, Problem) for problem in problems)
        assert [problem.message for problem in problems if problem.fatal] == []
        facts = await driver.describe()
        assert facts
        assert all(text and str(text) == text for item in facts.items() for text in item)

    async def test_with_the_engine_away_every_verb_says_so(self, kit: DriverKit) -> None:
        driver, spec = kit.driver(engine_away=True), kit.spec()
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: driver.start(spec, quiet),
            lambda: driver.stop(spec.session_id),
            lambda: driver.hibernate(spec.session_id),
            lambda: driver.wake(spec.session_id, quiet),
            lambda: driver.prove(spec.session_id),
            lambda: driver.inspect(spec.session_id),
            driver.sessions,
        ]
        for call in (*calls, driver.describe):
            with pytest.raises(EngineUnavailable):
                await call()
        fixes = [problem.fix for problem in await driver.check() if problem.fatal]
        assert all(fixes or [""]), "check() must say what to do about the engine, and not raise"
        async with listening(driver, resync=False) as events:
            await asyncio.sleep(0.5)
            assert EventKind.RESYNC not in [event.kind for event in events]
            async with asyncio.timeout(PATIENCE):
                while not events:
                    await asyncio.sleep(0.05)
            assert events[0].kind is EventKind.ENGINE_DOWN
            assert events[0].reason, "an operator must read why"
            assert len({event.reason for event in events}) == len(events), "a reason is told once, not with each try"

    # Starting.

    async def test_a_started_session_can_be_used_and_shows_its_spec(self, kit: DriverKit) -> None:
        driver = kit.driver()
        spec = kit.spec(idle_timeout=1800.0, max_duration=28800.5)
        session = await driver.start(spec, quiet)
        assert (session.session_id, session.state, session.ready) == (spec.session_id, SessionState.RUNNING, True)
        assert session.place
        assert session.reason == ""
        for name in ("user", "template", "command_id", "epoch", "cpu", "memory", "port", "idle_timeout"):
            assert getattr(session, name) == getattr(spec, name), name
        assert (session.ready_check, session.max_duration) == (spec.ready, 28800.5)
        assert abs(session.created_at - time.time()) < 3600, "created_at is Unix time in seconds"
        assert await echoes(driver, session, os.urandom(1000))

    async def test_a_session_without_limits_shows_none(self, kit: DriverKit) -> None:
        session = await kit.driver().start(kit.spec(cpu=None, memory=None), quiet)
        assert (session.cpu, session.memory, session.idle_timeout, session.max_duration) == (None, None, None, None)

    async def test_a_list_an_inspection_and_another_driver_tell_the_same(self, kit: DriverKit) -> None:
        """A driver keeps nothing that a restart of the agent would lose."""
        driver, running, asleep = kit.driver(), kit.spec(), kit.spec(cpu=None, memory=None)
        told = {spec.session_id: comparable(await driver.start(spec, quiet)) for spec in (running, asleep)}
        told[asleep.session_id] = comparable(await driver.hibernate(asleep.session_id))
        for each in (driver, kit.driver()):
            assert {s.session_id: comparable(s) for s in await each.sessions()} == told
            for session_id, expected in told.items():
                found = await each.inspect(session_id)
                assert found is not None
                assert comparable(found) == expected

    async def test_progress_names_the_known_phases_in_their_order(self, kit: DriverKit) -> None:
        steps: list[Progress] = []
        await kit.driver().start(kit.spec(), steps.append)
        phases = [step.phase for step in steps]
        assert phases
        assert set(phases) <= set(PHASES)
        assert phases == sorted(phases, key=PHASES.index)

    async def test_a_pull_shows_its_bytes_where_that_is_declared(self, kit: DriverKit) -> None:
        driver, steps = kit.driver(), list[Progress]()
        if driver.capabilities.pull_progress:
            assert (await driver.start(kit.spec(Behaviour.UNPULLED), steps.append)).ready
            pulling = [step for step in steps if step.phase == "pulling"]
            assert pulling
            assert pulling[-1].percent == 100

    async def test_starting_what_runs_returns_it_as_it_is(self, kit: DriverKit) -> None:
        driver, spec = kit.driver(), kit.spec()
        first = await driver.start(spec, quiet)
        again = await driver.start(replace(spec, command_id="another", template="another"), quiet)
        assert comparable(again) == comparable(first)
        assert (await kit.driver().start(spec, quiet)).ready

    @pytest.mark.parametrize("drivers", [1, 2])
    async def test_two_starts_at_once_make_one_session(self, kit: DriverKit, drivers: int) -> None:
        made, spec = [kit.driver() for _ in range(drivers)], kit.spec()
        sessions = await asyncio.gather(*(made[i % drivers].start(spec, quiet) for i in range(2)))
        assert [session.ready for session in sessions] == [True, True]
        assert len({(session.place, session.created_at) for session in sessions}) == 1
        assert len(await made[0].sessions()) == 1

    async def test_many_sessions_start_side_by_side(self, kit: DriverKit) -> None:
        driver, specs = kit.driver(), [kit.spec() for _ in range(4)]
        sessions = await asyncio.gather(*(driver.start(spec, quiet) for spec in specs))
        assert all(session.ready for session in sessions)
        assert len({session.place for session in sessions}) == len(specs)
        assert {s.session_id for s in await driver.sessions()} == {spec.session_id for spec in specs}

    @pytest.mark.parametrize("pause", [0.0, 0.03, 0.15, 0.4])
    async def test_a_cancelled_start_is_completed_by_the_next(self, kit: DriverKit, pause: float) -> None:
        driver, spec = kit.driver(), kit.spec()
        starting = asyncio.create_task(driver.start(spec, quiet))
        await asyncio.sleep(pause)
        starting.cancel()
        await asyncio.wait([starting])
        session = await kit.driver().start(spec, quiet)
        assert session.ready
        assert len(await driver.sessions()) == 1
        assert await echoes(driver, session, b"after all")

    @pytest.mark.parametrize("behaviour", [Behaviour.DIES, Behaviour.HANGS])
    async def test_a_failed_start_says_why_and_leaves_nothing(
        self, kit: DriverKit, data_of: DataOf, behaviour: Behaviour
    ) -> None:
        driver, spec = kit.driver(), kit.spec(behaviour)
        with pytest.raises(CommandFailed) as failure:
            await driver.start(spec, quiet)
        assert failure.value.code
        assert failure.value.message
        assert await kit.driver().sessions() == []
        assert not await data_of(spec.session_id)
        assert await driver.leftovers(frozenset()) == []

    async def test_a_failed_start_keeps_data_that_was_there_before(self, kit: DriverKit, data_of: DataOf) -> None:
        driver, spec = kit.driver(), kit.spec()
        await driver.start(spec, quiet)
        await driver.stop(spec.session_id)
        bad = kit.spec(Behaviour.DIES, session_id=spec.session_id)
        with pytest.raises(CommandFailed):
            await driver.start(bad, quiet)
        assert await data_of(spec.session_id)

    # Stopping, hibernating, waking.

    async def test_a_stop_keeps_the_data_unless_asked_and_absent_is_success(
        self, kit: DriverKit, data_of: DataOf
    ) -> None:
        driver, spec = kit.driver(), kit.spec()
        await driver.start(spec, quiet)
        for _ in range(2):
            await driver.stop(spec.session_id)
            assert await kit.state(spec.session_id) is None
            assert await data_of(spec.session_id)
        for _ in range(2):
            await driver.stop(spec.session_id, delete_volumes=True)
            assert not await data_of(spec.session_id)

    async def test_what_is_absent_is_told_as_absent(self, kit: DriverKit) -> None:
        driver, session_id = kit.driver(), kit.spec().session_id
        assert await driver.inspect(session_id) is None
        assert await driver.stats(session_id) is None
        with pytest.raises(SessionNotFound):
            await driver.hibernate(session_id)
        with pytest.raises(SessionNotFound):
            await driver.wake(session_id, quiet)
        with pytest.raises(SessionNotFound):
            await driver.prove(session_id)
        with pytest.raises((SessionNotFound, CommandFailed)):
            await driver.connect(session_id, 5900)

    async def test_in_every_declared_mode_a_session_sleeps_wakes_and_can_be_stopped_asleep(
        self, kit: DriverKit
    ) -> None:
        for mode in sorted(kit.driver().capabilities.hibernate_modes):
            driver, spec = kit.driver(hibernate_mode=mode), kit.spec()
            await driver.start(spec, quiet)
            for _ in range(2):
                asleep = await driver.hibernate(spec.session_id)
                assert (asleep.state, asleep.ready, asleep.reason) == (SessionState.HIBERNATED, False, "")
                assert occupies(asleep) == (mode == "pause"), "details['paused'] says that memory is still held"
            for _ in range(2):
                awake = await driver.wake(spec.session_id, quiet)
                assert (awake.state, awake.ready) == (SessionState.RUNNING, True)
            assert await echoes(driver, awake, b"awake")
            await driver.hibernate(spec.session_id)
            await driver.stop(spec.session_id, delete_volumes=True)
            assert await kit.state(spec.session_id) is None

    async def test_starting_what_hibernates_wakes_it(self, kit: DriverKit) -> None:
        driver, spec = kit.driver(), kit.spec()
        first = await driver.start(spec, quiet)
        await driver.hibernate(spec.session_id)
        again = await kit.driver().start(spec, quiet)
        assert (again.state, again.ready) == (SessionState.RUNNING, True)
        assert (again.place, again.created_at) == (first.place, first.created_at)

    # Streams.

    async def test_streams_carry_every_byte_both_ways_and_side_by_side(self, kit: DriverKit) -> None:
        driver = kit.driver()
        session = await driver.start(kit.spec(), quiet)
        sent = [os.urandom(300_000) for _ in range(3)]
        assert all(await asyncio.gather(*(echoes(driver, session, data) for data in sent)))

    async def test_a_stream_that_cannot_be_opened_is_told_apart(self, kit: DriverKit) -> None:
        driver, spec = kit.driver(), kit.spec()
        await driver.start(spec, quiet)
        with pytest.raises(OSError):  # noqa: PT011 - each engine has its own words
            await driver.connect(spec.session_id, 5999)
        await driver.hibernate(spec.session_id)
        with pytest.raises(CommandFailed) as failure:
            await driver.connect(spec.session_id, spec.port)
        assert failure.value.code == "not_running"

    # The rest.

    async def test_leftovers_are_what_a_start_that_never_ran_made_and_no_session_of_anybody(
        self, kit: DriverKit, data_of: DataOf
    ) -> None:
        driver, running, asleep, gone = kit.driver(), kit.spec(), kit.spec(), kit.spec()
        for spec in (running, asleep, gone):
            await driver.start(spec, quiet)
        await driver.hibernate(asleep.session_id)
        await driver.stop(gone.session_id)
        assert await driver.leftovers(frozenset()) == []
        half = await self._half_made(kit)
        assert await driver.leftovers(frozenset({half})) == []
        found = await driver.leftovers(frozenset())
        for item in found:
            assert item.kind in {"container", "volume", "network"}
            assert item.name
            assert item.reason
            assert item.age >= 0
            with pytest.raises(LeaseLost):
                await kit.driver(require_lease=LimitedLease(0)).remove(item)
        still = await driver.leftovers(frozenset())
        assert [(item.kind, item.name) for item in still] == [(item.kind, item.name) for item in found]
        for item in (*found, *found):
            await driver.remove(item)
        assert await driver.leftovers(frozenset()) == []
        assert {s.session_id for s in await driver.sessions()} == {running.session_id, asleep.session_id}
        assert await data_of(gone.session_id)

    @staticmethod
    async def _half_made(kit: DriverKit) -> str:
        """A start that was refused at its very last effect."""
        allowed = LimitedLease(1000)
        whole = kit.spec()
        driver = kit.driver(require_lease=allowed)
        await driver.start(whole, quiet)
        await kit.driver().stop(whole.session_id, delete_volumes=True)
        half = kit.spec()
        with pytest.raises(LeaseLost):
            await kit.driver(require_lease=LimitedLease(allowed.asked - 1)).start(half, quiet)
        return half.session_id

    async def test_a_running_session_has_stats_and_one_asleep_has_none(self, kit: DriverKit) -> None:
        driver, spec = kit.driver(), kit.spec()
        await driver.start(spec, quiet)
        for _ in range(2):
            stats = await driver.stats(spec.session_id)
            assert stats is not None
            assert stats[0] >= 0.0
            assert stats[1] > 0
        await driver.hibernate(spec.session_id)
        assert await driver.stats(spec.session_id) is None

    async def test_closing_a_driver_ends_no_session(self, driver_factory: DriverFactory, kit: DriverKit) -> None:
        driver, spec = driver_factory(), kit.spec()
        await driver.start(spec, quiet)
        await driver.aclose()
        other = kit.driver()
        found = await other.inspect(spec.session_id)
        assert found is not None
        assert await echoes(other, found, b"still here")
