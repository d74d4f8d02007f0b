"""The agent's containers on the engine: finds, stops and removes them, and knows which ends this process caused."""

import asyncio
import logging
from collections import OrderedDict
from contextlib import suppress
from weakref import WeakValueDictionary

from streamspace_agent.config import Settings
from streamspace_agent.errors import CommandFailed, EngineUnavailable, RuntimeDriverError, SessionNotFound
from streamspace_engine import Engine
from streamspace_engine.errors import Conflict, EngineError, NotFound
from streamspace_runtime_docker.containers import labels
from streamspace_runtime_docker.containers.config import container_name, valid_id
from streamspace_runtime_docker.containers.info import ContainerInfo, inspected, listed
from streamspace_runtime_docker.settings import DockerSettings

log = logging.getLogger(__name__)

LOG_LINES = 20
LOG_CHARACTERS = 2000
_POLL = 0.05
_KILL_TIMEOUT = 10.0
"""Seconds until a killed container must be gone; one that is not hangs in the kernel."""
_REMEMBERED = 1024


class ContainerStore:
    def __init__(self, engine: Engine, settings: Settings, own: DockerSettings) -> None:
        self._engine = engine
        self._agent_id = settings.agent_id
        self._network = settings.network_name
        self._stop_timeout = own.stop_timeout
        self._ours: OrderedDict[str, None] = OrderedDict()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def lock(self, session_id: str) -> asyncio.Lock:
        """Held by a command on the session, and while its container's end is judged, which waits for the command."""
        return self._locks.setdefault(session_id, asyncio.Lock())

    def ended_by_us(self, found: ContainerInfo) -> bool:
        """Did this process end that run of the container?"""
        return found.run in self._ours

    def removed_by_us(self, container_id: str) -> bool:
        """Did this process remove the container?"""
        return container_id in self._ours

    async def find(self, session_id: str) -> ContainerInfo | None:
        """The session's container. Raises CommandFailed when it is another agent's: that is never touched."""
        found = await self.inspect(container_name(session_id)) if valid_id(session_id) else None
        if found and found.labels.get(labels.AGENT) != self._agent_id:
            owner = found.labels.get(labels.AGENT)
            raise CommandFailed(
                "session_taken",
                f"the container {found.name} belongs to {f'the agent {owner}' if owner else 'no StreamSpace agent'}, "
                f"this is {self._agent_id} (AGENT_ID): remove it, or use one agent id for this session",
            )
        return found

    async def get(self, session_id: str) -> ContainerInfo:
        if found := await self.find(session_id):
            return found
        raise SessionNotFound(f"the engine holds no session {session_id}")

    async def inspect(self, container: str) -> ContainerInfo | None:
        """Any container by name or id; None if there is none."""
        body = await self._engine.find(f"/containers/{container}/json")
        return inspected(body, self._network) if body else None

    async def list(self) -> list[ContainerInfo]:
        """Every container of this agent, from one call, which cannot fail because one of them vanishes.

        The name counts, too: other containers may have our labels from their image.
        """
        filters = {"label": [f"{labels.AGENT}={self._agent_id}"]}
        entries = await self._engine.get("/containers/json", {"all": True, "filters": filters})
        listed_ = [listed(entry, self._network) for entry in entries]
        return [found for found in listed_ if found.session_id and found.name == container_name(found.session_id)]

    async def terminate(self, found: ContainerInfo) -> None:
        """End the container's processes by its stop signal, and kill them after STOP_TIMEOUT."""
        self._remember(found.run)
        if found.state == "paused":
            with suppress(NotFound, Conflict):
                await self._engine.post(f"/containers/{found.id}/unpause")
        if await self._signal(found, found.stop_signal) and not await self._gone(found, self._stop_timeout):
            log.warning("%s did not end within STOP_TIMEOUT, killing it", found.name)
            if await self._signal(found, "SIGKILL") and not await self._gone(found, _KILL_TIMEOUT):
                raise RuntimeDriverError(f"{found.name} does not end even when killed: look at the engine's log")

    async def _signal(self, found: ContainerInfo, signal: str) -> bool:
        """Send a signal; False when the container does not run any more."""
        try:
            await self._engine.post(f"/containers/{found.id}/kill", params={"signal": signal})
        except (NotFound, Conflict):
            return False
        except EngineError as error:
            if "not running" in error.text or "can only kill running" in error.text:
                return False
            self._ours.pop(found.run, None)  # it runs on
            raise
        return True

    async def _gone(self, found: ContainerInfo, timeout: float) -> bool:
        deadline = asyncio.get_running_loop().time() + timeout
        pause = _POLL
        while (now := await self.inspect(found.id)) and now.state in {"running", "paused", "restarting"}:
            if asyncio.get_running_loop().time() >= deadline:
                return False
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, 0.5)
        return True

    async def remove(self, found: ContainerInfo) -> None:
        """Remove the container, running or not, and its anonymous volumes. An absent one is no error."""
        self._remember(found.id)
        with suppress(NotFound):
            try:
                await self._engine.delete(f"/containers/{found.id}", {"v": True, "force": True})
            except Conflict:  # its removal is under way
                await self._vanished(found)

    async def _vanished(self, found: ContainerInfo) -> None:
        deadline = asyncio.get_running_loop().time() + _KILL_TIMEOUT
        while await self.inspect(found.id):
            if asyncio.get_running_loop().time() >= deadline:
                raise RuntimeDriverError(f"the engine does not finish removing {found.name}: look at its log")
            await asyncio.sleep(_POLL)

    def _remember(self, ended: str) -> None:
        self._ours[ended] = None
        while len(self._ours) > _REMEMBERED:
            self._ours.popitem(last=False)

    async def log_tail(self, found: ContainerInfo) -> str:
        """The last lines of the container's log, to append to a message; "" when there are none."""
        try:
            params = {"stdout": True, "stderr": True, "tail": str(LOG_LINES)}
            data = await self._engine.raw(f"/containers/{found.id}/logs", params)
        except (EngineError, EngineUnavailable):
            return ""
        text = _texts(data).decode("utf-8", "replace").strip()
        text = text if len(text) <= LOG_CHARACTERS else f"...{text[-LOG_CHARACTERS:]}"
        return f"; last log lines:\n{text}" if text else ""


def _texts(log: bytes) -> bytes:
    """The text of a log without the engine's frame headers: stream, three zeros, length in 4 bytes."""
    texts = []
    while len(log) >= 8:
        length = int.from_bytes(log[4:8], "big")
        texts.append(log[8 : 8 + length])
        log = log[8 + length :]
    return b"".join(texts)
