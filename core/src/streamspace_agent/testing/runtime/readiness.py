"""The tests of runtime drivers about readiness: they find out whether a session speaks VNC or HTTP, and never guess."""

import pytest

from streamspace_agent.errors import CommandFailed
from streamspace_agent.runtime import ReadyCheck, SessionState
from streamspace_agent.testing.engine import Behaviour
from streamspace_agent.testing.runtime.fixtures import DriverKit, echoes, quiet
from streamspace_agent.testing.suite import Suite

SPOKEN = [(Behaviour.GREETS, ReadyCheck.VNC), (Behaviour.ANSWERS, ReadyCheck.HTTP)]


class Readiness(Suite):
    @pytest.mark.parametrize("expected", [ReadyCheck.ANY, ReadyCheck.VNC, ReadyCheck.HTTP])
    @pytest.mark.parametrize(("behaviour", "spoken"), SPOKEN)
    async def test_what_a_session_speaks_is_found_out_whatever_was_expected(
        self, kit: DriverKit, behaviour: Behaviour, spoken: ReadyCheck, expected: ReadyCheck
    ) -> None:
        driver, spec = kit.driver(), kit.spec(behaviour, ready=expected)
        started = await driver.start(spec, quiet)
        seen = [started, await driver.inspect(spec.session_id), await driver.prove(spec.session_id)]
        for session in (*seen, *await driver.sessions()):
            assert session is not None
            assert (session.ready, session.ready_check, session.port) == (True, spoken, spec.port)

    @pytest.mark.parametrize(("behaviour", "spoken"), SPOKEN)
    async def test_a_driver_that_never_saw_a_session_finds_out_what_it_speaks(
        self, kit: DriverKit, behaviour: Behaviour, spoken: ReadyCheck
    ) -> None:
        spec, adopting = kit.spec(behaviour, ready=ReadyCheck.ANY, path="/health?deep=1"), kit.driver()
        await kit.driver().start(spec, quiet)
        proved = await adopting.prove(spec.session_id)
        assert (proved.ready, proved.ready_check, proved.port) == (True, spoken, spec.port)
        assert [session.ready_check for session in await adopting.sessions()] == [spoken]

    async def test_after_a_wake_it_is_told_what_the_session_speaks_now(self, kit: DriverKit) -> None:
        driver, spec = kit.driver(), kit.spec(Behaviour.CHANGES, ready=ReadyCheck.ANY)
        if "stop" in driver.capabilities.hibernate_modes:
            first = await driver.start(spec, quiet)
            assert (first.ready_check, await echoes(driver, first, b"screen")) == (ReadyCheck.VNC, True)
            await driver.hibernate(spec.session_id)
            awake = await driver.wake(spec.session_id, quiet)
            assert (awake.state, awake.ready, awake.ready_check) == (SessionState.RUNNING, True, ReadyCheck.HTTP)
            assert [session.ready_check for session in await driver.sessions()] == [ReadyCheck.HTTP]

    async def test_a_session_that_speaks_neither_fails_and_says_what_was_tried_where(self, kit: DriverKit) -> None:
        spec = kit.spec(Behaviour.HANGS, ready=ReadyCheck.ANY)
        with pytest.raises(CommandFailed) as failure:
            await kit.driver().start(spec, quiet)
        assert failure.value.code == "not_ready"
        for word in ("VNC", "HTTP", str(spec.port)):
            assert word in failure.value.message

    async def test_a_session_without_a_port_speaks_nothing(self, kit: DriverKit) -> None:
        driver, spec = kit.driver(), kit.spec(ready=ReadyCheck.NONE, port=0)
        session = await driver.start(spec, quiet)
        assert (session.ready, session.ready_check, session.port) == (True, ReadyCheck.NONE, 0)
