"""Agent processes as in tests/integration, and what goes wrong around them."""

import asyncio
import time

import pytest

from tests.integration.conftest import agent, agent_id, make_agent, manifest, owned, plane, swept

__all__ = ["agent", "agent_id", "make_agent", "manifest", "owned", "plane", "swept"]


@pytest.fixture
def until():
    """Poll a condition, plain or awaitable, until it holds; its value."""

    async def wait(condition, timeout=30, what=""):
        deadline = time.monotonic() + timeout
        while True:
            found = condition()
            if asyncio.iscoroutine(found):
                found = await found
            if found:
                return found
            assert time.monotonic() < deadline, what or f"did not come true in {timeout} s"
            await asyncio.sleep(0.05)

    return wait


@pytest.fixture
def outcomes(plane):
    """How often each command was answered: `{command id: ["complete", ...]}`, as the messages arrived."""

    async def collect(after=0):
        found = {}
        for event in await plane.events(after, direction="from_agent"):
            if event["type"] in {"complete", "failed"}:
                found.setdefault(event["payload"]["commandId"], []).append(event["type"])
        return found

    return collect
