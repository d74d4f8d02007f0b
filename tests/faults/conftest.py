"""Agent processes as in tests/integration, and what goes wrong around them."""

import json

import pytest

from tests.integration.conftest import agent, agent_id, make_agent, manifest, owned, plane, played, swept

__all__ = ["agent", "agent_id", "make_agent", "manifest", "owned", "plane", "played", "swept"]


@pytest.fixture
def outcomes(plane):
    """The different answers to each command, in order: `{command id: ["complete", ...]}`. One that came again word for
    word, since the control plane may have written over it, counts once."""

    async def collect(after=0):
        found = {}
        for event in await plane.events(after, direction="from_agent"):
            if event["type"] in {"complete", "failed"}:
                answer = (event["type"], json.dumps(event["payload"], sort_keys=True))
                answers = found.setdefault(event["payload"]["commandId"], [])
                if answer not in answers:
                    answers.append(answer)
        return {command: [kind for kind, _ in answers] for command, answers in found.items()}

    return collect
