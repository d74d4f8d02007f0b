"""The kit's driver without an engine, with starts that wait, are refused, or began long ago."""

import asyncio
import time

from streamspace_agent.runtime import Progress
from streamspace_agent.testing.engine import MemoryDriver as KitDriver

AGENT = "core-test"


class MemoryDriver(KitDriver):
    def __init__(self):
        super().__init__()
        self.engine.clock = lambda: time.time() - self.age
        self.hold = {}
        """Session id -> event that its start waits for: a pull that takes long."""
        self.age = 0.0
        """Seconds since the start of what is started from now on."""
        self.refuse = {}
        """Session id -> the CommandFailed that its start ends with."""
        self.servers = {}
        """Session id -> what has the `port` on loopback that stands for the session's own."""
        self.held = self.engine.sessions
        self.calls = self.effects
        self.die = self.engine.die

    @property
    def down(self):
        return self.engine.down

    @down.setter
    def down(self, down):
        self.engine.down = down

    @property
    def starts(self):
        return sum(what == "start" for what, _ in self.effects)

    async def start(self, spec, report):
        report(Progress("pulling", 50, 100))
        if spec.session_id in self.hold:
            await self.hold[spec.session_id].wait()
        if spec.session_id in self.refuse:
            raise self.refuse[spec.session_id]
        return await super().start(spec, report)

    async def stop(self, session_id, *, delete_volumes=False):
        await super().stop(session_id, delete_volumes=delete_volumes)
        self.calls.append(("stop", session_id))  # also where nothing was left to stop

    async def connect(self, session_id, port):
        if session_id in self.servers:
            return await asyncio.open_connection("127.0.0.1", self.servers[session_id].port)
        return await super().connect(session_id, port)
