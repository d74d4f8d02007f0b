"""Pulls from a real registry, behind a proxy that slows and stalls them."""

import asyncio
import base64
import itertools
import json

import pytest

from lab.registry import Registry
from lab.until import until
from streamspace_agent.errors import CommandFailed, Injected
from streamspace_agent.runtime import EventKind
from streamspace_engine import Engine

numbers = itertools.count(1)
SECRET = "s3cret-of-the-registry"


@pytest.fixture(scope="module")
def registry():
    with Registry(credentials=("puller", SECRET)) as registry:
        yield registry


@pytest.fixture
def image(registry, docker_host, api):
    """An image that the engine never had, nor a part of it: containerd's store keeps what was once pulled in part. The
    registry at full speed.
    """
    registry.proxy.rate, registry.proxy.stalled = None, False
    image = registry.push_generated(docker_host, f"big:{next(numbers)}", megabytes=6, layers=3)
    yield image
    registry.proxy.rate, registry.proxy.stalled = None, False
    registry.proxy.cut()
    if api.images(image):
        api.remove_image(image, force=True)


@pytest.fixture
def containerd(api):
    """Does the engine keep images with containerd, as new ones do? It tells of pulls in blocks of 1 MiB."""
    return ["driver-type", "io.containerd.snapshotter.v1"] in api.info()["DriverStatus"]


@pytest.fixture
def logged_in(registry, tmp_path):
    """The environment of an agent whose Docker configuration knows the registry."""
    token = base64.b64encode(f"puller:{SECRET}".encode()).decode()
    (tmp_path / "config.json").write_text(json.dumps({"auths": {registry.address: {"auth": token}}}))
    return {"DOCKER_CONFIG": str(tmp_path)}


async def test_a_pull_with_credentials_shows_its_bytes(make_driver, make_spec, image, registry, logged_in):
    steps = []
    driver = make_driver(environ=logged_in)
    registry.proxy.rate = 4_000_000
    assert (await driver.start(make_spec(image=image), steps.append)).ready
    pulling = [step for step in steps if step.phase == "pulling"]
    assert pulling[-1].current == pulling[-1].total > 5_000_000
    assert pulling[-1].percent == 100
    assert "layers" in pulling[-1].detail
    percents = [step.percent for step in pulling if step.percent is not None]
    assert percents == sorted(percents)
    assert all("so far" in step.detail for step in pulling if step.current and step.percent is None)
    await driver.stop(make_spec().session_id)


async def test_without_credentials_the_refusal_says_what_to_do(make_driver, make_spec, image, tmp_path):
    driver = make_driver(environ={"DOCKER_CONFIG": str(tmp_path)})
    with pytest.raises(CommandFailed, match=r"pull_denied: .*docker login"):
        await driver.start(make_spec(image=image), lambda step: None)


async def test_an_image_that_the_registry_does_not_have_is_named(make_driver, make_spec, registry, logged_in):
    driver = make_driver(environ=logged_in)
    with pytest.raises(CommandFailed, match=f"image_not_found: cannot pull {registry.address}/none:1"):
        await driver.start(make_spec(image=f"{registry.address}/none:1"), lambda step: None)


async def test_a_registry_that_cannot_be_reached_is_named(make_driver, make_spec):
    with pytest.raises(CommandFailed, match="registry_unreachable"):
        await make_driver().start(make_spec(image="localhost:1/none:1"), lambda step: None)


async def test_a_stalled_pull_fails_after_the_stall_timeout(
    make_driver, make_spec, image, registry, logged_in, api, containerd
):
    """containerd tells a block at a time, of any layer: there each of the three has the time."""
    driver = make_driver(environ={**logged_in, "PULL_STALL_TIMEOUT": "2s"})
    registry.proxy.rate = 1_000_000

    def stall(step):
        registry.proxy.stalled |= bool(step.current)

    waited = r"6\.0 s \(PULL_STALL_TIMEOUT, 2\.0 s for each layer" if containerd else r"2\.0 s \(PULL_STALL_TIMEOUT\)"
    with pytest.raises(CommandFailed, match=f"pull_stalled: .* no progress for {waited}"):
        await driver.start(make_spec(image=image), stall)
    assert api.containers(all=True, filters={"label": f"streamspace.session={make_spec().session_id}"}) == []


