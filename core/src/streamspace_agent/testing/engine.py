"""An engine in memory and a runtime driver for it: the shortest driver that passes :class:`RuntimeDriverSuite`.

It starts no process. Tests of the core, of command handlers and of the suites themselves use it.
"""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import ClassVar

from streamspace_agent.election import Problem
from streamspace_agent.errors import CommandFailed, EngineUnavailable, SessionNotFound
from streamspace_agent.runtime import (
    Capabilities,
    EventKind,
    Leftover,
    Progress,
    ReadyCheck,
    Report,
    RuntimeDriver,
    RuntimeEvent,
    Session,
    SessionSpec,
    SessionState,
)
from streamspace_agent.runtime.readiness import Proof, wait_ready

GREETING = b"RFB 003.008\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Behaviour(StrEnum):
    """How a session behaves; the suite of runtime drivers asks for each."""

    GREETS = "greets"
    """Sends :data:`GREETING` to whoever connects to the spec's ``port``, then every byte back. Ends when told to."""
    CRASHES = "crashes"
    """As GREETS, and ends by itself with an error one to a few seconds after it could be used."""
    DIES = "dies"
    """Ends with an error at once, before it could be used."""
    HANGS = "hangs"
    """Runs, and never opens its port."""
    UNPULLED = "unpulled"
    """As GREETS, from an image that the engine must fetch first. Asked for where ``pull_progress`` is declared."""
    ANSWERS = "answers"
    """Sends nothing by itself on the spec's ``port``, and answers HTTP requests there. Ends when told to."""
    CHANGES = "changes"
    """As GREETS in its first run, as ANSWERS in every later one: after a wake from ``stop`` it speaks HTTP."""


@dataclass(slots=True)
class MemoryEngine:
    """What outlives a driver. ``volumes`` are (session id, mount name); ``used`` are those that held a session's data.

    An image's name is its behaviour (``greets``, ``crashes``, ...); any other image greets.
    """

    sessions: dict[str, Session] = field(default_factory=dict)
    images: dict[str, str] = field(default_factory=dict)
    """Session id -> its image."""
    paths: dict[str, str] = field(default_factory=dict)
    """Session id -> its spec's ``path``."""
    runs: dict[str, int] = field(default_factory=dict)
    """Session id -> how often it was started."""
    pulled: set[str] = field(default_factory=set)
    volumes: set[tuple[str, str]] = field(default_factory=set)
    used: set[tuple[str, str]] = field(default_factory=set)
    down: bool = False
    clock: Callable[[], float] = time.time
    watchers: list["asyncio.Queue[RuntimeEvent]"] = field(default_factory=list)
    locks: dict[str, asyncio.Lock] = field(default_factory=dict)

    def die(self, session_id: str, reason: str) -> None:
        """End the session unexpectedly."""
        session = self.sessions[session_id]
        if session.state is SessionState.RUNNING:
            self.sessions[session_id] = ended = replace(session, state=SessionState.FAILED, ready=False, reason=reason)
            for watcher in self.watchers:
                watcher.put_nowait(RuntimeEvent(EventKind.ENDED, ended))


