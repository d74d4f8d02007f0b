import asyncio
import json
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import quote

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


@pytest.mark.parametrize(
    ("agent_id", "error"), [("ab", "Validation failed"), ("a" * 101, "Validation failed"), (7, "Missing agent_id")]
)
async def test_an_id_of_the_wrong_form_fails_the_registration(plane: DevPlane, agent_id: Any, error: str) -> None:
    answer = await Agent(plane, key=await plane.bootstrap_key()).register(agentId=agent_id)
    assert (answer.status_code, answer.json()["error"]) == (400, error)


async def test_extra_capacity_keys_are_ignored(registered: Agent) -> None:
    answer = await registered.register(capacity={"maxSessions": 3, "cpu": "4 cores", "memory": "8Gi", "gpu": 1})
    assert answer.status_code == 200
    assert answer.json()["capacity"] == {"maxSessions": 3, "cpu": "4 cores", "memory": "8Gi"}


async def is_refused(agent: Agent, status: int, error: str) -> None:
    answer = await agent.register()
    assert (answer.status_code, answer.json()["error"]) == (status, error)
    assert answer.json()["details"]
    with pytest.raises(InvalidStatus) as refused:
        await agent.connect()
    assert refused.value.response.status_code == status
    assert json.loads(refused.value.response.body) == answer.json()


@pytest.mark.parametrize(
    ("key", "error"),
    [("", "Missing authentication"), ("short", "Invalid API key format"), ("z" * 64, "Invalid API key format")],
)
async def test_a_missing_or_malformed_key_is_a_401(plane: DevPlane, key: str, error: str) -> None:
    await is_refused(Agent(plane, key=key), 401, error)


async def test_the_wrong_key_is_a_404_for_an_agent_that_is_not_known_else_a_403(
    plane: DevPlane, registered: Agent
) -> None:
    await is_refused(Agent(plane, "another-agent", key="0" * 64), 404, "Agent not found")
    await is_refused(Agent(plane, "another-agent", key=registered.key), 404, "Agent not found")
    await is_refused(Agent(plane, AGENT, key="0" * 64), 403, "Invalid API key")


@pytest.mark.parametrize("agent_id", ["two--dashes", "a;b", "x#1"])
async def test_an_id_that_looks_like_an_attack_is_a_400_whatever_its_key(plane: DevPlane, agent_id: str) -> None:
    agent = Agent(plane, agent_id, key=await plane.bootstrap_key())
    answer = await agent.register()
    assert (answer.status_code, "potential" in answer.json()["details"]) == (400, True)
    with pytest.raises(InvalidStatus, match="400"):
        await connect(
            f"{plane.ws_url}/api/v1/agents/connect?agent_id={quote(agent_id)}", additional_headers=agent.headers
        )


async def test_a_known_agent_that_registers_looks_online_before_it_is_connected(
    plane: DevPlane, registered: Agent
) -> None:
    assert (await plane.agents())[0]["status"] == "offline"
    await registered.register()
    row = (await plane.agents())[0]
    assert (row["status"], row["connected"]) == ("online", False)
    with pytest.raises(PlaneError, match="connected=True"):
        await plane.wait_agent(AGENT, timeout=0.1)


async def test_connecting_before_registering_is_a_404(plane: DevPlane) -> None:
    with pytest.raises(InvalidStatus, match="404"):
        await Agent(plane, key=await plane.issue_key(AGENT)).connect()


async def test_a_bootstrap_key_waits_for_approval_and_is_good_from_then_on(plane: DevPlane) -> None:
    agent = Agent(plane, key=await plane.bootstrap_key())
    for _ in range(2):
        answer = await agent.register()
        assert (answer.status_code, answer.json()["approvalStatus"]) == (202, "pending")
        assert answer.json()["agent"]["agentId"] == AGENT
    with pytest.raises(InvalidStatus, match="403"):
        await agent.connect()
    own = await plane.approve(AGENT)
    answer = await agent.register()
    assert (answer.status_code, answer.json()["approvalStatus"]) == (200, "approved")
    assert "apiKey" not in answer.text
    for key in (agent.key, own):
        agent.key = key
        await agent.connect()
        await plane.wait_agent(AGENT)
        await agent.socket.close()
        await plane.wait_agent(AGENT, status="offline")


@pytest.mark.parametrize("played", [{"hand_out_keys": True}])
async def test_a_control_plane_may_exchange_the_bootstrap_key_for_an_own_one(plane: DevPlane) -> None:
    agent = Agent(plane, key=await plane.bootstrap_key())
    for _ in range(2):
        answer = await agent.register()
        assert (answer.status_code, answer.json()["approvalStatus"]) == (202, "pending")
    await plane.approve(AGENT)
    answer = await agent.register()
    assert answer.status_code == 200
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


@pytest.mark.parametrize("played", [{"hand_out_keys": True}])
async def test_the_agent_object_can_come_nested(plane: DevPlane) -> None:
    await plane.nest_agent(True)
    agent = Agent(plane, key=await plane.bootstrap_key())
    await agent.register()
    await plane.approve(AGENT)
    body = (await agent.register()).json()
    assert set(body) == {"agent", "apiKey"}
    assert body["agent"]["agentId"] == AGENT


async def test_too_many_requests_get_429_with_the_wait_in_the_body_alone(tmp_path: Path) -> None:
    async with DevPlane(tmp_path / "plane.db", settings=Settings(registrations_per_minute=2)) as plane:
        agent = Agent(plane, key=await plane.issue_key(AGENT))
        assert (await agent.register()).status_code == 201
        await agent.connect()
        await agent.socket.close()
        answer = await agent.register()
        assert (answer.status_code, answer.json()["retryAfter"]) == (429, 60)
        assert answer.json()["error"] == "Rate limit exceeded"
        assert "retry-after" not in answer.headers
        with pytest.raises(InvalidStatus, match="429"):
            await agent.connect()


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
