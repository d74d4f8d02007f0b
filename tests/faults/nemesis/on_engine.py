"""Three replicas as containers of one engine, with one Redis: the engine can certify that a leader's container has
died."""

import asyncio

import docker

from lab.redis import RedisServer
from tests.faults.nemesis import container
from tests.faults.nemesis.stage import Stage


class Container(container.Contained):
    """One container, started anew when it ended."""

    def __init__(self, stage, name, client, variables):
        super().__init__(stage, name, client)
        self._variables = variables
        self._made = None

    def find(self):
        return self._made["Id"] if self._made else ""

    async def revive(self):
        await super().revive()
        if not self.alive:
            await asyncio.to_thread(self._start)

    def _start(self):
        self.close()
        api = self.client.api
        host = self.stage.docker_host.removeprefix("unix://")
        host_config = api.create_host_config(
            network_mode="host",
            mounts=[
                *container.mounts(),
                container.writable(self.stage.folder),
                docker.types.Mount(host, host, type="bind"),
            ],
        )
        self._made = api.create_container(
            container.IMAGE,
            name=f"{self.stage.agent_id}-{self.name}",
            entrypoint=[str(container.COMMAND), "run"],
            environment=self._variables,
            user="root",
            host_config=host_config,
            labels={"streamspace.lab.nemesis": self.stage.agent_id},
        )
        api.start(self._made)

    def close(self):
        if self._made:
            self.client.api.remove_container(self._made, force=True, v=True)
            self._made = None


class EngineStage(Stage):
    backend = "redis"

    async def begin(self, stack):
        server = stack.enter_context(RedisServer())
        client = docker.DockerClient(base_url=self.docker_host)
        stack.callback(client.close)
        for name in ("a", "b", "c"):
            replica = Container(self, name, client, self.variables(name) | {"REDIS_URL": server.url})
            self.replicas.append(replica)
            stack.callback(replica.close)
