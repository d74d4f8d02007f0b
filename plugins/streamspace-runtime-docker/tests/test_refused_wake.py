"""A wake that the engine refuses loses nothing: the session sleeps on, and the next start brings it back as it was."""

import pytest

from lab.until import until
from streamspace_agent.errors import CommandFailed
from streamspace_agent.runtime import SessionState

START = r"POST /containers/[^/]+/start"
INSPECT = r"GET /containers/[^/]+/json"
FULL = "mkdir /var/lib/docker/x: no space left on device"


def run(api, spec, *command):
    made = api.exec_create(f"streamspace-{spec.session_id}", list(command))
    return api.exec_start(made["Id"])


def ended_with(code, error=""):
    """What an engine's inspection shows of a container that has ended so."""

    def change(body):
        if body["State"]["Status"] == "exited":
            body["State"] |= {"ExitCode": code, "Error": error}
        return body

    return change


@pytest.mark.parametrize("verb", ["wake", "start"])
async def test_a_session_whose_wake_was_refused_sleeps_on_and_keeps_its_files(make_driver, odd, spec, quiet, api, verb):
    driver = make_driver(odd=odd)
    await driver.start(spec, quiet)
    run(api, spec, "sh", "-c", "echo kept > /tmp/file")
    await driver.hibernate(spec.session_id)
    odd.refuse(START, 500, FULL, times=1)
    with pytest.raises(CommandFailed, match="start_failed: .*no space left"):
        await (driver.start(spec, quiet) if verb == "start" else driver.wake(spec.session_id, quiet))
    found = await driver.inspect(spec.session_id)
    assert (found.state, found.reason) == (SessionState.HIBERNATED, "")
    assert (await driver.start(spec, quiet)).ready
    assert run(api, spec, "cat", "/tmp/file") == b"kept\n"


async def test_a_session_that_a_reboot_stopped_sleeps_on_after_a_refused_wake(make_driver, odd, spec, quiet, api):
    """A failed start overwrites the exit code of the run before, which alone shows that the session is hibernated."""
    driver = make_driver(odd=odd)
    await driver.start(spec, quiet)
    run(api, spec, "sh", "-c", "echo kept > /tmp/file")
    api.stop(f"streamspace-{spec.session_id}", timeout=3)
    odd.refuse(START, 500, FULL, times=1)
    with pytest.raises(CommandFailed, match="start_failed"):
        await driver.wake(spec.session_id, quiet)
    odd.change(INSPECT, ended_with(128, FULL))
    assert (await driver.inspect(spec.session_id)).state is SessionState.HIBERNATED
    assert (await driver.start(spec, quiet)).ready
    assert run(api, spec, "cat", "/tmp/file") == b"kept\n"


async def test_a_session_that_ended_by_itself_and_was_refused_stays_failed(make_driver, odd, make_spec, quiet):
    driver = make_driver(odd=odd)
    spec = make_spec(environment={"MODE": "crash", "AFTER": "1"})
    await driver.start(spec, quiet)

    async def failed():
        return (await driver.inspect(spec.session_id)).state is SessionState.FAILED

    await until(failed)
    odd.refuse(START, 500, FULL, times=1)
    with pytest.raises(CommandFailed, match="start_failed"):
        await driver.wake(spec.session_id, quiet)
    assert await failed()


async def test_a_session_whose_mark_cannot_be_read_is_taken_for_asleep(make_driver, odd, spec, quiet, api):
    """Taken for dead, the next start would throw it away."""
    driver = make_driver(odd=odd)
    await driver.start(spec, quiet)
    run(api, spec, "sh", "-c", "echo kept > /tmp/file")
    await driver.hibernate(spec.session_id)
    odd.change(INSPECT, ended_with(1))
    odd.refuse(r"(GET|HEAD) /containers/[^/]+/archive", 500, "mount: input/output error", times=2)
    found = await driver.inspect(spec.session_id)
    assert found.state is SessionState.HIBERNATED
    assert "input/output error" in found.reason
    [listed] = await driver.sessions()
    assert listed.state is SessionState.HIBERNATED
    assert (await driver.start(spec, quiet)).ready
    assert run(api, spec, "cat", "/tmp/file") == b"kept\n"
