"""One tenure of leadership, from the lease to its end: adopt what runs, connect, take commands, watch, hand over.

Everything here belongs to one lease and is thrown away with it; the next tenure, in this process or another, starts
from the engine's objects and the journal.
"""

import asyncio
import logging
import platform
import socket
import time
from collections import Counter
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from websockets.exceptions import ConnectionClosed

from streamspace_agent import __version__, protocol
from streamspace_agent.backoff import Backoff
from streamspace_agent.capacity import Capacity
from streamspace_agent.commands import Command, Registry
from streamspace_agent.config import Settings
from streamspace_agent.dispatcher import Dispatcher
from streamspace_agent.errors import EngineUnavailable, LeaseLost, RuntimeDriverError
from streamspace_agent.faults import Faults
from streamspace_agent.journal import Journal, JournalError, Message
from streamspace_agent.lease import Lease
from streamspace_agent.link import Link, LinkDown
from streamspace_agent.outbox import Outbox
from streamspace_agent.progress import ProgressBoard
from streamspace_agent.runtime import EventKind, Progress, RuntimeDriver, RuntimeEvent, Session, SessionState

log = logging.getLogger(__name__)

RECONCILE_EVERY = 60.0
"""Seconds between comparisons of what was reported with what the engine shows."""
FLUSH_TIMEOUT = 5.0
"""Seconds that a hand-over waits for the control plane to take the last results; the rest stays in the journal."""


@dataclass(slots=True)
class HandlerContext:
    """What one command's handler may use (:class:`streamspace_agent.commands.Context`)."""

    settings: Settings
    driver: RuntimeDriver
    capacity: Capacity
    lease: Lease
    board: ProgressBoard
    tenure: "Leadership"
    states: list[Message]

    def require_lease(self) -> None:
        self.lease.require()

    def progress(self, session_id: str, step: Progress) -> None:
        self.board.show(session_id, step)

    def report(self, session: Session) -> None:
        self.board.done(session.session_id)
        self.tenure.remember(session)
        self.states.append(Message("status", protocol.status(self.tenure.stamped(session))))


@dataclass(slots=True)
class EngineStatus:
    up: bool = False
    last_error: str = ""


@dataclass(slots=True)
class Counters:
    """Over the process's life, across tenures."""

    commands: dict[tuple[str, str], int] = field(default_factory=dict)
    sessions_died: int = 0

    def by_action(self) -> dict[str, dict[str, int]]:
        """Commands finished: by action, then ``completed`` or ``failed``."""
        table: dict[str, dict[str, int]] = {}
        for (action, answer), count in list(self.commands.items()):
            table.setdefault(action, {})["completed" if answer == "complete" else "failed"] = count
        return table


