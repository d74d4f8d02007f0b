"""Three hosts, three managers: what a cut network and a dead engine do to the lease."""

import asyncio

import docker
import pytest

from lab.hosts import Hosts
from lab.until import until, until_sync
from streamspace_agent.election import Grant
from streamspace_agent.errors import BackendUnavailable, LeaseLost
from streamspace_elect_swarm.backend import DEFAULTS, SwarmBackend

from .conftest import Services, candidate, running

pytestmark = [pytest.mark.hosts, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def hosts(tmp_path_factory, docker_host, tiny_image):
    with Hosts(3, tmp_path_factory.mktemp("s")) as hosts:
        hosts.swarm()
        hosts.load(tiny_image, docker_host)
        yield hosts


@pytest.fixture(scope="module")
def managers(hosts):
    clients = [host.client() for host in hosts.all]
    yield clients
    for client in clients:
        client.close()


@pytest.fixture(scope="module")
def nodes(managers):
    """The id of each host's node; their names are all the machine's own."""
    return [client.info()["Swarm"]["NodeID"] for client in managers]


@pytest.fixture(scope="module")
def containers(managers, nodes, tiny_image):
    """A task's container on each host."""
    with Services(managers[0], tiny_image) as services:
        tasks = running(services.make(3, maxreplicas=1), 3)
        found = {task["NodeID"]: task["Status"]["ContainerStatus"]["ContainerID"] for task in tasks}
        yield [found[node] for node in nodes]


@pytest.fixture
async def backends(hosts, containers, agent_id):
    places = zip(hosts.all, containers, strict=True)
    made = [
        SwarmBackend(agent_id, host.docker_host, container, timing=DEFAULTS, environ={}) for host, container in places
    ]
    yield made
    for backend in made:
        await backend.aclose()


async def test_a_lease_taken_through_one_manager_is_seen_through_every_other(backends):
    answers = await asyncio.gather(*(each.acquire(candidate(each), None) for each in backends))
    (grant,) = [answer for answer in answers if isinstance(answer, Grant)]
    for each in backends:
        assert (await each.observe()).same_tenure(grant.record)


async def test_a_release_on_one_host_wakes_a_waiter_on_another(backends):
    _, leader, waiter = backends
    grant = await leader.acquire(candidate(leader), None)
    await waiter.wait_change(await waiter.observe(), 20.0)  # returns once it follows the events
    waiting = asyncio.create_task(waiter.wait_change(await waiter.observe(), 60.0))
    await leader.release(grant)
    await asyncio.wait_for(waiting, 20)
    assert (await waiter.observe()).released


async def test_a_leader_killed_on_one_host_is_certified_dead_on_another(backends, managers, containers):
    leader, standby, _ = backends
    await leader.acquire(candidate(leader), None)
    seen = await standby.observe()
    assert await standby.holder_is_dead(seen) is None
    managers[0].api.kill(containers[0], "SIGKILL")
    await until(lambda: standby.holder_is_dead(seen))


async def test_a_leader_that_is_cut_off_cannot_renew_and_is_not_called_dead(hosts, backends, managers, nodes):
    standby, leader, _ = backends
    grant = await leader.acquire(candidate(leader), None)
    hosts.cut(hosts[1])
    try:
        with pytest.raises((BackendUnavailable, TimeoutError)):
            async with asyncio.timeout(DEFAULTS.call_timeout):
                await leader.renew(grant)
        await asyncio.to_thread(until_sync, lambda: _is_down(managers[0], nodes[1]), timeout=90)
        seen = await standby.observe()
        assert seen.same_tenure(grant.record)
        assert await standby.holder_is_dead(seen) is None

        successor = await standby.acquire(candidate(standby), seen)
        assert isinstance(successor, Grant)
        assert successor.record.epoch > grant.record.epoch
        with pytest.raises((BackendUnavailable, TimeoutError)):
            async with asyncio.timeout(DEFAULTS.call_timeout):
                await leader.renew(grant)
    finally:
        hosts.heal(hosts[1])

    with pytest.raises(LeaseLost):
        await _keep_renewing(leader, grant)
    assert (await standby.renew(successor)).record.same_tenure(successor.record)


async def test_the_lease_outlives_the_manager_that_led_the_swarm(hosts, backends, managers, nodes):
    leading = next(n for n, node in enumerate(nodes) if _leads(managers[0], node))
    leader = backends[leading - 1]
    grant = await leader.acquire(candidate(leader), None)
    hosts.kill(hosts[leading])
    try:
        again = await _keep_renewing(leader, grant)  # after the managers have elected another
        assert again.record.same_tenure(grant.record)
        assert again.record.sequence > grant.record.sequence
    finally:
        hosts[leading].engine.start()


async def test_a_worker_is_told_that_it_needs_a_manager(backends, managers, nodes):
    await asyncio.to_thread(until_sync, lambda: _give_role(managers[0], nodes[2], "worker"), timeout=90)

    async def problem():
        try:
            return await backends[2].preflight()
        except BackendUnavailable:  # its manager is just leaving
            return None

    (found,) = await until(problem, timeout=60)
    assert found.fatal
    assert "manager node" in found.message
    assert "node.role == manager" in found.fix


async def _keep_renewing(backend, grant):
    async def renewed():
        try:
            return await backend.renew(grant)
        except BackendUnavailable:
            return None

    return await until(renewed, timeout=90)


def _is_down(client, node):
    try:
        return client.api.inspect_node(node)["Status"]["State"] == "down"
    except docker.errors.APIError:
        return False  # the managers elect a leader


def _leads(client, node):
    return client.api.inspect_node(node).get("ManagerStatus", {}).get("Leader", False)


def _give_role(client, node, role):
    """True once it has been asked for; a Swarm that is electing, or a member not yet back, refuses."""
    try:
        now = client.api.inspect_node(node)
        return client.api.update_node(node, now["Version"]["Index"], now["Spec"] | {"Role": role})
    except docker.errors.APIError:
        return False
