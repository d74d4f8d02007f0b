"""A runtime driver without an engine, for the core's own logic. What it does to a real engine is tested elsewhere."""

import asyncio
import time
from dataclasses import replace

from streamspace_agent.errors import CommandFailed, EngineUnavailable, SessionNotFound
from streamspace_agent.runtime import (
    Capabilities,
    EventKind,
    Progress,
    RuntimeDriver,
    RuntimeEvent,
    Session,
    SessionState,
)

AGENT = "core-test"


class MemoryDriver(RuntimeDriver):
    name = "memory"
    capabilities = Capabilities(frozenset({"stop"}), pull_progress=True, many_hosts=False)

    def __init__(self):
        self.held = {}
        self.calls = []
        self.starts = 0
        self.hold = {}
        """Session id -> event that its start waits for: a pull that takes long."""
        self.age = 0.0
        """Seconds since the start of what is started from now on."""
        self.refuse = {}
        """Session id -> the CommandFailed that its start ends with."""
        self.servers = {}
        """Session id -> what has the `port` on loopback that stands for the session's own."""
        self.down = False
        self.queue = asyncio.Queue()

    def effect(self, call, session_id):
        if self.down:
            raise EngineUnavailable("the engine is away")
        self.guard()
        self.calls.append((call, session_id))

    async def start(self, spec, report):
        report(Progress("pulling", 50, 100))
        if spec.session_id in self.hold:
            await self.hold[spec.session_id].wait()
        if spec.session_id in self.refuse:
            raise self.refuse[spec.session_id]
        self.effect("start", spec.session_id)
        self.starts += 1
        session = Session(
            spec.session_id,
            SessionState.RUNNING,
            f"streamspace-{spec.session_id}",
            port=spec.port,
            ready=True,
            command_id=spec.command_id,
            epoch=spec.epoch,
            cpu=spec.cpu,
            memory=spec.memory,
            ready_check=spec.ready,
            idle_timeout=spec.idle_timeout,
            max_duration=spec.max_duration,
            created_at=time.time() - self.age,
        )
        self.held[spec.session_id] = session
        return session

    async def stop(self, session_id, *, delete_volumes=False):
        self.effect("stop", session_id)
        self.held.pop(session_id, None)

    async def hibernate(self, session_id):
        return self._become(session_id, SessionState.HIBERNATED)

    async def wake(self, session_id, report):
        return self._become(session_id, SessionState.RUNNING)

    def _become(self, session_id, state):
        self.effect(state, session_id)
        if session_id not in self.held:
            raise SessionNotFound(f"there is no session {session_id}")
        self.held[session_id] = replace(self.held[session_id], state=state, ready=state is SessionState.RUNNING)
        return self.held[session_id]

    async def inspect(self, session_id):
        return self.held.get(session_id)

    async def sessions(self):
        if self.down:
            raise EngineUnavailable("the engine is away")
        return list(self.held.values())

    async def events(self):
        yield RuntimeEvent(EventKind.RESYNC)
        while True:
            yield await self.queue.get()

    def die(self, session_id, reason):
        self.held[session_id] = replace(self.held[session_id], state=SessionState.FAILED, ready=False, reason=reason)
        self.queue.put_nowait(RuntimeEvent(EventKind.ENDED, self.held[session_id]))

    async def connect(self, session_id, port):
        if session_id not in self.servers:
            raise CommandFailed("not_ready", "no stream in memory")
        return await asyncio.open_connection("127.0.0.1", self.servers[session_id].port)

    async def leftovers(self, known):
        return []

    async def remove(self, leftover):
        raise AssertionError

    async def stats(self, session_id):
        return None

    async def check(self):
        return []

    async def describe(self):
        return {"engine": "memory"}

    async def aclose(self):
        pass
