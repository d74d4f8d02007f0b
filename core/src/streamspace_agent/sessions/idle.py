"""Decides for how long nobody has used a session.

* Use through the control plane's viewers is seen by the tunnels: a key or the pointer
  (:mod:`streamspace_agent.tunnel.rfb`).
* A web desktop is used past the agent's link. A gateway sees that, and reports it.
* Without a gateway, the container's network decides: while more than a little comes in, somebody may be using it.
  Where a driver cannot count that, a web desktop never counts as idle.

What cannot be seen counts as use: a session may be hibernated too late, but not while somebody uses it.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from streamspace_agent.clock import Clock
from streamspace_agent.gateway import Gateway
from streamspace_agent.runtime import ReadyCheck, Session, SessionState

log = logging.getLogger(__name__)

LOOK_EVERY = 30.0
"""Seconds between two readings of the network counters."""
QUIET = 1024
"""Bytes that may come in between two readings of a session that nobody uses, such as ARP requests. One movement of the
pointer in a browser causes more."""


@dataclass(eq=False)
class Idle:
    """The idle times of one leadership: at its beginning each session counts as just used."""

    _sessions: Mapping[str, Session]
    _viewers: Callable[[str], float]
    """Returns the seconds since a session was last used through a viewer."""
    _received: Callable[[str], Awaitable[int | None]]
    _clock: Clock
    _gateway: Gateway | None
    _last_use: dict[str, float] = field(default_factory=dict)
    _counted: dict[str, int] = field(default_factory=dict)
    _looked: dict[str, float] = field(default_factory=dict)

    def saw_input(self, session_id: str) -> None:
        """A person used the session's web desktop just now."""
        self._last_use[session_id] = self._clock.now()

    def idle_for(self, session_id: str) -> float:
        """Seconds since a person last used the session, or since it was first seen to run."""
        through_viewers = self._viewers(session_id)
        session = self._sessions.get(session_id)
        if session is None or session.ready_check is not ReadyCheck.HTTP:
            return through_viewers
        now = self._clock.now()
        last_use = self._last_use.setdefault(session_id, now)
        # By its network a session is idle until the last reading at most: it may have been used since.
        until = now if self._gateway is not None else self._looked.get(session_id, last_use)
        return min(through_viewers, max(0.0, until - last_use))

    async def run(self) -> None:
        """Read the network counters or the gateway's state every LOOK_EVERY seconds, until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_EVERY)

    async def look(self) -> None:
        web = [s for s in self._sessions.values() if s.ready_check is ReadyCheck.HTTP]
        running = {s.session_id: s for s in web if s.state is SessionState.RUNNING}
        for noted in (self._last_use, self._looked, self._counted):
            for session_id in noted.keys() - running.keys():
                del noted[session_id]
        if self._gateway is not None:
            addresses = self._gateway.status().addresses
            # People who cannot reach the gateway are not seen to use anything.
            if not addresses or any(addresses.values()):
                for session_id in running:
                    self.saw_input(session_id)
            return
        for session_id, session in running.items():
            if session.idle_timeout and await self._in_use(session_id):
                self.saw_input(session_id)
            self._looked[session_id] = self._clock.now()

    async def _in_use(self, session_id: str) -> bool:
        before = self._counted.pop(session_id, None)
        try:
            count = await self._received(session_id)
        except Exception as error:  # noqa: BLE001 - a count is not worth a leadership
            log.debug("cannot read what came in for session %s: %s", session_id, error)
            return True
        if count is None:
            return True
        self._counted[session_id] = count
        return before is None or not 0 <= count - before <= QUIET
