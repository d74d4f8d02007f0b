"""What the driver tells of ends that nobody asked for, and what it keeps to itself."""

import asyncio
import gc

import pytest

from lab.odd_engine import Rule
from streamspace_agent.errors import CommandFailed
from streamspace_agent.runtime import EventKind, SessionState
from streamspace_engine.errors import EngineError
from streamspace_runtime_docker import events as events_module


async def next_event(events):
    async with asyncio.timeout(20):
        return await events.get()


async def test_events_begin_with_a_resync(driver):
    stream = driver.events()
    async with asyncio.timeout(10):
        assert (await anext(stream)).kind is EventKind.RESYNC
    await stream.aclose()


async def test_a_crash_is_told_with_its_exit_code_and_last_words(driver, make_spec, quiet, events):
    spec = make_spec(environment={"MODE": "crash", "AFTER": "1"})
    await driver.start(spec, quiet)
    event = await next_event(events)
    assert (event.kind, event.session.session_id) == (EventKind.ENDED, spec.session_id)
    assert event.session.state is SessionState.FAILED
    assert "exit code 3" in event.session.reason
    assert "session: cannot open display" in event.session.reason


async def test_running_out_of_memory_is_named(driver, make_spec, quiet, events):
    await driver.start(make_spec(environment={"MODE": "oom", "AFTER": "1"}), quiet)
    event = await next_event(events)
    assert event.session.state is SessionState.FAILED
    assert "ran out of memory" in event.session.reason


async def test_an_end_that_was_seen_stays_failed_for_later_agents(make_driver, driver, spec, quiet, events, api):
    """Exit code 137 alone would read as an engine's own stop."""
    await driver.start(spec, quiet)
    api.kill(f"streamspace-{spec.session_id}", "SIGKILL")
    assert (await next_event(events)).session.state is SessionState.FAILED
    found = await make_driver().inspect(spec.session_id)
    assert found.state is SessionState.FAILED
    assert "exit code 137" in found.reason


async def test_a_container_removed_behind_our_back_is_told(driver, spec, quiet, events, api):
    await driver.start(spec, quiet)
    api.remove_container(f"streamspace-{spec.session_id}", force=True)
    event = await next_event(events)
    assert (event.kind, event.session.state) == (EventKind.ENDED, SessionState.TERMINATED)
    assert event.session.session_id == spec.session_id


@pytest.mark.parametrize("mode", ["stop", "pause"])
async def test_our_own_doings_are_no_events(make_driver, make_spec, quiet, api, mode):
    driver = make_driver(hibernate_mode=mode, ready_timeout=2.0)
    seen = []

    async def listen():
        async for event in driver.events():
            seen.append(event)  # noqa: PERF401  # it never ends: they are looked at while it goes on

    task = asyncio.create_task(listen())
    spec, failing = make_spec(), make_spec("-failing", environment={"MODE": "crash", "AFTER": "0", "PORT": "5901"})
    await driver.start(spec, quiet)
    with pytest.raises(CommandFailed):
        await driver.start(failing, quiet)
    await driver.hibernate(spec.session_id)
    await driver.wake(spec.session_id, quiet)
    await driver.stop(spec.session_id)
    marker = make_spec("-marker")
    await driver.start(marker, quiet)
    api.remove_container(f"streamspace-{marker.session_id}", force=True)
    async with asyncio.timeout(20):
        while len(seen) < 2:
            await asyncio.sleep(0.05)
    task.cancel()
    assert [event.kind for event in seen] == [EventKind.RESYNC, EventKind.ENDED]
    assert seen[1].session.session_id == marker.session_id


async def test_the_engines_flag_is_not_needed_to_tell_that_it_was_the_memory(make_driver, odd, make_spec, quiet):
    """It may come late."""
    odd.change(r"^GET /containers/[^/]+/json", lambda body: body | {"State": body["State"] | {"OOMKilled": False}})
    driver = make_driver(odd=odd)
    stream = driver.events()
    async with asyncio.timeout(60):
        assert (await anext(stream)).kind is EventKind.RESYNC
        await driver.start(make_spec(environment={"MODE": "oom", "AFTER": "1"}), quiet)
        event = await anext(stream)
    await stream.aclose()
    assert "ran out of memory" in event.session.reason


async def test_an_end_after_a_hibernation_that_failed_is_told(make_driver, odd, spec, quiet, api):
    driver = make_driver(odd=odd)
    stream = driver.events()
    async with asyncio.timeout(60):
        assert (await anext(stream)).kind is EventKind.RESYNC
        await driver.start(spec, quiet)
        odd.refuse(r"^POST /containers/\w+/kill", 500, "cannot kill the container: permission denied", times=1)
        with pytest.raises(EngineError):
            await driver.hibernate(spec.session_id)
        api.kill(f"streamspace-{spec.session_id}", "SIGKILL")
        event = await anext(stream)
    assert event.session.state is SessionState.FAILED
    assert (await driver.inspect(spec.session_id)).state is SessionState.FAILED
    await stream.aclose()


async def test_an_end_between_two_streams_is_told_though_no_event_came_before(
    make_driver, odd, spec, quiet, api, monkeypatch
):
    """A stream without an event in it ends after a while; the next must begin where that one did."""
    monkeypatch.setattr(events_module, "SILENCE", 0.5)
    driver = make_driver(odd=odd)
    await driver.start(spec, quiet)

    def kill():
        api.kill(f"streamspace-{spec.session_id}", "SIGKILL")
        api.wait(f"streamspace-{spec.session_id}")

    odd.rules += [Rule("^GET /events", times=1), Rule("^GET /events", times=1, before=kill)]
    stream = driver.events()
    async with asyncio.timeout(20):
        assert (await anext(stream)).kind is EventKind.RESYNC
        event = await anext(stream)
    assert (event.kind, event.session.session_id) == (EventKind.ENDED, spec.session_id)
    await stream.aclose()


async def test_what_is_remembered_of_sessions_goes_with_them_also_where_their_end_was_not_seen(
    driver, make_spec, quiet, api
):
    stays, goes = make_spec("-stays"), make_spec("-goes")
    for spec in (stays, goes):
        await driver.start(spec, quiet)

    def remembered(spec):
        """Whether any mapping of this process has the session's id as a key."""
        return any(type(each) is dict and spec.session_id in each for each in gc.get_objects())

    assert remembered(goes)
    api.remove_container(f"streamspace-{goes.session_id}", force=True)
    await driver.sessions()
    assert remembered(stays)
    assert not remembered(goes)
    assert (await driver.inspect(stays.session_id)).ready
