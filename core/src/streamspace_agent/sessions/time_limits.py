"""Hibernates sessions that are idle (``idleTimeout``), and stops those past their ``maxSessionDuration``."""

import asyncio
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from streamspace_agent.clock import Clock
from streamspace_agent.protocol import HIBERNATE, STOP
from streamspace_agent.runtime import Session, SessionState
from streamspace_agent.sessions.table import SessionTable
from streamspace_agent.units import format_seconds

log = logging.getLogger(__name__)

LOOK_EVERY = 1.0
EARLIEST = 1767225600.0
"""Unix time (2026-01-01) before which this program made no session: an earlier time means a clock that was not set."""
RETRY_AFTER = 60.0
"""Seconds until a command of the agent's own that changed nothing is given again."""


@dataclass(eq=False)
class TimeLimits:
    """The time limits of one leadership.

    A session's age is read from the engine's record of its first start, so that it survives agents; it grows while
    the session hibernates. From the first time that this leadership sees the session, the age is also counted by a
    clock that nobody can set, so that setting the wall clock ends no session: the lower age counts. The idle time
    begins anew with each leadership (see :mod:`.idle`).
    """

    _sessions: SessionTable
    _idle_for: Callable[[str], float]
    _run_internal: Callable[[str, Mapping[str, Any], Callable[[], bool]], None]
    """Runs an internal command in its session's turn, if it is still wanted then (``Dispatcher.run_internal``)."""
    _clock: Clock
    _given: dict[str, tuple[str, float]] = field(default_factory=dict)
    """The command last given for a session, and when."""
    _born: dict[tuple[str, str], float] = field(default_factory=dict)
    """When a session was started, in ``clock.now()``, as it looked when it was first seen."""

    async def run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY)
            self.look()

    def look(self) -> None:
        now = self._clock.now()
        present = {(session.session_id, session.command_id) for session in self._sessions.values()}
        self._born = {start: born for start, born in self._born.items() if start in present}
        self._given = {s: given for s, given in self._given.items() if self._pending(s, *given, now)}
        for session_id, session in self._sessions.items():
            if session_id in self._sessions.busy or session_id in self._given:
                continue
            if (due := self._due(session)) is not None:
                action, reason = due
                log.info("session %s: %s: %s", session_id, action, reason)
                self._given[session_id] = (action, now)
                wanted = partial(self._wanted, session_id, action)
                self._run_internal(action, {"sessionId": session_id, "reason": reason}, wanted)

    def _pending(self, session_id: str, action: str, at: float, now: float) -> bool:
        return self._wanted(session_id, action) and now - at < RETRY_AFTER

    def _wanted(self, session_id: str, action: str) -> bool:
        """Whether the command is still due: a person may have come back, or another command may have done it."""
        session = self._sessions.get(session_id)
        due = self._due(session) if session is not None else None
        return due is not None and due[0] == action

    def _age(self, session: Session) -> float:
        now, told = self._clock.now(), self._clock.wall_ms() / 1000 - session.created_at
        if session.created_at <= EARLIEST or told < 0:  # the clock was wrong then, or is wrong now
            told = math.inf
        born = self._born.setdefault((session.session_id, session.command_id), now - (told if told < math.inf else 0.0))
        return min(now - born, told)

    def _due(self, session: Session) -> tuple[str, str] | None:
        if session.state not in {SessionState.RUNNING, SessionState.HIBERNATED}:
            return None
        if session.max_duration and session.created_at:
            age = self._age(session)
            if age >= session.max_duration:
                limit = format_seconds(session.max_duration)
                return STOP, f"max_session_duration: it was started {format_seconds(age)} ago, {limit} are allowed"
        if session.idle_timeout and session.state is SessionState.RUNNING:
            idle = self._idle_for(session.session_id)
            if idle >= session.idle_timeout:
                return HIBERNATE, f"idle_timeout: nobody has used it for {format_seconds(idle)}"
        return None
