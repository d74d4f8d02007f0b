"""Want of memory is told as the reason of that end which it caused, and of no other."""

import asyncio

import pytest

from lab.until import until
from streamspace_agent.runtime import EventKind, SessionState
from streamspace_runtime_docker.containers.out_of_memory import BEFORE

HOG = 'BEGIN { for (s = "12345678"; length(s) < 1073741824; s = s s); exit 4 }'


@pytest.fixture
async def survivor(driver, spec, quiet, api):
    """A session in which a process was killed for want of memory, which it survived."""
    await driver.start(spec, quiet)
    name = f"streamspace-{spec.session_id}"
    made = api.exec_create(name, ["awk", HOG])
    api.exec_start(made["Id"])
    assert api.exec_inspect(made["Id"])["ExitCode"] == 137
    return name


async def ended(driver, spec):
    async def seen():
        found = await driver.inspect(spec.session_id)
        return found if found.state is not SessionState.RUNNING else None

    return await until(seen)


@pytest.mark.parametrize("signal", ["SIGTERM", "SIGKILL"])
async def test_a_session_that_once_survived_it_and_was_stopped_while_nobody_looked_sleeps(
    make_driver, spec, survivor, api, signal
):
    await asyncio.sleep(BEFORE + 0.5)
    api.kill(survivor, signal)
    found = await ended(make_driver(), spec)
    assert (found.state, "wake brings it back" in found.reason) == (SessionState.HIBERNATED, True)
    assert "memory" not in found.reason
    assert api.inspect_container(survivor)["State"]["OOMKilled"], "which the engine goes on to say"


async def test_a_session_that_once_survived_it_and_ends_otherwise_is_told_without_it(spec, survivor, api, events):
    await asyncio.sleep(BEFORE + 0.5)
    api.kill(survivor, "SIGKILL")
    event = await asyncio.wait_for(events.get(), 20)
    assert (event.kind, event.session.state) == (EventKind.ENDED, SessionState.FAILED)
    assert "exit code 137" in event.session.reason
    assert "memory" not in event.session.reason


async def test_an_end_for_want_of_memory_that_nobody_saw_is_told(driver, make_driver, make_spec, quiet):
    spec = make_spec(environment={"MODE": "oom", "AFTER": "1"})
    await driver.start(spec, quiet)
    found = await ended(make_driver(), spec)
    assert found.state is SessionState.FAILED
    assert "ran out of memory" in found.reason
