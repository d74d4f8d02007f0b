"""The engine's event stream, turned into the few things the core must know; it survives every loss of the engine."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from typing import Any

from streamspace_agent.errors import EngineUnavailable, LeaseLost, RuntimeDriverError
from streamspace_agent.runtime import EventKind, RuntimeEvent, Session, SessionState
from streamspace_engine import Down, Engine, Event, Resumed, follow
from streamspace_engine.events import SILENCE
from streamspace_runtime_docker import labels
from streamspace_runtime_docker.containers import container_name
from streamspace_runtime_docker.ends import KILLED, NEWS, Ends
from streamspace_runtime_docker.found import Found
from streamspace_runtime_docker.locks import Locks
from streamspace_runtime_docker.marks import Mark, Marks
from streamspace_runtime_docker.store import Store
from streamspace_runtime_docker.views import Views

log = logging.getLogger(__name__)

# Docker's words and Podman's, which filters by one word and then tells another.
_DIED, _REMOVED = ("die", "died"), ("destroy", "remove")
_SETTLE = 5
"""Looks at a container that is said to have died and still shows as running, 0.2 s apart: Podman tells early."""


class Events:
    def __init__(
        self, engine: Engine, store: Store, views: Views, *, marks: Marks, ends: Ends, locks: Locks, agent_id: str
    ) -> None:
        self._engine = engine
        self._store = store
        self._views = views
        self._marks = marks
        self._ends = ends
        self._locks = locks
        self._filters = {
            "type": ["container"],
            "event": [*_DIED, *_REMOVED],
            "label": [f"{labels.AGENT}={agent_id}"],
        }

    async def watch(self) -> AsyncIterator[RuntimeEvent]:
        queue: asyncio.Queue[RuntimeEvent | None] = asyncio.Queue()
        tasks: set[asyncio.Task[None]] = set()  # no TaskGroup: a generator may be closed from anywhere
        listener = asyncio.create_task(self._listen(queue, tasks), name="engine events")
        listener.add_done_callback(lambda _: queue.put_nowait(None))
        try:
            while event := await queue.get():
                yield event
            await listener  # it never ends but by an error, which is raised here
        finally:
            for task in (listener, *tasks):
                task.cancel()
            await asyncio.gather(listener, *tasks, return_exceptions=True)

    async def _listen(self, queue: asyncio.Queue[RuntimeEvent | None], tasks: set[asyncio.Task[None]]) -> None:
        async for item in follow(self._engine, self._filters, silence=SILENCE):
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
        marks, container = actor.get("Attributes") or {}, str(actor.get("ID", ""))
        session_id = marks.get(labels.SESSION, "")
        if not container or marks.get("name") != container_name(session_id):
            return  # any container may bear our labels, by its image's
        try:
            if line.get("Action") in _DIED:
                session = await self._died(session_id, container)
            else:
                session = await self._removed(session_id, container, marks)
        except (RuntimeDriverError, LeaseLost) as error:
            log.info("the end of %s is left to the next comparison: %s", session_id, error)
            return
        if session:
            queue.put_nowait(RuntimeEvent(EventKind.ENDED, session))

    async def _died(self, session_id: str, container: str) -> Session | None:
        for _ in range(_SETTLE):
            # A verb under way holds the lock. What it leaves behind is the truth that is judged then.
            async with self._locks.hold(session_id):
                found = await self._store.look(container)
                if found is None or found.state != "running":
                    return await self._judged(found) if found and found.state == "exited" else None
            await asyncio.sleep(0.2)
        return None

    async def _judged(self, found: Found) -> Session | None:
        if self._store.was_our_doing(found):
            return None
        if await self._marks.read(found) is Mark.HIBERNATED:
            return None
        if await self._engine.outage():
            raise EngineUnavailable("the engine shuts down and takes its containers with it")
        self._views.forget(found.session_id)
        found = await self._with_late_news(await self._ends.of(found))
        await self._marks.write(found, Mark.ENDED)
        return await self._views.session(found, Mark.ENDED)

    async def _with_late_news(self, found: Found) -> Found:
        """A container that was killed, looked at until it would be known that this was for want of memory: Podman's flag, which
        has no events of that.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + NEWS
        while found.oom_ended is None and found.exit_code == KILLED and not found.oom and loop.time() < deadline:
            await asyncio.sleep(NEWS / 5)
            now = await self._store.look(found.id)
            if now is None or now.started_at != found.started_at:
                break
            found = now
        return found

    async def _removed(self, session_id: str, container: str, marks: Mapping[str, str]) -> Session | None:
        async with self._locks.hold(session_id):
            if self._store.was_removed(container) or await self._store.find(session_id):
                return None
        self._views.drop(session_id)
        return Session(
            session_id,
            SessionState.TERMINATED,
            marks.get("name", ""),
            reason="its container was removed from the engine, not by this agent",
            user=marks.get(labels.USER, ""),
            template=marks.get(labels.TEMPLATE, ""),
            command_id=marks.get(labels.COMMAND, ""),
            epoch=labels.whole(marks, labels.EPOCH) or 0,
        )
