"""One leadership, from the lease to its end: adopt what runs, connect, take commands, watch, hand over.

Everything here belongs to one lease and is thrown away with it; the next leadership, in this process or another, starts
from the engine's objects and the journal.
"""

import asyncio
import contextlib
import logging
import platform
import socket
import time
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from websockets.exceptions import ConnectionClosed

from streamspace_agent import __version__, protocol
from streamspace_agent.clock import BoottimeClock
from streamspace_agent.commands import Registry
from streamspace_agent.commands.answers import Answers
from streamspace_agent.commands.capacity import Capacity
from streamspace_agent.commands.counters import Counters
from streamspace_agent.commands.dispatcher import Dispatcher
from streamspace_agent.commands.executor import Executor
from streamspace_agent.commands.jobs import Report
from streamspace_agent.commands.repeats import Repeats
from streamspace_agent.config import Settings
from streamspace_agent.controlplane.link import Link, until_one_ends
from streamspace_agent.controlplane.outbox import Outbox
from streamspace_agent.election.lease import Lease
from streamspace_agent.errors import JournalError, LeaseLost, LinkDown
from streamspace_agent.faults import Faults
from streamspace_agent.gateway import Gateway, GatewayContext, keep_serving
from streamspace_agent.inbox import Inbox
from streamspace_agent.journal import Journal
from streamspace_agent.runtime import Progress, RuntimeDriver, Session
from streamspace_agent.sessions.heartbeat import Heartbeats
from streamspace_agent.sessions.idle import Idle
from streamspace_agent.sessions.progress import ProgressBoard
from streamspace_agent.sessions.reconciler import Reconciler
from streamspace_agent.sessions.table import SessionTable
from streamspace_agent.sessions.time_limits import TimeLimits
from streamspace_agent.sessions.usage import Usage
from streamspace_agent.tunnel.deployed.tunnels import DeployedTunnels
from streamspace_agent.tunnel.multiplexer import Multiplexer
from streamspace_agent.tunnel.repaired.tunnels import RepairedTunnels
from streamspace_agent.tunnel.tunnels import Tunnels
from streamspace_agent.units import counted, format_seconds

log = logging.getLogger(__name__)

PRUNE_EVERY = 3600.0
FIRST_PRUNE = 30.0
"""Seconds from a leadership's beginning to its first pruning: each leadership may last less than an hour."""
CHECKPOINT_EVERY = 5.0
HEAD_START = 0.5
"""Seconds that the first call of the engine waits for the link, at most: that call loads the engine's SDK, and would
make a takeover 0.1 to 0.3 s longer until the control plane sees a leader."""
CLOSE_PATIENCE = 15.0
"""Seconds that a hand-over waits for the journal to close, since the next leader would find it locked."""
LAST_PATIENCE = 0.2
"""The same once the lease is over: the watchdog ends a process that goes on for longer."""
FLUSH_TIMEOUT = 5.0
"""Seconds that a hand-over waits until the last results are acknowledged; the rest stays in the journal."""


@dataclass(slots=True)
class HandlerContext:
    """What one command's handler may use (:class:`~streamspace_agent.commands.Context`)."""

    settings: Settings
    driver: RuntimeDriver
    capacity: Capacity
    lease: Lease
    board: ProgressBoard
    reconciler: Reconciler
    tunnels: Tunnels
    reports: list[Report]
    """What the handler reports is appended here."""

    def require_lease(self) -> None:
        self.lease.require()

    def progress(self, session_id: str, step: Progress) -> None:
        self.board.show(session_id, step)

    def report(self, session: Session) -> None:
        self.board.done(session.session_id)
        self.tunnels.note(session, fresh=True)
        announcement = self.reconciler.announcement(session)
        self.reports.append(Report(announcement, lambda: self.reconciler.announced(session)))


