"""Leftovers of interrupted and failed starts, and networks of an earlier NETWORK_NAME: what `docker-agent gc` removes.

A container that ever ran is a session, and its volumes are somebody's data: neither is ever a leftover. A container
that never ran is one when its session is unknown, and so are the volumes that the same command created.
"""

import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

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


@dataclass
class Leftovers:
    engine: Engine
    store: ContainerStore
    volumes: Volumes
    networks: SessionNetwork
    settings: Settings
    grace: float

    async def find(self, known: frozenset[str]) -> list[Leftover]:
        containers = await self.store.list()
        never_ran = [f for f in containers if f.state == "created" and f.session_id not in known]
        left = [
            Leftover("container", f.name, f"never ran, and no session {f.session_id} is known", age)
            for f in containers
            if f.state in {"created", "dead"} and f.session_id not in known
            if (age := self._age(f.created_at)) >= self.grace
        ]
        return left + await self._volumes_of(never_ran) + await self._old_networks()

    @staticmethod
    def _age(created_at: float) -> float:
        return max(0.0, time.time() - created_at) if created_at else 0.0

    async def _volumes_of(self, never_ran: Iterable[ContainerInfo]) -> list[Leftover]:
        volumes = [volume for found in never_ran for volume in await self.volumes.of_container(found)]
        return [
            Leftover("volume", volume["Name"], "made by a start that never ran", age)
            for volume in volumes
            if (age := self._age(timestamp(volume.get("CreatedAt", "")))) >= self.grace
        ]

    async def _old_networks(self) -> list[Leftover]:
        mine, present = f"{labels.AGENT}={self.settings.agent_id}", self.settings.network_name
        listed = await self.engine.get("/networks", {"filters": {"label": [mine]}})
        left = []
        for entry in listed:
            if entry["Name"] == present:
                continue
            body = await self.engine.find(f"/networks/{entry['Id']}")
            if body is not None and not await self.networks.in_use(body):
                age = self._age(timestamp(body.get("Created", "")))
                left.append(Leftover("network", entry["Name"], f"has no sessions, NETWORK_NAME is {present}", age))
        return [leftover for leftover in left if leftover.age >= self.grace]

    async def remove(self, leftover: Leftover) -> None:
        """Remove a leftover, unless it came into use since it was found."""
        match leftover.kind:
            case "container":
                found = await self.store.inspect(leftover.name)
                mine = found and found.labels.get(labels.AGENT) == self.settings.agent_id
                if found and mine and found.state in {"created", "dead"}:
                    await self.store.remove(found)
            case "volume":
                with suppress(Conflict):
                    await self.volumes.remove(leftover.name)
            case "network":
                await self._remove_network(leftover.name)
            case kind:
                raise ValueError(f"no kind of leftover: {kind}")

    async def _remove_network(self, name: str) -> None:
        body = await self.engine.find(f"/networks/{name}")
        if body is None or await self.networks.in_use(body):
            return
        try:
            await self.engine.delete(f"/networks/{name}")
        except EngineError as error:
            if error.status not in {403, 404, 409}:  # 403: containers are attached to it
                raise
