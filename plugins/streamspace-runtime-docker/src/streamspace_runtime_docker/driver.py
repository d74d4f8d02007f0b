"""The driver: the contract's verbs, each told in terms of the modules that do the work."""

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
from streamspace_engine.errors import Conflict, EngineError
from streamspace_runtime_docker import labels
from streamspace_runtime_docker.attachments import Attachments
from streamspace_runtime_docker.births import Births
from streamspace_runtime_docker.check import Check
from streamspace_runtime_docker.containers import check_spec
from streamspace_runtime_docker.ends import Ends
from streamspace_runtime_docker.events import Events
from streamspace_runtime_docker.found import Found
from streamspace_runtime_docker.leftovers import Leftovers
from streamspace_runtime_docker.locks import Locks
from streamspace_runtime_docker.making import Making
from streamspace_runtime_docker.marks import Mark, Marks, judge
from streamspace_runtime_docker.networks import Networks
from streamspace_runtime_docker.ports import Ports
from streamspace_runtime_docker.pulls import Images
from streamspace_runtime_docker.running import Running
from streamspace_runtime_docker.settings import DockerSettings
from streamspace_runtime_docker.stats import Stats
from streamspace_runtime_docker.store import Store
from streamspace_runtime_docker.views import Views
from streamspace_runtime_docker.volumes import Volumes

log = logging.getLogger(__name__)

# After these a failed start leaves everything as it is: the same start, made again by whoever may, completes it.
_INTERRUPTIONS = (EngineUnavailable, LeaseLost, Injected)


