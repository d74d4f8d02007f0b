"""The driver: each method of the contract in terms of the modules that do the work."""

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from typing import ClassVar

from streamspace_agent.config import Settings
from streamspace_agent.election import Problem
from streamspace_agent.errors import CommandFailed, EngineUnavailable, Injected, LeaseLost
from streamspace_agent.faults import Faults
from streamspace_agent.runtime import (
    Capabilities,
    Leftover,
    Report,
    RuntimeDriver,
    RuntimeEvent,
    Session,
    SessionSpec,
    SessionState,
)
from streamspace_agent.runtime.readiness import Stream
from streamspace_engine import Engine
from streamspace_runtime_docker.check import Check
from streamspace_runtime_docker.containers import labels
from streamspace_runtime_docker.containers.config import check_spec
from streamspace_runtime_docker.containers.creation_time import CreationTimes
from streamspace_runtime_docker.containers.info import ContainerInfo
from streamspace_runtime_docker.containers.out_of_memory import OutOfMemory
from streamspace_runtime_docker.containers.sessions import SessionMapper
from streamspace_runtime_docker.containers.stop_marker import StopMarkers
from streamspace_runtime_docker.containers.store import ContainerStore
from streamspace_runtime_docker.events import Events
from streamspace_runtime_docker.gc import Leftovers
from streamspace_runtime_docker.hibernate import Hibernation
from streamspace_runtime_docker.images.store import ImageStore
from streamspace_runtime_docker.networks.attachments import Attachments
from streamspace_runtime_docker.networks.connector import Connector
from streamspace_runtime_docker.networks.network import SessionNetwork
from streamspace_runtime_docker.settings import DockerSettings
from streamspace_runtime_docker.start.create import ContainerFactory
from streamspace_runtime_docker.start.limiter import StartLimiter
from streamspace_runtime_docker.start.run import Starter
from streamspace_runtime_docker.start.wait import Readiness
from streamspace_runtime_docker.stats import Stats
from streamspace_runtime_docker.volumes import Volumes

log = logging.getLogger(__name__)

# After these a failed start leaves everything as it is: whoever leads next repeats the start, which completes it.
_INTERRUPTIONS = (EngineUnavailable, LeaseLost, Injected)


