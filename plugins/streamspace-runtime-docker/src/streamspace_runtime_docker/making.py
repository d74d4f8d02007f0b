"""Making a session's container, its volumes and what they need; and unmaking what a failed start leaves."""

import asyncio
import logging
from typing import Any

from streamspace_agent.config import Settings
from streamspace_agent.errors import AgentError, CommandFailed
from streamspace_agent.faults import Faults
from streamspace_agent.runtime import Progress, Report, SessionSpec
from streamspace_engine import Engine
from streamspace_engine.errors import Conflict, EngineError, NotFound
from streamspace_runtime_docker.births import Births
from streamspace_runtime_docker.containers import container_name, create_body
from streamspace_runtime_docker.found import Found
from streamspace_runtime_docker.networks import Networks
from streamspace_runtime_docker.pulls import Images
from streamspace_runtime_docker.settings import DockerSettings
from streamspace_runtime_docker.store import Store
from streamspace_runtime_docker.volumes import Volumes

log = logging.getLogger(__name__)

_MADE_ELSEWHERE = 5.0
"""Seconds in which a container whose name is taken must show up."""


class Making:
    def __init__(
        self,
        engine: Engine,
        store: Store,
        *,
        images: Images,
        networks: Networks,
        volumes: Volumes,
        births: Births,
        faults: Faults,
        settings: Settings,
        own: DockerSettings,
    ) -> None:
        self._engine = engine
        self._store = store
        self._images = images
        self._networks = networks
        self._volumes = volumes
        self._births = births
        self._faults = faults
        self._settings = settings
        self._own = own

    async def make(self, spec: SessionSpec, report: Report) -> str:
        """Create the container and return its name. One that somebody else made meanwhile is as good."""
        await self._networks.ensure()
        await self._images.ensure(spec.image, report)
        report(Progress("creating"))
        # All of them end before the first failure is raised: what a failed start made is then known.
        made = await asyncio.gather(*(self._volumes.make(spec, mount) for mount in spec.mounts), return_exceptions=True)
        for failure in made:
            if isinstance(failure, BaseException):
                raise failure
        body = create_body(
            spec,
            self._settings,
            self._own,
            born=self._births.marks(),
            publish=await self._networks.publish(),
            host_cpus=await self._engine.cores() if spec.cpu is not None else 0,
            podman=await self._engine.is_podman(),
        )
        await self._create(spec, body, report)
        self._faults.point("docker.after_create")
        return await self.complete(spec)

    async def complete(self, spec: SessionSpec) -> str:
        """What is left to do for a container that was created and never ran; returns its name."""
        name = container_name(spec.session_id)
        if spec.mounts and (found := await self._store.look(name)):
            await self._volumes.own(spec, found)
        return name

    async def _create(self, spec: SessionSpec, body: dict[str, Any], report: Report, *, again: bool = True) -> None:
        name = container_name(spec.session_id)
        try:
            await self._engine.post("/containers/create", body, {"name": name})
        except Conflict:
            await self._appeared(spec.session_id)
        except EngineError as error:
            if again and isinstance(error, NotFound):  # the image was removed since it was last seen
                self._images.forget(spec.image)
                await self._images.ensure(spec.image, report)
                await self._create(spec, body, report, again=False)
            else:
                raise CommandFailed("create_failed", f"the engine cannot create the session: {error.text}") from error

    async def _appeared(self, session_id: str) -> None:
        """Somebody else makes the container right now. Raises where it is another agent's."""
        deadline = asyncio.get_running_loop().time() + _MADE_ELSEWHERE
        while not await self._store.find(session_id):  # Podman reserves the name before it shows the container
            if asyncio.get_running_loop().time() >= deadline:
                raise CommandFailed(
                    "create_failed", f"the name {container_name(session_id)} is taken by something unseen"
                )
            await asyncio.sleep(0.05)

    def fits(self, found: Found, spec: SessionSpec) -> bool:
        """Is a container that never ran what this start would make? Another's may have other limits, whatever else is alike."""
        wanted = {f"{name}={value}" for name, value in spec.environment.items()}
        return found.command_id == spec.command_id and found.image == spec.image and wanted <= found.environment

    async def unmake(self, spec: SessionSpec, *, volumes: bool) -> None:
        """Remove what a failed start made; ``volumes`` when the container never ran, so that they hold nothing yet.

        Never raises: the start's own failure is what counts.
        """
        try:
            found = await self._store.find(spec.session_id)
            if found and found.command_id != spec.command_id:
                return  # another start was faster: it is that one's
            if found:
                await self._store.remove(found)
            if volumes:
                await self._volumes.undo(spec, found)
        except (AgentError, TimeoutError) as error:
            log.warning("cannot clean up after the failed start of %s: %s", spec.session_id, error)
