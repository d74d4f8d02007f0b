"""Hibernating and waking: both modes, what an exited container is taken for, and what failed wakes leave."""

import asyncio

import pytest

from lab.until import until
from streamspace_agent.errors import CommandFailed, Injected, LeaseLost, SessionNotFound
from streamspace_agent.runtime import ReadyCheck, SessionState


def run(api, spec, *command):
    made = api.exec_create(f"streamspace-{spec.session_id}", list(command))
    return api.exec_start(made["Id"])


async def greeting(driver, spec):
    reader, writer = await driver.connect(spec.session_id, 5900)
    try:
        return await reader.readexactly(4)
    finally:
        writer.close()


@pytest.fixture
def runs():
    """`await runs(driver, spec)`: until that driver sees it run, started by another."""

    async def wait(driver, spec):
        async def seen():
            found = await driver.inspect(spec.session_id)
            return found is not None and found.state is SessionState.RUNNING

        await until(seen)

    return wait


@pytest.mark.parametrize("mode", ["stop", "pause"])
async def test_a_session_hibernates_and_wakes_with_its_files(make_driver, spec, quiet, api, mode):
    driver = make_driver(hibernate_mode=mode)
    await driver.start(spec, quiet)
    run(api, spec, "sh", "-c", "echo kept > /tmp/file")
    asleep = await driver.hibernate(spec.session_id)
    assert (asleep.state, asleep.ready, asleep.reason) == (SessionState.HIBERNATED, False, "")
    assert bool(asleep.details.get("paused")) == (mode == "pause")
    [listed] = await driver.sessions()
    assert (listed.state, listed.reason) == (SessionState.HIBERNATED, "")
    awake = await driver.wake(spec.session_id, quiet)
    assert (awake.state, awake.ready) == (SessionState.RUNNING, True)
    assert await greeting(driver, spec) == b"RFB "
    assert run(api, spec, "cat", "/tmp/file") == b"kept\n"


@pytest.mark.parametrize("mode", ["stop", "pause"])
async def test_hibernating_and_waking_twice_is_success(make_driver, spec, quiet, mode):
    driver = make_driver(hibernate_mode=mode)
    await driver.start(spec, quiet)
    await driver.hibernate(spec.session_id)
    assert (await driver.hibernate(spec.session_id)).state is SessionState.HIBERNATED
    await driver.wake(spec.session_id, quiet)
    assert (await driver.wake(spec.session_id, quiet)).state is SessionState.RUNNING


@pytest.mark.parametrize("mode", ["stop", "pause"])
async def test_starting_a_hibernated_session_wakes_it(make_driver, spec, quiet, api, mode):
    driver = make_driver(hibernate_mode=mode)
    await driver.start(spec, quiet)
    run(api, spec, "touch", "/tmp/same-container")
    await driver.hibernate(spec.session_id)
    assert (await driver.start(spec, quiet)).ready
    assert b"same-container" in run(api, spec, "ls", "/tmp")


@pytest.mark.parametrize("mode", ["stop", "pause"])
async def test_a_hibernated_session_can_be_stopped(make_driver, spec, quiet, mode):
    driver = make_driver(hibernate_mode=mode)
    await driver.start(spec, quiet)
    await driver.hibernate(spec.session_id)
    await driver.stop(spec.session_id, delete_volumes=True)
    assert await driver.sessions() == []


async def test_a_paused_session_that_a_reboot_stopped_still_wakes(make_driver, spec, quiet, api):
    driver = make_driver(hibernate_mode="pause")
    await driver.start(spec, quiet)
    await driver.hibernate(spec.session_id)
    api.unpause(f"streamspace-{spec.session_id}")
    api.kill(f"streamspace-{spec.session_id}", "SIGKILL")
    found = await driver.inspect(spec.session_id)
    assert (found.state, found.details.get("paused")) == (SessionState.HIBERNATED, None)
    assert "wake brings it back" in found.reason
    assert (await driver.wake(spec.session_id, quiet)).ready


async def test_an_absent_session_neither_sleeps_nor_wakes(driver, spec, quiet):
    with pytest.raises(SessionNotFound):
        await driver.hibernate(spec.session_id)
    with pytest.raises(SessionNotFound):
        await driver.wake(spec.session_id, quiet)


@pytest.mark.parametrize(
    ("ended_with", "state"),
    [("SIGKILL", SessionState.HIBERNATED), ("SIGTERM", SessionState.HIBERNATED), ("crash", SessionState.FAILED)],
)
async def test_an_end_that_nobody_saw_is_judged_by_its_exit_code(driver, make_spec, quiet, api, ended_with, state):
    """As after a reboot: no agent was there to see it."""
    spec = make_spec(environment={"MODE": "crash", "AFTER": "3"} if ended_with == "crash" else {})
    await driver.start(spec, quiet)
    if ended_with != "crash":
        api.kill(f"streamspace-{spec.session_id}", ended_with)

    async def ended():
        found = await driver.inspect(spec.session_id)
        return found if found.state is not SessionState.RUNNING else None

    found = await until(ended)
    assert found.state is state
    if state is SessionState.FAILED:
        assert "exit code 3" in found.reason
        assert "session: giving up" in found.reason
    else:
        assert "wake brings it back" in found.reason


