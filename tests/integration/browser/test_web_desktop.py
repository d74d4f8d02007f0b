"""A person uses a web desktop in a browser: through the control plane's reverse proxy and the agent's gateway."""

import asyncio
import re
import shutil
import signal
import tempfile
from pathlib import Path

import pytest
from playwright.async_api import expect
from websockets.asyncio.client import connect

from lab.process import free_port
from streamspace_devplane import DevPlane, Settings
from tests.core.vnc import GREETING
from tests.gateway import Asker

NAME = "ann-web-00000001"


@pytest.fixture
def gateway():
    return Asker(free_port())


@pytest.fixture
async def plane(tmp_path, gateway, web_image):
    spec = {
        "baseImage": web_image,
        "defaultResources": {"memory": "512Mi", "cpu": "1000m"},
        "ports": [{"name": "vnc", "containerPort": 3000, "protocol": "TCP"}],
    }
    template = {"metadata": {"name": "web"}, "spec": spec}
    settings = Settings(web_gateway=f"127.0.0.1:{gateway.port}")
    async with DevPlane(db=tmp_path / "plane.db", templates={"web": template}, settings=settings) as plane:
        yield plane


@pytest.fixture
def lock():
    # A file system that carries locks: the temporary folder may be a container's own layer, which is refused.
    folder = Path(tempfile.mkdtemp(prefix="streamspace-lock-", dir="/dev/shm"))
    yield folder / "agent.lock"
    shutil.rmtree(folder)


@pytest.fixture
async def replicas(make_agent, plane, agent_id, gateway, lock):
    """Two, and a web desktop that runs. They share the gateway's address: only the leader takes it."""
    shared = {"ENABLE_HA": "true", "LOCK_FILE_PATH": str(lock), "WEB_GATEWAY": f"127.0.0.1:{gateway.port}"}
    replicas = [await make_agent(name, **shared) for name in ("one", "two")]
    for replica in replicas:
        await replica.start()
        await plane.wait_agent(agent_id)
    await plane.wait_command(await plane.start_session("web", session_id=NAME), timeout=60)
    return replicas


def address(plane):
    path = f"api/v1/http/{NAME}"
    return f"{plane.url}/{path}/vnc.html?autoconnect=true&path={path}/websockify"


async def sees_the_desktop(page, timeout):
    await expect(page.locator("html")).to_have_class(re.compile("noVNC_connected"), timeout=timeout)
    await expect(page.locator("#noVNC_container canvas")).to_be_visible()


async def loads(page, load):
    """Load the page once, and again only where Chromium dropped its connections because a container's interface came
    or went."""
    changed = []
    page.on("requestfailed", lambda request: changed.append("ERR_NETWORK_CHANGED" in (request.failure or "")))
    for _ in range(5):
        changed.clear()
        await load()
        try:
            await sees_the_desktop(page, timeout=10_000 if any(changed) else 30_000)
        except AssertionError:
            if not any(changed):
                raise
        else:
            return
    raise AssertionError("the network changed during each load")


async def types(page, container, text, file, expected):
    """Type into the desktop's terminal until the session's container shows what came of it."""
    await page.locator("#noVNC_container canvas").click(position={"x": 300, "y": 300})
    for _ in range(5):
        await page.keyboard.type(f"{text} > {file}\n", delay=20)
        for _ in range(20):
            done = await asyncio.to_thread(container.exec_run, ["cat", file])
            if done.output.decode().strip() == expected:
                return
            await asyncio.sleep(0.25)
    raise AssertionError(f"{file} never held {expected!r}")


async def test_a_person_types_into_a_web_desktop_and_goes_on_after_a_takeover_with_one_reload(
    plane, replicas, chromium, agent_id, docker_client
):
    (container,) = docker_client.containers.list(filters={"label": f"streamspace.agent={agent_id}"})
    page = await (await chromium.new_context()).new_page()
    await loads(page, lambda: page.goto(address(plane)))
    await types(page, container, "export SEEN=before; echo $SEEN", "/tmp/first", "before")
    leader = next(replica for replica in replicas if "gained leadership" in replica.log)
    leader.signal(signal.SIGKILL)
    await expect(page.locator("html")).not_to_have_class(re.compile("noVNC_connected"), timeout=20_000)
    other = next(replica for replica in replicas if replica is not leader)
    async with asyncio.timeout(30):
        while "web desktops are served" not in other.log:
            await asyncio.sleep(0.05)
    await loads(page, page.reload)
    await types(page, container, "echo still known: $SEEN", "/tmp/second", "still known: before")
    assert (await plane.session(NAME))["state"] == "running"


async def test_fifty_people_look_at_one_web_desktop_at_once(plane, replicas):
    async def looks(number):
        url = f"{plane.ws_url}/api/v1/http/{NAME}/websockify"
        async with connect(url, subprotocols=["binary"], max_size=None, open_timeout=60) as screen:
            assert await asyncio.wait_for(screen.recv(), 60) == GREETING
            for message in (GREETING, b"\x01", b"\x01"):
                await screen.send(message)
            together.release()
            await asyncio.wait_for(everybody.wait(), 90)
            await screen.send(b"\x03\x00" + bytes(4) + (1280).to_bytes(2) + (800).to_bytes(2))
            picture = 0
            while picture < 100_000:
                picture += len(await asyncio.wait_for(screen.recv(), 90))

    together, everybody = asyncio.Semaphore(0), asyncio.Event()
    people = [asyncio.create_task(looks(number)) for number in range(50)]
    for _ in people:
        await asyncio.wait_for(together.acquire(), 90)
    everybody.set()
    await asyncio.gather(*people)
