"""One replica on each of three hosts, each host a manager; the replicas are the tasks of a global service."""

import asyncio
import os
import signal
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import docker
import requests
from docker.errors import APIError

from lab.hosts import Hosts
from tests.faults.nemesis import container
from tests.faults.nemesis.faults import CHANGE, CROWD, EITHER, FORK, HANDOVER, KILL, NO_CHANGE, Fault, block, freeze
from tests.faults.nemesis.stage import CANDIDATES, ROOT, SETTLE, Stage
from tests.netns import relay

NODE = "{{.Node.ID}}"
CALM = 5.0
"""Seconds for which a Swarm that was disturbed has to look well."""


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
    disturbed = True
    """A manager was away: it may yet be that another election begins."""

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
                self._socket(),
            ],
            mode=docker.types.ServiceMode("global"),
            networks=["host"],
            user="root",
            restart_policy=docker.types.RestartPolicy(condition="any", delay=500_000_000),
            update_config=docker.types.UpdateConfig(failure_action="rollback", monitor=2_000_000_000),
            rollback_config=docker.types.RollbackConfig(monitor=2_000_000_000),
            stop_grace_period=20_000_000_000,
            init=False,
        )

    async def steady(self):
        """And the Swarm is: where a manager was away, the managers choose their own leader anew, which takes 10 to 20
        s in which nothing can be written. That is a fault of its own, not to be mixed into the next one's figures.
        """
        calm_since = None
        async with asyncio.timeout(2 * SETTLE):
            while True:
                epoch = await super().steady()
                calm = await asyncio.to_thread(self._calm)
                calm_since = (calm_since or time.monotonic()) if calm else None
                if calm and (not self.disturbed or time.monotonic() - calm_since > CALM):
                    self.disturbed = False
                    return epoch
                await asyncio.sleep(0.5)

    def _calm(self):
        """Every manager knows the same leader, and that all are there."""
        leaders = set()
        for replica in self.replicas:
            try:
                nodes = replica.client.nodes.list()
            except (APIError, requests.RequestException):
                return False
            states = [(node.attrs["Status"]["State"], node.attrs["ManagerStatus"]["Reachability"]) for node in nodes]
            if states != [("ready", "reachable")] * len(self.replicas):
                return False
            leaders.add(tuple(node.id for node in nodes if node.attrs["ManagerStatus"].get("Leader")))
        return len(leaders) == 1 and len(leaders.pop()) == 1

    async def crowd(self, processes, each):
        """As tasks of another service, spread over the hosts: nobody else can stand in a Swarm."""
        self._crowd_service = await asyncio.to_thread(self._deploy_crowd, processes, each)
        await self.crowded(processes * each)

    def _deploy_crowd(self, processes, each):
        variables = self.variables("unused") | {
            "DOCKER_HOST": "unix:///var/run/docker.sock",
            "STREAMSPACE_TRACE": str(self.records / "crowd-{{.Task.ID}}.jsonl"),
        }
        return self.manager.services.create(
            container.IMAGE,
            name=f"{self.agent_id}-crowd",
            command=[*CANDIDATES, str(each)],
            workdir=str(ROOT),
            env=[f"{name}={value}" for name, value in variables.items()],
            mounts=[*container.mounts(), container.writable(self.folder), self._socket()],
            mode=docker.types.ServiceMode("replicated", processes),
            networks=["host"],
            user="root",
            restart_policy=docker.types.RestartPolicy(condition="none"),
            stop_grace_period=20_000_000_000,
            init=False,
        )

    async def disperse(self):
        await asyncio.to_thread(self._crowd_service.remove)
        only = {"label": f"com.docker.swarm.service.name={self.agent_id}-crowd"}
        async with asyncio.timeout(SETTLE):
            for replica in self.replicas:
                while await asyncio.to_thread(replica.client.api.containers, filters=only):
                    await asyncio.sleep(0.2)
        self.dispersed()

    def _socket(self):
        own = self.folder / "nodes" / NODE / "docker.sock"
        return docker.types.Mount("/var/run/docker.sock", str(own), type="bind")

    def others(self):
        return [replica.host for replica in self.replicas if replica is not self.leader]


def on_leaders_host(action):
    async def do(stage):
        await asyncio.to_thread(getattr(stage.hosts, action), stage.leader.host)

    return do


async def cut_standby(stage):
    await asyncio.to_thread(stage.hosts.cut, stage.others()[0])


async def heal_all(stage):
    stage.disturbed = True
    for host in stage.hosts.all:
        await asyncio.to_thread(stage.hosts.heal, host)


async def slow_all(stage):
    for host in stage.hosts.all:
        await asyncio.to_thread(stage.hosts.slow, host, 256)


async def unslow_all(stage):
    stage.disturbed = True
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
    stage.disturbed = True
    await asyncio.to_thread(stage.crashed.engine.start)


