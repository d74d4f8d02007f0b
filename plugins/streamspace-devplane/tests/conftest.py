"""A control plane per test, and an agent's side of the wire written with nothing but httpx and websockets."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect

from lab.until import until
from streamspace_devplane import DevPlane, PlaneClient, Settings

AGENT = "agent-under-test"


class Agent:
    """The least an agent can be: it registers, connects, and says what the test tells it to."""

    def __init__(self, plane: PlaneClient, agent_id: str = AGENT, key: str = "") -> None:
        self.plane = plane
        self.agent_id = agent_id
        self.key = key
        self.socket: ClientConnection

    @property
    def headers(self) -> dict[str, str]:
        return {"X-Agent-API-Key": self.key}

    async def register(self, **changes: Any) -> httpx.Response:
        body = {"agentId": self.agent_id, "platform": "docker", **changes}
        async with httpx.AsyncClient(trust_env=False, verify=False) as http:
            return await http.post(f"{self.plane.url}/api/v1/agents/register", json=body, headers=self.headers)

    async def connect(self, **options: Any) -> Self:
        options.setdefault("max_size", None)
        url = f"{self.plane.ws_url}/api/v1/agents/connect?agent_id={self.agent_id}"
        self.socket = await connect(url, additional_headers=self.headers, **options)
        return self

    async def send(self, kind: str, timestamp: Any = None, **payload: Any) -> None:
        stamp = datetime.now(UTC).isoformat() if timestamp is None else timestamp
        await self.socket.send(json.dumps({"type": kind, "timestamp": stamp, "payload": payload}))

    async def receive(self, timeout: float = 10) -> list[dict[str, Any]]:
        """The envelopes of the next frame."""
        frame = await asyncio.wait_for(self.socket.recv(), timeout)
        return [json.loads(line) for line in str(frame).split("\n")]

    async def envelopes(self, count: int) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while len(found) < count:
            found += await self.receive()
        return found


def tasks_of(module: ModuleType) -> list[asyncio.Task[Any]]:
    """The tasks that run a coroutine of this module and go on."""
    codes = {task: getattr(task.get_coro(), "cr_code", None) for task in asyncio.all_tasks()}
    return [task for task, code in codes.items() if code and code.co_filename == module.__file__]


async def counted(plane: PlaneClient, name: str, least: int = 1) -> int:
    """The diagnostics counter, once it has reached `least`."""

    async def probe() -> int:
        seen: int = (await plane.diagnostics())["counters"].get(name, 0)
        return seen if seen >= least else 0

    return int(await until(probe))


@pytest.fixture
def played() -> dict[str, Any]:
    """Settings of the plane, for a test to name by parametrization."""
    return {}


@pytest.fixture
async def plane(tmp_path: Path, played: dict[str, Any]) -> AsyncIterator[DevPlane]:
    async with DevPlane(tmp_path / "plane.db", settings=Settings(**played)) as running:
        yield running


@pytest.fixture
async def registered(plane: DevPlane) -> Agent:
    agent = Agent(plane, key=await plane.issue_key(AGENT))
    answer = await agent.register()
    assert answer.status_code == 201
    return agent


@pytest.fixture
async def agent(registered: Agent) -> AsyncIterator[Agent]:
    await registered.connect()
    await registered.plane.wait_agent(AGENT, status="online")
    yield registered
    await registered.socket.close()
