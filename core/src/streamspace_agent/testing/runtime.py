"""The conformance suite of runtime drivers: what the core relies on, as tests, whatever the engine.

A driver's own test file subclasses :class:`RuntimeDriverSuite` and overrides three fixtures:

* ``driver_factory``: a callable that makes a new driver object of one agent id on one engine, as a restarted agent would,
  with ``hibernate_mode`` as given (``stop`` by default), without a grace for leftovers, and with a ready timeout of
  seconds. With ``engine_away=True`` it makes one whose engine does not answer.
* ``make_spec``: a callable that makes a :class:`SessionSpec` with a new session id, at least one mount and a
  :class:`Behaviour`; further keywords replace fields of it.
* ``data_of``: an async callable that tells whether the engine holds data (volumes) of a session id, asked behind the
  driver's back.

What a driver declares in its capabilities, the suite demands.
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
from streamspace_agent.testing.bench import (
    PATIENCE,
    Bench,
    DataOf,
    DriverFactory,
    MakeSpec,
    Refusing,
    echoes,
    known,
    listening,
    quiet,
)
from streamspace_agent.testing.engine import Behaviour
from streamspace_agent.testing.looks import Looks
from streamspace_agent.testing.loops import Loops
from streamspace_agent.testing.refusals import Refusals
from streamspace_agent.testing.speech import Speech

__all__ = ["Behaviour", "DataOf", "DriverFactory", "MakeSpec", "RuntimeDriverSuite"]

PHASES = ("pulling", "creating", "starting", "waiting")


class RuntimeDriverSuite(Refusals, Looks, Speech, Loops):
    """A driver that cannot pass one of these loses sessions, doubles them, or acts without a lease."""

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
    async def bench(self, driver_factory: DriverFactory, make_spec: MakeSpec) -> AsyncIterator[Bench]:
        bench = Bench(driver_factory, make_spec)
        yield bench
        await bench.clean_up()

    # What it says of itself and of its engine.

    async def test_it_declares_its_name_and_what_it_can(self, bench: Bench) -> None:
        driver = bench.driver()
        assert driver.name
        assert isinstance(driver.capabilities, Capabilities)
        modes = driver.capabilities.hibernate_modes
        assert modes
        assert modes <= {"stop", "pause"}

    async def test_the_check_of_a_sound_engine_finds_nothing_fatal_and_the_description_is_text(
        self, bench: Bench
    ) -> None:
        driver = bench.driver()
        problems = await driver.check()
        assert all(isinstance(problem, Problem) for problem in problems)
        assert [problem.message for problem in problems if problem.fatal] == []
        facts = await driver.describe()
        assert facts
        assert all(text and str(text) == text for item in facts.items() for text in item)

    async def test_with_the_engine_away_every_verb_says_so(self, bench: Bench) -> None:
        driver, spec = bench.driver(engine_away=True), bench.spec()
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

    async def test_a_started_session_can_be_used_and_shows_its_spec(self, bench: Bench) -> None:
        driver = bench.driver()
        spec = bench.spec(idle_timeout=1800.0, max_duration=28800.5)
        session = await driver.start(spec, quiet)
        assert (session.session_id, session.state, session.ready) == (spec.session_id, SessionState.RUNNING, True)
        assert session.place
        assert session.reason == ""
        for name in ("user", "template", "command_id", "epoch", "cpu", "memory", "port", "idle_timeout"):
            assert getattr(session, name) == getattr(spec, name), name
        assert (session.ready_check, session.max_duration) == (spec.ready, 28800.5)
        assert abs(session.created_at - time.time()) < 3600, "created_at is Unix time in seconds"
        assert await echoes(driver, session, os.urandom(1000))

    async def test_a_session_without_limits_shows_none(self, bench: Bench) -> None:
        session = await bench.driver().start(bench.spec(cpu=None, memory=None), quiet)
        assert (session.cpu, session.memory, session.idle_timeout, session.max_duration) == (None, None, None, None)

    async def test_a_list_an_inspection_and_another_driver_tell_the_same(self, bench: Bench) -> None:
        """A driver keeps nothing that a restart of the agent would lose."""
        driver, running, asleep = bench.driver(), bench.spec(), bench.spec(cpu=None, memory=None)
        told = {spec.session_id: known(await driver.start(spec, quiet)) for spec in (running, asleep)}
        told[asleep.session_id] = known(await driver.hibernate(asleep.session_id))
        for each in (driver, bench.driver()):
            assert {s.session_id: known(s) for s in await each.sessions()} == told
            for session_id, expected in told.items():
                found = await each.inspect(session_id)
                assert found is not None
                assert known(found) == expected

    async def test_progress_names_the_known_phases_in_their_order(self, bench: Bench) -> None:
        steps: list[Progress] = []
        await bench.driver().start(bench.spec(), steps.append)
        phases = [step.phase for step in steps]
        assert phases
        assert set(phases) <= set(PHASES)
        assert phases == sorted(phases, key=PHASES.index)

    async def test_a_pull_shows_its_bytes_where_that_is_declared(self, bench: Bench) -> None:
        driver, steps = bench.driver(), list[Progress]()
        if driver.capabilities.pull_progress:
            assert (await driver.start(bench.spec(Behaviour.UNPULLED), steps.append)).ready
            pulling = [step for step in steps if step.phase == "pulling"]
            assert pulling
            assert pulling[-1].percent == 100

    async def test_starting_what_runs_returns_it_as_it_is(self, bench: Bench) -> None:
        driver, spec = bench.driver(), bench.spec()
        first = await driver.start(spec, quiet)
        again = await driver.start(replace(spec, command_id="another", template="another"), quiet)
        assert known(again) == known(first)
        assert (await bench.driver().start(spec, quiet)).ready

    @pytest.mark.parametrize("drivers", [1, 2])
    async def test_two_starts_at_once_make_one_session(self, bench: Bench, drivers: int) -> None:
        made, spec = [bench.driver() for _ in range(drivers)], bench.spec()
        sessions = await asyncio.gather(*(made[i % drivers].start(spec, quiet) for i in range(2)))
        assert [session.ready for session in sessions] == [True, True]
        assert len({(session.place, session.created_at) for session in sessions}) == 1
        assert len(await made[0].sessions()) == 1

    async def test_many_sessions_start_side_by_side(self, bench: Bench) -> None:
        driver, specs = bench.driver(), [bench.spec() for _ in range(4)]
        sessions = await asyncio.gather(*(driver.start(spec, quiet) for spec in specs))
        assert all(session.ready for session in sessions)
        assert len({session.place for session in sessions}) == len(specs)
        assert {s.session_id for s in await driver.sessions()} == {spec.session_id for spec in specs}

    @pytest.mark.parametrize("pause", [0.0, 0.03, 0.15, 0.4])
    async def test_a_cancelled_start_is_completed_by_the_next(self, bench: Bench, pause: float) -> None:
        driver, spec = bench.driver(), bench.spec()
        starting = asyncio.create_task(driver.start(spec, quiet))
        await asyncio.sleep(pause)
        starting.cancel()
        await asyncio.wait([starting])
        session = await bench.driver().start(spec, quiet)
        assert session.ready
        assert len(await driver.sessions()) == 1
        assert await echoes(driver, session, b"after all")

    @pytest.mark.parametrize("behaviour", [Behaviour.DIES, Behaviour.HANGS])
    async def test_a_failed_start_says_why_and_leaves_nothing(
        self, bench: Bench, data_of: DataOf, behaviour: Behaviour
    ) -> None:
        driver, spec = bench.driver(), bench.spec(behaviour)
        with pytest.raises(CommandFailed) as failure:
            await driver.start(spec, quiet)
        assert failure.value.code
        assert failure.value.message
        assert await bench.driver().sessions() == []
        assert not await data_of(spec.session_id)
        assert await driver.leftovers(frozenset()) == []

    async def test_a_failed_start_keeps_data_that_was_there_before(self, bench: Bench, data_of: DataOf) -> None:
        driver, spec = bench.driver(), bench.spec()
        await driver.start(spec, quiet)
        await driver.stop(spec.session_id)
        bad = bench.spec(Behaviour.DIES, session_id=spec.session_id)
        with pytest.raises(CommandFailed):
            await driver.start(bad, quiet)
        assert await data_of(spec.session_id)

    # Stopping, hibernating, waking.

    async def test_a_stop_keeps_the_data_unless_asked_and_absent_is_success(
        self, bench: Bench, data_of: DataOf
    ) -> None:
        driver, spec = bench.driver(), bench.spec()
        await driver.start(spec, quiet)
        for _ in range(2):
            await driver.stop(spec.session_id)
            assert await bench.state(spec.session_id) is None
            assert await data_of(spec.session_id)
        for _ in range(2):
            await driver.stop(spec.session_id, delete_volumes=True)
            assert not await data_of(spec.session_id)

    async def test_what_is_absent_is_told_as_absent(self, bench: Bench) -> None:
        driver, session_id = bench.driver(), bench.spec().session_id
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

    async def test_in_every_declared_mode_a_session_sleeps_wakes_and_can_be_stopped_asleep(self, bench: Bench) -> None:
        for mode in sorted(bench.driver().capabilities.hibernate_modes):
            driver, spec = bench.driver(hibernate_mode=mode), bench.spec()
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
            assert await bench.state(spec.session_id) is None

    async def test_starting_what_hibernates_wakes_it(self, bench: Bench) -> None:
        driver, spec = bench.driver(), bench.spec()
        first = await driver.start(spec, quiet)
        await driver.hibernate(spec.session_id)
        again = await bench.driver().start(spec, quiet)
        assert (again.state, again.ready) == (SessionState.RUNNING, True)
        assert (again.place, again.created_at) == (first.place, first.created_at)

    # Ends that nobody asked for.

    async def test_events_begin_with_a_resync(self, bench: Bench) -> None:
        async with listening(bench.driver()) as events:
            assert events[0].kind is EventKind.RESYNC

    async def test_an_unexpected_end_is_told_with_a_reason_and_our_own_doings_are_not(self, bench: Bench) -> None:
        driver, spec, crashing = bench.driver(), bench.spec(), bench.spec(Behaviour.CRASHES)
        async with listening(driver) as events:
            await driver.start(spec, quiet)
            await driver.hibernate(spec.session_id)
            await driver.wake(spec.session_id, quiet)
            await driver.stop(spec.session_id)
            await driver.start(crashing, quiet)

            async def told() -> bool:
                return len(events) > 1

            await bench.until(told)
        assert events[1].kind is EventKind.ENDED
        session = events[1].session
        assert session is not None
        assert (session.session_id, session.state) == (crashing.session_id, SessionState.FAILED)
        assert session.reason
        for each in (driver, bench.driver()):
            found = await each.inspect(crashing.session_id)
            assert found is not None
            assert (found.state, found.ready) == (SessionState.FAILED, False)
            assert found.reason

    async def test_a_dead_session_cannot_hibernate_and_is_made_anew_on_its_data(
        self, bench: Bench, data_of: DataOf
    ) -> None:
        driver, spec = bench.driver(), bench.spec(Behaviour.CRASHES)
        await driver.start(spec, quiet)

        async def failed() -> bool:
            return await bench.state(spec.session_id) is SessionState.FAILED

        await bench.until(failed)
        with pytest.raises(CommandFailed):
            await driver.hibernate(spec.session_id)
        assert await data_of(spec.session_id)
        again = bench.spec(session_id=spec.session_id, command_id="again")
        session = await driver.start(again, quiet)
        assert (session.ready, session.command_id) == (True, "again")

    # Streams.

    async def test_streams_carry_every_byte_both_ways_and_side_by_side(self, bench: Bench) -> None:
        driver = bench.driver()
        session = await driver.start(bench.spec(), quiet)
        sent = [os.urandom(300_000) for _ in range(3)]
        assert all(await asyncio.gather(*(echoes(driver, session, data) for data in sent)))

    async def test_a_stream_that_cannot_be_opened_is_told_apart(self, bench: Bench) -> None:
        driver, spec = bench.driver(), bench.spec()
        await driver.start(spec, quiet)
        with pytest.raises(OSError):  # noqa: PT011 - each engine has its own words
            await driver.connect(spec.session_id, 5999)
        await driver.hibernate(spec.session_id)
        with pytest.raises(CommandFailed) as failure:
            await driver.connect(spec.session_id, spec.port)
        assert failure.value.code == "not_running"

    # The rest.

    async def test_leftovers_are_what_a_start_that_never_ran_made_and_no_session_of_anybody(
        self, bench: Bench, data_of: DataOf
    ) -> None:
        driver, running, asleep, gone = bench.driver(), bench.spec(), bench.spec(), bench.spec()
        for spec in (running, asleep, gone):
            await driver.start(spec, quiet)
        await driver.hibernate(asleep.session_id)
        await driver.stop(gone.session_id)
        assert await driver.leftovers(frozenset()) == []
        half = await self._half_made(bench)
        assert await driver.leftovers(frozenset({half})) == []
        found = await driver.leftovers(frozenset())
        for item in found:
            assert item.kind in {"container", "volume", "network"}
            assert item.name
            assert item.reason
            assert item.age >= 0
            with pytest.raises(LeaseLost):
                await bench.driver(guard=Refusing(0)).remove(item)
        still = await driver.leftovers(frozenset())
        assert [(item.kind, item.name) for item in still] == [(item.kind, item.name) for item in found]
        for item in (*found, *found):
            await driver.remove(item)
        assert await driver.leftovers(frozenset()) == []
        assert {s.session_id for s in await driver.sessions()} == {running.session_id, asleep.session_id}
        assert await data_of(gone.session_id)

    @staticmethod
    async def _half_made(bench: Bench) -> str:
        """A start that was refused at its very last effect."""
        allowed = Refusing(1000)
        whole = bench.spec()
        driver = bench.driver(guard=allowed)
        await driver.start(whole, quiet)
        await bench.driver().stop(whole.session_id, delete_volumes=True)
        half = bench.spec()
        with pytest.raises(LeaseLost):
            await bench.driver(guard=Refusing(allowed.asked - 1)).start(half, quiet)
        return half.session_id

    async def test_a_running_session_has_stats_and_one_asleep_has_none(self, bench: Bench) -> None:
        driver, spec = bench.driver(), bench.spec()
        await driver.start(spec, quiet)
        for _ in range(2):
            stats = await driver.stats(spec.session_id)
            assert stats is not None
            assert stats[0] >= 0.0
            assert stats[1] > 0
        await driver.hibernate(spec.session_id)
        assert await driver.stats(spec.session_id) is None

    async def test_closing_a_driver_ends_no_session(self, driver_factory: DriverFactory, bench: Bench) -> None:
        driver, spec = driver_factory(), bench.spec()
        await driver.start(spec, quiet)
        await driver.aclose()
        other = bench.driver()
        found = await other.inspect(spec.session_id)
        assert found is not None
        assert await echoes(other, found, b"still here")
