"""Turns the engine's events into the driver's: a resync, the engine's absence, and the unexpected end of a session."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

from streamspace_agent.errors import EngineUnavailable, LeaseLost, RuntimeDriverError
from streamspace_agent.runtime import EventKind, RuntimeEvent, Session, SessionState
from streamspace_engine import Down, Engine, Event, Resumed, follow
from streamspace_engine.events import SILENCE
from streamspace_runtime_docker.containers import labels
from streamspace_runtime_docker.containers.config import container_name
from streamspace_runtime_docker.containers.info import ContainerInfo
from streamspace_runtime_docker.containers.out_of_memory import KILLED, NEWS, OutOfMemory
from streamspace_runtime_docker.containers.sessions import SessionMapper
from streamspace_runtime_docker.containers.stop_marker import StopMarker, StopMarkers
from streamspace_runtime_docker.containers.store import ContainerStore

log = logging.getLogger(__name__)

# Docker's names and Podman's, which filters by the one and then sends the other.
_DIED, _REMOVED = ("die", "died"), ("destroy", "remove")
_SETTLE = 5
"""Looks, 0.2 s apart, at a container that died according to its event and still shows as running, as on Podman."""


@dataclass
class Events:
    engine: Engine
    store: ContainerStore
    mapper: SessionMapper
    markers: StopMarkers
    memory: OutOfMemory
    agent_id: str

    async def watch(self) -> AsyncIterator[RuntimeEvent]:
        queue: asyncio.Queue[RuntimeEvent | None] = asyncio.Queue()
        tasks: set[asyncio.Task[None]] = set()  # no TaskGroup: a generator may be closed from anywhere
        listener = asyncio.create_task(self._listen(queue, tasks), name="engine events")
        listener.add_done_callback(lambda _: queue.put_nowait(None))
        try:
            while event := await queue.get():
                yield event
            await listener  # it ends only by an error, which is raised here
        finally:
            for task in (listener, *tasks):
                task.cancel()
            await asyncio.gather(listener, *tasks, return_exceptions=True)

    async def _listen(self, queue: asyncio.Queue[RuntimeEvent | None], tasks: set[asyncio.Task[None]]) -> None:
        mine = f"{labels.AGENT}={self.agent_id}"
        filters = {"type": ["container"], "event": [*_DIED, *_REMOVED], "label": [mine]}
        async for item in follow(self.engine, filters, silence=SILENCE):
            match item:
                case Resumed():
                    queue.put_nowait(RuntimeEvent(EventKind.RESYNC))
                case Down(reason):
                    queue.put_nowait(RuntimeEvent(EventKind.ENGINE_DOWN, reason=reason))
                case Event(body):
                    task = asyncio.create_task(self._take(body, queue))
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)

    async def _take(self, line: Mapping[str, Any], queue: asyncio.Queue[RuntimeEvent | None]) -> None:
        actor = line.get("Actor") or {}
        values, container = actor.get("Attributes") or {}, str(actor.get("ID", ""))
        session_id = values.get(labels.SESSION, "")
        if not container or values.get("name") != container_name(session_id):
            return  # any container may have our labels, from its image
        try:
            if line.get("Action") in _DIED:
                session = await self._died(session_id, container)
            else:
                session = await self._removed(session_id, container, values)
        except (RuntimeDriverError, LeaseLost) as error:
            log.info("the end of %s is left to the next comparison with the engine: %s", session_id, error)
            return
        if session:
            queue.put_nowait(RuntimeEvent(EventKind.ENDED, session))

    async def _died(self, session_id: str, container: str) -> Session | None:
        for _ in range(_SETTLE):
            # A command under way holds the lock; what it leaves behind is judged afterwards.
            async with self.store.lock(session_id):
                found = await self.store.inspect(container)
                if found is None or found.state != "running":
                    return await self._judged(found) if found and found.state == "exited" else None
            await asyncio.sleep(0.2)
        return None

    async def _judged(self, found: ContainerInfo) -> Session | None:
        if self.store.ended_by_us(found):
            return None
        if await self.markers.read(found) is StopMarker.HIBERNATED:
            return None
        if await self.engine.outage():
            raise EngineUnavailable("the engine shuts down and takes its containers with it")
        self.mapper.forget(found.session_id)
        found = await self._with_late_news(await self.memory.explain(found))
        await self.markers.write(found, StopMarker.ENDED)
        return await self.mapper.session(found, StopMarker.ENDED)

    async def _with_late_news(self, found: ContainerInfo) -> ContainerInfo:
        """A killed container, inspected until lack of memory would show: Podman sets a flag and sends no event."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + NEWS
        while found.oom_ended is None and found.exit_code == KILLED and not found.oom and loop.time() < deadline:
            await asyncio.sleep(NEWS / 5)
            now = await self.store.inspect(found.id)
            if now is None or now.started_at != found.started_at:
                break
            found = now
        return found

    async def _removed(self, session_id: str, container: str, values: Mapping[str, str]) -> Session | None:
        async with self.store.lock(session_id):
            if self.store.removed_by_us(container) or await self.store.find(session_id):
                return None
        self.mapper.drop(session_id)
        return Session(
            session_id,
            SessionState.TERMINATED,
            values.get("name", ""),
            reason="its container was removed from the engine, not by this agent",
            user=values.get(labels.USER, ""),
            template=values.get(labels.TEMPLATE, ""),
            command_id=values.get(labels.COMMAND, ""),
            epoch=labels.whole(values, labels.EPOCH) or 0,
        )