class DockerDriver(RuntimeDriver):
    name: ClassVar[str] = "docker"

    def __init__(self, settings: Settings, own: DockerSettings, environ: Mapping[str, str]) -> None:
        self._settings = settings
        self._faults = Faults(environ)
        self._engine = engine = Engine(
            settings.docker_host, environ, concurrency=own.engine_concurrency, require_lease=self._allowed
        )
        self._store = store = ContainerStore(engine, settings, own)
        self._markers = markers = StopMarkers(engine)
        memory, creation_times = OutOfMemory(engine), CreationTimes()
        self._mapper = mapper = SessionMapper(store, markers, memory, creation_times)
        self._volumes = Volumes(engine, settings)
        networks = SessionNetwork(engine, settings, own)
        self._connector = Connector(settings.docker_host, networks)
        images = ImageStore(engine, own.pull_concurrency, own.pull_stall_timeout, self._faults, own.allowed_images)
        self._factory = ContainerFactory(
            engine, store, images, networks, self._volumes, creation_times, self._faults, settings, own
        )
        self._readiness = Readiness(store, mapper, memory, self._connector, settings.ready_timeout)
        attachments = Attachments(engine, networks, settings)
        limiter = StartLimiter(own.start_concurrency, engine.cores)
        self._starter = Starter(engine, store, self._readiness, attachments, limiter, self._faults)
        self._hibernation = Hibernation(engine, store, markers, memory, self._starter, self._faults)
        self._events = Events(engine, store, mapper, markers, memory, settings.agent_id)
        self._leftovers = Leftovers(engine, store, self._volumes, networks, settings, own.leftover_grace)
        self._stats = Stats(engine)
        self._check = Check(engine, networks, settings, own)

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(frozenset({"stop", "pause"}), pull_progress=True, many_hosts=False)

    async def start(self, spec: SessionSpec, report: Report) -> Session:
        check_spec(spec)
        async with self._store.lock(spec.session_id):
            found = await self._store.find(spec.session_id)
            if found and (user := found.labels.get(labels.USER, "")) != spec.user:
                raise CommandFailed("session_taken", f"the container {found.name} belongs to the user {user!r}")
            if found and found.state == "removing":
                await self._store.remove(found)
                found = None
            if found and found.state in {"paused", "exited"}:
                if (await self._mapper.session(found)).state is SessionState.HIBERNATED:
                    self._forget(found.session_id)
                    return await self._hibernation.wake(found, report)
                await self._store.remove(found)
                return await self._create(spec, report, used=True)
            if found and found.state == "running":
                return await self._check_running(found, spec, report)
            if found and not (found.state == "created" and self._factory.matches(found, spec)):
                await self._store.remove(found)
                found = None
            return await self._create(spec, report, found=found)

    async def _create(
        self, spec: SessionSpec, report: Report, *, found: ContainerInfo | None = None, used: bool = False
    ) -> Session:
        """Create the container, or complete one that never ran; ``used``: its volumes may hold data."""
        try:
            if found:
                await self._factory.complete(spec)
                session = await self._starter.restart(found, report)
            else:
                session = await self._starter.start(await self._factory.create(spec, report), report)
            self._volumes.confirm(spec)
            return session
        except _INTERRUPTIONS:
            raise
        except Exception:
            await self._factory.undo(spec, volumes=not used)
            raise

    async def _check_running(self, found: ContainerInfo, spec: SessionSpec, report: Report) -> Session:
        try:
            return await self._starter.wait_ready(found.id, report)
        except CommandFailed:
            if found.command_id == spec.command_id:  # this start's own, from before an interruption
                await self._factory.undo(spec, volumes=False)
            raise

    async def stop(self, session_id: str, *, delete_volumes: bool = False) -> None:
        async with self._store.lock(session_id):
            found = await self._store.find(session_id)
            if found:
                if found.state in {"running", "paused", "restarting"}:
                    await self._store.terminate(found)
                self._faults.point("docker.after_stop")
                await self._store.remove(found)
            self._forget(session_id)
            self._mapper.drop(session_id)
            if delete_volumes:
                await self._volumes.remove_all(session_id, found)

    async def hibernate(self, session_id: str) -> Session:
        async with self._store.lock(session_id):
            found = await self._store.get(session_id)
            if found.state != "running":
                session = await self._mapper.session(found)
                if session.state is SessionState.HIBERNATED:
                    return session
                raise CommandFailed(
                    "not_running", f"the session cannot hibernate, it is {session.state}: {session.reason}"
                )
            self._forget(session_id)
            await self._hibernation.sleep(found, pause=self._settings.hibernate_mode == "pause")
            return await self._mapper.session(await self._store.get(session_id))

    async def wake(self, session_id: str, report: Report) -> Session:
        async with self._store.lock(session_id):
            found = await self._store.get(session_id)
            if found.state == "running":
                return await self._starter.wait_ready(found.id, report)
            self._forget(session_id)
            return await self._hibernation.wake(found, report)

    async def prove(self, session_id: str) -> Session:
        """Takes no lock, since it changes nothing: no stop waits for a session that does not answer."""
        found = await self._store.get(session_id)
        if found.state == "running":
            with suppress(CommandFailed):  # silent, or ended meanwhile: reported as it is now
                return await self._readiness.wait(found.id)
            found = await self._store.get(session_id)
        return await self._mapper.session(found)

    async def inspect(self, session_id: str) -> Session | None:
        try:
            found = await self._store.find(session_id)
        except CommandFailed:
            return None  # another agent's session
        return await self._mapper.session(found) if found else None

    async def sessions(self) -> list[Session]:
        known = self._mapper.known()
        found = await self._store.list()
        for session_id in known - {each.session_id for each in found}:  # its container vanished unnoticed
            self._mapper.drop(session_id)
            self._stats.forget(session_id)
        return await self._mapper.sessions(found)

    def events(self) -> AsyncIterator[RuntimeEvent]:
        return self._events.watch()

    async def connect(self, session_id: str, port: int) -> Stream:
        """Looks the address up each time: an old one may belong to another session by now."""
        found = await self._store.get(session_id)
        if found.state != "running":
            raise CommandFailed("not_running", f"the session does not run: it is {found.state}")
        return await self._connector.open(found, port)

    async def leftovers(self, known: frozenset[str]) -> list[Leftover]:
        return await self._leftovers.find(known)

    async def remove(self, leftover: Leftover) -> None:
        await self._leftovers.remove(leftover)

    async def stats(self, session_id: str) -> tuple[float, int] | None:
        return await self._stats.read(session_id)

    async def received(self, session_id: str) -> int | None:
        return await self._stats.received(session_id)

    async def check(self) -> list[Problem]:
        return await self._check.problems()

    async def describe(self) -> Mapping[str, str]:
        return await self._check.facts()

    async def aclose(self) -> None:
        self._volumes.close()
        await self._engine.aclose()

    def _allowed(self) -> None:
        self.guard()  # looked up each time: the agent sets it after the driver was created

    def _forget(self, session_id: str) -> None:
        """Forget what is known about a run of the session's container that ends."""
        self._mapper.forget(session_id)
        self._stats.forget(session_id)
