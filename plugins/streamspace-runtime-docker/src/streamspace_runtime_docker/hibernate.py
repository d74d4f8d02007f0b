"""Hibernating a session, by stopping or pausing its container, and waking it."""

from contextlib import suppress

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


class Hibernation:
    def __init__(
        self,
        engine: Engine,
        store: ContainerStore,
        markers: StopMarkers,
        memory: OutOfMemory,
        starter: Starter,
        faults: Faults,
    ) -> None:
        self._engine = engine
        self._store = store
        self._markers = markers
        self._out_of_memory = memory
        self._starter = starter
        self._faults = faults

    async def sleep(self, found: ContainerInfo, *, pause: bool) -> None:
        """Put a running container to sleep. Raises CommandFailed where the engine cannot pause it."""
        if pause:
            try:
                await self._engine.post(f"/containers/{found.id}/pause")
            except Conflict:
                pass  # paused already, or ended meanwhile: what it is now is looked up next
            except EngineError as error:
                raise CommandFailed("cannot_pause", f"the engine cannot pause the session: {error.text}") from error
            self._faults.point("docker.after_pause")
        else:
            await self._markers.write(found, StopMarker.HIBERNATED)
            try:
                await self._store.terminate(found)
            except EngineError:  # it still runs, and this run may end in another way
                await self._markers.clear(found)
                raise
            self._faults.point("docker.after_stop")

    async def wake(self, found: ContainerInfo, report: Report) -> Session:
        """Return once the session can be used. One that cannot be woken sleeps again, so waking it can be retried."""
        try:
            if found.state == "paused":
                with suppress(Conflict):
                    await self._engine.post(f"/containers/{found.id}/unpause")
                return await self._starter.wait_ready(found.id, report)
            await self._keep_hibernated(found)
            return await self._starter.restart(found, report)
        except CommandFailed:
            with suppress(EngineError, EngineUnavailable, LeaseLost):
                now = await self._store.inspect(found.id)
                if now and now.state == "running":
                    await self.sleep(now, pause=found.state == "paused")
                elif now and now.state == "exited" and (found.state == "paused" or now.run != found.run):
                    await self._markers.write(now, StopMarker.ENDED)  # it did run; else it stays hibernated
            raise

    async def _keep_hibernated(self, found: ContainerInfo) -> None:
        """Mark a container that is hibernated by its exit code alone: a failed start overwrites that code."""
        if found.state == "exited":
            with suppress(EngineError):
                if await self._markers.read(found) is not None:
                    return
                if judge(await self._out_of_memory.explain(found), None)[0] is SessionState.HIBERNATED:
                    await self._markers.write(found, StopMarker.HIBERNATED)
