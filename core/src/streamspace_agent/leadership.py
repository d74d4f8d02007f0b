"""One tenure of leadership, from the lease to its end: adopt what runs, connect, take commands, watch, hand over.

Everything here belongs to one lease and is thrown away with it; the next tenure, in this process or another, starts
from the engine's objects and the journal.
"""

import asyncio
import contextlib
import logging
import platform
import socket
import time
from collections.abc import Coroutine, Mapping
from typing import Any

from websockets.exceptions import ConnectionClosed

from streamspace_agent import __version__, logs, protocol
from streamspace_agent.clock import BoottimeClock
from streamspace_agent.commands import Command, Registry
from streamspace_agent.commands.capacity import Capacity
from streamspace_agent.commands.context import HandlerContext
from streamspace_agent.commands.dispatcher import Dispatcher
from streamspace_agent.commands.jobs import Counters, State
from streamspace_agent.commands.repeats import Repeats
from streamspace_agent.config import Settings
from streamspace_agent.controlplane.link import Link, raise_worst
from streamspace_agent.controlplane.outbox import Outbox
from streamspace_agent.election.lease import Lease
from streamspace_agent.errors import CommandFailed, JournalError, LeaseLost, LinkDown
from streamspace_agent.faults import Faults
from streamspace_agent.gateway import Gateway, GatewayContext, keep_serving
from streamspace_agent.journal import FILE, Journal, Message
from streamspace_agent.protocol import START, WAKE
from streamspace_agent.runtime import Progress, RuntimeDriver, SessionState
from streamspace_agent.sessions.heartbeat import Heartbeats
from streamspace_agent.sessions.idle import Idle
from streamspace_agent.sessions.progress import ProgressBoard
from streamspace_agent.sessions.reconciler import Reconciler
from streamspace_agent.sessions.timeouts import Timeouts
from streamspace_agent.sessions.usage import Usage
from streamspace_agent.tunnel.deployed.tunnels import DeployedTunnels
from streamspace_agent.tunnel.multiplexer import Multiplexer
from streamspace_agent.tunnel.repaired.tunnels import RepairedTunnels
from streamspace_agent.units import counted, format_seconds

log = logging.getLogger(__name__)

