"""What the benchmarks share: a control plane and an agent beside each other, and honest figures."""

import asyncio
import json
import os
import statistics
import tempfile
import uuid
from contextlib import asynccontextmanager
from pathlib import Path

import docker

from lab.images import TINY
from streamspace_devplane import DevPlane
from tests.agent_process import AgentProcess

MANIFEST = {
    "metadata": {"name": "bench"},
    "spec": {
        "baseImage": TINY,
        "defaultResources": {"limits": {"memory": "64Mi", "cpu": "500m"}},
        "vnc": {"port": 5900},
    },
}


def say(text):
    print(text, flush=True)


def finish(**figures):
    """The last line of a benchmark."""
    print(json.dumps(figures), flush=True)


def milliseconds(seconds):
    ordered = sorted(seconds)
    p95 = ordered[min(len(ordered) - 1, round(0.95 * (len(ordered) - 1)))]
    return {"p50_ms": round(statistics.median(ordered) * 1000, 1), "p95_ms": round(p95 * 1000, 1)}


class Stage:
    """One control plane, one agent id, one engine."""

    def __init__(self, folder, plane, agent_id, host):
        self.folder, self.plane, self.agent_id, self.host = folder, plane, agent_id, host
        self.agents = []

    async def agent(self, name="agent", **variables):
        key = self.folder / "key"
        if not key.exists():
            key.touch(mode=0o600)
            key.write_text(await self.plane.issue_key(self.agent_id))
        agent = AgentProcess(
            self.folder / name,
            **{
                "AGENT_ID": self.agent_id,
                "CONTROL_PLANE_URL": self.plane.ws_url,
                "AGENT_API_KEY_FILE": str(key),
                "DOCKER_HOST": self.host,
                "STATE_DIR": str(self.folder / "state"),
                "NETWORK_NAME": f"{self.agent_id}-net",
                "LOG_LEVEL": "warning",
            }
            | variables,
        )
        self.agents.append(agent)
        return agent


@asynccontextmanager
async def stage():
    host = os.environ["DOCKER_HOST"]
    agent_id = f"bench-{uuid.uuid4().hex[:8]}"
    with tempfile.TemporaryDirectory(prefix="streamspace-bench-") as folder:
        async with DevPlane(db=Path(folder) / "plane.db") as plane:
            scene = Stage(Path(folder), plane, agent_id, host)
            try:
                yield scene
            finally:
                for agent in scene.agents:
                    await agent.kill()
                await asyncio.to_thread(sweep, host, agent_id)


def sweep(host, agent_id):
    """Remove everything on the engine that carries this agent id."""
    client = docker.APIClient(base_url=host)
    only = {"label": f"streamspace.agent={agent_id}"}
    try:
        for container in client.containers(all=True, filters=only):
            client.remove_container(container["Id"], force=True, v=True)
        for volume in client.volumes(filters=only)["Volumes"] or []:
            client.remove_volume(volume["Name"], force=True)
        for network in client.networks(filters=only):
            client.remove_network(network["Id"])
    finally:
        client.close()
