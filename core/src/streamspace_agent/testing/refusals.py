"""The part of the suite of runtime drivers about leases: no effect without one, and none that another cannot complete."""

import pytest

from streamspace_agent.errors import CommandFailed, LeaseLost
from streamspace_agent.runtime import Progress, RuntimeDriver, SessionSpec, SessionState
from streamspace_agent.testing.bench import Bench, DataOf, Refusing, quiet
from streamspace_agent.testing.engine import Behaviour
from streamspace_agent.testing.suite import Suite


class Refusals(Suite):
    async def test_a_start_is_refused_before_its_first_effect_and_at_every_later_one(
        self, bench: Bench, data_of: DataOf
    ) -> None:
        """And what was begun before the refusal, another completes."""
        for allowed in range(20):
            spec, refusing = bench.spec(), Refusing(allowed)
            try:
                await bench.driver(guard=refusing).start(spec, quiet)
                break
            except LeaseLost:
                assert refusing.asked > allowed
            if allowed == 0:
                assert await bench.state(spec.session_id) is None
                assert not await data_of(spec.session_id)
            assert await bench.state(spec.session_id) is not SessionState.RUNNING
            other = bench.driver()
            assert (await other.start(spec, quiet)).ready
            assert len(await other.sessions()) == 1
            await other.stop(spec.session_id, delete_volumes=True)
        assert refusing.asked > 0, "start() had its effects without asking the guard"

    async def test_a_lease_lost_while_a_start_goes_on_lets_no_later_effect_through(self, bench: Bench) -> None:
        guard, spec = Refusing(1000), bench.spec()

        def lose(_: Progress) -> None:
            guard.left = 0

        with pytest.raises(LeaseLost):
            await bench.driver(guard=guard).start(spec, lose)
        assert await bench.state(spec.session_id) is not SessionState.RUNNING

    @pytest.mark.parametrize("verb", ["stop", "hibernate", "wake"])
    async def test_without_a_lease_a_session_stays_as_it_is(self, bench: Bench, data_of: DataOf, verb: str) -> None:
        """And what was begun before the refusal, another completes."""
        for allowed in range(20):
            driver, spec, refusing = bench.driver(), bench.spec(), Refusing(allowed)
            await driver.start(spec, quiet)
            if verb == "wake":
                await driver.hibernate(spec.session_id)
            before = await bench.state(spec.session_id)
            try:
                await self._call(bench.driver(guard=refusing), verb, spec)
                break
            except LeaseLost:
                pass
            if allowed == 0:
                assert await bench.state(spec.session_id) is before
                assert await data_of(spec.session_id)
            other = bench.driver()
            await self._call(other, verb, spec)
            after = {"stop": None, "hibernate": SessionState.HIBERNATED, "wake": SessionState.RUNNING}[verb]
            assert await bench.state(spec.session_id) is after
            await other.stop(spec.session_id, delete_volumes=True)
        assert refusing.asked > 0, f"{verb}() had its effects without asking the guard"

    async def test_data_is_deleted_with_leave_only(self, bench: Bench, data_of: DataOf) -> None:
        """Also where the data is all that is left of the session."""
        driver, spec = bench.driver(), bench.spec()
        await driver.start(spec, quiet)
        await driver.stop(spec.session_id)
        with pytest.raises(LeaseLost):
            await bench.driver(guard=Refusing(0)).stop(spec.session_id, delete_volumes=True)
        assert await data_of(spec.session_id)

    async def test_the_clean_up_of_a_failed_start_needs_leave_too(self, bench: Bench, data_of: DataOf) -> None:
        """Whoever leads by then may have started the same session, and it would be theirs that is removed.

        Either error may come through, the start's or the guard's.
        """
        await bench.driver().start(bench.spec(), quiet)  # what is made once for all sessions is there
        allowed = Refusing(1000)
        await bench.driver(guard=allowed).start(bench.spec(), quiet)
        spec = bench.spec(Behaviour.DIES)
        with pytest.raises((LeaseLost, CommandFailed)):
            await bench.driver(guard=Refusing(allowed.asked)).start(spec, quiet)
        assert await bench.state(spec.session_id) is not None
        assert await data_of(spec.session_id)

    @staticmethod
    async def _call(driver: RuntimeDriver, verb: str, spec: SessionSpec) -> None:
        match verb:
            case "stop":
                await driver.stop(spec.session_id, delete_volumes=True)
            case "hibernate":
                await driver.hibernate(spec.session_id)
            case _:
                assert (await driver.wake(spec.session_id, quiet)).ready
