"""On three Docker hosts: the Swarm stack; replicas on two hosts that Redis elects; one engine reached over TLS."""

import asyncio
import os
import shutil
import signal
import tempfile
from pathlib import Path

import docker
import pytest
import pytest_asyncio
import trustme

from lab.hosts import Hosts
from lab.redis import RedisServer
from lab.until import until
from streamspace_devplane import DevPlane
from streamspace_runtime_docker.networks.network import ICC
from tests.agent_process import AgentProcess
from tests.integration.deployments import readme, scenario, stack
from tests.integration.deployments.compose import Compose, call
from tests.integration.deployments.three_hosts import ThreeHosts

pytestmark = [pytest.mark.hosts, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(400)]

HOST_LOST = FROZEN = 11.0
"""Seconds: the Swarm's lease of 10 s, less its margin, and what a standby needs to see and take it."""
STORE_LEADER_LOST = 40.0
"""Seconds: the Swarm's managers elect a leader of their own before any lease can be taken."""


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return make_certificates(tmp_path_factory.mktemp("tls"))


def make_certificates(folder):
    """What the engines show, and in the names that Docker's clients look for, what is shown to them."""
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


@pytest.fixture(autouse=True)
def whole_again(three):
    """However a test ends, the next one finds every host and every container at work."""
    yield
    for each, client in three.clients.items():
        three.find(each)
        for container in client.containers.list(filters={"status": "paused"}):
            container.unpause()


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
        async with scenario.led(plane, agent_id):
            await stack.deploy(run, three.folder, await plane.issue_key(agent_id))
        yield run
        await remove(three, run, agent_id)


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

        scale = readme.command("docker service scale", "=5").replace("scale", "scale --detach")
        await run(scale.replace("=5", "=4"))
        await three.steady(4)
        await run(scale.replace("=5", "=3"))
        await three.steady(3)
        await three.lead_on(leader.host)
        assert three.started(leader.host, "first") == began
        await scenario.still_controllable(plane, "first")

    async def test_a_lost_host_is_replaced_in_time_and_its_sessions_are_back_when_it_leads_again(
        self, three, run, plane, agent_id, manifest
    ):
        await three.steady()
        await lose_the_leader(three, run, plane, agent_id, manifest)

    async def test_the_loss_of_the_host_that_leads_the_swarm_itself_is_survived(self, three, run, plane, agent_id):
        await three.steady()
        host = three.swarm_leader()
        before = await three.lead_on(host)
        took = await scenario.until_taken_over(plane, agent_id, lambda: three.lose(host), STORE_LEADER_LOST)
        print(f"host of the Swarm's own leader lost: taken over after {took:.2f} s")
        after = await three.leader(host)
        assert after.epoch > before.epoch
        three.find(host)
        assert (await three.steady()).epoch >= after.epoch

    async def test_a_frozen_leader_is_replaced_in_time_and_does_not_lead_when_it_thaws(
        self, three, run, plane, agent_id
    ):
        before = await three.steady()
        container = stack.container_of(three.clients[before.host], before.instance)
        took = await scenario.until_taken_over(plane, agent_id, container.pause)
        print(f"frozen leader: taken over after {took:.2f} s")
        container.unpause()
        assert (await three.steady()).epoch > before.epoch
        assert took <= FROZEN

    async def test_an_update_and_its_rollback_by_hand_each_end_on_their_version_with_one_leader(
        self, three, run, plane, agent_id, manifest, built_image
    ):
        first = await three.steady()
        manager = three.clients[three.all[0]]
        await scenario.start(plane, manifest, "stays")
        began = three.started(first.host, "stays")
        newer = tagged(three, built_image)

        before = (await plane.events())[-1]["seq"]
        await run(f"docker service update --detach --image {newer} {stack.SERVICE}")
        await stack.found(lambda: stack.update_state(manager) == "completed", "the update", 120)
        second = await one_leader_of(three, newer, first.epoch)
        print(f"longest time without a leader in an update: {await longest_gap(plane, agent_id, before):.2f} s")

        await run(readme.command("docker service rollback").replace("rollback", "rollback --detach"))
        await stack.found(lambda: stack.update_state(manager) == "rollback_completed", "the rollback by hand", 120)
        await one_leader_of(three, built_image, second.epoch)

        await three.lead_on(first.host)
        assert three.started(first.host, "stays") == began
        await scenario.still_controllable(plane, "stays")

    async def test_an_update_onto_a_worker_says_so_in_a_line_and_is_rolled_back_by_itself(
        self, three, run, plane, agent_id, built_image
    ):
        before = await three.steady()
        worker = three.others(before.host, three.swarm_leader())[0]
        manager = three.clients[before.host]
        try:
            await run(f"docker node demote {three.nodes[worker]}", on=before.host)
            managers = {three.nodes[each] for each in three.others(worker)}

            def moved():
                nodes = stack.running(manager)
                return len(nodes) == 3 and {*nodes} == managers

            await stack.found(moved, "all replicas on the managers")
            constraints = "--constraint-rm 'node.role == manager' --constraint-add 'node.role == worker'"
            wrong = f"--image {tagged(three, built_image)} {constraints}"
            await run(f"docker service update --detach {wrong} {stack.SERVICE}", on=before.host)
            await stack.found(lambda: stack.update_state(manager) == "rollback_completed", "the rollback", 120)
            said = await run(f"docker service logs --raw {stack.SERVICE} 2>&1", on=before.host)
            lines = [line for line in said.splitlines() if line.startswith("docker-agent: ")]
            assert {line.partition(": add the placement constraint")[0] for line in lines} == {
                "docker-agent: LEADER_ELECTION_BACKEND=swarm needs a manager node, this one is a worker"
            }, said
            assert len(lines) <= 4
            assert "Traceback" not in said
        finally:
            await run(f"docker node promote {three.nodes[worker]}", on=before.host)
            await stack.found(lambda: three.clients[worker].info()["Swarm"]["ControlAvailable"], "three managers")
        await one_leader_of(three, built_image, before.epoch)


