"""What running sessions use: read now and then, and kept until a heartbeat takes it along.

It is for people's eyes and worthless later: of each session only the newest reading is kept, none waits in the outbox.
"""

import asyncio
import json
import logging
import math

from streamspace_agent.runtime import RuntimeDriver, Session, SessionState
from streamspace_agent.sessions.table import SessionTable

log = logging.getLogger(__name__)

AT_A_TIME = 4
"""Readings asked for at once: an engine may take a second for each, and has sessions to start."""
FIGURES = 64
"""Bytes that a reading takes in a message beside the session's id, at most."""


class Usage:
    """The readings of one leadership."""

    def __init__(self, driver: RuntimeDriver, sessions: SessionTable) -> None:
        self._driver = driver
        self._sessions = sessions
        self._measured: set[str] = set()
        self._turn = asyncio.Semaphore(AT_A_TIME)
        self._readings: dict[str, dict[str, float | int]] = {}
        self.fresh = asyncio.Event()
        """Set after a round of readings, until they are taken."""

    async def run(self, every: float) -> None:
        """Read what each running session uses, every so many seconds (0: never), until cancelled."""
        while True:
            await asyncio.sleep(every or 3600.0)
            if every:
                await self.read()

    async def read(self) -> None:
        """One round over all sessions."""
        self._measured &= self._sessions.keys()
        await asyncio.gather(*(self._read(session) for session in list(self._sessions.values())))
        if self._readings:
            self.fresh.set()

    def take(self, room: int) -> dict[str, dict[str, float | int]]:
        """The readings since the last call by session id, up to ``room`` bytes of JSON; the others come first in the next.

        ``cpu`` in cores, absent where it is not measured yet, and ``memory`` in bytes.
        """
        self.fresh.clear()
        taken: dict[str, dict[str, float | int]] = {}
        for session_id in list(self._readings):
            session = self._sessions.get(session_id)
            if session is None or not self._steady(session):
                del self._readings[session_id]
                continue
            size = len(json.dumps(session_id)) + FIGURES
            if size <= room:
                taken[session_id] = self._readings.pop(session_id)
                room -= size
        return taken

    def forget(self) -> None:
        """Drop what was read and not taken."""
        self._readings.clear()
        self.fresh.clear()

    async def _read(self, session: Session) -> None:
        async with self._turn:
            if not self._steady(session):
                return
            try:
                reading = await self._driver.stats(session.session_id)
            except Exception as error:  # noqa: BLE001 - figures are not worth a tenure
                log.debug("cannot read what session %s uses: %s", session.session_id, error)
                return
        if reading and self._steady(session):
            cpu, memory = reading
            figures: dict[str, float | int] = {}
            # A driver's first answer is no average over any time.
            if session.session_id in self._measured and math.isfinite(cpu) and 0 <= cpu < 1e6:
                figures["cpu"] = round(cpu, 4)
            if math.isfinite(memory) and 0 <= memory < 2**63:
                figures["memory"] = int(memory)
            self._measured.add(session.session_id)
            self._readings[session.session_id] = figures

    def _steady(self, session: Session) -> bool:
        """Whether this is still what was last reported: a session that ended or sleeps uses nothing."""
        return (
            session.state is SessionState.RUNNING
            and self._sessions.get(session.session_id) is session
            and session.session_id not in self._sessions.busy
        )
