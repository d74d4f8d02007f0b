"""Web desktops through the gateway: a real agent, a real engine, an image as the public catalogue's are."""

import asyncio
import contextlib
import socket
import time

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from lab.process import free_port
from lab.until import until
from tests.core.vnc import GREETING
from tests.gateway import DOMAIN, Asker
from tests.names import sid


@pytest.fixture
def web_desktop(web_image):
    """As the public catalogue's templates arrive: a port named vnc on which HTTP is spoken."""
    spec = {
        "baseImage": web_image,
        "defaultResources": {"memory": "512Mi", "cpu": "1000m"},
        "ports": [{"name": "vnc", "containerPort": 3000, "protocol": "TCP"}],
    }
    return {"metadata": {"name": "web"}, "spec": spec}


@pytest.fixture
async def gateway():
    return Asker(free_port())


@pytest.fixture
async def started(make_agent, plane, agent_id, gateway, web_desktop):
    """An agent with a gateway, and a web desktop that runs."""
    agent = await (await make_agent(WEB_GATEWAY=f"127.0.0.1:{gateway.port}")).start()
    await plane.wait_agent(agent_id)
    await plane.wait_command(await plane.start_session("web", session_id=sid("web"), manifest=web_desktop), timeout=60)
    return agent


def websocket(gateway, session_id):
    return connect(
        f"ws://{session_id}.{DOMAIN}:3000/websockify", host="127.0.0.1", port=gateway.port, subprotocols=["binary"]
    )


async def test_a_leader_serves_a_web_desktop_by_its_name_page_and_websocket(started, gateway):
    page = await gateway.get(sid("web"), "/vnc.html")
    assert page.status == 200
    assert "<title>noVNC</title>" in page.text
    async with websocket(gateway, sid("web")) as screen:
        assert await asyncio.wait_for(screen.recv(), 10) == GREETING
    assert (await gateway.get(sid("other"))).status == 404


async def test_a_web_desktop_has_an_address_at_the_control_plane_when_started_when_woken_and_under_the_next_agent(
    started, plane, agent_id, make_agent
):
    async def address():
        return (await plane.wait_session(sid("web"), state="running", vnc_ready=True, timeout=30))["url"]

    expected = f"/api/v1/sessions/{sid('web')}/vnc"
    assert await address() == expected
    await plane.wait_command(await plane.hibernate_session(sid("web")), timeout=60)
    await plane.wait_command(await plane.wake_session(sid("web")), timeout=60)
    assert await address() == expected
    await started.terminate()
    await (await make_agent("next")).start()
    await plane.wait_agent(agent_id)
    await plane.wait_command(await plane.hibernate_session(sid("web")), timeout=60)
    await plane.wait_command(await plane.wake_session(sid("web")), timeout=60)
    assert await address() == expected


async def test_a_hibernated_session_is_told_to_be_asleep_and_its_open_websocket_ends(started, plane, gateway):
    async with websocket(gateway, sid("web")) as screen:
        await asyncio.wait_for(screen.recv(), 10)
        await plane.wait_command(await plane.hibernate_session(sid("web")), timeout=60)
        await asyncio.wait_for(screen.wait_closed(), 10)
    answer = await gateway.get(sid("web"), "/vnc.html")
    assert (answer.status, answer.text) == (503, "the session is hibernated: wake it first\n")
    await plane.wait_command(await plane.wake_session(sid("web")), timeout=60)
    assert (await gateway.get(sid("web"), "/vnc.html")).status == 200


UPDATE_REQUEST, KEY = b"\x03\x01" + bytes(8), b"\x04\x01\x00\x00\x00\x00\x00a"


async def page(screen):
    """Say what noVNC says until the picture is asked for."""
    assert await asyncio.wait_for(screen.recv(), 10) == GREETING
    for message in (GREETING, b"\x01", b"\x01"):
        await screen.send(message)


async def say_every(screen, message, pause):
    with contextlib.suppress(ConnectionClosed):
        while True:
            await screen.send(message)
            await asyncio.sleep(pause)