async def test_what_sessions_are_not_to_reach_on_their_host_can_be_closed(three, tiny_image, run_label):
    host = three.all[0]
    client = three.clients[host]
    name = f"{run_label}-closed"
    network = client.networks.create(name, driver="bridge", options={ICC: "false"})
    try:
        screen = client.containers.run(
            tiny_image, detach=True, name=f"{name}-a", network=name, ports={"5900/tcp": (host.address, None)}
        )
        other = client.containers.run(tiny_image, ["sleep", "600"], detach=True, name=f"{name}-b", network=name)
        screen.reload()
        port = screen.ports["5900/tcp"][0]["HostPort"]

        def seen():
            return other.exec_run(["busybox", "timeout", "3", "busybox", "nc", host.address, port])[1]

        await stack.found(lambda: seen().startswith(b"RFB"), "the other's screen, through the host's address")
        close = readme.block("iptables").replace("sudo ", "").replace(" streamspace)", f" {name})")
        await three.runner()(f"ip netns exec {host.name} sh -ec '{close.replace(chr(39), chr(34))}'", on=host)
        assert seen() == b""
        # The agent, which is on the host, reaches it as before.
        at = screen.attrs["NetworkSettings"]["Networks"][name]["IPAddress"]
        assert (
            await call("ip", "netns", "exec", host.name, "timeout", "5", "bash", "-c", f"head -c 3 </dev/tcp/{at}/5900")
        ) == "RFB"
    finally:
        for container in client.containers.list(all=True, filters={"network": name}):
            container.remove(force=True)
        network.remove()


async def remove(three, run, agent_id):
    """As documented; then nothing of it is left on any host."""
    await run(readme.block("docker config rm").replace("docker-agent-prod", agent_id))
    for each in three.all:
        await run(readme.block("agent-state").replace("docker-agent-prod", agent_id), on=each)
    left = [await run(f"docker {kind} ls -q") for kind in ("service", "secret", "config")]
    left += [await run("docker volume ls -q", on=each) for each in three.all]
    assert "".join(left) == ""


async def lose_the_leader(three, run, plane, agent_id, manifest):
    """One session on a host that stays, one on a host that is lost with the leader."""
    lost = three.others(three.swarm_leader())[0]
    left = three.others(lost)
    stays = (await three.lead_on(left[0])).host
    await scenario.start(plane, manifest, "stays")
    before = await three.lead_on(lost)
    await scenario.start(plane, manifest, "gone")
    began = [three.started(stays, "stays"), three.started(lost, "gone")]

    took = await scenario.until_taken_over(plane, agent_id, lambda: three.lose(lost))
    print(f"host lost: taken over after {took:.2f} s")

    after = await three.leader(lost)
    assert after.epoch > before.epoch
    await three.lead_on(stays, lost)
    await scenario.still_controllable(plane, "stays")
    # Nobody has seen the other end, so nobody says so; what is asked of it fails by name, and there is nothing to stop.
    assert (await plane.session("gone"))["state"] == "running"
    refused = await plane.wait_command(await plane.hibernate_session("gone"), "failed")
    assert "no session gone" in str(refused)
    await plane.wait_command(await plane.stop_session("gone"))

    three.find(lost)
    await three.steady()
    # Swarm may have made another elsewhere, and leaves it there.
    for replicas, scale in zip((2, 3), readme.command("=2 && ").split(" && "), strict=True):
        await run(scale.replace("scale", "scale --detach"))
        await three.steady(replicas)
    assert sorted(stack.running(three.clients[stays])) == sorted(three.nodes.values())
    await three.lead_on(lost)
    await plane.wait_session("gone", state="running", vnc_ready=True)
    assert three.started(lost, "gone") == began[1]
    await scenario.still_controllable(plane, "gone")
    assert took <= HOST_LOST


