"""Making a session's container, its volumes and what they need; and unmaking what a failed start leaves."""

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from streamspace_agent.config import Settings
from streamspace_agent.errors import AgentError, CommandFailed
from streamspace_agent.faults import Faults
from streamspace_agent.runtime import Mount, Progress, Report, SessionSpec
from streamspace_runtime_docker import labels
from streamspace_runtime_docker.containers import container_name, create_body, volume_name
from streamspace_runtime_docker.engine import Engine
from streamspace_runtime_docker.errors import Conflict, EngineError, NotFound
from streamspace_runtime_docker.found import Found
from streamspace_runtime_docker.networks import Networks
from streamspace_runtime_docker.pulls import Images
from streamspace_runtime_docker.settings import DockerSettings
from streamspace_runtime_docker.store import Store

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
        faults: Faults,
        settings: Settings,
        own: DockerSettings,
    ) -> None:
        self._engine = engine
        self._store = store
        self._images = images
        self._networks = networks
        self._faults = faults
        self._settings = settings
        self._own = own

    async def make(self, spec: SessionSpec, report: Report) -> str:
        """Create the container and return its name. One that somebody else made meanwhile is as good."""
        await self._networks.ensure()
        await self._images.ensure(spec.image, report)
        report(Progress("creating"))
        # All of them end before the first failure is raised: what a failed start made is then known.
        made = await asyncio.gather(*(self._volume(spec, mount) for mount in spec.mounts), return_exceptions=True)
        for failure in made:
            if isinstance(failure, BaseException):
                raise failure
        body = create_body(
            spec,
            self._settings,
            self._own,
            publish=await self._networks.publish(),
            host_cpus=await self._engine.cores() if spec.cpu is not None else 0,
        )
        await self._create(spec, body, report)
        self._faults.point("docker.after_create")
        return container_name(spec.session_id)

    async def _create(self, spec: SessionSpec, body: dict[str, Any], report: Report, *, again: bool = True) -> None:
        name = container_name(spec.session_id)
        try:
            await self._engine.change(lambda client: client.create_container_from_config(body, name))  # type: ignore[no-untyped-call]  # in the SDK's stubs
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

    async def _volume(self, spec: SessionSpec, mount: Mount) -> None:
        """An existing volume of the session is used as it is; the engine answers with its labels."""
        name = volume_name(spec.session_id, mount.name)
        marks = labels.of_session(self._settings.agent_id, spec) | {labels.VOLUME: mount.name}
        try:
            body = await self._engine.change(
                lambda client: client.create_volume(name, driver=self._settings.volume_driver, labels=marks)
            )
        except EngineError as error:
            # Podman refuses, in several wordings, one that another start makes at this moment; Docker gives it to both.
            try:
                body = await self._engine.read(lambda client: client.inspect_volume(name))
            except NotFound:
                raise CommandFailed("volume_failed", f"cannot create the volume {name}: {error.text}") from error
        if owner := self._stranger(spec, body):
            raise CommandFailed(
                "volume_taken",
                f"the volume {name} belongs to {owner}: remove or rename it, or use another session id",
            )

    def _stranger(self, spec: SessionSpec, volume: Mapping[str, Any]) -> str:
        """Whose the volume is, where that is not the session's: what is on it is not for other people's eyes."""
        marks = volume.get("Labels") or {}
        if not marks and volume.get("Scope") == "global":
            return ""  # another host's agent made it, and the engine keeps labels to itself: its name has to do
        if (session := marks.get(labels.SESSION)) != spec.session_id:
            return f"the session {session}" if session else "no session"
        if (agent := marks.get(labels.AGENT)) != self._settings.agent_id:
            return f"the agent {agent}"
        return "" if (user := marks.get(labels.USER)) == spec.user else f"the user {user!r}"

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
                await self.remove_volumes(spec.session_id, command_id=spec.command_id)
        except (AgentError, TimeoutError) as error:
            log.warning("cannot clean up after the failed start of %s: %s", spec.session_id, error)

    async def remove_volumes(self, session_id: str, command_id: str = "") -> None:
        """Remove the session's volumes, or only those that one command made."""
        wanted = [f"{labels.AGENT}={self._settings.agent_id}", f"{labels.SESSION}={session_id}"]
        wanted += [f"{labels.COMMAND}={command_id}"] if command_id else []
        answer = await self._engine.read(lambda client: client.volumes(filters={"label": wanted}))
        for volume in answer.get("Volumes") or []:
            await self.remove_volume(volume["Name"])

    async def remove_volume(self, name: str) -> None:
        with suppress(NotFound):
            await self._engine.change(lambda client: client.remove_volume(name))
