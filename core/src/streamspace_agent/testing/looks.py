"""The part of the suite of runtime drivers about looking: it asks no leave, changes nothing, and brings nothing back to life."""

from streamspace_agent.runtime import SessionState
from streamspace_agent.testing.bench import Bench, Refusing, echoes, known, quiet
from streamspace_agent.testing.engine import Behaviour
from streamspace_agent.testing.suite import Suite


class Looks(Suite):
    async def test_looking_asks_no_leave_and_changes_nothing(self, bench: Bench) -> None:
        refusing = Refusing(0)
        driver, spec = bench.driver(), bench.spec()
        await driver.start(spec, quiet)
        before = await driver.sessions()
        looking = bench.driver(guard=refusing)
        await looking.check()
        await looking.describe()
        await looking.inspect(spec.session_id)
        await looking.prove(spec.session_id)
        await looking.leftovers(frozenset())
        await looking.stats(spec.session_id)
        assert [known(s) for s in await looking.sessions()] == [known(s) for s in before]
        assert refusing.asked == 0

    async def test_a_running_session_is_proved_usable_to_a_driver_that_never_saw_it(self, bench: Bench) -> None:
        spec, adopting = bench.spec(), bench.driver()
        started = await bench.driver().start(spec, quiet)
        proved = await adopting.prove(spec.session_id)
        assert (known(proved), proved.ready) == (known(started), True)
        assert [session.ready for session in await adopting.sessions()] == [True]
        assert await echoes(adopting, proved, b"adopted")

    async def test_a_proof_of_what_does_not_run_shows_it_as_it_is_and_starts_nothing(self, bench: Bench) -> None:
        refusing = Refusing(0)
        looking = bench.driver(guard=refusing)
        for mode in sorted(looking.capabilities.hibernate_modes):
            driver, asleep = bench.driver(hibernate_mode=mode), bench.spec()
            await driver.start(asleep, quiet)
            hibernated = await driver.hibernate(asleep.session_id)
            proved = await looking.prove(asleep.session_id)
            assert (known(proved), proved.ready) == (known(hibernated), False)
            assert await bench.state(asleep.session_id) is SessionState.HIBERNATED
        dead = bench.spec(Behaviour.CRASHES)
        await bench.driver().start(dead, quiet)

        async def ended() -> bool:
            return await bench.state(dead.session_id) is SessionState.FAILED

        await bench.until(ended)
        proved = await looking.prove(dead.session_id)
        assert (proved.state, proved.ready) == (SessionState.FAILED, False)
        assert proved.reason
        assert await bench.state(dead.session_id) is SessionState.FAILED
        assert refusing.asked == 0
