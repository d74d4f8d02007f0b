"""Reads the CPU and memory that running sessions use, and keeps the newest readings until a heartbeat takes them.

Readings are for people and of no use later: none is journalled.
"""

import asyncio
import json
import logging
import math

from streamspace_agent.runtime import RuntimeDriver, Session, SessionState
from streamspace_agent.sessions.table import SessionTable

log = logging.getLogger(__name__)

AT_A_TIME = 4
"""Readings at once: an engine may take a second for each, and has sessions to start."""
FIGURES = 64
"""Bytes of a reading in a message, beside the session's id, at most."""


class Usage:
    """The readings of one leadership."""

    def __init__(self, driver: RuntimeDriver, sessions: SessionTable) -> None:
        self._driver = driver
        self._sessions = sessions
        self._measured: set[str] = set()
        self._turn = asyncio.Semaphore(AT_A_TIME)
        self._readings: dict[str, dict[str, float | int]] = {}
        self.fresh = asyncio.Event()
        """Set by a round of readings, until they are taken."""

    async def run(self, every: float) -> None:
        """Read all sessions every so many seconds (0: never), until cancelled."""
        while True:
            await asyncio.sleep(every or 3600.0)
            if every:
                await self.read()

    async def read(self) -> None:
        self._measured &= self._sessions.keys()
        await asyncio.gather(*(self._read(session) for session in list(self._sessions.values())))
        if self._readings:
            self.fresh.set()

    def take(self, room: int) -> dict[str, dict[str, float | int]]:
        """Take the readings by session id, up to ``room`` bytes of JSON. Those left come first in the next call.

        ``cpu`` is in cores, and absent where it is not measured yet; ``memory`` is in bytes.
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
        self._readings.clear()
        self.fresh.clear()

    async def _read(self, session: Session) -> None:
        async with self._turn:
            if not self._steady(session):
                return
            try:
                reading = await self._driver.stats(session.session_id)
            except Exception as error:  # noqa: BLE001 - a reading is not worth a leadership
                log.debug("cannot read what session %s uses: %s", session.session_id, error)
                return
        if reading and self._steady(session):
            cpu, memory = reading
            figures: dict[str, float | int] = {}
            # A driver's first answer is no average: it has nothing to compare with.
            if session.session_id in self._measured and math.isfinite(cpu) and 0 <= cpu < 1e6:
                figures["cpu"] = round(cpu, 4)
            if math.isfinite(memory) and 0 <= memory < 2**63:
                figures["memory"] = int(memory)
            self._measured.add(session.session_id)
            self._readings[session.session_id] = figures

    def _steady(self, session: Session) -> bool:
        """Whether the session still runs as last announced, without a command: only then is a reading worth keeping."""
        return (
            session.state is SessionState.RUNNING
            and self._sessions.get(session.session_id) is session
            and session.session_id not in self._sessions.busy
        )