class DockerDriver(RuntimeDriver):
    name: ClassVar[str] = "docker"

    def __init__(self, settings: Settings, own: DockerSettings, environ: Mapping[str, str]) -> None:
        self._settings = settings
        self._faults = Faults(environ)
        self._engine = engine = Engine(
            settings.docker_host,
            environ,
            concurrency=own.engine_concurrency,
            require_lease=self._allowed,
        )
        self._store = Store(engine, settings, own)
        self._marks = Marks(engine)
        self._ends = ends = Ends(engine)
        births = Births()
        self._views = Views(self._store, self._marks, ends, births)
        self._networks = networks = Networks(engine, settings, own)
        self._ports = Ports(settings.docker_host, networks)
        images = Images(engine, own.pull_concurrency, own.pull_stall_timeout, self._faults, own.allowed_images)
        self._volumes = Volumes(engine, settings)
        self._making = Making(
            engine,
            self._store,
            images=images,
            networks=networks,
            volumes=self._volumes,
            births=births,
            faults=self._faults,
            settings=settings,
            own=own,
        )
        self._running = Running(
            engine,
            self._store,
            self._views,
            attachments=Attachments(engine, networks, settings),
            ends=ends,
            ports=self._ports,
            faults=self._faults,
            ready_timeout=settings.ready_timeout,
            start_concurrency=own.start_concurrency,
        )
        self._locks = Locks()
        self._events = Events(
            engine,
            self._store,
            self._views,
            marks=self._marks,
            ends=ends,
            locks=self._locks,
            agent_id=settings.agent_id,
        )
        self._leftovers = Leftovers(engine, self._store, self._volumes, networks, settings, own.leftover_grace)
        self._stats = Stats(engine)
        self._check = Check(engine, networks, settings, own)

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(frozenset({"stop", "pause"}), pull_progress=True, many_hosts=False)

    async def start(self, spec: SessionSpec, report: Report) -> Session:
        check_spec(spec)
        async with self._locks.hold(spec.session_id):
            found = await self._store.find(spec.session_id)
            if found and (user := found.labels.get(labels.USER, "")) != spec.user:
                raise CommandFailed("session_taken", f"the container {found.name} belongs to the user {user!r}")
            if found and found.state == "removing":
                await self._store.remove(found)
                found = None
            if found and found.state in {"paused", "exited"}:
                if (await self._views.session(found)).state is SessionState.HIBERNATED:
                    return await self._wake(found, report)
                await self._store.remove(found)
                return await self._make(spec, report, used=True)
            if found and found.state == "running":
                return await self._check_running(found, spec, report)
            if found and not (found.state == "created" and self._making.fits(found, spec)):
                await self._store.remove(found)
                found = None
            return await self._make(spec, report, found=found)

    async def _make(
        self, spec: SessionSpec, report: Report, *, found: Found | None = None, used: bool = False
    ) -> Session:
        """Make the container, or complete one that never ran; ``used`` says that its volumes may hold data."""
        try:
            if found:
                await self._making.complete(spec)
                session = await self._running.bring_back(found, report)
            else:
                session = await self._running.bring_up(await self._making.make(spec, report), report)
            self._volumes.settled(spec)
            return session
        except _INTERRUPTIONS:
            raise
        except Exception:
            await self._making.unmake(spec, volumes=not used)
            raise

    async def _check_running(self, found: Found, spec: SessionSpec, report: Report) -> Session:
        try:
            return await self._running.awaited(found.id, report)
        except CommandFailed:
            if found.command_id == spec.command_id:  # this start's own, from before an interruption
                await self._making.unmake(spec, volumes=False)
            raise

    async def stop(self, session_id: str, *, delete_volumes: bool = False) -> None:
        async with self._locks.hold(session_id):
            found = await self._store.find(session_id)
            if found:
                if found.state in {"running", "paused", "restarting"}:
                    await self._store.terminate(found)
                self._faults.point("docker.after_stop")
                await self._store.remove(found)
            self._forget(session_id)
            self._views.drop(session_id)
            if delete_volumes:
                await self._volumes.remove_all(session_id, found)

    async def hibernate(self, session_id: str) -> Session:
        async with self._locks.hold(session_id):
            found = await self._store.need(session_id)
            if found.state != "running":
                session = await self._views.session(found)
                if session.state is SessionState.HIBERNATED:
                    return session
                raise CommandFailed(
                    "not_running", f"the session cannot hibernate, it is {session.state}: {session.reason}"
                )
            self._forget(session_id)
            await self._sleep(found, pause=self._settings.hibernate_mode == "pause")
            return await self._views.session(await self._store.need(session_id))

    async def _sleep(self, found: Found, *, pause: bool) -> None:
        if pause:
            try:
                await self._engine.post(f"/containers/{found.id}/pause")
            except Conflict:
                pass  # paused already, or ended meanwhile: what it is now is looked up next
            except EngineError as error:
                raise CommandFailed("cannot_pause", f"the engine cannot pause the session: {error.text}") from error
            self._faults.point("docker.after_pause")
        else:
            await self._marks.write(found, Mark.HIBERNATED)
            try:
                await self._store.terminate(found)
            except EngineError:  # it runs on, and how this run ends is another matter
                await self._marks.clear(found)
                raise
            self._faults.point("docker.after_stop")

    async def wake(self, session_id: str, report: Report) -> Session:
        async with self._locks.hold(session_id):
            found = await self._store.need(session_id)
            if found.state == "running":
                return await self._running.awaited(found.id, report)
            return await self._wake(found, report)

    async def _wake(self, found: Found, report: Report) -> Session:
        """On failure the session goes back to the sleep it came from, so that nothing is lost and it can be tried again."""
        self._forget(found.session_id)
        try:
            if found.state == "paused":
                with suppress(Conflict):
                    await self._engine.post(f"/containers/{found.id}/unpause")
                return await self._running.awaited(found.id, report)
            await self._keep_asleep(found)
            return await self._running.bring_back(found, report)
        except CommandFailed:
            with suppress(EngineError, EngineUnavailable, LeaseLost):
                now = await self._store.look(found.id)
                if now and now.state == "running":
                    await self._sleep(now, pause=found.state == "paused")
                elif now and now.state == "exited" and (found.state == "paused" or now.run != found.run):
                    await self._marks.write(now, Mark.ENDED)  # it did run; one that was not even started sleeps on
            raise

    async def _keep_asleep(self, found: Found) -> None:
        """Mark what is taken for asleep by its exit code alone: the engine writes a start that fails over that."""
        if found.state == "exited":
            with suppress(EngineError):
                mark = await self._marks.read(found)
                if mark is None and judge(await self._ends.of(found), None)[0] is SessionState.HIBERNATED:
                    await self._marks.write(found, Mark.HIBERNATED)

    async def prove(self, session_id: str) -> Session:
        """Without the lock, since it only looks: no stop waits for a session that does not answer."""
        found = await self._store.need(session_id)
        if found.state == "running":
            with suppress(CommandFailed):  # silent, or ended meanwhile: it is told as it is now
                return await self._running.ready(found.id)
            found = await self._store.need(session_id)
        return await self._views.session(found)

    async def inspect(self, session_id: str) -> Session | None:
        try:
            found = await self._store.find(session_id)
        except CommandFailed:
            return None  # another agent's: none of our sessions
        return await self._views.session(found) if found else None

    async def sessions(self) -> list[Session]:
        known = self._views.known()
        found = await self._store.list()
        for session_id in known - {each.session_id for each in found}:  # its container went unseen
            self._views.drop(session_id)
            self._stats.forget(session_id)
        return await self._views.sessions(found)

    def events(self) -> AsyncIterator[RuntimeEvent]:
        return self._events.watch()

    async def connect(self, session_id: str, port: int) -> Stream:
        """The address is looked up each time: an old one may be another session's by now."""
        found = await self._store.need(session_id)
        if found.state != "running":
            raise CommandFailed("not_running", f"the session does not run: it is {found.state}")
        return await self._ports.open(found, port)

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
        self.guard()  # looked up each time: the agent sets it after the driver was made

    def _forget(self, session_id: str) -> None:
        """What was learnt about a run of the session's container that is over."""
        self._views.forget(session_id)
        self._stats.forget(session_id)
