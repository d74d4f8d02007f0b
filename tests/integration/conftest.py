import asyncio
import uuid

import docker
import pytest

from streamspace_devplane import DevPlane, Settings
from streamspace_devplane.templates import TEMPLATES
from tests.agent_process import AgentProcess
from tests.relay import KIND


@pytest.fixture
def played():
    """Settings of the control plane, for a test to name by parametrization."""
    return {}


@pytest.fixture
async def plane(tmp_path, played):
    settings = Settings(**{"relay": KIND, **played})
    async with DevPlane(db=tmp_path / "plane.db", settings=settings) as plane:
        yield plane


@pytest.fixture
def agent_id(run_label):
    return f"{run_label}-{uuid.uuid4().hex[:6]}"


@pytest.fixture
async def swept(docker_host, agent_id):
    """Whatever this test's agent leaves on the engine is removed at the end, for the leak check sees all runs."""
    yield
    await asyncio.to_thread(_remove_all, docker_host, agent_id)


@pytest.fixture
async def make_agent(tmp_path, plane, docker_host, agent_id, swept):
    """Agent processes of one agent id."""
    made = []

    async def make(name="agent", **variables):
        key = tmp_path / "key"
        if not key.exists():
            key.touch(mode=0o600)
            key.write_text(await plane.issue_key(agent_id))
        agent = AgentProcess(
            tmp_path / name,
            **{
                "AGENT_ID": agent_id,
                "CONTROL_PLANE_URL": plane.ws_url,
                "AGENT_API_KEY_FILE": str(key),
                "DOCKER_HOST": docker_host,
                "STATE_DIR": str(tmp_path / "state"),
                "NETWORK_NAME": f"{agent_id}-net",
                "VIEWER_RELAY": plane.settings.relay,
                "USAGE_INTERVAL": "0",  # a status for the eyes only would come at any time
            }
            | variables,
        )
        made.append(agent)
        return agent

    yield make
    for agent in made:
        await agent.kill()


@pytest.fixture
async def agent(make_agent, plane, agent_id):
    """One agent, connected."""
    agent = await (await make_agent()).start()
    try:
        await plane.wait_agent(agent_id)
    except Exception:
        print(agent.log)
        raise
    return agent


def _remove_all(host, agent_id):
    client = docker.DockerClient(base_url=host)
    only = {"label": f"streamspace.agent={agent_id}"}
    try:
        for container in client.api.containers(all=True, filters=only):
            client.api.remove_container(container["Id"], force=True, v=True)
        for volume in client.api.volumes(filters=only)["Volumes"] or []:
            client.api.remove_volume(volume["Name"], force=True)
        for network in client.api.networks(filters=only):
            client.api.remove_network(network["Id"])
    finally:
        client.close()


@pytest.fixture
def owned(docker_client, agent_id):
    """What the engine shows of this test's agent: names of its containers, volumes and networks."""
    only = {"label": f"streamspace.agent={agent_id}"}

    def owned():
        return {
            "containers": sorted(c["Names"][0][1:] for c in docker_client.api.containers(all=True, filters=only)),
            "volumes": sorted(v["Name"] for v in docker_client.api.volumes(filters=only)["Volumes"] or []),
            "networks": sorted(n["Name"] for n in docker_client.api.networks(filters=only)),
        }

    return owned


@pytest.fixture
def manifest(tiny_image):
    """A template of the tiny image: `manifest(MODE="crash", image=..., vnc={...})`."""

    def make(image=tiny_image, *, spec=None, **env):
        return {
            "metadata": {"name": "tiny"},
            "spec": {
                "baseImage": image,
                "defaultResources": {"limits": {"memory": "64Mi", "cpu": "500m"}},
                "ports": [{"name": "vnc", "containerPort": 5900, "protocol": "TCP"}],
                "env": [{"name": name, "value": str(value)} for name, value in env.items()],
                "vnc": {"enabled": True, "port": 5900},
                **(spec or {}),
            },
        }

    return make


@pytest.fixture
def desktop(desktop_image):
    spec = TEMPLATES["desktop"]["spec"] | {"baseImage": desktop_image}
    return {"metadata": {"name": "desktop"}, "spec": spec}
