"""From containers to the contract's sessions."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

from streamspace_agent.runtime import ReadyCheck, Session, SessionState
from streamspace_engine.errors import EngineError
from streamspace_runtime_docker import labels
from streamspace_runtime_docker.births import Births
from streamspace_runtime_docker.ends import Ends
from streamspace_runtime_docker.found import Found
from streamspace_runtime_docker.marks import Mark, Marks, judge
from streamspace_runtime_docker.store import Store


@dataclass(slots=True)
class _Proved:
    container: str
    speaks: ReadyCheck
    ready: bool = True


class Views:
    """Remembers which containers were seen usable, and what they spoke; everything else is read from the engine each time."""

    def __init__(self, store: Store, marks: Marks, ends: Ends, births: Births) -> None:
        self._store = store
        self._marks = marks
        self._proved: dict[str, _Proved] = {}
        self._ends = ends
        self._births = births
        self._words: dict[str, tuple[str, str]] = {}

    def saw_ready(self, found: Found, speaks: ReadyCheck) -> None:
        self._proved[found.session_id] = _Proved(found.id, speaks)

    def forget(self, session_id: str) -> None:
        """The run that was seen usable is over, or soon will be. What it spoke is kept as the best guess until the next proof."""
        if session_id in self._proved:
            self._proved[session_id].ready = False
        self._words.pop(session_id, None)

    def drop(self, session_id: str) -> None:
        """Its container is gone."""
        self._proved.pop(session_id, None)
        self._words.pop(session_id, None)
        self._ends.forget(session_id)

    def known(self) -> set[str]:
        """Sessions of which anything is remembered."""
        return {*self._proved, *self._words}

    def is_ready(self, found: Found) -> bool:
        proved = self._of(found)
        return found.state == "running" and proved is not None and proved.ready

    def speaks(self, found: Found) -> ReadyCheck:
        """What the container was last found to speak, or is expected to."""
        proved = self._of(found)
        return proved.speaks if proved else labels.ready_check(found.labels)

    def _of(self, found: Found) -> _Proved | None:
        proved = self._proved.get(found.session_id)
        return proved if proved and proved.container == found.id else None

    async def session(self, found: Found, mark: Mark | None = None) -> Session:
        """One inspected container; an exited one costs a look at its mark, unless that is given."""
        state, reason = await self._state(found, mark)
        return self.make(found, state, reason)

    async def _state(self, found: Found, mark: Mark | None) -> tuple[SessionState, str]:
        match found.state:
            case "running" | "restarting":
                return SessionState.RUNNING, ""
            case "paused":
                return SessionState.HIBERNATED, ""
            case "exited":
                try:
                    mark = mark or await self._marks.read(found)
                except EngineError as error:
                    return SessionState.HIBERNATED, f"the engine cannot show how it ended: {error.text}"
                found = await self._ends.of(found)
                state, reason = judge(found, mark)
                return state, f"{reason}{await self._last_words(found)}" if state is SessionState.FAILED else reason
            case "created":
                return SessionState.PENDING, "its start is under way or was interrupted"
            case "removing":
                return SessionState.TERMINATED, "it is being removed"
            case _:
                return SessionState.FAILED, f"the engine shows it as {found.state}"

    async def _last_words(self, found: Found) -> str:
        """The log of a run that is over does not change: it is read once."""
        run, words = self._words.get(found.session_id, ("", ""))
        if run != found.run:
            words = await self._store.last_words(found)
            self._words[found.session_id] = (found.run, words)
        return words

    async def sessions(self, containers: Iterable[Found]) -> list[Session]:
        """Listed containers; only the exited are inspected, and those that vanish meanwhile are left out."""
        made = await asyncio.gather(*(self._listed(found) for found in containers))
        return [session for session in made if session and session.state is not SessionState.TERMINATED]

    async def _listed(self, found: Found) -> Session | None:
        """One that the engine cannot show more of keeps no other from being told."""
        try:
            full = await self._store.look(found.id) if found.state == "exited" else found
        except EngineError as error:
            reason = f"the engine cannot show how it ended: {error.text}"
            return self.make(found, SessionState.HIBERNATED, reason)
        return await self.session(full) if full else None

    def make(self, found: Found, state: SessionState, reason: str = "") -> Session:
        marks = found.labels
        details: dict[str, str | int | float | bool] = {"containerId": found.id[:12], "image": found.image}
        if found.state == "paused":
            details["paused"] = True
        return Session(
            session_id=found.session_id,
            state=state,
            place=found.name,
            address=found.address,
            port=labels.port(marks),
            ready=self.is_ready(found),
            reason=reason,
            user=marks.get(labels.USER, ""),
            template=marks.get(labels.TEMPLATE, ""),
            command_id=marks.get(labels.COMMAND, ""),
            epoch=labels.whole(marks, labels.EPOCH) or 0,
            cpu=labels.number(marks, labels.CPU),
            memory=labels.whole(marks, labels.MEMORY),
            ready_check=self.speaks(found),
            idle_timeout=labels.number(marks, labels.IDLE_TIMEOUT),
            max_duration=labels.number(marks, labels.MAX_DURATION),
            created_at=self._births.created_at(found),
            details=details,
        )