class MemoryDriver(RuntimeDriver):
    """A runtime driver for a :class:`MemoryEngine`: the shortest complete one."""

    name: ClassVar[str] = "memory"

    def __init__(
        self, engine: MemoryEngine | None = None, *, hibernate_mode: str = "stop", ready_timeout: float = 0.2
    ) -> None:
        self.engine = engine or MemoryEngine()
        self.effects: list[tuple[str, str]] = []
        """Every step that ``require_lease`` allowed: what was done, and the session id."""
        self._mode = hibernate_mode
        self._ready_timeout = ready_timeout
        self._servers: set[asyncio.Task[None]] = set()

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(frozenset({"stop", "pause"}), pull_progress=True, many_hosts=False)

    async def start(self, spec: SessionSpec, report: Report) -> Session:
        async with self._lock(spec.session_id):
            found = await self._look(spec.session_id)
            if found and found.state is SessionState.RUNNING:
                return found
            if found and found.state is SessionState.HIBERNATED:
                return self._become(found, SessionState.RUNNING)
            if found and found.state is SessionState.FAILED:
                self._remove(spec.session_id)
                found = None
            made = {(spec.session_id, mount.name) for mount in spec.mounts} - self.engine.volumes
            try:
                if found is None:
                    await self._create(spec, report)
                return await self._run(spec, report)
            except CommandFailed:
                self._remove(spec.session_id)
                self.engine.volumes -= made
                raise

    async def _create(self, spec: SessionSpec, report: Report) -> None:
        if spec.image.startswith(Behaviour.UNPULLED) and spec.image not in self.engine.pulled:
            for done in (0, 50, 100):
                report(Progress("pulling", done, 100))
                await asyncio.sleep(0)
            self.engine.pulled.add(spec.image)
        report(Progress("creating"))
        for mount in spec.mounts:
            if (volume := (spec.session_id, mount.name)) not in self.engine.volumes:
                self._effect("volume", spec.session_id)
                self.engine.volumes.add(volume)
                await asyncio.sleep(0)
        self._effect("create", spec.session_id)
        self.engine.images[spec.session_id] = spec.image
        self.engine.paths[spec.session_id] = spec.path
        self.engine.runs[spec.session_id] = 0
        self.engine.sessions[spec.session_id] = Session(
            spec.session_id,
            SessionState.PENDING,
            f"streamspace-{spec.session_id}",
            port=spec.port,
            user=spec.user,
            template=spec.template,
            command_id=spec.command_id,
            epoch=spec.epoch,
            cpu=spec.cpu,
            memory=spec.memory,
            ready_check=spec.ready,
            idle_timeout=spec.idle_timeout,
            max_duration=spec.max_duration,
            created_at=self.engine.clock(),
        )
        await asyncio.sleep(0)

    async def _run(self, spec: SessionSpec, report: Report) -> Session:
        report(Progress("starting"))
        self._effect("start", spec.session_id)
        self.engine.used |= {volume for volume in self.engine.volumes if volume[0] == spec.session_id}
        session = replace(self.engine.sessions[spec.session_id], state=SessionState.RUNNING)
        self.engine.sessions[spec.session_id] = session
        self.engine.runs[spec.session_id] += 1
        report(Progress("waiting"))
        await asyncio.sleep(0)
        if spec.image == Behaviour.DIES:
            raise CommandFailed("session_ended", "the session ended with exit code 3")
        if spec.image == Behaviour.HANGS:
            await asyncio.sleep(self._ready_timeout)
            nothing = Proof(None, "nothing listened there")
            raise CommandFailed("not_ready", nothing.failure(spec.port, self._ready_timeout))
        if spec.image == Behaviour.CRASHES:
            asyncio.get_running_loop().call_later(0.5, self.engine.die, spec.session_id, "exit code 3")
        self.engine.sessions[spec.session_id] = session = replace(
            session, ready=True, ready_check=self._speaks(spec.session_id, spec.ready)
        )
        return session

    def _speaks(self, session_id: str, expected: ReadyCheck) -> ReadyCheck:
        """What its image speaks in this run. It is known here, and need not be probed."""
        image, later = self.engine.images.get(session_id), self.engine.runs.get(session_id, 0) > 1
        if expected is ReadyCheck.NONE:
            return expected
        return (
            ReadyCheck.HTTP if image == Behaviour.ANSWERS or (image == Behaviour.CHANGES and later) else ReadyCheck.VNC
        )

    async def stop(self, session_id: str, *, delete_volumes: bool = False) -> None:
        async with self._lock(session_id):
            if await self._look(session_id):
                self._remove(session_id)
                await asyncio.sleep(0)
            if delete_volumes:
                self._effect("delete", session_id)
                gone = {volume for volume in self.engine.volumes if volume[0] == session_id}
                self.engine.volumes -= gone
                self.engine.used -= gone

    async def hibernate(self, session_id: str) -> Session:
        async with self._lock(session_id):
            found = await self._need(session_id)
            if found.state is SessionState.HIBERNATED:
                return found
            if found.state is not SessionState.RUNNING:
                raise CommandFailed("not_running", f"the session cannot hibernate, it is {found.state}")
            return self._become(found, SessionState.HIBERNATED)

    async def wake(self, session_id: str, report: Report) -> Session:
        async with self._lock(session_id):
            found = await self._need(session_id)
            if found.state is SessionState.RUNNING:
                return found
            report(Progress("starting"))
            return self._become(found, SessionState.RUNNING)

    def _become(self, found: Session, state: SessionState) -> Session:
        asleep = state is SessionState.HIBERNATED
        self._effect("hibernate" if asleep else "wake", found.session_id)
        details = {"paused": True} if asleep and self._mode == "pause" else {}
        if not asleep and not found.details.get("paused"):
            self.engine.runs[found.session_id] = self.engine.runs.get(found.session_id, 1) + 1
        speaks = found.ready_check if asleep else self._speaks(found.session_id, found.ready_check)
        session = replace(found, state=state, ready=not asleep, ready_check=speaks, reason="", details=details)
        self.engine.sessions[found.session_id] = session
        return session

    async def prove(self, session_id: str) -> Session:
        found = await self._need(session_id)
        if found.state is not SessionState.RUNNING or found.ready:
            return found
        with suppress(CommandFailed):  # it does not run any more
            proof = await wait_ready(
                found.ready_check,
                lambda: self.connect(session_id, found.port),
                self._ready_timeout,
                path=self.engine.paths.get(session_id, "/"),
            )
            now = await self._need(session_id)
            if proof.found is not None and now.state is SessionState.RUNNING:
                self.engine.sessions[session_id] = replace(now, ready=True, ready_check=proof.found)
        return await self._need(session_id)

    async def inspect(self, session_id: str) -> Session | None:
        return await self._look(session_id)

    async def sessions(self) -> list[Session]:
        await self._answered()
        return list(self.engine.sessions.values())

    async def events(self) -> AsyncIterator[RuntimeEvent]:
        queue: asyncio.Queue[RuntimeEvent] = asyncio.Queue()
        self.engine.watchers.append(queue)
        try:
            if self.engine.down:
                yield RuntimeEvent(EventKind.ENGINE_DOWN, reason="the engine in memory is down")
            while self.engine.down:
                await asyncio.sleep(0.05)
            yield RuntimeEvent(EventKind.RESYNC)
            while True:
                yield await queue.get()
        finally:
            self.engine.watchers.remove(queue)

    async def connect(self, session_id: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        session = await self._need(session_id)
        if session.state is not SessionState.RUNNING:
            raise CommandFailed("not_running", f"the session does not run: it is {session.state}")
        if port != session.port or self.engine.images.get(session_id) == Behaviour.HANGS:
            raise ConnectionRefusedError(f"nothing listens on port {port}")
        ours, theirs = socket.socketpair()
        http = self._speaks(session_id, session.ready_check) is ReadyCheck.HTTP
        server = asyncio.create_task(_serve(theirs, http=http))
        self._servers.add(server)
        server.add_done_callback(self._servers.discard)
        return await asyncio.open_connection(sock=ours)

    async def leftovers(self, known: frozenset[str]) -> list[Leftover]:
        await self._answered()
        waiting = [s for s in self.engine.sessions.values() if s.state is SessionState.PENDING]
        found = [Leftover("container", s.place, "never ran", 0.0) for s in waiting if s.session_id not in known]
        unused = sorted(v for v in self.engine.volumes - self.engine.used if v[0] not in known)
        return found + [Leftover("volume", f"streamspace-{s}-{mount}", "never used", 0.0) for s, mount in unused]

    async def remove(self, leftover: Leftover) -> None:
        await self._answered()
        if leftover.kind == "volume":
            for volume in self.engine.volumes - self.engine.used:
                if leftover.name == f"streamspace-{volume[0]}-{volume[1]}":
                    self._effect("delete", volume[0])
                    self.engine.volumes.discard(volume)
            return
        for session in list(self.engine.sessions.values()):
            if session.place == leftover.name and session.state is SessionState.PENDING:
                self._remove(session.session_id)

    async def stats(self, session_id: str) -> tuple[float, int] | None:
        session = await self._look(session_id)
        return (0.0, 1024**2) if session and session.state is SessionState.RUNNING else None

    async def check(self) -> list[Problem]:
        if self.engine.down:
            return [Problem("the engine in memory is down", "set down to False")]
        return []

    async def describe(self) -> Mapping[str, str]:
        await self._answered()
        return {"engine": "memory"}

    async def aclose(self) -> None:
        for server in self._servers:
            server.cancel()
        await asyncio.gather(*self._servers, return_exceptions=True)

    def _lock(self, session_id: str) -> asyncio.Lock:
        """A real engine refuses the second of two equal names; here the second caller waits."""
        return self.engine.locks.setdefault(session_id, asyncio.Lock())

    async def _answered(self) -> None:
        await asyncio.sleep(0)
        if self.engine.down:
            raise EngineUnavailable("the engine in memory is down")

    async def _look(self, session_id: str) -> Session | None:
        await self._answered()
        return self.engine.sessions.get(session_id)

    async def _need(self, session_id: str) -> Session:
        if (found := await self._look(session_id)) is None:
            raise SessionNotFound(f"there is no session {session_id}")
        return found

    def _remove(self, session_id: str) -> None:
        self._effect("stop", session_id)
        self.engine.sessions.pop(session_id, None)

    def _effect(self, what: str, session_id: str) -> None:
        if self.engine.down:
            raise EngineUnavailable("the engine in memory is down")
        self.guard()
        self.effects.append((what, session_id))


async def _serve(end: socket.socket, *, http: bool) -> None:
    reader, writer = await asyncio.open_connection(sock=end)
    with suppress(EOFError, OSError, asyncio.LimitOverrunError):
        try:
            if http:
                await reader.readuntil(b"\r\n\r\n")
            writer.write(ANSWER if http else GREETING)
            while not http and (data := await reader.read(65536)):
                writer.write(data)
                await writer.drain()
        finally:
            writer.close()
            await writer.wait_closed()
