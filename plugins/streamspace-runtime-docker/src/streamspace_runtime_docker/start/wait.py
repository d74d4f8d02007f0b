"""Waiting until people can use a session that runs."""

import asyncio
from dataclasses import dataclass

from streamspace_agent.errors import CommandFailed
from streamspace_agent.runtime import ReadyCheck, Session, SessionState
from streamspace_agent.runtime.readiness import Stream, wait_ready
from streamspace_runtime_docker.containers import labels
from streamspace_runtime_docker.containers.info import ContainerInfo
from streamspace_runtime_docker.containers.out_of_memory import OutOfMemory
from streamspace_runtime_docker.containers.sessions import SessionMapper
from streamspace_runtime_docker.containers.stop_marker import end_reason, ran_out_of_memory
from streamspace_runtime_docker.containers.store import ContainerStore
from streamspace_runtime_docker.networks.connector import Connector

_LOOK = 0.5
"""Seconds between two looks at whether the container still runs."""


@dataclass
class Readiness:
    """Waits at most ``timeout`` seconds; changes nothing."""

    store: ContainerStore
    mapper: SessionMapper
    memory: OutOfMemory
    connector: Connector
    timeout: float

    async def wait(self, container: str) -> Session:
        """The session once it can be used. Raises CommandFailed when it ends, or does not answer in time."""
        found = await self._running(container)
        if not self.mapper.is_ready(found):
            self.mapper.remember_ready(found, await self._probe(found))
        return self.mapper.make(found, SessionState.RUNNING)

    async def _probe(self, found: ContainerInfo) -> ReadyCheck:
        port = labels.port(found.labels)

        def connect() -> "asyncio.Future[Stream]":
            return asyncio.ensure_future(self.connector.open(found, port))

        expected, path = labels.ready_check(found.labels), found.labels.get(labels.PATH, "/")
        answer = asyncio.create_task(wait_ready(expected, connect, self.timeout, path=path))
        try:
            while not (await asyncio.wait({answer}, timeout=_LOOK))[0]:
                await self._running(found.id)
        finally:
            answer.cancel()
        proof = await answer
        if proof.found is None:
            why = proof.failure(port, self.timeout)
            raise CommandFailed("not_ready", f"{why}{await self.store.log_tail(found)}")
        return proof.found

    async def _running(self, container: str) -> ContainerInfo:
        found = await self.store.inspect(container)
        if found is None:
            raise CommandFailed("session_ended", "the container was removed while its start was waited for")
        if found.state != "running":
            found = await self.memory.explain(found)
            code = "out_of_memory" if ran_out_of_memory(found) else "session_ended"
            raise CommandFailed(code, f"{end_reason(found)}{await self.store.log_tail(found)}")
        return found