class Leadership:
    """The peer of the link, the owner of the dispatcher, the reader of the engine's events."""

    def __init__(
        self,
        settings: Settings,
        lease: Lease,
        driver: RuntimeDriver,
        registry: Registry,
        link: Link,
        faults: Faults,
        counters: Counters,
    ) -> None:
        self._settings = settings
        self.lease = lease
        self._driver = driver
        self._link = link
        self._counters = counters
        self._capacity = Capacity.of(settings)
        self._journal = Journal(settings.agent_dir / "journal.db", lease.epoch)
        self.outbox = Outbox(self._journal, lease.require)
        self._board = ProgressBoard(self._send_pending)
        self.dispatcher = Dispatcher(
            registry, self._journal, self.outbox, self._context, settings, epoch=lease.epoch, faults=faults
        )
        self.dispatcher.outcomes = counters.commands
        self.sessions: dict[str, Session] = {}
        """Sessions as last reported to the control plane."""
        self.engine = EngineStatus()
        self.draining = False
        self.last_heartbeat = 0.0
        self._engine_facts: Mapping[str, str] = {}
        self._shutdown: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    # The tenure

    async def run(self) -> str:
        """Lead until the lease ends, or :meth:`shut_down` is called and everything is handed over. Returns why."""
        self._driver.guard = self.lease.require
        self.dispatcher.recover(self._journal.open_commands())
        tasks = [
            self._task(self._link.run(self), "link"),
            self._task(self._watch_engine(), "engine events"),
            self._task(self._reconcile_now_and_then(), "reconcile"),
            self._task(self._board.run(), "progress"),
        ]
        ended: asyncio.Task[str] = self._task(self.lease.ended(), "lease")
        try:
            await asyncio.wait({*tasks, ended, self._shutdown}, return_when=asyncio.FIRST_COMPLETED)
            if self._shutdown.done() and not ended.done() and self.lease.valid():
                await asyncio.wait({ended, self._task(self._hand_over(), "drain")}, return_when=asyncio.FIRST_COMPLETED)
                return self._shutdown.result()
            if ended.done():
                return ended.result()
            for task in tasks:
                if task.done():
                    task.result()  # raises what ended it: Refused, JournalError, a fault of ours
            return "a task ended"
        finally:
            if not self.lease.valid():
                self._link.abort()
            await self._stop([*tasks, ended])

    def _task(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        return asyncio.create_task(work, name=name)

    async def _stop(self, tasks: list[asyncio.Task[Any]]) -> None:
        await self.dispatcher.stop()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._journal.close()

    def shut_down(self, reason: str) -> None:
        """Begin to hand over: drain, report draining, then let :meth:`run` return."""
        if not self._shutdown.done():
            log.info("handing over: %s", reason)
            self._shutdown.set_result(reason)

    async def _hand_over(self) -> None:
        self.draining = True
        await self._heartbeat()
        await self.dispatcher.drain(self._settings.drain_timeout)
        if self._link.status.connected:
            try:
                async with asyncio.timeout(FLUSH_TIMEOUT):
                    await self.outbox.flushed()
            except TimeoutError:
                log.warning(
                    "the control plane did not take %d messages in time: they stay in the journal",
                    self.outbox.waiting,
                )

    def _context(self, command: Command, states: list[Message]) -> HandlerContext:
        del command
        return HandlerContext(self._settings, self._driver, self._capacity, self.lease, self._board, self, states)

    # The link's peer

    def require_lease(self) -> None:
        self.lease.require()

    def registration(self) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
        metadata = {
            "version": __version__,
            "hostname": socket.gethostname(),
            "python": platform.python_version(),
            "runtimeDriver": self._settings.runtime_driver,
            "electionBackend": self._settings.leader_election_backend if self._settings.enable_ha else "none",
            "epoch": self.lease.epoch,
            **self._engine_facts,
        }
        return self._capacity.as_payload(), metadata

    async def connected(self, link: Link) -> None:
        """Serve one connection: heartbeats, and whatever is in the outbox."""
        heartbeats = asyncio.create_task(self._heartbeats(), name="heartbeats")
        try:
            await self.outbox.deliver(link.send_text, link.ping)
        finally:
            heartbeats.cancel()

    async def received(self, message: protocol.Envelope | protocol.Malformed) -> None:
        if not self.lease.valid():
            return
        if isinstance(message, protocol.Malformed):
            log.warning("dropped a malformed message: %s: %s", message.reason, protocol.cut(message.text, 300))
            if message.command_id:
                self.outbox.put(
                    Message("failed", protocol.failed(message.command_id, f"malformed_message: {message.reason}"))
                )
        elif message.type == "command":
            try:
                self.dispatcher.receive(message.payload)
            except JournalError as error:
                log.error("refused a command: %s", error)  # noqa: TRY400 - the cause is known
                refusal = protocol.failed(str(message.payload["commandId"]), f"journal_unavailable: {error}")
                await self._send("failed", refusal)
        elif message.type == "ping":
            await self._send("pong", {"timestamp": message.payload.get("timestamp") or protocol.timestamp()})
        elif message.type == "shutdown":
            self.shut_down(
                f"the control plane asked for it: {protocol.cut(str(message.payload.get('reason', '')), 200)}"
            )
        else:
            log.debug("ignored a message of type %s", protocol.cut(message.type, 60))

    async def _heartbeats(self) -> None:
        while True:
            await self._heartbeat()
            await asyncio.sleep(self._settings.health_check_interval)

    async def _heartbeat(self) -> None:
        sent = await self._send(
            "heartbeat",
            {
                "status": "draining" if self.draining else "online",
                "activeSessions": self.active_sessions,
                "capacity": self._capacity.as_payload(),
            },
        )
        if sent:
            self.last_heartbeat = time.monotonic()

    @property
    def active_sessions(self) -> int:
        """Sessions that a person can use now."""
        return sum(s.state is SessionState.RUNNING and s.ready for s in self.sessions.values())

    async def _send(self, kind: str, payload: Mapping[str, Any]) -> bool:
        """Send what is worthless later: dropped when there is no connection."""
        try:
            self.lease.require()
            await self._link.send(kind, payload)
        except (LinkDown, ConnectionClosed, LeaseLost):
            return False
        return True

    async def _send_pending(self, session_id: str, step: Progress) -> None:
        await self._send("status", protocol.pending(session_id, step, self.lease.epoch))

    # The engine's side

    async def _watch_engine(self) -> None:
        """Adopt what runs, then follow the engine's events for as long as this agent leads."""
        backoff = Backoff(base=0.2, cap=10.0)
        while True:
            try:
                async for event in self._driver.events():
                    backoff.failures = 0
                    await self._on_event(event)
            except LeaseLost:
                raise
            except EngineUnavailable as error:
                self._engine_down(str(error))
            except Exception:
                log.exception("following the engine's events failed: starting again")
            await asyncio.sleep(backoff.delay())

    async def _on_event(self, event: RuntimeEvent) -> None:
        if event.kind is EventKind.ENGINE_DOWN:
            self._engine_down("it does not answer")
        elif event.kind is EventKind.RESYNC:
            await self._resync()
        elif event.session is not None and event.session.session_id not in self.dispatcher.lanes:
            self._counters.sessions_died += 1
            log.warning("session %s ended by itself: %s", event.session.session_id, event.session.reason)
            self._report(event.session)

    def _engine_down(self, error: str) -> None:
        if self.engine.up or not self.engine.last_error:
            log.warning("the engine is down: %s; commands wait for it, states are unknown until it is back", error)
        self.engine.up, self.engine.last_error = False, error
        # Commands must not wait for an adoption that may never come: they have a patience of their own.
        self.dispatcher.start()

    async def _resync(self) -> None:
        first = not self._engine_facts
        try:
            if first:
                self._engine_facts = await self._driver.describe()
            changed = await self.reconcile(adopting=first)
        except EngineUnavailable as error:
            self._engine_down(str(error))
            return
        self.engine.up, self.engine.last_error = True, ""
        log.info("the engine answers: %d sessions, %d states reported", len(self.sessions), changed)
        self.dispatcher.start()

    async def _reconcile_now_and_then(self) -> None:
        while True:
            await asyncio.sleep(RECONCILE_EVERY)
            try:
                if self.engine.up:
                    await self.reconcile()
                    await self._remove_leftovers()
                self._journal.prune()
            except (EngineUnavailable, RuntimeDriverError) as error:
                log.warning("cannot compare sessions with the engine: %s", error)

    async def reconcile(self, *, adopting: bool = False) -> int:
        """Report what the engine shows and the control plane has not been told. Returns how many states that were.

        Sessions with a command under way are left to it.
        """
        busy = self.dispatcher.lanes
        shown = {s.session_id: s for s in await self._driver.sessions()}
        changed = 0
        for session_id, session in shown.items():
            known = self.sessions.get(session_id)
            if session_id in busy or (known and (known.state, known.ready) == (session.state, session.ready)):
                continue
            if session.state is SessionState.PENDING and not adopting:
                continue
            self._report(session)
            changed += 1
        for session_id in self.sessions.keys() - shown.keys() - busy:
            if self.sessions[session_id].state in {SessionState.TERMINATED, SessionState.FAILED}:
                del self.sessions[session_id]
                continue
            self._report(
                Session(
                    session_id, SessionState.TERMINATED, "", reason="it was removed from the engine by somebody else"
                )
            )
            changed += 1
        return changed

    async def _remove_leftovers(self) -> None:
        known = frozenset(self.sessions) | self.dispatcher.lanes
        for leftover in await self._driver.leftovers(known):
            self.lease.require()
            log.info("removing a left-over %s %s: %s", leftover.kind, leftover.name, leftover.reason)
            await self._driver.remove(leftover)

    def _report(self, session: Session) -> None:
        self.remember(session)
        self.outbox.put(Message("status", protocol.status(self.stamped(session))))

    def remember(self, session: Session) -> None:
        if session.state is SessionState.TERMINATED:
            self.sessions.pop(session.session_id, None)
        else:
            self.sessions[session.session_id] = session

    def stamped(self, session: Session) -> Session:
        """The epoch of a report is the reporter's, not that of the session's first start."""
        return replace(session, epoch=self.lease.epoch)

    def count_by_state(self) -> dict[str, int]:
        """May be called from any thread."""
        return dict(Counter(str(session.state) for session in list(self.sessions.values())))