async def kill_swarm_leader(stage):
    """The manager that leads the Swarm, wherever the agent's leader is."""
    nodes = await asyncio.to_thread(stage.manager.nodes.list)
    node = next(n.id for n in nodes if n.attrs.get("ManagerStatus", {}).get("Leader"))
    stage.crashed = next(r.host for r in stage.replicas if r.node == node)
    await asyncio.to_thread(stage.hosts.kill, stage.crashed)


async def lead_beside_swarm_leader(stage):
    """The agent's leader is on another host than the manager that leads the Swarm."""
    while True:
        epoch = await stage.steady()
        nodes = await asyncio.to_thread(stage.manager.nodes.list)
        leads = next(n.id for n in nodes if n.attrs.get("ManagerStatus", {}).get("Leader"))
        if stage.leader.node != leads:
            return
        after = stage.now()
        stage.leader.signal(signal.SIGTERM)
        await stage.accepted(epoch, after)


async def update_labels(stage):
    """What 'docker service update --label-add' does."""

    def change(spec):
        spec["Labels"] = {**(spec.get("Labels") or {}), "operator": os.urandom(4).hex()}

    await _update(stage, change)


async def wipe_labels(stage):
    """What 'docker stack deploy' does to the labels that its file does not name."""

    def change(spec):
        spec["Labels"] = {}

    await _update(stage, change)


async def _update(stage, change, **parameters):
    """As the docker command does: read, change, write; sent again, as an operator would, when the leader's label came
    in between or the Swarm was just choosing its own leader."""
    async with asyncio.timeout(SETTLE):
        while True:
            try:
                return await asyncio.to_thread(_update_once, stage, change, parameters)
            except APIError as error:
                if not any(
                    reason in str(error)
                    for reason in ("out of sequence", "lost leader status", "does not have a leader")
                ):
                    raise
                await asyncio.sleep(0.5)


def _update_once(stage, change, parameters):
    stage.service.reload()
    spec = stage.service.attrs["Spec"]
    change(spec)
    api = stage.manager.api
    url = f"{api.base_url}/v{api.api_version}/services/{stage.service.id}/update"
    query = {"version": stage.service.attrs["Version"]["Index"], **parameters}
    answer = api.post(url, json=spec, params=query, timeout=api.timeout)
    if not answer.ok:
        raise APIError(answer.text, answer, answer.text)


async def failing_update(stage):
    """A version that ends at once: Docker itself has to bring the old one back."""
    before = _environment(stage)
    await _update(stage, _set("AGENT_SCRIPT", "exit 1"))
    await _update_ends(stage, "rollback_completed")
    assert _environment(stage) == before


async def update_and_roll_back(stage):
    """A good version, then 'docker service rollback': the leader's label may not have cost the way back."""
    before = _environment(stage)
    await _update(stage, _set("VERSION", os.urandom(4).hex()))
    await _update_ends(stage, "completed")
    assert _environment(stage) != before
    await stage.steady()
    await _update(stage, lambda spec: None, rollback="previous")
    await _update_ends(stage, "rollback_completed")
    assert _environment(stage) == before


def _set(name, value):
    def change(spec):
        variables = spec["TaskTemplate"]["ContainerSpec"]["Env"]
        variables[:] = [line for line in variables if not line.startswith(f"{name}=")] + [f"{name}={value}"]

    return change


def _environment(stage):
    stage.service.reload()
    return set(stage.service.attrs["Spec"]["TaskTemplate"]["ContainerSpec"]["Env"])


async def _update_ends(stage, state):
    async with asyncio.timeout(3 * SETTLE):
        while True:
            await asyncio.to_thread(stage.service.reload)
            if stage.service.attrs.get("UpdateStatus", {}).get("State") == state:
                return
            await asyncio.sleep(0.2)


async def remove_config(stage):
    for config in await asyncio.to_thread(
        stage.manager.configs.list, filters={"name": f"streamspace-leader-{stage.agent_id}"}
    ):
        await asyncio.to_thread(config.remove)


async def force_update(stage):
    """What 'docker service update --force' does: every task is replaced, one after another."""
    before = {replica.container for replica in stage.replicas}

    def change(spec):
        spec["TaskTemplate"]["ForceUpdate"] = spec["TaskTemplate"].get("ForceUpdate", 0) + 1

    await _update(stage, change)
    while before & {replica.container for replica in stage.replicas}:
        await asyncio.sleep(0.2)


# A host that is cut off may be the manager that leads the Swarm: then nobody can write until another was elected.
FAULTS = [
    KILL,
    HANDOVER,
    CROWD,
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
    Fault("labels of the service wiped", NO_CHANGE, wipe_labels, lasts=3, quick=False),
    Fault("update that fails, rolled back by Docker", EITHER, failing_update, lasts=0, quick=False),
    Fault("update, then docker service rollback", CHANGE, update_and_roll_back, quick=False),
    Fault("config removed", CHANGE, remove_config),
    Fault("docker service update --force", CHANGE, force_update, quick=False),
]