async def test_many_sessions_share_one_pull_and_one_leaving_does_not_end_it(
    make_driver, make_spec, image, registry, logged_in, monkeypatch
):
    driver = make_driver(environ=logged_in)
    registry.proxy.rate = 3_000_000
    pulls = []
    original = Engine.stream

    def counting(self, method, path, *args, **rest):
        pulls.append(path)
        return original(self, method, path, *args, **rest)

    monkeypatch.setattr(Engine, "stream", counting)
    steps = {number: [] for number in range(3)}
    starts = [
        asyncio.create_task(driver.start(make_spec(f"-{number}", image=image, mounts=()), steps[number].append))
        for number in steps
    ]
    async with asyncio.timeout(30):
        while not all(any(step.current for step in seen) for seen in steps.values()):
            await asyncio.sleep(0.02)
    starts[0].cancel()
    sessions = await asyncio.gather(*starts, return_exceptions=True)
    assert isinstance(sessions[0], asyncio.CancelledError)
    assert all(session.ready for session in sessions[1:])
    assert pulls == ["/images/create"]
    for number in (1, 2):
        await driver.stop(make_spec(f"-{number}").session_id)


async def test_a_pull_that_nobody_waits_for_any_more_ends(make_driver, make_spec, image, registry, logged_in, api):
    driver = make_driver(environ=logged_in)
    registry.proxy.rate = 500_000
    start = asyncio.create_task(driver.start(make_spec(image=image), lambda step: None))
    await asyncio.sleep(2)
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start

    async def quiet_registry():
        before = registry.proxy.replied
        await asyncio.sleep(1)
        return registry.proxy.replied == before

    await until(quiet_registry)
    assert api.images(image) == []


async def test_a_slow_pull_delays_no_other_session(make_driver, make_spec, image, registry, logged_in):
    driver = make_driver(environ={**logged_in, "ENGINE_CONCURRENCY": "2"})
    registry.proxy.rate = 200_000
    slow = asyncio.create_task(driver.start(make_spec("-slow", image=image), lambda step: None))
    await asyncio.sleep(1)
    assert (await driver.start(make_spec("-fast"), lambda step: None)).ready
    assert not slow.done()
    slow.cancel()
    with pytest.raises(asyncio.CancelledError):
        await slow


async def test_a_pull_interrupted_midway_is_taken_up_by_the_next_start(
    make_driver, make_spec, image, registry, logged_in, containerd
):
    """containerd's store keeps the blocks that it has; the classic one nothing of a layer that was not whole."""
    registry.proxy.rate = 3_000_000
    broken = make_driver(environ={**logged_in, "STREAMSPACE_FAULTS": "docker.mid_pull=raise"})
    with pytest.raises(Injected):
        await broken.start(make_spec(image=image), lambda step: None)
    await asyncio.sleep(1)  # what the proxy still holds
    before, steps = registry.proxy.replied, []
    registry.proxy.rate = None
    assert (await make_driver(environ=logged_in).start(make_spec(image=image), steps.append)).ready
    if containerd:
        assert registry.proxy.replied - before < 6_000_000 - 1024**2 + 100_000
    percents = [step.percent for step in steps if step.percent is not None]
    assert percents == sorted(percents)
    await broken.stop(make_spec().session_id)


