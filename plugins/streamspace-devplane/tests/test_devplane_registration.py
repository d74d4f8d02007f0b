import asyncio
import ssl
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from streamspace_devplane import DevPlane, PlaneError, Settings

from .conftest import AGENT, Agent


async def test_the_first_registration_answers_201_and_the_next_200(plane: DevPlane, registered: Agent) -> None:
    answer = await registered.register(region="eu-1", metadata={"version": "1"})
    assert answer.status_code == 200
    agent = answer.json()
    assert (agent["agentId"], agent["platform"], agent["region"], agent["metadata"]) == (
        AGENT,
        "docker",
        "eu-1",
        {"version": "1"},
    )
    assert agent["id"]
    assert "apiKey" not in agent
    assert answer.headers["x-streamspace-devplane"] == "development only"


@pytest.mark.parametrize(
    "changes",
    [
        {"agentId": "ab"},
        {"agentId": "a" * 101},
        {"agentId": 7},
        {"platform": "podman"},
        {"platform": None},
        {"region": "x"},
        {"region": "x" * 51},
        {"capacity": {"cpu": 64}},
        {"capacity": {"memory": 1024}},
        {"capacity": {"maxSessions": "10"}},
        {"capacity": {"storage": 5}},
        {"metadata": "text"},
    ],
    ids=str,
)
async def test_a_wrong_field_fails_the_registration(registered: Agent, changes: dict[str, Any]) -> None:
    answer = await registered.register(**changes)
    assert answer.status_code == 400
    assert next(iter(changes)) in answer.json()["details"][0]


async def test_extra_capacity_keys_are_ignored(registered: Agent) -> None:
    answer = await registered.register(capacity={"maxSessions": 3, "cpu": "4 cores", "memory": "8Gi", "gpu": 1})
    assert answer.status_code == 200
    assert answer.json()["capacity"] == {"maxSessions": 3, "cpu": "4 cores", "memory": "8Gi"}


@pytest.mark.parametrize("key", ["", "short", "z" * 64, "0" * 64])
async def test_a_missing_malformed_or_unknown_key_is_a_401(plane: DevPlane, key: str) -> None:
    agent = Agent(plane, key=key)
    assert (await agent.register()).status_code == 401
    with pytest.raises(InvalidStatus, match="401"):
        await agent.connect()


async def test_the_key_of_another_agent_is_a_403(plane: DevPlane, registered: Agent) -> None:
    stranger = Agent(plane, "another-agent", key=registered.key)
    assert (await stranger.register()).status_code == 403
    with pytest.raises(InvalidStatus, match="403"):
        await stranger.connect()


async def test_connecting_before_registering_is_a_404(plane: DevPlane) -> None:
    with pytest.raises(InvalidStatus, match="404"):
        await Agent(plane, key=await plane.issue_key(AGENT)).connect()


async def test_a_bootstrap_key_waits_for_approval_and_is_then_exchanged_for_an_own_key(plane: DevPlane) -> None:
    agent = Agent(plane, key=await plane.bootstrap_key())
    for _ in range(2):
        answer = await agent.register()
        assert (answer.status_code, answer.json()["approvalStatus"]) == (202, "pending")
    await plane.approve(AGENT)
    answer = await agent.register()
    assert answer.status_code == 201
    with pytest.raises(InvalidStatus, match="403"):
        await agent.connect()  # the bootstrap key itself opens no link
    agent.key = answer.json()["apiKey"]
    assert len(bytes.fromhex(agent.key)) == 32
    assert (await agent.register()).status_code == 200
    await agent.connect()
    await agent.socket.close()


async def test_a_start_says_which_agent_waits_for_approval_and_how_it_gets_it(plane: DevPlane) -> None:
    with pytest.raises(PlaneError, match="409: no agent has registered yet"):
        await plane.start_session()
    await Agent(plane, key=await plane.bootstrap_key()).register()
    with pytest.raises(
        PlaneError,
        match=f"409: no agent is approved yet; waiting for it: {AGENT};.*`streamspace-devplane approve {AGENT}`",
    ):
        await plane.start_session()


async def test_a_rejected_agent_is_told_so(plane: DevPlane) -> None:
    agent = Agent(plane, key=await plane.bootstrap_key())
    await agent.register()
    await plane.reject(AGENT)
    answer = await agent.register()
    assert (answer.status_code, answer.json()["approvalStatus"]) == (403, "rejected")


async def test_the_agent_object_can_come_nested(plane: DevPlane) -> None:
    await plane.nest_agent(True)
    agent = Agent(plane, key=await plane.bootstrap_key())
    await agent.register()
    await plane.approve(AGENT)
    body = (await agent.register()).json()
    assert set(body) == {"agent", "apiKey"}
    assert body["agent"]["agentId"] == AGENT


async def test_too_many_registrations_get_429_with_a_retry_after(tmp_path: Path) -> None:
    async with DevPlane(tmp_path / "plane.db", settings=Settings(registrations_per_minute=2)) as plane:
        agent = Agent(plane, key=await plane.issue_key(AGENT))
        assert [(await agent.register()).status_code for _ in range(3)] == [201, 200, 429]
        assert 1 <= int((await agent.register()).headers["retry-after"]) <= 60


async def test_keys_are_stored_hashed_only(plane: DevPlane, registered: Agent) -> None:
    plane.hub.store.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    stored = await asyncio.to_thread(Path(plane.db).read_bytes)
    assert AGENT.encode() in stored
    assert registered.key.encode() not in stored


async def test_a_client_certificate_whose_name_is_the_agent_id_needs_no_key(tmp_path: Path) -> None:
    authority = trustme.CA()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(server)
    authority.configure_trust(server)
    server.verify_mode = ssl.CERT_OPTIONAL

    def as_client(name: str) -> ssl.SSLContext:
        context = ssl.create_default_context()
        authority.configure_trust(context)
        authority.issue_cert(f"{name}@example.org", common_name=name).configure_cert(context)
        return context

    async with DevPlane(tmp_path / "plane.db", tls=server) as plane:
        url = f"https://localhost:{plane.port}/api/v1/agents"
        body = {"agentId": AGENT, "platform": "docker"}
        right, wrong = await asyncio.to_thread(as_client, AGENT), await asyncio.to_thread(as_client, "somebody-else")
        async with httpx.AsyncClient(verify=right, trust_env=False) as http:
            assert (await http.post(f"{url}/register", json=body)).status_code == 201
        async with httpx.AsyncClient(verify=wrong, trust_env=False) as http:
            assert (await http.post(f"{url}/register", json=body)).status_code == 403
        link = f"wss{url.removeprefix('https')}/connect?agent_id={AGENT}"
        async with connect(link, ssl=right):
            await plane.wait_agent(AGENT, status="online")
        with pytest.raises(InvalidStatus, match="403"):
            await connect(link, ssl=wrong)
