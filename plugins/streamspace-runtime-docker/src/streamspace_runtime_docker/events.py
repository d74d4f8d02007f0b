"""The engine's event stream, turned into the few things the core must know; it survives every loss of the engine."""

import asyncio
import json
import logging
import random
from collections.abc import AsyncIterator, Mapping
from typing import Any

from streamspace_agent.errors import EngineUnavailable, LeaseLost, RuntimeDriverError
from streamspace_agent.runtime import EventKind, RuntimeEvent, Session, SessionState
from streamspace_runtime_docker import labels
from streamspace_runtime_docker.engine import Engine
from streamspace_runtime_docker.errors import Silent
from streamspace_runtime_docker.locks import Locks
from streamspace_runtime_docker.marks import Mark, Marks
from streamspace_runtime_docker.store import Store
from streamspace_runtime_docker.views import Views

log = logging.getLogger(__name__)

IDLE = 60.0
"""Seconds without an event after which the stream is opened anew: a dead connection looks like a quiet engine."""
FIRST_WAIT, LONGEST_WAIT = 0.1, 5.0
"""Seconds between two tries to reach an engine that is away; doubled each time, with full jitter."""


class Events:
    def __init__(
        self, engine: Engine, store: Store, views: Views, *, marks: Marks, locks: Locks, agent_id: str
    ) -> None:
        self._engine = engine
        self._store = store
        self._views = views
        self._marks = marks
        self._locks = locks
        self._filters = json.dumps(
            {"type": ["container"], "event": ["die", "destroy"], "label": [f"{labels.AGENT}={agent_id}"]}
        )

    async def watch(self) -> AsyncIterator[RuntimeEvent]:
        queue: asyncio.Queue[RuntimeEvent] = asyncio.Queue()
        async with asyncio.TaskGroup() as tasks:
            listener = tasks.create_task(self._listen(queue, tasks))
            try:
                while True:
                    yield await queue.get()
            finally:
                listener.cancel()

    async def _listen(self, queue: asyncio.Queue[RuntimeEvent], tasks: asyncio.TaskGroup) -> None:
        since, wait, resync, down = "", FIRST_WAIT, True, False
        while True:
            try:
                async with self._engine.stream(
                    "GET", "/events", params=self._params(since), read_timeout=IDLE
                ) as lines:
                    if resync:
                        queue.put_nowait(RuntimeEvent(EventKind.RESYNC))
                    wait, resync, down = FIRST_WAIT, False, False
                    async for line in lines:
                        since = _after(line) or since
                        tasks.create_task(self._take(line, queue))
            except Silent:
                continue  # nothing was missed: the next stream begins where this one ended
            except RuntimeDriverError as error:
                log.info("the engine's events broke off: %s", error)
            resync = True
            if not down and not await self._answers():
                queue.put_nowait(RuntimeEvent(EventKind.ENGINE_DOWN))
                down = True
            await asyncio.sleep(random.uniform(wait / 2, wait))  # noqa: S311  # jitter, not a secret
            wait = min(wait * 2, LONGEST_WAIT)

    def _params(self, since: str) -> dict[str, str]:
        return {"filters": self._filters} | ({"since": since} if since else {})

    async def _answers(self) -> bool:
        try:
            return await self._engine.ping()
        except RuntimeDriverError:
            return True  # it answers, if not as we like

    async def _take(self, line: Mapping[str, Any], queue: asyncio.Queue[RuntimeEvent]) -> None:
        actor = line.get("Actor") or {}
        marks, container = actor.get("Attributes") or {}, str(actor.get("ID", ""))
        session_id = marks.get(labels.SESSION, "")
        if not session_id or not container:
            return
        try:
            # A verb under way holds the lock. What it leaves behind is the truth that is judged then.
            async with self._locks.hold(session_id):
                if line.get("Action") == "die":
                    session = await self._died(container)
                else:
                    session = await self._destroyed(session_id, container, marks)
        except (RuntimeDriverError, LeaseLost) as error:
            log.info("the end of %s is left to the next comparison: %s", session_id, error)
            return
        if session:
            queue.put_nowait(RuntimeEvent(EventKind.ENDED, session))

    async def _died(self, container: str) -> Session | None:
        found = await self._store.look(container)
        if found is None or found.state != "exited" or self._store.was_our_doing(found):
            return None
        if await self._marks.read(found) is Mark.HIBERNATED:
            return None
        if not await self._engine.ping():
            raise EngineUnavailable("the engine shuts down and takes its containers with it")
        self._views.forget(found.session_id)
        await self._marks.write(found, Mark.ENDED)
        return await self._views.session(found, Mark.ENDED)

    async def _destroyed(self, session_id: str, container: str, marks: Mapping[str, str]) -> Session | None:
        if self._store.was_removed(container) or await self._store.find(session_id):
            return None
        self._views.forget(session_id)
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


def _after(line: Mapping[str, Any]) -> str:
    """The moment after an event, as the engine wants it told: seconds.nanoseconds."""
    nanos = int(line.get("timeNano") or 0) + 1
    return f"{nanos // 10**9}.{nanos % 10**9:09d}" if nanos > 1 else ""