async def test_a_mark_is_about_one_run_only(driver, spec, quiet, api):
    """Hibernated, woken, then ended with an error: the old mark must not pass the end off as sleep."""
    await driver.start(spec, quiet)
    await driver.hibernate(spec.session_id)
    await driver.wake(spec.session_id, quiet)
    api.kill(f"streamspace-{spec.session_id}", "SIGKILL")
    found = await driver.inspect(spec.session_id)
    assert found.reason, "not the sleep that a user asked for"


async def test_a_dead_session_cannot_hibernate_and_is_made_anew_on_its_volume(driver, make_spec, quiet, api):
    spec = make_spec(environment={"MODE": "crash", "AFTER": "2"})
    await driver.start(spec, quiet)
    run(api, spec, "sh", "-c", "echo kept > /home/user/file")

    async def failed():
        return (await driver.inspect(spec.session_id)).state is SessionState.FAILED

    await until(failed)
    with pytest.raises(CommandFailed, match="not_running"):
        await driver.hibernate(spec.session_id)
    before = (await driver.inspect(spec.session_id)).details["containerId"]
    after = await driver.start(make_spec(command_id="again"), quiet)
    assert after.details["containerId"] != before
    assert run(api, spec, "cat", "/home/user/file") == b"kept\n"


@pytest.mark.parametrize(("mode", "point"), [("stop", "docker.after_stop"), ("pause", "docker.after_pause")])
async def test_an_interrupted_hibernation_is_completed_by_the_next(make_driver, spec, quiet, mode, point):
    driver = make_driver(hibernate_mode=mode, environ={"STREAMSPACE_FAULTS": f"{point}=raise"})
    await driver.start(spec, quiet)
    with pytest.raises(Injected):
        await driver.hibernate(spec.session_id)
    other = make_driver(hibernate_mode=mode)
    assert (await other.hibernate(spec.session_id)).state is SessionState.HIBERNATED
    assert (await other.wake(spec.session_id, quiet)).ready


async def test_a_sleep_that_was_refused_leaves_what_the_session_was_found_to_speak(driver, make_spec, quiet):
    """It runs on, and so do its viewers: what serves them must not change while it is not proved again."""

    def refuse():
        raise LeaseLost("refused")

    spec = make_spec(ready=ReadyCheck.ANY)
    await driver.start(spec, quiet)
    driver.guard = refuse
    with pytest.raises(LeaseLost):
        await driver.hibernate(spec.session_id)
    found = await driver.inspect(spec.session_id)
    assert (found.state, found.ready_check) == (SessionState.RUNNING, ReadyCheck.VNC)


async def test_a_wake_that_fails_leaves_the_session_asleep(make_driver, make_spec, quiet):
    """Its desktop does not come up in time; another try may do better, so nothing is thrown away."""
    driver = make_driver()
    spec = make_spec(environment={"DELAY": "3"})
    await driver.start(spec, quiet)
    await driver.hibernate(spec.session_id)
    hasty = make_driver(ready_timeout=0.5)
    with pytest.raises(CommandFailed, match="not_ready"):
        await hasty.wake(spec.session_id, quiet)
    found = await hasty.inspect(spec.session_id)
    assert (found.state, found.reason) == (SessionState.HIBERNATED, "")
    assert (await driver.wake(spec.session_id, quiet)).ready


@pytest.mark.parametrize(("crashes", "state"), [(False, SessionState.HIBERNATED), (True, SessionState.FAILED)])
async def test_a_session_that_ends_while_it_is_proved_is_told_as_ended_and_stays_so(
    make_driver, make_spec, quiet, api, runs, crashes, state
):
    """Its starter is gone, its desktop hangs: as a new leader finds it."""
    adopting = make_driver(ready_timeout=60.0)
    spec = make_spec(environment={"MODE": "crash", "AFTER": "4", "PORT": "5901"} if crashes else {"MODE": "hang"})
    starting = asyncio.create_task(make_driver().start(spec, quiet))

    await runs(adopting, spec)
    starting.cancel()
    await asyncio.wait([starting])
    proving = asyncio.create_task(adopting.prove(spec.session_id))
    assert not (await asyncio.wait([proving], timeout=0.7))[0]
    if not crashes:
        api.kill(f"streamspace-{spec.session_id}", "SIGKILL")
    proved = await asyncio.wait_for(proving, 20)
    assert (proved.state, proved.ready) == (state, False)
    assert (await adopting.inspect(spec.session_id)).state is state


async def test_no_stop_waits_for_the_proof_of_a_session_that_does_not_answer(make_driver, make_spec, quiet, runs):
    driver, spec = make_driver(ready_timeout=60.0), make_spec(environment={"MODE": "hang"})
    starting = asyncio.create_task(make_driver().start(spec, quiet))

    await runs(driver, spec)
    starting.cancel()
    await asyncio.wait([starting])
    proving = asyncio.create_task(driver.prove(spec.session_id))
    await asyncio.sleep(0.2)
    await asyncio.wait_for(driver.stop(spec.session_id), 15)
    with pytest.raises(SessionNotFound):
        await asyncio.wait_for(proving, 10)


async def test_a_session_that_does_not_answer_in_time_is_told_as_running_and_not_ready(
    make_driver, make_spec, quiet, runs
):
    driver, spec = make_driver(ready_timeout=0.5), make_spec(environment={"DELAY": "4"})
    starting = asyncio.create_task(make_driver().start(spec, quiet))

    await runs(driver, spec)
    silent = await driver.prove(spec.session_id)
    assert (silent.state, silent.ready) == (SessionState.RUNNING, False)
    await starting
    assert (await driver.prove(spec.session_id)).ready
