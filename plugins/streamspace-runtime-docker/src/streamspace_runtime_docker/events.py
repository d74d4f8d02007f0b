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
from streamspace_runtime_docker.containers import container_name
from streamspace_runtime_docker.ends import KILLED, NEWS, Ends
from streamspace_runtime_docker.engine import Engine
from streamspace_runtime_docker.errors import Silent
from streamspace_runtime_docker.found import Found, timestamp
from streamspace_runtime_docker.locks import Locks
from streamspace_runtime_docker.marks import Mark, Marks
from streamspace_runtime_docker.store import Store
from streamspace_runtime_docker.views import Views

log = logging.getLogger(__name__)

IDLE = 60.0
"""Seconds without an event after which the stream is opened anew: a dead connection looks like a quiet engine."""
# Docker's words and Podman's, which filters by one word and then tells another.
_DIED, _REMOVED = ("die", "died"), ("destroy", "remove")
_SETTLE = 5
"""Looks at a container that is said to have died and still shows as running, 0.2 s apart: Podman tells early."""
FIRST_WAIT, LONGEST_WAIT = 0.1, 5.0
"""Seconds between two tries to reach an engine that is away; doubled each time, with full jitter."""


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
        self._filters = json.dumps(
            {"type": ["container"], "event": [*_DIED, *_REMOVED], "label": [f"{labels.AGENT}={agent_id}"]}
        )

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
        since, wait, resync, down = "", FIRST_WAIT, True, ""
        loop = asyncio.get_running_loop()
        while True:
            begun = loop.time()
            try:
                since = since or await self._now()
                async with self._engine.stream(
                    "GET", "/events", params=self._params(since), read_timeout=IDLE
                ) as lines:
                    if resync:
                        queue.put_nowait(RuntimeEvent(EventKind.RESYNC))
                    resync, down = False, ""
                    async for line in lines:
                        since = _after(line) or since
                        task = asyncio.create_task(self._take(line, queue))
                        tasks.add(task)
                        task.add_done_callback(tasks.discard)
            except Silent:
                resync = not since
                continue  # nothing was missed: the next stream begins where this one ended
            except RuntimeDriverError as error:
                why = await self._why(error)
            else:
                why = await self._why(None)
            resync = True
            if loop.time() - begun > LONGEST_WAIT:  # not by a mere connection: an engine may take it and break off
                wait = FIRST_WAIT
            if why and why != down:
                queue.put_nowait(RuntimeEvent(EventKind.ENGINE_DOWN, reason=why))
            down = why or down
            await asyncio.sleep(random.uniform(wait / 2, wait))  # noqa: S311  # jitter, not a secret
            wait = min(wait * 2, LONGEST_WAIT)

    async def _now(self) -> str:
        """The engine's time, so that the first event is asked for from a moment that is known; "" where it tells none."""
        told = timestamp(str((await self._engine.read(lambda client: client.info())).get("SystemTime") or ""))
        return f"{told:.6f}" if told else ""

    def _params(self, since: str) -> dict[str, str]:
        return {"filters": self._filters} | ({"since": since} if since else {})

    async def _why(self, broken: RuntimeDriverError | None) -> str:
        """Why the engine counts as away after its stream ended, "" where a new one may well be had."""
        if outage := await self._engine.outage():
            return str(outage)
        if broken is not None and not isinstance(broken, EngineUnavailable):
            return f"it does not let us follow its events: {broken}"
        log.info("the engine's events broke off: %s", broken or "the engine ended them")
        return ""

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


def _after(line: Mapping[str, Any]) -> str:
    """The moment after an event, as the engine wants it told: seconds.nanoseconds."""
    nanos = int(line.get("timeNano") or 0) + 1
    return f"{nanos // 10**9}.{nanos % 10**9:09d}" if nanos > 1 else ""
