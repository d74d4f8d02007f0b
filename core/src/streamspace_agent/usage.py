"""What running sessions use, told to the control plane now and then.

The protocol has no message for it: it rides in a ``status`` that repeats the session's state. It is for people's eyes
and worthless later, so it never waits in the outbox.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping

from streamspace_agent.runtime import RuntimeDriver, Session, SessionState

log = logging.getLogger(__name__)

AT_A_TIME = 4
"""Readings asked for at once: an engine may take a second for each, and has sessions to start."""

SendUsage = Callable[[Session, float | None, int], Awaitable[None]]
"""Takes the session, its CPU in cores (None: not measured yet) and its memory in bytes; drops what cannot be sent."""


class Usage:
    """The readings of one tenure. ``sessions`` are those last reported, ``busy`` those left to a command."""

    def __init__(
        self,
        driver: RuntimeDriver,
        sessions: Mapping[str, Session],
        *,
        busy: Callable[[], Collection[str]],
        send: SendUsage,
    ) -> None:
        self._driver = driver
        self._sessions = sessions
        self._busy = busy
        self._send = send
        self._measured: set[str] = set()
        self._turn = asyncio.Semaphore(AT_A_TIME)

    async def run(self, every: float) -> None:
        """Tell what each running session uses, every so many seconds (0: never), until cancelled."""
        while True:
            await asyncio.sleep(every or 3600.0)
            if every:
                await self.tell()

    async def tell(self) -> None:
        """One round over all sessions."""
        self._measured &= self._sessions.keys()
        await asyncio.gather(*(self._tell(session) for session in list(self._sessions.values())))

    async def _tell(self, session: Session) -> None:
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
            # A driver's first answer is no average over any time.
            await self._send(session, cpu if session.session_id in self._measured else None, memory)
            self._measured.add(session.session_id)

    def _steady(self, session: Session) -> bool:
        """Whether this is still what was last reported: a state that changed meanwhile must not be written over."""
        return (
            session.state is SessionState.RUNNING
            and self._sessions.get(session.session_id) is session
            and session.session_id not in self._busy()
        )