async def test_a_web_desktop_sleeps_under_an_open_page_and_not_under_a_persons_hands(
    started, plane, gateway, web_desktop
):
    names = [sid("looked-at"), sid("used")]
    starts = [
        await plane.start_session("web", session_id=name, manifest=web_desktop, idleTimeout="12s") for name in names
    ]
    for command in starts:
        await plane.wait_command(command, timeout=60)
    async with websocket(gateway, sid("looked-at")) as seen, websocket(gateway, sid("used")) as used:
        await asyncio.gather(page(seen), page(used))
        talks = [
            asyncio.create_task(say_every(seen, UPDATE_REQUEST, 0.2)),
            asyncio.create_task(say_every(used, KEY, 2.0)),
            asyncio.create_task(drained(seen)),
            asyncio.create_task(drained(used)),
        ]
        await plane.wait_session(sid("looked-at"), state="hibernated", timeout=30)
        assert f"session {sid('looked-at')}: hibernate_session: idle_timeout" in started.log
        await asyncio.sleep(14)
        assert (await plane.session(sid("used")))["state"] == "running"
        for talk in talks:
            talk.cancel()
    await plane.wait_session(sid("used"), state="hibernated", timeout=30)


async def drained(screen):
    with contextlib.suppress(ConnectionClosed):
        async for _ in screen:
            pass


async def test_without_a_gateway_a_web_desktop_sleeps_only_while_nothing_comes_in(
    make_agent, plane, agent_id, web_desktop, docker_client
):
    agent = await (await make_agent()).start()
    await plane.wait_agent(agent_id)
    command = await plane.start_session("web", session_id=sid("direct"), manifest=web_desktop, idleTimeout="5s")
    await plane.wait_command(command, timeout=60)
    (container,) = docker_client.containers.list(filters={"label": f"streamspace.agent={agent_id}"})
    (network,) = container.attrs["NetworkSettings"]["Networks"].values()
    reader, writer = await asyncio.open_connection(network["IPAddress"], 3000)
    begun = time.monotonic()
    while time.monotonic() - begun < 45:  # a person of whom the agent sees nothing
        writer.write(b"GET /vnc.html HTTP/1.0\r\n\r\n")
        while await asyncio.wait_for(reader.read(65536), 10):
            pass
        writer.close()
        reader, writer = await asyncio.open_connection(network["IPAddress"], 3000)
        await asyncio.sleep(0.5)
        assert (await plane.session(sid("direct")))["state"] == "running"
    writer.close()
    await plane.wait_session(sid("direct"), state="hibernated", timeout=100)
    assert "idle_timeout" in agent.log


async def test_an_address_that_another_program_holds_ends_nothing_and_is_told_until_it_is_free(
    make_agent, plane, agent_id, gateway, web_desktop
):
    with socket.create_server(("127.0.0.1", gateway.port)):
        agent = await (await make_agent(WEB_GATEWAY=f"127.0.0.1:{gateway.port}")).start()
        await plane.wait_agent(agent_id)
        command = await plane.start_session("web", session_id=sid("web"), manifest=web_desktop)
        await plane.wait_command(command, timeout=60)
        code, (status,) = await agent.ask("status")
        said = "address already in use"
        assert (code, status["role"], status["ready"]) == (0, "leader", False)
        assert status["gateway"]["addresses"] == {f"127.0.0.1:{gateway.port}": said}
        assert status["problems"] == [f"WEB_GATEWAY=127.0.0.1:{gateway.port}: cannot listen there: {said}"]
        assert f"cannot listen there: {said}" in agent.log
    page = await until(lambda: gateway.get(sid("web"), "/vnc.html"), tolerate=(OSError, IndexError))
    assert page.status == 200
    _, (status,) = await agent.ask("status")
    assert (status["ready"], status["gateway"]["addresses"]) == (True, {f"127.0.0.1:{gateway.port}": ""})
    assert status["gateway"]["requests"]["passed"] == 1


async def test_a_web_desktop_that_speaks_only_https_is_served_over_http(started, plane, gateway, web_image):
    spec = {
        "baseImage": web_image,
        "defaultResources": {"memory": "512Mi", "cpu": "1000m"},
        "ports": [{"name": "https", "containerPort": 6901}],
        "env": [{"name": "WEB_PORT", "value": "6901"}, {"name": "CERTIFICATE", "value": "1"}],
    }
    template = {"metadata": {"name": "kasm"}, "spec": spec}
    command = await plane.start_session("kasm", session_id=sid("kasm"), manifest=template)
    await plane.wait_command(command, timeout=60)
    assert "<title>noVNC</title>" in (await gateway.get(sid("kasm"), "/vnc.html")).text
    async with websocket(gateway, sid("kasm")) as screen:
        assert await asyncio.wait_for(screen.recv(), 10) == GREETING
