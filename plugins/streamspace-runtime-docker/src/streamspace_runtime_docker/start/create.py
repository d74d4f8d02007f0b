"""Creates a session's container with its image, network and volumes, and undoes what a failed start created."""

import asyncio
import logging
from dataclasses import dataclass
from typing import Any

from streamspace_agent.config import Settings
from streamspace_agent.errors import AgentError, CommandFailed
from streamspace_agent.faults import Faults
from streamspace_agent.runtime import Progress, Report, SessionSpec
from streamspace_engine import Engine
from streamspace_engine.errors import Conflict, EngineError, NotFound
from streamspace_runtime_docker.containers.config import container_name, create_body
from streamspace_runtime_docker.containers.creation_time import CreationTimes
from streamspace_runtime_docker.containers.info import ContainerInfo
from streamspace_runtime_docker.containers.store import ContainerStore
from streamspace_runtime_docker.images.store import ImageStore
from streamspace_runtime_docker.networks.network import SessionNetwork
from streamspace_runtime_docker.settings import DockerSettings
from streamspace_runtime_docker.volumes import Volumes

log = logging.getLogger(__name__)

_APPEARS_WITHIN = 5.0
"""Seconds within which a container whose name is taken must appear."""


@dataclass
class ContainerFactory:
    engine: Engine
    store: ContainerStore
    images: ImageStore
    networks: SessionNetwork
    volumes: Volumes
    creation_times: CreationTimes
    faults: Faults
    settings: Settings
    own: DockerSettings

    async def create(self, spec: SessionSpec, report: Report) -> str:
        """Create the container and return its name. One that somebody else created meanwhile will do."""
        await self.networks.ensure()
        await self.images.ensure(spec.image, report)
        report(Progress("creating"))
        # All end before the first failure is raised, so that all that was created is known.
        made = await asyncio.gather(
            *(self.volumes.create(spec, mount) for mount in spec.mounts), return_exceptions=True
        )
        for failure in made:
            if isinstance(failure, BaseException):
                raise failure
        body = create_body(
            spec,
            self.settings,
            self.own,
            creation_labels=self.creation_times.labels(),
            publish=await self.networks.must_publish(),
            host_cpus=await self.engine.cores() if spec.cpu is not None else 0,
            podman=await self.engine.is_podman(),
        )
        await self._create(spec, body, report)
        self.faults.point("docker.after_create")
        return await self.complete(spec)

    async def complete(self, spec: SessionSpec) -> str:
        """Finish a container that was created and never ran; returns its name."""
        name = container_name(spec.session_id)
        if spec.mounts and (found := await self.store.inspect(name)):
            await self.volumes.give_to_user(spec, found)
        return name

    async def _create(self, spec: SessionSpec, body: dict[str, Any], report: Report, *, again: bool = True) -> None:
        name = container_name(spec.session_id)
        try:
            await self.engine.post("/containers/create", body, {"name": name})
        except Conflict:
            await self._appeared(spec.session_id)
        except EngineError as error:
            if again and isinstance(error, NotFound):  # the image was removed since it was last seen
                self.images.forget(spec.image)
                await self.images.ensure(spec.image, report)
                await self._create(spec, body, report, again=False)
            else:
                raise CommandFailed("create_failed", f"the engine cannot create the session: {error.text}") from error

    async def _appeared(self, session_id: str) -> None:
        """Wait for a container that somebody else creates right now. Raises CommandFailed if it is another agent's."""
        deadline = asyncio.get_running_loop().time() + _APPEARS_WITHIN
        while not await self.store.find(session_id):  # Podman reserves the name before it shows the container
            if asyncio.get_running_loop().time() >= deadline:
                raise CommandFailed(
                    "create_failed", f"the name {container_name(session_id)} is taken by something unseen"
                )
            await asyncio.sleep(0.05)

    def matches(self, found: ContainerInfo, spec: SessionSpec) -> bool:
        """Is a container that never ran what this start would create? Another command's may have other limits."""
        wanted = {f"{name}={value}" for name, value in spec.environment.items()}
        return found.command_id == spec.command_id and found.image == spec.image and wanted <= found.environment

    async def undo(self, spec: SessionSpec, *, volumes: bool) -> None:
        """Remove what a failed start created; ``volumes``, too, if the container never ran: they are empty.

        Never raises, since the start's own failure counts.
        """
        try:
            found = await self.store.find(spec.session_id)
            if found and found.command_id != spec.command_id:
                return  # another start was faster: it is that one's
            if found:
                await self.store.remove(found)
            if volumes:
                await self.volumes.undo(spec, found)
        except (AgentError, TimeoutError) as error:
            log.warning("cannot clean up after the failed start of %s: %s", spec.session_id, error)
