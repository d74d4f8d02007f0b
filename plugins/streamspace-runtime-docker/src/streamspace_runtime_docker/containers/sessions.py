"""Maps containers to the sessions of the driver's contract."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

from streamspace_agent.runtime import ReadyCheck, Session, SessionState
from streamspace_engine.errors import EngineError
from streamspace_runtime_docker.containers import labels
from streamspace_runtime_docker.containers.creation_time import CreationTimes
from streamspace_runtime_docker.containers.info import ContainerInfo
from streamspace_runtime_docker.containers.out_of_memory import OutOfMemory
from streamspace_runtime_docker.containers.stop_marker import StopMarker, StopMarkers, judge
from streamspace_runtime_docker.containers.store import ContainerStore


@dataclass(slots=True)
class _Ready:
    container: str
    speaks: ReadyCheck
    ready: bool = True


class SessionMapper:
    """Remembers which containers were ready, and what they spoke; all else is read from the engine each time."""

    def __init__(
        self, store: ContainerStore, markers: StopMarkers, memory: OutOfMemory, creation_times: CreationTimes
    ) -> None:
        self._store = store
        self._markers = markers
        self._known: dict[str, _Ready] = {}
        self._out_of_memory = memory
        self._creation_times = creation_times
        self._log_tails: dict[str, tuple[str, str]] = {}

    def remember_ready(self, found: ContainerInfo, speaks: ReadyCheck) -> None:
        self._known[found.session_id] = _Ready(found.id, speaks)

    def forget(self, session_id: str) -> None:
        """Forget that the session was ready, since its run ends; remember what it spoke as the best guess."""
        if session_id in self._known:
            self._known[session_id].ready = False
        self._log_tails.pop(session_id, None)

    def drop(self, session_id: str) -> None:
        """Forget everything about a session whose container is gone."""
        self._known.pop(session_id, None)
        self._log_tails.pop(session_id, None)
        self._out_of_memory.forget(session_id)

    def known(self) -> set[str]:
        """Sessions about which anything is remembered."""
        return {*self._known, *self._log_tails}

    def is_ready(self, found: ContainerInfo) -> bool:
        known = self._of(found)
        return found.state == "running" and known is not None and known.ready

    def ready_check(self, found: ContainerInfo) -> ReadyCheck:
        """What the container was last found to speak, else what it is expected to speak."""
        known = self._of(found)
        return known.speaks if known else labels.ready_check(found.labels)

    def _of(self, found: ContainerInfo) -> _Ready | None:
        known = self._known.get(found.session_id)
        return known if known and known.container == found.id else None

    async def session(self, found: ContainerInfo, marker: StopMarker | None = None) -> Session:
        """The session of an inspected container; reads the stop marker of an exited one unless ``marker`` is given."""
        state, reason = await self._state(found, marker)
        return self.make(found, state, reason)

    async def _state(self, found: ContainerInfo, marker: StopMarker | None) -> tuple[SessionState, str]:
        match found.state:
            case "running" | "restarting":
                return SessionState.RUNNING, ""
            case "paused":
                return SessionState.HIBERNATED, ""
            case "exited":
                try:
                    marker = marker or await self._markers.read(found)
                except EngineError as error:
                    return SessionState.HIBERNATED, f"the engine cannot show how it ended: {error.text}"
                found = await self._out_of_memory.explain(found)
                state, reason = judge(found, marker)
                return state, f"{reason}{await self._log_tail(found)}" if state is SessionState.FAILED else reason
            case "created":
                return SessionState.PENDING, "its start is under way or was interrupted"
            case "removing":
                return SessionState.TERMINATED, "it is being removed"
            case _:
                return SessionState.FAILED, f"the engine shows it as {found.state}"

    async def _log_tail(self, found: ContainerInfo) -> str:
        """Read once: the log of a run that is over does not change."""
        run, text = self._log_tails.get(found.session_id, ("", ""))
        if run != found.run:
            text = await self._store.log_tail(found)
            self._log_tails[found.session_id] = (found.run, text)
        return text

    async def sessions(self, containers: Iterable[ContainerInfo]) -> list[Session]:
        """The sessions of listed containers. Inspects only those that exited; leaves out any that vanish meanwhile."""
        made = await asyncio.gather(*(self._listed(found) for found in containers))
        return [session for session in made if session and session.state is not SessionState.TERMINATED]

    async def _listed(self, found: ContainerInfo) -> Session | None:
        """A container that the engine cannot inspect does not keep the others from being reported."""
        try:
            full = await self._store.inspect(found.id) if found.state == "exited" else found
        except EngineError as error:
            reason = f"the engine cannot show how it ended: {error.text}"
            return self.make(found, SessionState.HIBERNATED, reason)
        return await self.session(full) if full else None

    def make(self, found: ContainerInfo, state: SessionState, reason: str = "") -> Session:
        values = found.labels
        details: dict[str, str | int | float | bool] = {"containerId": found.id[:12], "image": found.image}
        if found.state == "paused":
            details["paused"] = True
        return Session(
            session_id=found.session_id,
            state=state,
            place=found.name,
            address=found.address,
            port=labels.port(values),
            ready=self.is_ready(found),
            reason=reason,
            user=values.get(labels.USER, ""),
            template=values.get(labels.TEMPLATE, ""),
            command_id=values.get(labels.COMMAND, ""),
            epoch=labels.whole(values, labels.EPOCH) or 0,
            cpu=labels.number(values, labels.CPU),
            memory=labels.whole(values, labels.MEMORY),
            ready_check=self.ready_check(found),
            idle_timeout=labels.number(values, labels.IDLE_TIMEOUT),
            max_duration=labels.number(values, labels.MAX_DURATION),
            created_at=self._creation_times.created_at(found),
            details=details,
        )
