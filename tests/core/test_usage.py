"""What running sessions use, on its way to the control plane."""

import asyncio

from tests.core.memory_driver import AGENT


def measuring(driver, *readings):
    """The driver's readings, one a call; the last for ever."""
    left = list(readings)

    async def stats(session_id):
        return left.pop(0) if len(left) > 1 else left[0]

    driver.stats = stats
    return left


async def usages(plane, least=1):
    async with asyncio.timeout(20):
        while True:
            shown = [e["payload"] for e in await plane.events(type="status")]
            told = [s for s in shown if "usage" in s["platformMetadata"]]
            if len(told) >= least:
                return told
            await asyncio.sleep(0.05)


async def test_a_running_session_tells_its_cpu_and_memory_and_the_limits(plane, lead, driver):
    measuring(driver, (0.0, 1000), (0.123456, 2000))
    async with lead(USAGE_INTERVAL="50ms"):
        await plane.wait_agent(AGENT)
        start = await plane.start_session("desktop", session_id="s1", memory="1Gi", cpu="500m")
        await plane.wait_command(start)
        first, second, *_ = await usages(plane, 2)
        limits = {"cpuLimitCores": 0.5, "memoryLimitBytes": 2**30}
        assert first["platformMetadata"]["usage"] == {"memoryBytes": 1000, **limits}  # no average yet
        assert second["platformMetadata"]["usage"] == {"cpuCores": 0.1235, "memoryBytes": 2000, **limits}
        session = await plane.wait_session("s1", state="running")
        assert session["vncReady"]
        assert session["podName"] == "streamspace-s1"


async def test_a_reading_that_comes_late_does_not_bring_a_hibernated_session_back(plane, lead, driver):
    asked, answer = asyncio.Event(), asyncio.Event()

    async def stats(session_id):
        asked.set()
        await answer.wait()
        return 0.5, 1000

    driver.stats = stats
    async with lead(USAGE_INTERVAL="20ms") as running:
        await plane.wait_agent(AGENT)
        await plane.wait_command(await plane.start_session("desktop", session_id="s1"))
        await asked.wait()
        await plane.wait_command(await plane.hibernate_session("s1"))
        answer.set()
        await asyncio.sleep(0.2)
        assert (await plane.wait_session("s1", state="hibernated"))["state"] == "hibernated"
        assert not [e for e in await plane.events(type="status") if "usage" in e["payload"]["platformMetadata"]]
        assert running.tenure.reconciler.count_by_state() == {"hibernated": 1}


async def test_readings_are_not_kept_for_a_control_plane_that_is_away(plane, lead, driver):
    measuring(driver, (0.5, 1000))
    async with lead(USAGE_INTERVAL="50ms") as running:
        await plane.wait_agent(AGENT)
        await plane.wait_command(await plane.start_session("desktop", session_id="s1"))
        await usages(plane)
        await plane.stop()
        await asyncio.sleep(0.3)
        assert running.tenure.outbox.waiting == 0


async def test_a_driver_that_cannot_measure_disturbs_nothing(plane, lead, driver):
    async def stats(session_id):
        raise RuntimeError("no figures today")

    driver.stats = stats
    async with lead(USAGE_INTERVAL="20ms") as running:
        await plane.wait_agent(AGENT)
        await plane.wait_command(await plane.start_session("desktop", session_id="s1"))
        await asyncio.sleep(0.2)
        assert not running.task.done()
        await plane.wait_command(await plane.stop_session("s1"))


async def test_an_interval_of_0_measures_nothing(plane, lead, driver):
    asked = measuring(driver, (0.5, 1000), (0.5, 1000))
    async with lead(USAGE_INTERVAL="0"):
        await plane.wait_agent(AGENT)
        await plane.wait_command(await plane.start_session("desktop", session_id="s1"))
        await asyncio.sleep(0.2)
        assert len(asked) == 2
