"""Starting a container that exists."""

from streamspace_agent.errors import CommandFailed
from streamspace_agent.faults import Faults
from streamspace_agent.runtime import Progress, Report, Session
from streamspace_engine import Engine
from streamspace_engine.errors import EngineError, NotFound
from streamspace_runtime_docker.containers.info import ContainerInfo
from streamspace_runtime_docker.containers.store import ContainerStore
from streamspace_runtime_docker.networks.attachments import Attachments
from streamspace_runtime_docker.start.limiter import StartLimiter
from streamspace_runtime_docker.start.wait import Readiness


class Starter:
    def __init__(
        self,
        engine: Engine,
        store: ContainerStore,
        readiness: Readiness,
        attachments: Attachments,
        limiter: StartLimiter,
        faults: Faults,
    ) -> None:
        self._engine = engine
        self._store = store
        self._readiness = readiness
        self._attachments = attachments
        self._limiter = limiter
        self._faults = faults

    async def start(self, container: str, report: Report) -> Session:
        """Start a container that was just created (one that runs already is fine) and return once it can be used."""
        report(Progress("starting"))
        await self._start(container)
        self._faults.point("docker.after_start")
        return await self.wait_ready(container, report)

    async def restart(self, found: ContainerInfo, report: Report) -> Session:
        """Start a container that was created, or ended, some time ago: its networks may be gone or have changed."""
        await self._attachments.repair(found)
        return await self.start(found.id, report)

    async def wait_ready(self, container: str, report: Report) -> Session:
        """Wait for readiness as a step of a start or wake."""
        report(Progress("waiting"))
        session = await self._readiness.wait(container)
        self._faults.point("docker.after_ready")
        return session

    async def _start(self, container: str, *, again: bool = True) -> None:
        try:
            async with self._limiter.slot():
                await self._engine.post(f"/containers/{container}/start")
        except EngineError as error:
            # Docker looks networks up at start only; one may be gone since it was last seen.
            if again and "network" in error.text.lower() and (found := await self._store.inspect(container)):
                await self._attachments.repair_refused(found, error.text)
                await self._start(container, again=False)
            elif isinstance(error, NotFound) and "container" in error.text.lower():
                raise CommandFailed("start_failed", "the container was removed while it was started") from error
            else:
                raise CommandFailed("start_failed", f"the engine cannot start the session: {error.text}") from error
