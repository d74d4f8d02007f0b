"""Web desktops through the gateway: a real agent, a real engine, an image as the public catalogue's are."""

import asyncio

import pytest
from websockets.asyncio.client import connect

from lab.process import free_port
from tests.core.vnc import GREETING
from tests.gateway import DOMAIN, Asker
from tests.names import sid


@pytest.fixture
def web_desktop(web_image):
    """As the public catalogue's templates arrive: a port named vnc on which HTTP is spoken."""
    spec = {
        "baseImage": web_image,
        "defaultResources": {"memory": "512Mi", "cpu": "1000m"},
        "ports": [{"name": "http", "containerPort": 3000, "protocol": "TCP"}],
        "kasmvnc": {"enabled": True, "port": 3000},
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


async def test_a_hibernated_session_is_told_to_be_asleep_and_its_open_websocket_ends(started, plane, gateway):
    async with websocket(gateway, sid("web")) as screen:
        await asyncio.wait_for(screen.recv(), 10)
        await plane.wait_command(await plane.hibernate_session(sid("web")), timeout=60)
        await asyncio.wait_for(screen.wait_closed(), 10)
    answer = await gateway.get(sid("web"), "/vnc.html")
    assert (answer.status, answer.text) == (503, "the session is hibernated: wake it first\n")
    await plane.wait_command(await plane.wake_session(sid("web")), timeout=60)
    assert (await gateway.get(sid("web"), "/vnc.html")).status == 200