async def one_leader_of(three, image, above):
    """All replicas have that image, and one leads, elected after that epoch."""
    leader = await three.steady()
    assert stack.image(three.clients[three.all[0]]) == image
    used = [c.attrs["Config"]["Image"] for client in three.clients.values() for c in stack.containers(client)]
    assert used == [image] * 3
    assert leader.epoch >= above
    return leader


def tagged(three, image):
    """Another version, as far as Swarm can tell."""
    for client in three.clients.values():
        client.images.get(image).tag(f"{image}-newer")
    return f"{image}-newer"


async def longest_gap(plane, agent_id, after):
    """Seconds between a connection's end and the next one's begin."""
    ends, longest = None, 0.0
    for event in await plane.events(after, agent_id=agent_id, direction="plane"):
        if event["type"] == "disconnected":
            ends = event["time"]
        elif event["type"] == "connected" and ends is not None:
            longest, ends = max(longest, event["time"] - ends), None
    return longest


REDIS_LEASE = 5.6
"""Seconds: its 5 s, and what a standby on another host needs to see it end and take it."""


@pytest_asyncio.fixture(loop_scope="module")
async def shared_redis(three, plane):
    """One Redis, with a password, and the control plane, for all hosts."""
    with RedisServer(password="secret") as redis:
        async with three.leading_to(plane.port, redis.port):
            yield redis


