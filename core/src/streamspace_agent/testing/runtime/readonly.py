"""The tests of runtime drivers about reading: it needs no lease, changes nothing, and restarts nothing."""

from streamspace_agent.runtime import SessionState
from streamspace_agent.testing.engine import Behaviour
from streamspace_agent.testing.runtime.fixtures import DriverKit, LimitedLease, comparable, echoes, quiet
from streamspace_agent.testing.suite import Suite


class ReadOnly(Suite):
    async def test_looking_asks_no_leave_and_changes_nothing(self, kit: DriverKit) -> None:
        lease = LimitedLease(0)
        driver, spec = kit.driver(), kit.spec()
        await driver.start(spec, quiet)
        before = await driver.sessions()
        looking = kit.driver(require_lease=lease)
        await looking.check()
        await looking.describe()
        await looking.inspect(spec.session_id)
        await looking.prove(spec.session_id)
        await looking.leftovers(frozenset())
        await looking.stats(spec.session_id)
        assert [comparable(s) for s in await looking.sessions()] == [comparable(s) for s in before]
        assert lease.asked == 0

    async def test_a_running_session_is_proved_usable_to_a_driver_that_never_saw_it(self, kit: DriverKit) -> None:
        spec, adopting = kit.spec(), kit.driver()
        started = await kit.driver().start(spec, quiet)
        proved = await adopting.prove(spec.session_id)
        assert (comparable(proved), proved.ready) == (comparable(started), True)
        assert [session.ready for session in await adopting.sessions()] == [True]
        assert await echoes(adopting, proved, b"adopted")

    async def test_a_proof_of_what_does_not_run_shows_it_as_it_is_and_starts_nothing(self, kit: DriverKit) -> None:
        lease = LimitedLease(0)
        looking = kit.driver(require_lease=lease)
        for mode in sorted(looking.capabilities.hibernate_modes):
            driver, asleep = kit.driver(hibernate_mode=mode), kit.spec()
            await driver.start(asleep, quiet)
            hibernated = await driver.hibernate(asleep.session_id)
            proved = await looking.prove(asleep.session_id)
            assert (comparable(proved), proved.ready) == (comparable(hibernated), False)
            assert await kit.state(asleep.session_id) is SessionState.HIBERNATED
        dead = kit.spec(Behaviour.CRASHES)
        await kit.driver().start(dead, quiet)
        await kit.failed(dead.session_id)
        proved = await looking.prove(dead.session_id)
        assert (proved.state, proved.ready) == (SessionState.FAILED, False)
        assert proved.reason
        assert await kit.state(dead.session_id) is SessionState.FAILED
        assert lease.asked == 0
