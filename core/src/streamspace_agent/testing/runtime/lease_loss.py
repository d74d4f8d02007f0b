"""The tests of runtime drivers about a lost lease: no effect without a lease, and none that another cannot complete."""

import pytest

from streamspace_agent.errors import CommandFailed, LeaseLost
from streamspace_agent.runtime import Progress, RuntimeDriver, SessionSpec, SessionState
from streamspace_agent.testing.engine import Behaviour
from streamspace_agent.testing.runtime.fixtures import DataOf, DriverKit, LimitedLease, quiet
from streamspace_agent.testing.suite import Suite


class LeaseLoss(Suite):
    async def test_a_start_is_refused_before_its_first_effect_and_at_every_later_one(
        self, kit: DriverKit, data_of: DataOf
    ) -> None:
        """Another driver completes what was begun before the refusal."""
        for allowed in range(20):
            spec, lease = kit.spec(), LimitedLease(allowed)
            try:
                await kit.driver(require_lease=lease).start(spec, quiet)
                break
            except LeaseLost:
                assert lease.asked > allowed
            if allowed == 0:
                assert await kit.state(spec.session_id) is None
                assert not await data_of(spec.session_id)
            assert await kit.state(spec.session_id) is not SessionState.RUNNING
            other = kit.driver()
            assert (await other.start(spec, quiet)).ready
            assert len(await other.sessions()) == 1
            await other.stop(spec.session_id, delete_volumes=True)
        assert lease.asked > 0, "start() had effects without calling require_lease()"

    async def test_a_lease_lost_while_a_start_goes_on_lets_no_later_effect_through(self, kit: DriverKit) -> None:
        lease, spec = LimitedLease(1000), kit.spec()

        def lose(_: Progress) -> None:
            lease.left = 0

        with pytest.raises(LeaseLost):
            await kit.driver(require_lease=lease).start(spec, lose)
        assert await kit.state(spec.session_id) is not SessionState.RUNNING

    @pytest.mark.parametrize("verb", ["stop", "hibernate", "wake"])
    async def test_without_a_lease_a_session_stays_as_it_is(self, kit: DriverKit, data_of: DataOf, verb: str) -> None:
        """Another driver completes what was begun before the refusal."""
        for allowed in range(20):
            driver, spec, lease = kit.driver(), kit.spec(), LimitedLease(allowed)
            await driver.start(spec, quiet)
            if verb == "wake":
                await driver.hibernate(spec.session_id)
            before = await kit.state(spec.session_id)
            try:
                await self._call(kit.driver(require_lease=lease), verb, spec)
                break
            except LeaseLost:
                pass
            if allowed == 0:
                assert await kit.state(spec.session_id) is before
                assert await data_of(spec.session_id)
            other = kit.driver()
            await self._call(other, verb, spec)
            after = {"stop": None, "hibernate": SessionState.HIBERNATED, "wake": SessionState.RUNNING}[verb]
            assert await kit.state(spec.session_id) is after
            await other.stop(spec.session_id, delete_volumes=True)
        assert lease.asked > 0, f"{verb}() had effects without calling require_lease()"

    async def test_data_is_deleted_with_leave_only(self, kit: DriverKit, data_of: DataOf) -> None:
        """Also where only the data is left of the session."""
        driver, spec = kit.driver(), kit.spec()
        await driver.start(spec, quiet)
        await driver.stop(spec.session_id)
        with pytest.raises(LeaseLost):
            await kit.driver(require_lease=LimitedLease(0)).stop(spec.session_id, delete_volumes=True)
        assert await data_of(spec.session_id)

    async def test_the_clean_up_of_a_failed_start_needs_leave_too(self, kit: DriverKit, data_of: DataOf) -> None:
        """The next leader may have started the same session by then, and it would be removed.

        Either error may be raised, the start's or that of the lost lease.
        """
        await kit.driver().start(kit.spec(), quiet)  # makes what all sessions share
        allowed = LimitedLease(1000)
        await kit.driver(require_lease=allowed).start(kit.spec(), quiet)
        spec = kit.spec(Behaviour.DIES)
        with pytest.raises((LeaseLost, CommandFailed)):
            await kit.driver(require_lease=LimitedLease(allowed.asked)).start(spec, quiet)
        assert await kit.state(spec.session_id) is not None
        assert await data_of(spec.session_id)

    @staticmethod
    async def _call(driver: RuntimeDriver, verb: str, spec: SessionSpec) -> None:
        if verb == "stop":
            await driver.stop(spec.session_id, delete_volumes=True)
        elif verb == "hibernate":
            await driver.hibernate(spec.session_id)
        else:
            assert (await driver.wake(spec.session_id, quiet)).ready
