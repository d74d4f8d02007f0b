"""Getting an existing container to run and waiting until people can use it."""

import asyncio

from streamspace_agent.errors import CommandFailed
from streamspace_agent.faults import Faults
from streamspace_agent.runtime import Progress, ReadyCheck, Report, Session, SessionState
from streamspace_agent.runtime.readiness import Stream, wait_ready
from streamspace_engine import Engine
from streamspace_engine.errors import EngineError, NotFound
from streamspace_runtime_docker import labels
from streamspace_runtime_docker.attachments import Attachments
from streamspace_runtime_docker.ends import Ends
from streamspace_runtime_docker.found import Found
from streamspace_runtime_docker.marks import ended, out_of_memory
from streamspace_runtime_docker.ports import Ports
from streamspace_runtime_docker.store import Store
from streamspace_runtime_docker.turns import Turns
from streamspace_runtime_docker.views import Views

_LOOK = 0.5
"""Seconds between two looks at whether the container that we wait for still runs."""


class Running:
    def __init__(
        self,
        engine: Engine,
        store: Store,
        views: Views,
        *,
        attachments: Attachments,
        ends: Ends,
        ports: Ports,
        faults: Faults,
        ready_timeout: float,
        start_concurrency: int,
    ) -> None:
        self._engine = engine
        self._store = store
        self._views = views
        self._attachments = attachments
        self._ends = ends
        self._ports = ports
        self._faults = faults
        self._ready_timeout = ready_timeout
        self._start_concurrency = start_concurrency
        self._turns = Turns(self._places)

    async def _places(self) -> int:
        return self._start_concurrency or await self._engine.cores()

    async def bring_up(self, container: str, report: Report) -> Session:
        """Start a container that was just made (running already is fine) and return once it can be used."""
        report(Progress("starting"))
        await self._start(container)
        self._faults.point("docker.after_start")
        return await self.awaited(container, report)

    async def bring_back(self, found: Found, report: Report) -> Session:
        """The same for one that was made, or ended, some time ago: what it is attached to may be gone or old."""
        await self._attachments.mend(found)
        return await self.bring_up(found.id, report)

    async def awaited(self, container: str, report: Report) -> Session:
        """As :meth:`ready`, as a step of a start or wake."""
        report(Progress("waiting"))
        session = await self.ready(container)
        self._faults.point("docker.after_ready")
        return session

    async def _start(self, container: str, *, again: bool = True) -> None:
        try:
            async with self._turns.take():
                await self._engine.post(f"/containers/{container}/start")
        except EngineError as error:
            # Docker looks networks up at start only; one may be gone since it was last seen.
            if again and "network" in error.text.lower() and (found := await self._store.look(container)):
                await self._attachments.allow_start(found, error.text)
                await self._start(container, again=False)
            elif isinstance(error, NotFound) and "container" in error.text.lower():
                raise CommandFailed("start_failed", "the container was removed while it was started") from error
            else:
                raise CommandFailed("start_failed", f"the engine cannot start the session: {error.text}") from error

    async def ready(self, container: str) -> Session:
        """Return once a running container can be used; only looks. Raises CommandFailed when it ends, or does not answer in time."""
        found = await self._running(container)
        if not self._views.is_ready(found):
            self._views.saw_ready(found, await self._proved(found))
        return self._views.make(found, SessionState.RUNNING)

    async def _proved(self, found: Found) -> ReadyCheck:
        port = labels.port(found.labels)

        def connect() -> "asyncio.Future[Stream]":
            return asyncio.ensure_future(self._ports.open(found, port))

        expected, path = labels.ready_check(found.labels), found.labels.get(labels.PATH, "/")
        answer = asyncio.create_task(wait_ready(expected, connect, self._ready_timeout, path=path))
        try:
            while not (await asyncio.wait({answer}, timeout=_LOOK))[0]:
                await self._running(found.id)
        finally:
            answer.cancel()
        proof = await answer
        if proof.found is None:
            why = proof.failure(port, self._ready_timeout)
            raise CommandFailed("not_ready", f"{why}{await self._store.last_words(found)}")
        return proof.found

    async def _running(self, container: str) -> Found:
        found = await self._store.look(container)
        if found is None:
            raise CommandFailed("session_ended", "the container was removed while its start was waited for")
        if found.state != "running":
            found = await self._ends.of(found)
            code = "out_of_memory" if out_of_memory(found) else "session_ended"
            raise CommandFailed(code, f"{ended(found)}{await self._store.last_words(found)}")
        return found
