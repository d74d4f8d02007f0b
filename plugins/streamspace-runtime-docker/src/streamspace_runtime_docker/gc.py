"""Leftovers of interrupted and failed starts, and networks of an earlier NETWORK_NAME: what `docker-agent gc` removes.

A container that ever ran is a session, and its volumes are somebody's data: neither is ever a leftover. A container
that never ran is one when its session is unknown, and so are the volumes that the same command created.
"""

import time
from collections.abc import Iterable, Mapping
from contextlib import suppress

from streamspace_agent.config import Settings
from streamspace_agent.runtime import Leftover
from streamspace_engine import Engine
from streamspace_engine.errors import Conflict, EngineError
from streamspace_engine.events import timestamp
from streamspace_runtime_docker.containers import labels
from streamspace_runtime_docker.containers.info import ContainerInfo
from streamspace_runtime_docker.containers.store import ContainerStore
from streamspace_runtime_docker.networks.network import SessionNetwork
from streamspace_runtime_docker.volumes import Volumes


class Leftovers:
    def __init__(
        self,
        engine: Engine,
        store: ContainerStore,
        volumes: Volumes,
        networks: SessionNetwork,
        settings: Settings,
        grace: float,
    ) -> None:
        self._engine = engine
        self._store = store
        self._volumes = volumes
        self._networks = networks
        self._network = settings.network_name
        self._mine = [f"{labels.AGENT}={settings.agent_id}"]
        self._grace = grace

    async def find(self, known: frozenset[str]) -> list[Leftover]:
        containers = await self._store.list()
        never_ran = [f for f in containers if f.state == "created" and f.session_id not in known]
        left = [
            Leftover("container", f.name, f"never ran, and no session {f.session_id} is known", age)
            for f in containers
            if f.state in {"created", "dead"} and f.session_id not in known
            if (age := self._age(f.created_at)) >= self._grace
        ]
        return left + await self._volumes_of(never_ran) + await self._old_networks()

    @staticmethod
    def _age(created_at: float) -> float:
        return max(0.0, time.time() - created_at) if created_at else 0.0

    async def _volumes_of(self, never_ran: Iterable[ContainerInfo]) -> list[Leftover]:
        volumes = [volume for found in never_ran for volume in await self._volumes.of_container(found)]
        return [
            Leftover("volume", volume["Name"], "made by a start that never ran", age)
            for volume in volumes
            if (age := self._age(timestamp(volume.get("CreatedAt", "")))) >= self._grace
        ]

    async def _old_networks(self) -> list[Leftover]:
        listed = await self._engine.get("/networks", {"filters": {"label": self._mine}})
        left = []
        for entry in listed:
            if entry["Name"] == self._network:
                continue
            body = await self._engine.find(f"/networks/{entry['Id']}")
            if body is not None and not await self._networks.in_use(body):
                age = self._age(timestamp(body.get("Created", "")))
                left.append(
                    Leftover("network", entry["Name"], f"has no sessions, NETWORK_NAME is {self._network}", age)
                )
        return [leftover for leftover in left if leftover.age >= self._grace]

    async def remove(self, leftover: Leftover) -> None:
        """Remove a leftover, unless it came into use since it was found."""
        match leftover.kind:
            case "container":
                found = await self._store.inspect(leftover.name)
                if found and found.state in {"created", "dead"} and self._is_mine(found.labels):
                    await self._store.remove(found)
            case "volume":
                await self._remove_volume(leftover.name)
            case "network":
                await self._remove_network(leftover.name)
            case kind:
                raise ValueError(f"no kind of leftover: {kind}")

    async def _remove_volume(self, name: str) -> None:
        with suppress(Conflict):
            await self._volumes.remove(name)

    async def _remove_network(self, name: str) -> None:
        body = await self._engine.find(f"/networks/{name}")
        if body is None or await self._networks.in_use(body):
            return
        try:
            await self._engine.delete(f"/networks/{name}")
        except EngineError as error:
            if error.status not in {403, 404, 409}:  # 403: containers are attached to it
                raise

    def _is_mine(self, values: Mapping[str, str]) -> bool:
        return f"{labels.AGENT}={values.get(labels.AGENT)}" in self._mine
