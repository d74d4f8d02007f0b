"""Announces to the control plane what the engine shows: follows events, compares, and removes leftovers.

To announce is to send a session's state. To adopt is to take up a session whose state need not be announced.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from streamspace_agent import logs, protocol
from streamspace_agent.backoff import Backoff
from streamspace_agent.controlplane.outbox import Outbox
from streamspace_agent.election.lease import Lease
from streamspace_agent.errors import CommandFailed, JournalError, LeaseLost, RuntimeDriverError, SessionNotFound
from streamspace_agent.journal import Journal
from streamspace_agent.protocol import Message
from streamspace_agent.runtime import EventKind, ReadyCheck, RuntimeDriver, RuntimeEvent, Session, SessionState
from streamspace_agent.sessions.table import SessionTable
from streamspace_agent.units import counted

log = logging.getLogger(__name__)

READY_PATIENCE = 3.0
"""Seconds in which a session may prove that it can be used, in one comparison; the next one asks again."""
EVERY = 60.0
"""Seconds between comparisons of what was announced with what the engine shows."""
SOON = 5.0
"""The same while a running session has not proved that it can be used."""

GONE = "it was removed from the engine, not by this agent"
NOTHING_CAME = "nothing came of its start; the command's own error says why"


@dataclass(slots=True)
class EngineStatus:
    up: bool = False
    last_error: str = ""


@dataclass(eq=False)
class Reconciler:
    """Compares what the engine shows with what was announced, for one leadership."""

    _driver: RuntimeDriver
    _outbox: Outbox
    _lease: Lease
    _journal: Journal
    """It holds what any leadership announced."""
    sessions: SessionTable
    _on_state: Callable[[Session], None]
    """Called with each new state of a session, before it is announced."""
    _newer: set[str] = field(default_factory=set)
    """Sessions announced since the current comparison began: what the engine showed it may be older."""
    _comparing: asyncio.Lock = field(default_factory=asyncio.Lock)
    engine: EngineStatus = field(default_factory=EngineStatus)
    engine_asked: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once the engine has answered or failed to answer: from then on commands may run."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """The engine's description for the registration; empty until it has answered."""
    described: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once ``facts`` is known."""

    def announcement(self, session: Session) -> Message:
        """The message that announces a session's state. Call :meth:`announced` once it is in the journal."""
        self._on_state(session)
        # The epoch is that of this leadership, not that of the session's first start.
        reported = replace(session, epoch=self._lease.epoch, reason=logs.redact(session.reason))
        return Message("status", protocol.status(reported))

    def announced(self, session: Session) -> None:
        """Note what was announced. Not before it is in the journal: it would not be announced again."""
        self._newer.add(session.session_id)
        self.sessions.pending.discard(session.session_id)
        self._take(session)

    def _take(self, session: Session) -> None:
        if session.state is SessionState.TERMINATED:
            self.sessions.pop(session.session_id, None)
        else:
            self.sessions[session.session_id] = session

    def _adopt(self, session: Session) -> None:
        self._on_state(session)
        self._take(session)

    def _announce(self, session: Session) -> None:
        self._outbox.put(self.announcement(session))
        self.announced(session)

    async def follow(self) -> None:
        """Adopt what runs, then follow the engine's events, until cancelled."""
        backoff = Backoff(base=0.2, cap=5.0)
        complaint = ""
        while True:
            try:
                async for event in self._driver.events():
                    await self._on_event(event)
                    backoff.failures, complaint = 0, ""
            except LeaseLost:
                raise
            except JournalError as error:
                if str(error) != complaint:  # logged once, since the log's own disk may be full
                    log.warning("states wait to be reported: %s", error)
                complaint = str(error)
            except RuntimeDriverError as error:
                self._engine_down(str(error))
            except Exception as error:
                if repr(error) != complaint:
                    log.exception("following the engine's events failed: starting again")
                complaint = repr(error)
                self._engine_down(f"{type(error).__name__}: {error}")
            await asyncio.sleep(backoff.delay())

    async def _on_event(self, event: RuntimeEvent) -> None:
        if event.kind is EventKind.ENGINE_DOWN:
            self._engine_down(event.reason or "it does not answer")
        elif event.kind is EventKind.RESYNC:
            await self._resync()
        elif event.session is not None and event.session.session_id not in self.sessions.busy:
            session = event.session
            with logs.bind(session=session.session_id):
                log.warning("session %s ended by itself: %s", session.session_id, logs.brief(session.reason))
            self._announce(session)

    def _engine_down(self, error: str) -> None:
        if error != self.engine.last_error:
            log.warning("the engine is down: %s; commands wait for it, states are unknown until it is back", error)
        self.engine.up, self.engine.last_error = False, error
        self.engine_asked.set()

    async def _resync(self) -> None:
        """Compare, at first or after an outage. Raises the engine's errors: :meth:`follow` then tries again."""
        if not self.facts:
            self.facts = await self._driver.describe()
            self.described.set()
        changed = await self.reconcile(adopting=not self.sessions.adopted.is_set())
        self.sessions.adopted.set()
        self.engine.up, self.engine.last_error = True, ""
        log.info(
            "the engine answers: %s, %s reported", counted(len(self.sessions), "session"), counted(changed, "state")
        )
        self.engine_asked.set()

    async def repeat(self) -> None:
        """Compare and remove leftovers every EVERY seconds, or SOON where needed, until cancelled."""
        waited, complaint = 0.0, ""
        while True:
            await asyncio.sleep(SOON)
            waited += SOON
            if waited < EVERY and not (
                any(map(_unproved, self.sessions.values())) or self.sessions.pending - self.sessions.busy
            ):
                continue
            waited = 0.0
            try:
                if self.engine.up:
                    await self.reconcile()
                    await self._remove_leftovers()
                    complaint = ""
            except (RuntimeDriverError, JournalError) as error:
                log.warning("cannot compare sessions with the engine: %s", error)
            except LeaseLost:
                raise
            except Exception as error:  # such as an odd answer of the engine: it must not end the leadership
                if repr(error) != complaint:
                    log.exception("comparing sessions with the engine failed: trying again later")
                complaint = repr(error)

    async def reconcile(self, *, adopting: bool = False) -> int:
        """Announce what the engine shows and was not announced yet. Returns the number of states announced."""
        async with self._comparing:
            return await self._compare(adopting=adopting)

    async def _compare(self, *, adopting: bool) -> int:
        self._newer, before = set(), set(self.sessions.busy)
        shown = {s.session_id: s for s in await self._driver.sessions()}
        announced = self._journal.announced()
        busy = before.union(self.sessions.busy, self._newer)
        reports: list[Session] = []
        for session_id, session in shown.items():
            unborn = session.state is SessionState.PENDING and not adopting
            if session_id in busy or unborn:
                continue
            if _unproved(session) or not self._heard(session, announced, adopting=adopting):
                reports.append(session)
            elif not _same(self.sessions.get(session_id), session):
                self._adopt(session)
        over = {i for i, said in announced.items() if said.startswith(f"{SessionState.FAILED} ")}
        expected = self.sessions.keys() | self.sessions.pending | (announced.keys() if adopting else set())
        ended: list[str] = []
        for session_id in expected - shown.keys() - busy:
            last = self.sessions.get(session_id)
            if session_id in over and session_id not in self.sessions.pending:  # its end was reported
                self.sessions.pop(session_id, None)
                ended.append(session_id)
            elif last is None and session_id in self.sessions.pending:
                reports.append(Session(session_id, SessionState.FAILED, "", reason=NOTHING_CAME))
            else:
                reports.append(Session(session_id, SessionState.TERMINATED, "", reason=GONE))
        if ended:
            self._journal.forget(ended)
        reports = await asyncio.gather(*(self._proved(session) for session in reports))
        announced, newer = self._journal.announced(), self._newer.union(self.sessions.busy)
        changed = 0
        for session in reports:
            if session.session_id in newer:
                continue
            if self._heard(session, announced, adopting=adopting):
                self._adopt(session)
            else:
                self._log_change(session)
                self._announce(session)
                changed += 1
        return changed

    def _heard(self, session: Session, announced: Mapping[str, str], *, adopting: bool) -> bool:
        """Whether this state was the last announced. To announce it again would overwrite what people asked for since.

        A session that another process saw ready gets a little longer to prove it to this one.
        """
        if session.session_id in self.sessions.pending:
            return False
        now, before = _summary(session), announced.get(session.session_id, "")
        if not adopting:
            # The place counts only after a change of process: this one may learn more of it as the session runs.
            return now.split()[:2] == before.split()[:2]
        return now == before or (_unproved(session) and _summary(replace(session, ready=True)) == before)

    def _log_change(self, session: Session) -> None:
        """Log a change that no event reported. At the adoption, sessions that run or hibernate are only counted."""
        known = self.sessions.get(session.session_id)
        ended = session.state in {SessionState.FAILED, SessionState.TERMINATED}
        if ended or (known is not None and known.state is not session.state):
            with logs.bind(session=session.session_id):
                why = f": {logs.brief(session.reason)}" if session.reason else ""
                log.warning("session %s was found %s%s", session.session_id, session.state, why)

    async def _proved(self, session: Session) -> Session:
        """Ask a running session that this process has not seen usable to prove it. Returns the session after that."""
        if not _unproved(session):
            return session
        problem = "no answer in time"
        try:
            async with asyncio.timeout(READY_PATIENCE):
                now = await self._driver.prove(session.session_id)
            if now.ready or now.state is not SessionState.RUNNING:
                return now
        except TimeoutError:
            pass
        except SessionNotFound:
            return replace(session, state=SessionState.TERMINATED, reason=GONE)
        except (RuntimeDriverError, CommandFailed) as error:
            problem = str(error)
        if not _same(self.sessions.get(session.session_id), session):
            log.warning("session %s runs, but cannot be used: %s", session.session_id, problem)
        return session

    async def _remove_leftovers(self) -> None:
        # A container that never ran, without a command for it, is no session.
        real = {i for i, session in self.sessions.items() if session.state is not SessionState.PENDING}
        known = frozenset(real | self.sessions.busy)
        for leftover in await self._driver.leftovers(known):
            self._lease.require()
            log.info("removing a left-over %s %s: %s", leftover.kind, leftover.name, leftover.reason)
            await self._driver.remove(leftover)


def _summary(session: Session) -> str:
    return protocol.announced(protocol.status(session))


def _unproved(session: Session) -> bool:
    """Whether the session runs and was not seen to be usable yet."""
    return session.state is SessionState.RUNNING and not session.ready and session.ready_check is not ReadyCheck.NONE


def _same(known: Session | None, session: Session) -> bool:
    return known is not None and (known.state, known.ready) == (session.state, session.ready)
