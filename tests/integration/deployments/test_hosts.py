"""On three Docker hosts: the Swarm stack; replicas on two hosts that Redis elects; one engine reached over TLS."""

import shutil
import tempfile
from pathlib import Path

import pytest
import pytest_asyncio
import trustme

from lab.hosts import Hosts
from streamspace_devplane import DevPlane
from tests.integration.deployments import readme, scenario, stack
from tests.integration.deployments.three_hosts import ThreeHosts

pytestmark = [pytest.mark.hosts, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(400)]

HOST_LOST = FROZEN = 11.0
"""Seconds: the Swarm's lease of 10 s, less its margin, and what a standby needs to see and take it."""
STORE_LEADER_LOST = 40.0
"""Seconds: the Swarm's managers elect a leader of their own before any lease can be taken."""


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """What the engines show, and in the names that Docker's clients look for, what is shown to them."""
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    server, client = authority.issue_cert("10.99.0.1", "10.99.0.2", "10.99.0.3"), authority.issue_cert("agent")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    for name, held in (("server-", server), ("", client)):
        held.private_key_pem.write_to_path(folder / f"{name}key.pem")
        held.cert_chain_pems[0].write_to_path(folder / f"{name}cert.pem")
    return folder


@pytest.fixture(scope="module")
def three(docker_host, built_image, tiny_image, redis_image, certificates):
    folder = Path(tempfile.mkdtemp(prefix="ss"))  # containerd's sockets take no long path
    try:
        with Hosts(3, folder / "h", tls=certificates) as hosts:
            hosts.swarm()
            for image in (built_image, tiny_image, redis_image):
                hosts.load(image, docker_host)
            three = ThreeHosts(hosts, folder)
            yield three
            three.close()
    finally:
        shutil.rmtree(folder)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def plane(tmp_path_factory):
    async with DevPlane(db=tmp_path_factory.mktemp("plane") / "plane.db") as plane:
        yield plane


@pytest_asyncio.fixture(scope="class", loop_scope="module")
async def run(three, plane, run_label, built_image):
    """The stack, deployed and at the end removed by the documented commands; runs others."""
    agent_id = f"{run_label}-swarm"
    run = three.runner(
        AGENT_ID=agent_id,
        CONTROL_PLANE_URL=plane.ws_url,
        NETWORK_NAME=f"{agent_id}-net",
        AGENT_IMAGE=built_image,
        DOCKER_SOCKET=f"{three.folder}/{{{{.Node.ID}}}}/docker.sock",
    )
    run.agent_id = agent_id
    async with three.leading_to(plane.port):
        await stack.deploy(run, three.folder, await plane.issue_key(agent_id))
        await plane.wait_agent(agent_id, timeout=60)
        yield run
        await run(readme.command("docker stack rm"))


@pytest.fixture
def agent_id(run):
    return run.agent_id


class TestSwarm:
    async def test_three_replicas_on_three_managers_elect_one_leader_and_replace_it(
        self, three, run, plane, agent_id, manifest
    ):
        leader = await three.steady()
        assert sorted(stack.running(three.clients[three.all[0]])) == sorted(three.nodes.values())
        await scenario.start(plane, manifest, "first")
        began = three.started(leader.host, "first")
        container = stack.container_of(three.clients[leader.host], leader.instance)

        took = await scenario.until_taken_over(plane, agent_id, container.kill)
        print(f"taken over after {took:.2f} s")

        scale = readme.command("docker service scale").replace("scale", "scale --detach")
        await run(scale.replace("=5", "=4"))
        await three.steady(4)
        await run(scale.replace("=5", "=3"))
        await three.steady(3)
        await three.lead_on(leader.host)
        assert three.started(leader.host, "first") == began
        await scenario.still_controllable(plane, "first")
