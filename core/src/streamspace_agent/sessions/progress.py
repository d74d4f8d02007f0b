"""Shows people the latest step of each start or wake, at most once a second and at least every 20 s."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from streamspace_agent import protocol
from streamspace_agent.runtime import Progress
from streamspace_agent.sessions.table import SessionTable
from streamspace_agent.units import format_bytes

log = logging.getLogger(__name__)

AT_MOST_EVERY = 1.0
# The control plane's sweep acts on a session without a status for 5 minutes (protocol, section 3).
AT_LEAST_EVERY = 20.0
LOG_EVERY = 10.0


@dataclass(slots=True)
class _Step:
    progress: Progress
    changed: bool = True
    sent: float = 0.0
    logged: float = 0.0


@dataclass(eq=False)
class ProgressBoard:
    """The steps of one leadership. A session's step is dropped once no command works on the session."""

    _send: Callable[[str, Mapping[str, Any]], Awaitable[object]]
    """Sends one message, or drops it."""
    _sessions: SessionTable
    _epoch: int
    steps: dict[str, _Step] = field(default_factory=dict)
    _more: asyncio.Event = field(default_factory=asyncio.Event)

    def show(self, session_id: str, progress: Progress) -> None:
        """Note the session's present step. Never waits; steps may be merged."""
        step = self.steps.get(session_id)
        if step is None:
            step = self.steps[session_id] = _Step(progress)
        elif step.progress.phase != progress.phase:
            step.sent = step.logged = 0.0
        step.progress, step.changed = progress, True
        now = time.monotonic()
        if progress.phase == "pulling" and now - step.logged >= LOG_EVERY:
            step.logged = now
            log.info("session %s: pulling%s", session_id, _amount(progress))
        self._more.set()

    def done(self, session_id: str) -> None:
        """Drop the session's step: its state is about to be announced."""
        self.steps.pop(session_id, None)

    async def send(self, session_id: str, progress: Progress) -> None:
        self._sessions.pending.add(session_id)
        await self._send("status", protocol.pending(session_id, progress, self._epoch))

    async def run(self) -> None:
        while True:
            self._more.clear()
            now = time.monotonic()
            for session_id, step in list(self.steps.items()):
                if session_id not in self._sessions.busy:
                    self.done(session_id)
                    continue
                age = now - step.sent
                if age >= AT_LEAST_EVERY or (step.changed and age >= AT_MOST_EVERY):
                    step.sent, step.changed = now, False
                    await self.send(session_id, step.progress)
            if not self.steps:
                await self._more.wait()
            await asyncio.sleep(AT_MOST_EVERY / 4)


def _amount(progress: Progress) -> str:
    if not progress.total:
        return f": {progress.detail}" if progress.detail else ""
    return f": {progress.percent} % ({format_bytes(progress.current)} of {format_bytes(progress.total)})"
