"""An engine that goes away and comes back: a private one, since others use the main one."""

import asyncio

import pytest

from lab.dockerd import PrivateEngine
from streamspace_agent.errors import EngineUnavailable
from streamspace_agent.runtime import EventKind, SessionState


@pytest.fixture(scope="module")
def private(tmp_path_factory, docker_host, tiny_image):
    engine = PrivateEngine(tmp_path_factory.mktemp("e"))
    engine.start()
    try:
        engine.load(tiny_image, docker_host)
        yield engine
    finally:
        engine.destroy()


async def kinds(stream, until):
    """The kinds of events up to the first of `until`; the reasons of one outage, each told once, count as one."""
    seen, reasons = [], []
    async with asyncio.timeout(60):
        async for event in stream:
            if event.kind is EventKind.ENGINE_DOWN:
                assert event.reason.startswith("DOCKER_HOST=unix://")
                assert event.reason not in reasons[-1:]
                reasons.append(event.reason)
            if event.kind not in seen:
                seen.append(event.kind)
            if event.kind is until:
                break
    return seen


@pytest.mark.parametrize("mode", ["stop", "pause"])
async def test_a_restarted_engine_ends_in_a_resync_with_true_states(private, make_driver, make_spec, quiet, mode):
    driver = make_driver(docker_host=private.host, hibernate_mode=mode)
    awake, asleep = make_spec("-awake"), make_spec("-asleep")
    stream = driver.events()
    assert await kinds(stream, EventKind.RESYNC) == [EventKind.RESYNC]
    await driver.start(awake, quiet)
    await driver.start(asleep, quiet)
    await driver.hibernate(asleep.session_id)
    await asyncio.to_thread(private.stop)
    assert await kinds(stream, EventKind.ENGINE_DOWN) == [EventKind.ENGINE_DOWN], "no session is called dead"
    with pytest.raises(EngineUnavailable, match=r"no such file|refused"):
        await driver.sessions()
    await asyncio.to_thread(private.start)
    assert (await kinds(stream, EventKind.RESYNC))[-1] is EventKind.RESYNC
    states = {session.session_id: session for session in await driver.sessions()}
    assert {session.state for session in states.values()} == {SessionState.HIBERNATED}
    assert "while the engine or the agent was away" in states[awake.session_id].reason
    for spec in (awake, asleep):
        assert (await driver.wake(spec.session_id, quiet)).ready
    await stream.aclose()
