"""One replica on each of three hosts, each host a manager; the replicas are the tasks of a global service."""

import asyncio
import os
import tempfile
from dataclasses import replace
from pathlib import Path

import docker
from docker.errors import APIError

from lab.hosts import Hosts
from tests.faults.nemesis import container
from tests.faults.nemesis.faults import CHANGE, EITHER, FORK, HANDOVER, KILL, NO_CHANGE, Fault, block, freeze
from tests.faults.nemesis.relay import relay
from tests.faults.nemesis.stage import Stage

NODE = "{{.Node.ID}}"


class Task(container.Contained):
    """The task on one node. The Swarm starts another when it ends."""

    def __init__(self, stage, host, node):
        super().__init__(stage, node, host.client(timeout=20))
        self.host, self.node = host, node

    def find(self):
        only = {"label": f"com.docker.swarm.service.name={self.stage.agent_id}"}
        running = self.client.api.containers(filters=only)
        return running[0]["Id"] if running else ""


class SwarmStage(Stage):
    backend = "swarm"
    one_journal = False

    async def begin(self, stack):
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="ss"))
        self.hosts = await asyncio.to_thread(stack.enter_context, Hosts(3, Path(folder) / "h"))
        await asyncio.to_thread(self._swarm)
        for host in self.hosts.all:
            client = host.client()
            stack.callback(client.close)
            node = client.info()["Swarm"]["NodeID"]
            port = await stack.enter_async_context(relay(host.name, self.plane.port))
            place = self.folder / "nodes" / node
            (place / "state").mkdir(parents=True)
            (place / "docker.sock").symlink_to(host.engine.socket)
            (place / "plane").write_text(str(port))
            self.replicas.append(Task(self, host, node))
            stack.callback(self.replicas[-1].client.close)
        self.manager = self.replicas[0].client
        await asyncio.to_thread(self._deploy)

    def _swarm(self):
        self.hosts.swarm()
        self.hosts.load(container.IMAGE, self.docker_host)

    def _deploy(self):
        own = self.folder / "nodes" / NODE
        variables = self.variables(NODE) | {
            "DOCKER_HOST": "unix:///var/run/docker.sock",
            "STATE_DIR": str(own / "state"),
            "LEADER_ELECTION_BACKEND": "swarm",
        }
        del variables["CONTROL_PLANE_URL"]  # each host has its own port to it
        script = f'export CONTROL_PLANE_URL=ws://127.0.0.1:$(cat "{own}/plane"); exec {container.COMMAND} run'
        self.service = self.manager.services.create(
            container.IMAGE,
            name=self.agent_id,
            command=["/bin/busybox", "sh", "-c", 'eval "$AGENT_SCRIPT"'],
            env=[f"{name}={value}" for name, value in {**variables, "AGENT_SCRIPT": script}.items()],
            mounts=[
                *container.mounts(),
                container.writable(self.folder),
                docker.types.Mount("/var/run/docker.sock", str(own / "docker.sock"), type="bind"),
            ],
            mode=docker.types.ServiceMode("global"),
            networks=["host"],
            user="root",
            restart_policy=docker.types.RestartPolicy(condition="any", delay=500_000_000),
            stop_grace_period=20_000_000_000,
            init=False,
        )

    def others(self):
        return [replica.host for replica in self.replicas if replica is not self.leader]


def on_leaders_host(action):
    async def do(stage):
        await asyncio.to_thread(getattr(stage.hosts, action), stage.leader.host)

    return do


async def cut_standby(stage):
    await asyncio.to_thread(stage.hosts.cut, stage.others()[0])


async def heal_all(stage):
    for host in stage.hosts.all:
        await asyncio.to_thread(stage.hosts.heal, host)


async def slow_all(stage):
    for host in stage.hosts.all:
        await asyncio.to_thread(stage.hosts.slow, host, 256)


async def unslow_all(stage):
    for host in stage.hosts.all:
        await asyncio.to_thread(stage.hosts.slow, host, 0)


async def pause(stage):
    await asyncio.to_thread(stage.leader.client.api.pause, stage.leader.container)


async def unpause(stage):
    for replica in stage.replicas:
        if (found := replica.container) and replica.client.api.inspect_container(found)["State"]["Paused"]:
            await asyncio.to_thread(replica.client.api.unpause, found)


async def kill_engine(stage):
    """The leader's host loses its Docker daemon; the agent's process lives on."""
    stage.crashed = stage.leader.host
    await asyncio.to_thread(stage.hosts.kill, stage.crashed)


async def start_engine(stage):
    await asyncio.to_thread(stage.crashed.engine.start)


async def kill_swarm_leader(stage):
    """The manager that leads the Swarm, wherever the agent's leader is."""
    nodes = await asyncio.to_thread(stage.manager.nodes.list)
    node = next(n.id for n in nodes if n.attrs.get("ManagerStatus", {}).get("Leader"))
    stage.crashed = next(r.host for r in stage.replicas if r.node == node)
    await asyncio.to_thread(stage.hosts.kill, stage.crashed)


async def update_labels(stage):
    """What 'docker service update --label-add' does."""
    await asyncio.to_thread(_update, stage, labels={"operator": str(os.urandom(4).hex())})


def _update(stage, **changes):
    stage.service.reload()
    spec = stage.service.attrs["Spec"]
    labels = {**(spec.get("Labels") or {}), **changes.get("labels", {})}
    version = stage.service.attrs["Version"]["Index"]
    api = stage.manager.api
    url = api._url("/services/{0}/update", stage.service.id)
    response = api._post_json(url, data={**spec, "Labels": labels}, params={"version": version})
    response.raise_for_status()


async def remove_config(stage):
    for config in await asyncio.to_thread(
        stage.manager.configs.list, filters={"name": f"streamspace-leader-{stage.agent_id}"}
    ):
        await asyncio.to_thread(config.remove)


async def force_update(stage):
    """What 'docker service update --force' does: every task is replaced, one after another."""
    before = {replica.container for replica in stage.replicas}
    while True:
        try:
            await asyncio.to_thread(stage.service.reload)
            await asyncio.to_thread(stage.service.force_update)
            break
        except APIError as error:  # the new leader's label came first: an operator, too, sends it again
            if "out of sequence" not in str(error):
                raise
    while before & {replica.container for replica in stage.replicas}:
        await asyncio.sleep(0.2)


# A host that is cut off may be the manager that leads the Swarm: then nobody can write until another was elected.
FAULTS = [
    KILL,
    HANDOVER,
    replace(FORK, quick=False),
    freeze(3, NO_CHANGE),
    freeze(20, CHANGE, quick=False),
    block(3, NO_CHANGE),
    block(30, CHANGE, quick=False),
    Fault("leader's container paused", CHANGE, pause, unpause),
    Fault("leader's host cut off", CHANGE, on_leaders_host("cut"), heal_all),
    Fault("standby's host cut off", EITHER, cut_standby, heal_all, lasts=12, quick=False),
    Fault("leader's daemon killed", CHANGE, kill_engine, start_engine, quick=False),
    Fault("the Swarm's leading manager killed", EITHER, kill_swarm_leader, start_engine, lasts=15, quick=False),
    Fault("network slowed to 256 kbit/s", NO_CHANGE, slow_all, unslow_all, lasts=10, quick=False),
    Fault("labels of the service updated", NO_CHANGE, update_labels, lasts=3),
    Fault("config removed", CHANGE, remove_config),
    Fault("docker service update --force", CHANGE, force_update, quick=False),
]