async def test_a_pull_that_another_agent_has_begun_is_shared_and_outlives_it(
    make_driver, make_spec, image, registry, logged_in
):
    registry.proxy.rate = 1_500_000
    mine, others, steps = make_driver(environ=logged_in), make_driver(environ=logged_in, agent_id="other-agent"), []
    first = asyncio.create_task(others.start(make_spec("-other", image=image), lambda step: None))
    await asyncio.sleep(0.5)
    second = asyncio.create_task(mine.start(make_spec(image=image), steps.append))
    async with asyncio.timeout(30):
        while not any(step.current for step in steps):
            await asyncio.sleep(0.02)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert (await second).ready
    pulling = [step for step in steps if step.phase == "pulling"]
    percents = [step.percent for step in pulling if step.percent is not None]
    assert percents == sorted(percents)
    await mine.stop(make_spec().session_id)


async def test_no_error_shows_the_registrys_password(make_driver, make_spec, registry, tmp_path, caplog):
    token = base64.b64encode(f"puller:{SECRET}-wrong".encode()).decode()
    (tmp_path / "config.json").write_text(json.dumps({"auths": {registry.address: {"auth": token}}}))
    driver = make_driver(environ={"DOCKER_CONFIG": str(tmp_path)})
    with pytest.raises(CommandFailed) as failure:
        await driver.start(make_spec(image=f"{registry.address}/none:1"), lambda step: None)
    assert SECRET not in str(failure.value)
    assert token not in str(failure.value)
    assert SECRET not in caplog.text


async def test_a_pull_that_waits_for_its_turn_has_not_stalled_and_events_need_no_turn(
    make_driver, make_spec, image, registry, logged_in, docker_host, api
):
    other = registry.push_generated(docker_host, "other:1", megabytes=1)
    driver = make_driver(environ={**logged_in, "PULL_STALL_TIMEOUT": "2s", "PULL_CONCURRENCY": "1"})
    registry.proxy.rate = 1_500_000
    earlier, steps = [], []
    first = asyncio.create_task(driver.start(make_spec("-first", image=image, mounts=()), earlier.append))
    try:
        await until(lambda: any(step.phase == "pulling" for step in earlier))
        second = asyncio.create_task(driver.start(make_spec("-second", image=other, mounts=()), steps.append))
        stream = driver.events()
        async with asyncio.timeout(3):
            assert (await anext(stream)).kind is EventKind.RESYNC
        await stream.aclose()
        assert not first.done()
        assert all(session.ready for session in await asyncio.gather(first, second))
        assert any("waits for other pulls" in step.detail for step in steps)
    finally:
        for suffix in ("-first", "-second"):
            await driver.stop(make_spec(suffix).session_id)
        if api.images(other):
            api.remove_image(other, force=True)


async def test_a_pull_that_waits_for_the_engines_slots_or_for_a_whole_block_has_not_stalled(
    make_driver, make_spec, registry, logged_in, docker_host, api, containerd
):
    """The classic store fetches three layers at a time, of all pulls together: the last shows no byte meanwhile.

    containerd's fetches all at once and shows whole blocks: none shows a byte until nearly all are there.
    """
    first = registry.push_generated(docker_host, "first:1", megabytes=9, layers=9)
    last = registry.push_generated(docker_host, "last:1", megabytes=1)
    driver = make_driver(environ={**logged_in, "PULL_STALL_TIMEOUT": "3s"})
    registry.proxy.rate = 1_000_000
    earlier, steps = [], []
    try:
        going = asyncio.create_task(driver.start(make_spec("-first", image=first, mounts=()), earlier.append))
        await until(lambda: any("layers" in step.detail for step in earlier))
        waiting = asyncio.create_task(driver.start(make_spec("-last", image=last, mounts=()), steps.append))
        assert all(session.ready for session in await asyncio.gather(going, waiting))
        assert any("waits for the engine" in step.detail for step in steps) is not containerd
    finally:
        registry.proxy.rate = None
        for suffix, image in (("-first", first), ("-last", last)):
            await driver.stop(make_spec(suffix).session_id)
            if api.images(image):
                api.remove_image(image, force=True)
