"""The tests of runtime drivers about events: a session that ends unexpectedly is reported, and can be started again."""

import asyncio

import pytest

from streamspace_agent.errors import CommandFailed
from streamspace_agent.runtime import EventKind, SessionState
from streamspace_agent.testing.engine import Behaviour
from streamspace_agent.testing.runtime.fixtures import PATIENCE, DataOf, DriverKit, listening, quiet
from streamspace_agent.testing.suite import Suite


class Events(Suite):
    async def test_events_begin_with_a_resync(self, kit: DriverKit) -> None:
        async with listening(kit.driver()) as events:
            assert events[0].kind is EventKind.RESYNC

    async def test_an_unexpected_end_is_told_with_a_reason_and_our_own_doings_are_not(self, kit: DriverKit) -> None:
        driver, spec, crashing = kit.driver(), kit.spec(), kit.spec(Behaviour.CRASHES)
        async with listening(driver) as events:
            await driver.start(spec, quiet)
            await driver.hibernate(spec.session_id)
            await driver.wake(spec.session_id, quiet)
            await driver.stop(spec.session_id)
            await driver.start(crashing, quiet)
            async with asyncio.timeout(PATIENCE):
                while len(events) < 2:
                    await asyncio.sleep(0.05)
        assert events[1].kind is EventKind.ENDED
        session = events[1].session
        assert session is not None
        assert (session.session_id, session.state) == (crashing.session_id, SessionState.FAILED)
        assert session.reason
        for each in (driver, kit.driver()):
            found = await each.inspect(crashing.session_id)
            assert found is not None
            assert (found.state, found.ready) == (SessionState.FAILED, False)
            assert found.reason

    async def test_a_dead_session_cannot_hibernate_and_is_made_anew_on_its_data(
        self, kit: DriverKit, data_of: DataOf
    ) -> None:
        driver, spec = kit.driver(), kit.spec(Behaviour.CRASHES)
        await driver.start(spec, quiet)
        await kit.failed(spec.session_id)
        with pytest.raises(CommandFailed):
            await driver.hibernate(spec.session_id)
        assert await data_of(spec.session_id)
        again = kit.spec(session_id=spec.session_id, command_id="again")
        session = await driver.start(again, quiet)
        assert (session.ready, session.command_id) == (True, "again")