class TestRedis:
    @pytest_asyncio.fixture(loop_scope="module")
    async def projects(self, three, plane, shared_redis, run_label, built_image, redis_image, hand_over):
        """By host: the Compose file of replicas elected by Redis, one replica on each of two hosts."""
        agent_id = f"{run_label}-redis"
        environ = {
            "PATH": os.environ["PATH"],
            "AGENT_ID": agent_id,
            "AGENT_API_KEY_FILE": hand_over("key", await plane.issue_key(agent_id)),
            "CONTROL_PLANE_URL": plane.ws_url,
            "NETWORK_NAME": f"{agent_id}-net",
            "AGENT_IMAGE": built_image,
            "REDIS_IMAGE": redis_image,
            "REDIS_URL_FILE": hand_over("redis-url", shared_redis.url),
            "STREAMSPACE_CONFIG": str(hand_over.folder),
        }
        made = {}
        try:
            for each in three.all[:2]:
                own = {"DOCKER_HOST": each.docker_host, "DOCKER_SOCKET": str(each.engine.socket)}
                made[each] = Compose("docker-compose.ha-redis.yaml", "agent", environ | own)
                lines = readme.without_exports(readme.block("REDIS_URL=")).replace("=3", "=1")
                await made[each].documented(lines)
            await plane.wait_agent(agent_id, timeout=60)
            yield made
        finally:
            for each, project in made.items():
                three.find(each)
                await project.down()
                assert project.leftovers() == []

    async def test_a_replica_on_another_host_replaces_a_dead_a_frozen_and_a_lost_one_in_time(
        self, three, plane, projects, manifest
    ):
        agent_id = projects[three.all[0]].environ["AGENT_ID"]
        first, container = await leading(projects)
        (second,) = projects.keys() - {first}
        await scenario.start(plane, manifest, "kept")
        began = three.started(first, "kept")

        dead = await scenario.until_taken_over(plane, agent_id, container.kill)
        assert (await leading(projects))[0] is second
        assert (await plane.session("kept"))["state"] == "running"

        await projects[first]("up", "-d", "--no-recreate")
        await stack.found(lambda: len(projects[first].containers()) == 1, "the standby")
        await until_standby(projects[first])
        container = projects[second].containers()[0]
        frozen = await scenario.until_taken_over(plane, agent_id, container.pause)
        await asyncio.to_thread(container.unpause)
        await until_standby(projects[second])
        assert (await leading(projects))[0] is first
        await plane.wait_session("kept", state="running", vnc_ready=True)

        lost = await scenario.until_taken_over(plane, agent_id, lambda: three.lose(first))
        assert (await leading({second: projects[second]}))[0] is second
        three.find(first)
        await until_standby(projects[first])

        container = projects[second].containers()[0]
        handed_over = await scenario.until_taken_over(plane, agent_id, container.stop)
        assert (await leading(projects))[0] is first
        assert three.started(first, "kept") == began
        await scenario.still_controllable(plane, "kept")
        print(f"leader killed {dead:.2f} s, frozen {frozen:.2f} s, host lost {lost:.2f} s, stopped {handed_over:.2f} s")
        assert max(dead, frozen, lost) <= REDIS_LEASE
        assert handed_over < 2

    async def test_agents_on_two_hosts_that_share_an_engine_over_tls_take_its_sessions_over(
        self, three, plane, shared_redis, certificates, run_label, manifest, tmp_path
    ):
        agent_id = f"{run_label}-tls"
        engine, *homes = three.all[2], *three.all[:2]
        network = f"{agent_id}-net"
        (tmp_path / "key").touch(mode=0o600)
        (tmp_path / "key").write_text(await plane.issue_key(agent_id))
        (tmp_path / "other").mkdir()
        other = make_certificates(tmp_path / "other")
        agents = {each: AgentProcess(tmp_path / each.name) for each in homes}
        for each, agent in agents.items():
            agent.prefix = ("nsenter", f"--net=/var/run/netns/{each.name}")
            agent.variables = {
                "AGENT_ID": agent_id,
                "AGENT_API_KEY_FILE": str(tmp_path / "key"),
                "CONTROL_PLANE_URL": plane.ws_url,
                "DOCKER_HOST": f"tcp://{engine.address}:2376",
                "DOCKER_TLS_VERIFY": "1",
                "DOCKER_CERT_PATH": str(certificates),
                "PUBLISH_ADDRESS": engine.address,
                "NETWORK_NAME": network,
                "ENABLE_HA": "true",
                "LEADER_ELECTION_BACKEND": "redis",
                "REDIS_URL": shared_redis.url,
                "STATE_DIR": str(agent.folder / "state"),
            }
            # Each host has a bridge at the very address that the sessions' network has on the engine's host.
            pool = docker.types.IPAMConfig(
                pool_configs=[docker.types.IPAMPool(subnet="10.88.0.0/24", gateway="10.88.0.1")]
            )
            three.clients[each].networks.create(f"{network}-own", ipam=pool)
        three.clients[engine].networks.create(network, ipam=pool, options={ICC: "false"})
        try:
            for agent in agents.values():
                await agent.start()
            await plane.wait_agent(agent_id)
            await scenario.start(plane, manifest, "remote")
            began = three.started(engine, "remote")
            code, found = await agents[homes[0]].ask("check")
            assert code == 0, found

            for said, wrong in {
                "ca.pem, cert.pem and key.pem in DOCKER_CERT_PATH": {"DOCKER_CERT_PATH": "/nowhere"},
                "its certificate is not trusted": {"DOCKER_CERT_PATH": str(other)},
                "the agent was not told to": {"DOCKER_TLS_VERIFY": "", "DOCKER_CERT_PATH": ""},
            }.items():
                mistaken = AgentProcess(tmp_path / "mistaken", **agents[homes[0]].variables | wrong)
                mistaken.prefix = agents[homes[0]].prefix
                code, found = await mistaken.ask("check")
                assert (code, said in str(found)) == (1, True), found

            roles = {(await agent.ask("status"))[1][0]["role"]: agent for agent in agents.values()}
            assert roles.keys() == {"leader", "standby"}
            leader = roles["leader"]
            took = await scenario.until_taken_over(plane, agent_id, lambda: leader.signal(signal.SIGKILL))
            print(f"taken over by the other host after {took:.2f} s")
            assert three.started(engine, "remote") == began
            await plane.wait_session("remote", state="running", vnc_ready=True)
            await scenario.still_controllable(plane, "remote")
            assert took <= REDIS_LEASE
        finally:
            for agent in agents.values():
                await agent.kill()


async def leading(projects, timeout=30.0):
    """The host and the container of the only replica that leads with a connection."""

    async def leaders():
        found = []
        for host, project in projects.items():
            documents = await project.status()
            found += [host for d in documents if d.get("role") == "leader" and d["link"]["connected"]]
        return found

    (host,) = await until(leaders, lambda: str([p.logs() for p in projects.values()]), timeout=timeout, every=0.1)
    return host, projects[host].containers()[0]


async def until_standby(project, timeout=30.0):
    await project.roles("standby", timeout=timeout)


async def test_every_command_of_the_readme_for_several_hosts_was_run():
    assert readme.left_out(__name__) == []
