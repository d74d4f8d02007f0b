"""Hibernating a session, by stopping or pausing its container, and waking it."""

from contextlib import suppress
from dataclasses import dataclass

from streamspace_agent.errors import CommandFailed, EngineUnavailable, LeaseLost
from streamspace_agent.faults import Faults
from streamspace_agent.runtime import Report, Session, SessionState
from streamspace_engine import Engine
from streamspace_engine.errors import Conflict, EngineError
from streamspace_runtime_docker.containers.info import ContainerInfo
from streamspace_runtime_docker.containers.out_of_memory import OutOfMemory
from streamspace_runtime_docker.containers.stop_marker import StopMarker, StopMarkers, judge
from streamspace_runtime_docker.containers.store import ContainerStore
from streamspace_runtime_docker.start.run import Starter


@dataclass
class Hibernation:
    engine: Engine
    store: ContainerStore
    markers: StopMarkers
    memory: OutOfMemory
    starter: Starter
    faults: Faults

    async def sleep(self, found: ContainerInfo, *, pause: bool) -> None:
        """Put a running container to sleep. Raises CommandFailed where the engine cannot pause it."""
        if pause:
            try:
                await self.engine.post(f"/containers/{found.id}/pause")
            except Conflict:
                pass  # paused already, or ended meanwhile: what it is now is looked up next
            except EngineError as error:
                raise CommandFailed("cannot_pause", f"the engine cannot pause the session: {error.text}") from error
            self.faults.point("docker.after_pause")
        else:
            await self.markers.write(found, StopMarker.HIBERNATED)
            try:
                await self.store.terminate(found)
            except EngineError:  # it still runs, and this run may end in another way
                await self.markers.clear(found)
                raise
            self.faults.point("docker.after_stop")

    async def wake(self, found: ContainerInfo, report: Report) -> Session:
        """Return once the session can be used. One that cannot be woken sleeps again, so waking it can be retried."""
        try:
            if found.state == "paused":
                with suppress(Conflict):
                    await self.engine.post(f"/containers/{found.id}/unpause")
                return await self.starter.wait_ready(found.id, report)
            await self._keep_hibernated(found)
            return await self.starter.restart(found, report)
        except CommandFailed:
            with suppress(EngineError, EngineUnavailable, LeaseLost):
                now = await self.store.inspect(found.id)
                if now and now.state == "running":
                    await self.sleep(now, pause=found.state == "paused")
                elif now and now.state == "exited" and (found.state == "paused" or now.run != found.run):
                    await self.markers.write(now, StopMarker.ENDED)  # it did run; else it stays hibernated
            raise

    async def _keep_hibernated(self, found: ContainerInfo) -> None:
        """Mark a container that is hibernated by its exit code alone: a failed start overwrites that code."""
        if found.state == "exited":
            with suppress(EngineError):
                if await self.markers.read(found) is not None:
                    return
                if judge(await self.memory.explain(found), None)[0] is SessionState.HIBERNATED:
                    await self.markers.write(found, StopMarker.HIBERNATED)
