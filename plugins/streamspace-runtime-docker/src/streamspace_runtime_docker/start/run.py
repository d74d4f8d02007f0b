"""Starting a container that exists."""

from dataclasses import dataclass

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


@dataclass
class Starter:
    engine: Engine
    store: ContainerStore
    readiness: Readiness
    attachments: Attachments
    limiter: StartLimiter
    faults: Faults

    async def start(self, container: str, report: Report) -> Session:
        """Start a container that was just created (one that runs already is fine) and return once it can be used."""
        report(Progress("starting"))
        await self._start(container)
        self.faults.point("docker.after_start")
        return await self.wait_ready(container, report)

    async def restart(self, found: ContainerInfo, report: Report) -> Session:
        """Start a container that was created, or ended, some time ago: its networks may be gone or have changed."""
        await self.attachments.repair(found)
        return await self.start(found.id, report)

    async def wait_ready(self, container: str, report: Report) -> Session:
        """Wait for readiness as a step of a start or wake."""
        report(Progress("waiting"))
        session = await self.readiness.wait(container)
        self.faults.point("docker.after_ready")
        return session

    async def _start(self, container: str, *, again: bool = True) -> None:
        try:
            async with self.limiter.slot():
                await self.engine.post(f"/containers/{container}/start")
        except EngineError as error:
            # Docker looks networks up at start only; one may be gone since it was last seen.
            if again and "network" in error.text.lower() and (found := await self.store.inspect(container)):
                await self.attachments.repair_refused(found, error.text)
                await self._start(container, again=False)
            elif isinstance(error, NotFound) and "container" in error.text.lower():
                raise CommandFailed("start_failed", "the container was removed while it was started") from error
            else:
                raise CommandFailed("start_failed", f"the engine cannot start the session: {error.text}") from error
