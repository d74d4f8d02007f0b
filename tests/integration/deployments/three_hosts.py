"""Three Docker hosts that form one Swarm, with a control plane that each reaches at its own loopback address."""

import asyncio
import re
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from lab.hosts import Host, Hosts
from lab.proxy import Proxy
from tests.integration.deployments import stack
from tests.integration.deployments.compose import FOLDER, CommandFailed, call
from tests.netns import relay


@dataclass(frozen=True)
class Leader:
    host: Host
    instance: str
    epoch: int


class ThreeHosts:
    """`ways` are the hosts' ways out, which a lost host has not."""

    def __init__(self, hosts: Hosts, folder) -> None:
        self.hosts, self.folder = hosts, folder
        self.all = hosts.all
        self.ways = {each: [] for each in self.all}
        self.clients = {each: each.client() for each in self.all}
        self.nodes = {each: client.info()["Swarm"]["NodeID"] for each, client in self.clients.items()}
        for each, node in self.nodes.items():  # the stack file takes one path, and a template of Swarm's in it
            (folder / node).mkdir()
            (folder / node / "docker.sock").symlink_to(each.engine.socket)

    def close(self) -> None:
        for client in self.clients.values():
            client.close()

    @asynccontextmanager
    async def leading_to(self, *ports):
        """While it lasts, each of this machine's ports is at that number of every host's loopback address."""
        async with AsyncExitStack() as exits:
            for each in self.all:
                for port in ports:
                    proxy = exits.enter_context(Proxy(port))
                    await exits.enter_async_context(relay(each.name, proxy.port, at=port))
                    self.ways[each].append(proxy)
                    exits.callback(self.ways[each].remove, proxy)
            yield

    def lose(self, host) -> None:
        """Nothing of it can be reached any more, and it reaches nobody: connections hang, as those of a lost host
        do."""
        self.hosts.cut(host)
        for proxy in self.ways[host]:
            proxy.stalled = True

    def find(self, host) -> None:
        self.hosts.heal(host)
        for proxy in self.ways[host]:
            proxy.stalled = False

    def others(self, *besides):
        return [each for each in self.all if each not in besides]

    def swarm_leader(self):
        """The host whose manager leads the Swarm."""
        nodes = self.clients[self.all[0]].nodes.list()
        leading = [node.id for node in nodes if node.attrs.get("ManagerStatus", {}).get("Leader")]
        return next((each for each in self.all if self.nodes[each] in leading), None)

    def runner(self, **environ):
        """Runs a shell command in deployments/, as on the host given."""
        plain = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/bin", "HOME": str(self.folder)}

        async def run(command, on=None, **more):
            host = {"DOCKER_HOST": (on or self.all[0]).docker_host}
            own = {**plain, **environ, **host, **more}
            try:
                return await call("sh", "-c", command, environ=own, cwd=FOLDER.parent)
            except CommandFailed as error:
                if not re.search("out of sequence|does not have a leader|DeadlineExceeded", str(error)):
                    raise
            # A new leader's label came first, or the managers elect their own: an operator, too, sends it again.
            await stack.found(self.swarm_leader, "a manager that leads")
            return await call("sh", "-c", command, environ=own, cwd=FOLDER.parent)

        return run

    # The stack's replicas

    def leaders(self, *besides):
        """Who says, on which host, that it leads with a connection."""
        return [
            Leader(host, instance, epoch)
            for host in self.others(*besides)
            for instance, epoch in stack.leaders(self.clients[host])
        ]

    async def leader(self, *besides, timeout=60.0):
        """The only one, once there is one."""
        (one,) = await stack.found(lambda: self.leaders(*besides), "a leader", timeout)
        return one

    async def steady(self, replicas=3):
        """So many replicas run, one of them leads, and all are healthy: Swarm has finished what it did."""

        def healthy():
            found = [c for client in self.clients.values() for c in stack.containers(client)]
            states = [container.attrs["State"]["Health"]["Status"] for container in found]
            return states == ["healthy"] * replicas and len(stack.running(self.clients[self.all[0]])) == replicas

        await stack.found(healthy, f"{replicas} healthy replicas", 120)
        return await self.leader()

    async def lead_on(self, host, *besides):
        """Kill leaders until one on that host leads: Swarm starts a new replica for each."""
        for _ in range(30):
            leader = await self.leader(*besides)
            if leader.host is host:
                return leader
            client = self.clients[leader.host]
            await asyncio.to_thread(stack.container_of(client, leader.instance).kill)
            await stack.found(
                lambda old=leader: [one for one in self.leaders(*besides) if one.epoch > old.epoch], "the next leader"
            )
        raise AssertionError(f"no leader on {host.name}")

    def containers(self, host):
        """All there are on that host, sessions too."""
        return self.clients[host].api.containers(all=True)

    def started(self, host, session):
        """When the session's container was started."""
        return self.clients[host].api.inspect_container(f"streamspace-{session}")["State"]["StartedAt"]
