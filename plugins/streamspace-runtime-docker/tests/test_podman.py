"""The same driver over Podman's Docker-compatible socket."""

import asyncio

import pytest

from lab.podman import Podman
from streamspace_agent.errors import CommandFailed
from streamspace_agent.runtime import EventKind, SessionState


@pytest.fixture(scope="module")
def podman(tmp_path_factory):
    with Podman(tmp_path_factory.mktemp("p")) as podman:
        yield podman


@pytest.fixture(scope="module")
def image(podman, tiny_image, docker_host):
    return podman.load(tiny_image, docker_host)


@pytest.fixture
def make(make_driver, podman, run_label):
    def make(**settings):
        return make_driver(docker_host=podman.host, network_name=f"{run_label}-pod", **settings)

    return make


async def test_podman_names_itself(make):
    driver = make()
    assert (await driver.describe())["engine"] == "podman"
    assert [problem for problem in await driver.check() if problem.fatal] == []


@pytest.mark.parametrize("mode", ["stop", "pause"])
async def test_a_session_lives_a_whole_life_on_podman(make, make_spec, image, quiet, mode):
    driver = make(hibernate_mode=mode)
    spec = make_spec(image=image)
    session = await driver.start(spec, quiet)
    assert (session.state, session.ready) == (SessionState.RUNNING, True)
    assert (await driver.start(spec, quiet)).details["containerId"] == session.details["containerId"]
    [listed] = await driver.sessions()
    assert (listed.session_id, listed.state, listed.memory) == (spec.session_id, SessionState.RUNNING, spec.memory)
    assert (await driver.stats(spec.session_id))[1] > 0
    asleep = await driver.hibernate(spec.session_id)
    assert (asleep.state, asleep.reason) == (SessionState.HIBERNATED, "")
    [listed] = await driver.sessions()
    assert (listed.state, listed.reason) == (SessionState.HIBERNATED, "")
    assert (await driver.wake(spec.session_id, quiet)).ready
    reader, writer = await driver.connect(spec.session_id, 5900)
    assert await reader.readexactly(4) == b"RFB "
    writer.close()
    await driver.stop(spec.session_id, delete_volumes=True)
    assert await driver.sessions() == []
    await driver.stop(spec.session_id, delete_volumes=True)


async def test_a_crash_on_podman_is_told(make, make_spec, image, quiet):
    driver = make()
    stream = driver.events()
    async with asyncio.timeout(30):
        assert (await anext(stream)).kind is EventKind.RESYNC
        await driver.start(make_spec(image=image, environment={"MODE": "crash", "AFTER": "1"}), quiet)
        event = await anext(stream)
    assert event.session.state is SessionState.FAILED
    assert "exit code 3" in event.session.reason
    assert "session: giving up" in event.session.reason
    await stream.aclose()


async def test_a_failed_start_on_podman_leaves_nothing(make, make_spec, image, quiet):
    driver = make()
    spec = make_spec(image=image, environment={"MODE": "crash", "AFTER": "0", "PORT": "5901"})
    with pytest.raises(CommandFailed, match="session_ended"):
        await driver.start(spec, quiet)
    assert await driver.sessions() == []
    assert await driver.leftovers(frozenset()) == []


async def test_two_starts_at_once_on_podman_make_one_container(make, make_spec, image, quiet):
    first, second = make(), make()
    spec = make_spec(image=image)
    sessions = await asyncio.gather(first.start(spec, quiet), second.start(spec, quiet))
    assert len({session.details["containerId"] for session in sessions}) == 1