PRUNE_EVERY = 3600.0
FIRST_PRUNE = 30.0
"""Seconds from a leadership's beginning to its first look at what may be forgotten: it may be over within the hour, each time."""
CHECKPOINT_EVERY = 5.0
HEAD_START = 0.5
"""Seconds that the engine waits at most for the link: its SDK is loaded at the first call (a standby has no use for it), and
that would make a takeover 0.1 to 0.3 s longer until the control plane sees a leader."""
NOT_BASE64 = "?"
CLOSE_PATIENCE = 15.0
"""Seconds that a hand-over waits for the disk to close the journal, whose next leader would find it locked."""
LAST_PATIENCE = 0.2
"""The same where the lease is over: the process is ended soon if it does not let go."""
FLUSH_TIMEOUT = 5.0
"""Seconds that a hand-over waits for the control plane to take the last results; the rest stays in the journal."""


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
        *,
        link_patience: float | None = None,
        gateway: Gateway | None = None,
        journal: Journal | None = None,
    ) -> None:
        """``journal`` is closed here. ``link_patience``: seconds without a link after which leadership is given up; None for never."""
        self._settings = settings
        self.link_patience = link_patience
        self._began = time.monotonic()
        self.lease = lease
        self._driver = driver
        self._link = link
        self._counters = counters
        self._capacity = Capacity.of(settings)
        self._journal = journal or Journal(settings.agent_dir / FILE, lease.epoch)
        if settings.enable_ha and self._journal.previous_epoch != lease.follows:
            self._journal.doubt()  # another host's replica led in between
        self.outbox = Outbox(self._journal, lease.require)
        self._repeats = Repeats(self._journal, self.outbox)
        self.dispatcher = Dispatcher(
            registry,
            self._journal,
            self.outbox,
            self._context,
            settings,
            epoch=lease.epoch,
            faults=faults,
            repeats=self._repeats,
        )
        self._board = ProgressBoard(self._send_pending, lambda: self.dispatcher.lanes)
        self.dispatcher.outcomes = counters.commands
        self.dispatcher.on_wait = self._show_waiting
        self.reconciler = Reconciler(
            driver,
            self.outbox,
            lease,
            journal=self._journal,
            busy=lambda: self.dispatcher.lanes,
            settled=self.dispatcher.start,
        )
        clock = BoottimeClock()
        kind = RepairedTunnels if settings.viewer_relay == "repaired" else DeployedTunnels
        self.tunnels = kind(driver.connect, Multiplexer(lease.require, self.outbox.flushed, clock), clock)
        self.reconciler.on_state = self.tunnels.note
        self._idle = Idle(self.reconciler.sessions, self.tunnels.idle_for, driver.received, clock, gateway)
        self._timeouts = Timeouts(
            self.reconciler.sessions,
            self._idle.idle_for,
            self.dispatcher.order,
            clock,
            busy=lambda: self.dispatcher.lanes,
        )
        self._web = GatewayContext(
            self.reconciler.sessions,
            lambda: self.dispatcher.lanes,
            lambda: self.reconciler.adopted,
            driver.connect,
            self._idle.saw_input,
            clock,
        )
        self._gateway = gateway
        self._usage = Usage(driver, self.reconciler.sessions, busy=lambda: self.dispatcher.lanes)
        self.heartbeats = Heartbeats(self._usage, self._heartbeat, self._send)
        self.draining = False
        self.ends_agent = False
        """The hand-over is for good: the control plane asked this agent to shut down."""
        self.gave_up = False
        """It ended for want of a link: another replica may have one."""
        self._shutdown: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._damage: asyncio.Future[JournalError] = asyncio.get_running_loop().create_future()
        self._journal.on_damage = self._journal_damaged

    async def run(self) -> str:
        """Lead until the lease ends, or :meth:`shut_down` is called and everything is handed over. Returns why.

        Raises JournalError where the journal is of no more use.
        """
        self._driver.guard = self.lease.require
        self._repeats.recover()
        self.dispatcher.recover(self._journal.open_commands())
        web = self._task(keep_serving(self._gateway, self._web), "gateway")
        tasks = [
            web,
            self._task(self._link.run(self), "link"),
            self._task(self._adopt_after_link(), "engine events"),
            self._task(self.reconciler.repeat(), "reconcile"),
            self._task(self._prune_now_and_then(), "prune"),
            self._task(self._board.run(), "progress"),
            self._task(self._timeouts.run(), "timeouts"),
            self._task(self._idle.run(), "idle"),
            self._task(self._usage.run(self._settings.usage_interval), "usage"),
            self._task(self._repeats.run(), "repeats"),
            self._task(self._give_up_without_link(), "link watch"),
        ]
        ended: asyncio.Task[str] = self._task(self.lease.ended(), "lease")
        try:
            await asyncio.wait({*tasks, ended, self._shutdown, self._damage}, return_when=asyncio.FIRST_COMPLETED)
            if self._shutdown.done() and not ended.done() and self.lease.valid():
                tasks.append(self._task(self._hand_over(), "drain"))
                await asyncio.wait({ended, tasks[-1]}, return_when=asyncio.FIRST_COMPLETED)
                return self._shutdown.result()
            if ended.done():
                return ended.result()
            if self._damage.done():
                raise self._damage.result()
            for task in tasks:
                if task.done():
                    task.result()  # raises what ended it: Refused, JournalError, a fault of ours
            return "a task ended"
        finally:
            if not self.lease.valid():
                self._link.abort()
            web.cancel()  # before commands are stopped, which may take a moment: its address is the next leader's
            await self._stop([*tasks, ended])

    def _task(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        return asyncio.create_task(work, name=name)

    async def _adopt_after_link(self) -> None:
        until = time.monotonic() + HEAD_START
        while not self._link.status.connected and time.monotonic() < until:
            await asyncio.sleep(0.005)
        await self.reconciler.follow()

    async def _stop(self, tasks: list[asyncio.Task[Any]]) -> None:
        await self.dispatcher.stop()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.tunnels.aclose()
        patience = CLOSE_PATIENCE if self.lease.valid() else LAST_PATIENCE
        try:
            async with asyncio.timeout(patience):
                await self._journal.aclose()
        except TimeoutError:
            log.warning(
                "STATE_DIR: the journal is not closed after %s: not waiting for its disk", format_seconds(patience)
            )

    def _journal_damaged(self, error: JournalError) -> None:
        if not self._damage.done():
            self._damage.set_result(error)

    def shut_down(self, reason: str) -> None:
        """Begin to hand over: drain, report draining, then let :meth:`run` return."""
        if not self._shutdown.done():
            log.info("handing over: %s", reason)
            self._shutdown.set_result(reason)

    async def _give_up_without_link(self) -> None:
        """No zombie leaders: one that cannot reach the control plane lets another replica try."""
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
        self.draining = True
        with contextlib.suppress(TimeoutError):  # a socket that takes nothing keeps nobody from handing over
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
                    "the control plane did not take %s in time: what it did not take stays in the journal",
                    counted(self.outbox.waiting, "message"),
                )
        await self._link.finish()  # a command on its way is refused by the next leader, not lost

    def _context(self, command: Command, states: list[State]) -> HandlerContext:
        del command
        return HandlerContext(
            self._settings, self._driver, self._capacity, self.lease, self._board, self.reconciler, self.tunnels, states
        )

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
        return self._capacity.as_payload(), metadata

    async def described(self) -> None:
        await self.reconciler.described.wait()

    async def connected(self, link: Link) -> None:
        """Serve one connection: heartbeats, whatever is in the outbox, and viewers."""
        tasks = [
            self._task(self.heartbeats.run(self._settings.health_check_interval), "heartbeats"),
            self._task(self.outbox.deliver(link.send_text, link.ping), "outbox"),
            self._task(self.tunnels.serve(link), "tunnels"),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            raise_worst(done)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def received(self, message: protocol.Envelope | protocol.Malformed) -> None:
        if not self.lease.valid():
            return
        if isinstance(message, protocol.Malformed):
            log.warning("dropped a malformed message: %s: %s", message.reason, logs.redact(message.text)[:300])
            await self._refuse(message.command_id, f"malformed_message: {message.reason}")
            if message.session_id:  # a stream with a hole in it is of no use any more
                await self.tunnels.data({"sessionId": message.session_id, "data": NOT_BASE64})
        elif message.type == "vnc_data":
            await self.tunnels.data(message.payload)
        elif message.type == "vnc_close":
            self.tunnels.closed(message.payload)
        elif message.type == "command":
            await self._command(message.payload)
        elif message.type == "ping":
            stamp = message.payload.get("timestamp")
            usable = isinstance(stamp, str) and len(stamp) <= 100
            await self._send("pong", {"timestamp": stamp if usable else protocol.timestamp()})
        elif message.type == "shutdown":
            self.ends_agent = True
            self.shut_down(
                f"the control plane asked for it: {protocol.cut(str(message.payload.get('reason', '')), 200)}"
            )
        else:
            log.debug("ignored a message of type %s", protocol.cut(message.type, 60))

    async def _command(self, payload: Mapping[str, Any]) -> None:
        try:
            self.dispatcher.receive(payload)
        except LeaseLost:
            raise
        except JournalError as error:
            log.error("refused a command: %s", error)  # noqa: TRY400 - the cause is known
            await self._refuse(protocol.usable_id(payload.get("commandId")), f"journal_unavailable: {error}")
        except CommandFailed as error:
            await self._refuse(protocol.usable_id(payload.get("commandId")), str(error))
        except Exception as error:  # no message, however odd, may cost the connection
            log.exception("refused a command")
            problem = f"internal_error: {type(error).__name__}; the agent's log has more"
            await self._refuse(protocol.usable_id(payload.get("commandId")), problem)

    async def _refuse(self, command_id: str, problem: str) -> None:
        """Answer what never became a command; at least over this connection where the journal cannot keep the answer."""
        if not command_id:
            return
        answer = Message("failed", protocol.failed(command_id, problem))
        self._repeats.arrived(command_id, answer)
        try:
            self.outbox.put(answer)
        except JournalError:
            await self._send(answer.type, answer.payload)

    def _heartbeat(self) -> dict[str, Any]:
        return {
            "status": "draining" if self.draining else "online",
            "activeSessions": sum(map(self.tunnels.works, self.reconciler.sessions.values())),
            "capacity": self._capacity.as_payload(),
            "epoch": self.lease.epoch,
        }

    async def _send(self, kind: str, payload: Mapping[str, Any]) -> bool:
        """Send what is worthless later: dropped when there is no connection."""
        try:
            self.lease.require()
            await self._link.send(kind, payload)
        except (LinkDown, ConnectionClosed, LeaseLost):
            return False
        return True

    def _show_waiting(self, command: Command) -> None:
        """A start that waits for its turn tells a step like any other: one that is silent for minutes is taken for stuck."""
        session = self.reconciler.sessions.get(command.lane)
        if command.action in {START, WAKE} and (session is None or session.state is not SessionState.RUNNING):
            others = counted(self._settings.command_concurrency, "other command")
            self._board.show(
                command.lane, Progress("queued", detail=f"{others} at work, as many as COMMAND_CONCURRENCY allows")
            )

    async def _send_pending(self, session_id: str, step: Progress) -> None:
        self.reconciler.under_way.add(session_id)
        await self._send("status", protocol.pending(session_id, step, self.lease.epoch))

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
