"""Sends heartbeats: they keep the agent online at the control plane, and carry the CPU and memory that sessions use.

One is sent every ``HEALTH_CHECK_INTERVAL``, and one after each round of readings (``USAGE_INTERVAL``). The readings
of all sessions cost the control plane only one row; a ``status`` would overwrite a newer state.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from streamspace_agent.runtime import Session
from streamspace_agent.sessions.table import SessionTable
from streamspace_agent.sessions.usage import Usage

SECOND_BEAT = 2.0
"""Seconds from the first heartbeat of a connection to the next. The first is sent before sessions are adopted and their
servers have answered: without a second one, a full host would be shown empty for a whole interval."""
ROOM = 256 * 1024
"""Bytes of readings in one heartbeat, half of what a message may hold. What does not fit goes into the next."""


@dataclass(eq=False)
class Heartbeats:
    """The heartbeats of one leadership."""

    _send: Callable[[str, Mapping[str, Any]], Awaitable[bool]]
    """Sends one message or drops it; returns whether it went out."""
    _sessions: SessionTable
    _works: Callable[[Session], bool]
    """Whether a person can use a session."""
    _usage: Usage
    _capacity: Mapping[str, Any]
    _epoch: int
    draining: bool = False
    """Whether ``draining`` is reported instead of ``online``."""
    last: float = 0.0
    """When the last one went out, by the monotonic clock; 0 for none yet."""

    async def run(self, every: float) -> None:
        """Serve one connection, until cancelled."""
        self._usage.forget()  # readings from before this connection are of no use any more
        pause = min(SECOND_BEAT, every)
        while True:
            await self.beat()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._usage.fresh.wait()
            pause = every

    async def beat(self) -> None:
        payload: dict[str, Any] = {
            "status": "draining" if self.draining else "online",
            "activeSessions": sum(map(self._works, self._sessions.values())),
            "capacity": self._capacity,
            "epoch": self._epoch,
        }
        if readings := self._usage.take(ROOM):
            payload["sessions"] = readings
        if await self._send("heartbeat", payload):
            self.last = time.monotonic()