class Leadership:
    """All that one leader runs, and the link's :class:`~streamspace_agent.controlplane.link.Peer`.

    A command's way: link, :class:`Inbox`, :class:`Dispatcher` (which records it with :class:`Answers` in the journal),
    :class:`Executor`, its handler, :class:`Answers` again, :class:`Outbox`, link.
    """

    def __init__(
        self,
        settings: Settings,
        lease: Lease,
        journal: Journal,
        driver: RuntimeDriver,
        registry: Registry,
        link: Link,
        gateway: Gateway | None,
        faults: Faults,
        counters: Counters,
        link_patience: float | None,
    ) -> None:
        """``journal`` is closed by :meth:`run`.

        ``link_patience`` is the seconds without a link after which leadership is given up; None for never.
        """
        if settings.enable_ha and journal.previous_epoch != lease.follows:
            journal.doubt()  # another host's replica led in between
        self._settings, self.lease, self._journal, self._driver, self._link = settings, lease, journal, driver, link
        self.link_patience = link_patience
        self._began = time.monotonic()
        self.ends_agent = False
        """Set if the control plane asked this agent to shut down: the process ends after the hand-over."""
        self.gave_up = False
        """Set if it ended for want of a link: another replica may have one."""
        self._shutdown: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        # What is sent, and what is shared
        clock, epoch, send = BoottimeClock(), lease.epoch, partial(_send_or_drop, link, lease)
        capacity = Capacity.of(settings)
        self._capacity = capacity.as_payload()
        self.outbox = Outbox(journal, lease.require)
        self.sessions = SessionTable()
        relay = RepairedTunnels if settings.viewer_relay == "repaired" else DeployedTunnels
        self.tunnels = relay(driver.connect, Multiplexer(lease.require, self.outbox.flushed, clock), clock)

        # The sessions, as the engine shows them and as they are announced
        self.board = ProgressBoard(send, self.sessions, epoch)
        self.reconciler = Reconciler(driver, self.outbox, lease, journal, self.sessions, self.tunnels.note)

        # Commands, from their receipt to their answers
        self._repeats = Repeats(journal, self.outbox)
        answers = Answers(journal, self.outbox, self._repeats)
        context = partial(HandlerContext, settings, driver, capacity, lease, self.board, self.reconciler, self.tunnels)
        executor, slots = Executor(answers, context, counters, faults), settings.command_concurrency
        self.dispatcher = Dispatcher(registry, answers, executor, self.board, self.sessions, slots, epoch)
        self._inbox = Inbox(self.dispatcher, answers, self.tunnels, send, self._asked_to_shut_down)

        # What happens by the clock
        self._idle = Idle(self.sessions, self.tunnels.idle_for, driver.received, clock, gateway)
        self._time_limits = TimeLimits(self.sessions, self._idle.idle_for, self.dispatcher.run_internal, clock)
        self._usage = Usage(driver, self.sessions)
        self.heartbeats = Heartbeats(send, self.sessions, self.tunnels.works, self._usage, self._capacity, epoch)

        # Web desktops
        self._gateway = gateway
        self._gateway_context = GatewayContext(
            self.sessions,
            self.sessions.busy.copy,
            self.sessions.adopted.is_set,
            driver.connect,
            self._idle.saw_input,
            clock,
        )

    async def run(self) -> str:
        """Lead until the lease ends, or :meth:`shut_down` is called and everything is handed over. Returns why.

        Raises JournalError where the journal is of no more use.
        """
        self._driver.guard = self.lease.require
        self._repeats.recover()
        self.dispatcher.recover(self._journal.open_commands())
        web = _task(keep_serving(self._gateway, self._gateway_context), "gateway")
        tasks = [
            web,
            _task(self._link.run(self), "link"),
            _task(self._follow_engine(), "engine events"),
            _task(self._start_commands(), "start of commands"),
            _task(self.reconciler.repeat(), "reconcile"),
            _task(self._prune_now_and_then(), "prune"),
            _task(self.board.run(), "progress"),
            _task(self._time_limits.run(), "time limits"),
            _task(self._idle.run(), "idle"),
            _task(self._usage.run(self._settings.usage_interval), "usage"),
            _task(self._repeats.run(), "repeats"),
            _task(self._give_up_without_link(), "link watch"),
        ]
        ended: asyncio.Task[str] = _task(self.lease.ended(), "lease")
        damage: asyncio.Task[JournalError] = _task(self._journal.damage(), "journal")
        try:
            await asyncio.wait({*tasks, ended, self._shutdown, damage}, return_when=asyncio.FIRST_COMPLETED)
            if self._shutdown.done() and not ended.done() and self.lease.valid():
                tasks.append(_task(self._hand_over(), "drain"))
                await asyncio.wait({ended, tasks[-1]}, return_when=asyncio.FIRST_COMPLETED)
                return self._shutdown.result()
            if ended.done():
                return ended.result()
            if damage.done():
                raise damage.result()
            for task in tasks:
                if task.done():
                    task.result()  # raises what ended it: Refused, JournalError, a fault of ours
            return "a task ended"
        finally:
            if not self.lease.valid():
                self._link.abort()
            web.cancel()  # before commands are stopped, which may take a moment: its address is the next leader's
            await self._stop([*tasks, ended, damage])

    async def _follow_engine(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(HEAD_START):
                await self._link.wait_connected()
        await self.reconciler.follow()

    async def _start_commands(self) -> None:
        await self.reconciler.engine_asked.wait()
        self.dispatcher.start()
        await asyncio.Event().wait()

    async def _stop(self, tasks: list[asyncio.Task[Any]]) -> None:
        await self.dispatcher.stop()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.tunnels.aclose()
        patience = CLOSE_PATIENCE if self.lease.valid() else LAST_PATIENCE
        try:
            async with asyncio.timeout(patience):
                await asyncio.to_thread(self._journal.close)
        except TimeoutError:
            log.warning(
                "STATE_DIR: the journal is not closed after %s: not waiting for its disk", format_seconds(patience)
            )

    def shut_down(self, reason: str) -> None:
        """Begin to hand over: drain, report draining, then let :meth:`run` return."""
        if not self._shutdown.done():
            log.info("handing over: %s", reason)
            self._shutdown.set_result(reason)

    def _asked_to_shut_down(self, reason: str) -> None:
        self.ends_agent = True
        self.shut_down(f"the control plane asked for it: {reason}")

    async def _give_up_without_link(self) -> None:
        """Hand over once the control plane has been out of reach for too long: another replica may reach it."""
        while self.link_patience is not None:
            status = self._link.status
            down = 0.0 if status.connected else time.monotonic() - max(status.down_since, self._began)
            if down >= self.link_patience:
                self.gave_up = True
                self.shut_down(f"no link to the control plane for {format_seconds(down)}: {status.last_error}")
                break
            await asyncio.sleep(min(1.0, self.link_patience - down))
        await asyncio.Event().wait()

    async def _hand_over(self) -> None:
        self.heartbeats.draining = True
        with contextlib.suppress(TimeoutError):  # a blocked socket must not prevent the hand-over
            async with asyncio.timeout(FLUSH_TIMEOUT):
                await self.heartbeats.beat()
        await self.dispatcher.drain(self._settings.drain_timeout)
        with contextlib.suppress(JournalError):
            self._repeats.flush()
        if self._link.status.connected:
            try:
                async with asyncio.timeout(FLUSH_TIMEOUT):
                    await self.outbox.flushed()
            except TimeoutError:
                log.warning(
                    "the control plane did not acknowledge %s in time: what is left stays in the journal",
                    counted(self.outbox.waiting, "message"),
                )
        await self._link.finish()  # still receives and refuses a command on its way; the next leader sends the answer

    async def _prune_now_and_then(self) -> None:
        due = time.monotonic() + FIRST_PRUNE
        while True:
            await asyncio.sleep(min(CHECKPOINT_EVERY, FIRST_PRUNE))
            await self._journal.checkpoint()
            if time.monotonic() < due:
                continue
            due = time.monotonic() + PRUNE_EVERY
            try:
                await self._journal.prune()
                await self._journal.checkpoint(all_of_it=True)
            except JournalError as error:
                log.warning("cannot forget old answers: %s", error)

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
            "leader": self.lease.record.holder,
            "epoch": self.lease.epoch,
            **self.reconciler.facts,
        }
        return self._capacity, metadata

    async def described(self) -> None:
        await self.reconciler.described.wait()

    async def connected(self, link: Link) -> None:
        await until_one_ends(
            self.heartbeats.run(self._settings.health_check_interval),
            self.outbox.deliver(link.send_text, link.ping),
            self.tunnels.serve(link),
        )

    async def received(self, message: protocol.Message | protocol.Malformed) -> None:
        if self.lease.valid():
            await self._inbox.received(message)


def _task(work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
    return asyncio.create_task(work, name=name)


async def _send_or_drop(link: Link, lease: Lease, kind: str, payload: Mapping[str, Any]) -> bool:
    """Send what is of no use later: it is dropped when there is no connection."""
    try:
        lease.require()
        await link.send(kind, payload)
    except (LinkDown, ConnectionClosed, LeaseLost):
        return False
    return True
