"""The process: loads the plugins, stands for election, leads, gives leadership back, and stands again until stopped."""

import asyncio
import logging
import os
import random
import signal
import time
from collections.abc import Coroutine, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from streamspace_agent import __version__, health, logs, plugins
from streamspace_agent.backoff import Backoff
from streamspace_agent.commands.capacity import Capacity
from streamspace_agent.commands.counters import Counters
from streamspace_agent.config import Settings
from streamspace_agent.config_warnings import RecordingEnviron, config_warnings
from streamspace_agent.controlplane.keys import Keys, key_file
from streamspace_agent.controlplane.link import Link
from streamspace_agent.controlplane.registration import Registrar
from streamspace_agent.controlplane.tls import Trust
from streamspace_agent.election.elector import Elector
from streamspace_agent.election.identity import Identity
from streamspace_agent.election.lease import Lease
from streamspace_agent.election.role import Role
from streamspace_agent.election.standalone import StandaloneBackend
from streamspace_agent.election.timing import lease_duration_warnings
from streamspace_agent.election.trace import Trace
from streamspace_agent.election.watchdog import TICK
from streamspace_agent.errors import BackendUnavailable, JournalError, LeaseLost, PreflightError
from streamspace_agent.faults import Faults
from streamspace_agent.gateway import GatewayStatus
from streamspace_agent.health.replicas import StatusSocket
from streamspace_agent.health.systemd import Notifier
from streamspace_agent.instance_lock import instance_lock
from streamspace_agent.journal import FILE, Journal, highest_epoch
from streamspace_agent.leadership import Leadership
from streamspace_agent.sessions.reconciler import EngineStatus
from streamspace_agent.units import format_seconds

if TYPE_CHECKING:
    from streamspace_agent.health.endpoint import HealthEndpoint

log = logging.getLogger(__name__)
Result = TypeVar("Result")

LINK_PATIENCE = 45.0
"""Seconds without a link after which a leader lets another replica try: by then the control plane calls the agent
stale. Doubled with each leadership in a row that never had a link: then it is the control plane that is away."""
MAX_LINK_PATIENCE = 900.0
HOLD_OFF = 10.0
"""Seconds for which a leader that gave up stands back, so that another replica is elected first. Doubled each time in a
row that it could not use its journal, up to MAX_HOLD_OFF."""
MAX_HOLD_OFF = 60.0
"""Seconds for which a disk that has room again may stay unnoticed."""
JOURNAL_PATIENCE = 60.0
"""Seconds that the journal may take to open: a leader that waits for ever keeps others from leading."""
BRIEF = 2.0
"""Seconds: what ended a leadership sooner than this, without a request to stop, may end the next one as well."""
BRIEF_HOLD_OFF = 1.0
"""Seconds to stand back after a brief leadership, doubled each time in a row up to MAX_HOLD_OFF."""
SECOND_SIGNAL = 130
"""Exit code when a second signal ends the drain."""
KEPT_HEAP = 4 * 1024**2
"""Bytes of one block that is freed at the start: from then on glibc keeps up to twice as much freed memory for the
next large buffers. Without it, glibc returns free memory from 256 KiB on to the kernel and fetches it again for the
next message, page by page: three quarters of the time of a full tunnel (mallopt(3), M_TRIM_THRESHOLD)."""


async def run(settings: Settings, environ: Mapping[str, str]) -> int:
    """Run the agent until SIGTERM or SIGINT, or the control plane's ``shutdown``. Returns the exit code.

    A second signal ends the process at once. Raises AgentError where the agent cannot run or go on.
    """
    bytes(KEPT_HEAP)  # never touched, so it costs nothing
    agent = Agent(settings, environ)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, agent.on_signal, number)
    try:
        await agent.run()
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
    return 0


class Agent:
    """One replica of one agent."""

    def __init__(self, settings: Settings, environ: Mapping[str, str]) -> None:
        """Load the chosen plugins. Connects to nothing. Raises PluginError, ConfigError."""
        self._settings = settings
        loader = plugins.Plugins()
        self._registry = loader.commands()
        own_environ = RecordingEnviron(environ)
        self._driver = loader.runtime_driver(settings, own_environ)
        self._backend = loader.election_backend(settings, own_environ) if settings.enable_ha else StandaloneBackend()
        self._gateway = loader.gateway(settings, own_environ) if settings.web_gateway else None
        self._warnings = tuple(config_warnings(settings, environ, own_environ.names))
        self._plugins = {found.kind.name: f"{found.distribution} {found.version}" for found in loader.chosen}
        self._faults = Faults(environ)
        self._identity = Identity.discover(settings.agent_id)
        logs.configure(settings, {"agent": settings.agent_id, "instance": self._identity.instance}, environ=environ)
        self._elector = Elector(self._backend, self._identity, trace=Trace(environ, self._identity.instance))
        rng = random.Random()  # noqa: S311 - spreads retries, guards nothing
        keys = Keys(settings, logs.hide, key_file(environ))
        trust = Trust(settings)
        self._link = Link(settings, keys, trust, rng, Registrar(settings, keys, trust, rng))
        self._notify = Notifier(environ)
        self._counters = Counters.of(self._registry.actions)
        self._leadership: Leadership | None = None
        self._link_patience = LINK_PATIENCE
        self._backoff_reason = ""
        self._journal_backoff = Backoff(base=HOLD_OFF, cap=MAX_HOLD_OFF, least=1.0)
        self._brief_backoff = Backoff(base=BRIEF_HOLD_OFF, cap=MAX_HOLD_OFF, least=1.0)
        self._stopping = asyncio.Event()
        self._signalled = False
        self._stop_reason = ""
        self._ticked = time.monotonic()
        self._endpoint: HealthEndpoint | None = None

    def on_signal(self, number: int) -> None:
        if self._signalled:
            log.warning("second signal: exiting at once")
            os._exit(SECOND_SIGNAL)
        self._signalled = True  # the control plane may have asked for the stop before: that was no signal
        self.stop(signal.Signals(number).name)

    def stop(self, reason: str) -> None:
        """Begin to stop: hand leadership over, then let :meth:`run` return."""
        self._stop_reason = self._stop_reason or reason
        self._stopping.set()
        self._notify.stopping()
        if self._leadership is not None:
            self._leadership.shut_down(reason)

    async def run(self) -> None:
        log.info("starting version %s, control plane %s", __version__, self._settings.control_plane_url)
        for warning in self._warnings:
            log.warning("%s", warning)
        tick = asyncio.create_task(self._tick(), name="tick")
        try:
            with ExitStack() as stack:
                settings = self._settings
                stack.enter_context(instance_lock(settings.agent_dir, settings.agent_id, shared=settings.enable_ha))
                if settings.health_address:
                    from streamspace_agent.health.endpoint import HealthEndpoint  # noqa: PLC0415 - an HTTP server

                    endpoint = HealthEndpoint(settings.health_address, self.snapshot, shared=settings.enable_ha)
                    self._endpoint = stack.enter_context(endpoint)
                stack.enter_context(StatusSocket(settings.agent_dir, self._identity.instance, self.snapshot))
                await self._elector.start()
                stopping = asyncio.create_task(self._stopping.wait(), name="stop")
                try:
                    await _unless(stopping, self._preflight())
                    self._notify.ready()
                    while not self._stopping.is_set():
                        if (lease := await _unless(stopping, self._stand())) is not None:
                            await self._lead(lease, stopping)
                finally:
                    stopping.cancel()
        finally:
            await self._elector.aclose()
            tick.cancel()
            await self._driver.aclose()
        log.info("stopped: %s", self._stop_reason)

    async def _preflight(self) -> None:
        """Raise PreflightError where the election store can never work here. A store that is away may come back."""
        problems = lease_duration_warnings(self._settings, self._backend.timing)
        try:
            problems += await self._elector.preflight()
        except BackendUnavailable as error:
            log.warning("the election store is away: standing for election all the same: %s", error)
        for problem in problems:
            if not problem.fatal:
                log.warning("%s: %s", problem.message, problem.fix)
        if fatal := [f"{problem.message}: {problem.fix}" for problem in problems if problem.fatal]:
            raise PreflightError("\n".join(fatal))

    async def _stand(self) -> Lease:
        """Wait until this replica leads, in an epoch above every one that its journal has seen.

        A clock that was ahead leaves a high epoch in the journal. Neither the corrected clock nor a store that forgot
        that epoch would exceed it.
        """
        seen = await asyncio.to_thread(highest_epoch, self._settings.agent_dir / FILE)
        return await self._elector.lead(above=seen)

    async def _journal(self, lease: Lease) -> Journal:
        path = self._settings.agent_dir / FILE
        try:
            async with asyncio.timeout(JOURNAL_PATIENCE):
                return await asyncio.to_thread(Journal, path, lease.epoch)
        except TimeoutError:
            patience = format_seconds(JOURNAL_PATIENCE)
            raise JournalError(
                f"STATE_DIR: the journal {path} is not open after {patience}: "
                "look after its disk (dmesg), or set STATE_DIR to another"
            ) from None

    async def _lead(self, lease: Lease, stopping: "asyncio.Task[bool]") -> None:
        """Lead once, from a fresh lease to its release."""
        logs.set_epoch(lease.epoch)
        reason, hold_off, until_expired = "the leadership could not begin", 0.0, False
        connections = self._link.status.connections
        began = time.monotonic()
        try:
            if (journal := await _unless(stopping, self._journal(lease))) is None:
                reason = self._stop_reason
                return
            self._leadership = Leadership(
                self._settings,
                lease,
                journal,
                self._driver,
                self._registry,
                self._link,
                self._gateway,
                self._faults,
                self._counters,
                self._link_patience if self._settings.enable_ha else None,
            )
            self._backoff_reason, self._journal_backoff.failures = "", 0
            if self._stopping.is_set():
                self._leadership.shut_down(self._stop_reason)
            reason = await self._leadership.run()
            if self._leadership.ends_agent:
                self.stop(reason)
            if self._link.status.connections > connections:
                self._link_patience = LINK_PATIENCE
            elif self._leadership.gave_up:
                self._link_patience = min(MAX_LINK_PATIENCE, 2 * self._link_patience)
            if self._leadership.gave_up:
                hold_off = HOLD_OFF
            else:
                hold_off, until_expired = self._brief_pause(lease, began, reason), True
        except LeaseLost as error:
            reason = str(error)
            hold_off, until_expired = self._brief_pause(lease, began, reason), True
        except JournalError as error:  # of this replica's disk: another's may be better, and this one's may heal
            reason, until_expired = "it cannot use its journal", True
            hold_off, self._backoff_reason = self._journal_backoff.delay(), str(error)
            again = format_seconds(hold_off)
            log.error("cannot lead: %s; giving leadership back, trying again in %s", error, again)  # noqa: TRY400
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise
        finally:
            self._leadership = None
            await self._elector.resign(lease, reason, hold_off=hold_off, until_expired=until_expired)
            logs.set_epoch(None)

    def _brief_pause(self, lease: Lease, began: float, reason: str) -> float:
        """Seconds to stand back after a leadership that ended at once without a request to stop; 0 after any other."""
        lasted = time.monotonic() - began
        if lasted >= BRIEF or self._stopping.is_set():
            self._brief_backoff.failures = 0
            return 0.0
        pause = self._brief_backoff.delay()
        log.error(
            "leadership of epoch %d ended after %s: %s; standing for election again in %s",
            lease.epoch,
            format_seconds(lasted),
            reason,
            format_seconds(pause),
        )
        return pause

    async def _tick(self) -> None:
        every = self._notify.watchdog_every
        fed = 0.0
        while True:
            self._ticked = time.monotonic()
            self._elector.alive()
            if every and self._ticked - fed >= every:
                fed = self._ticked
                self._notify.watchdog()
            await asyncio.sleep(TICK)

    def snapshot(self) -> health.Snapshot:
        """The state of this replica. Called from other threads: reads only what may be read there."""
        election, leadership = self._elector.status(), self._leadership
        return health.Snapshot(
            agent_id=self._settings.agent_id,
            instance=self._identity.instance,
            pid=os.getpid(),
            pid_namespace=Path("/proc/self/ns/pid").stat().st_ino,
            host=self._identity.host,
            version=__version__,
            backend=self._backend.name,
            role=Role.DRAINING if self._stopping.is_set() else election.role,
            election=election,
            link=replace(self._link.status),
            engine=replace(leadership.reconciler.engine) if leadership else EngineStatus(),
            gateway=self._gateway.status() if self._gateway else GatewayStatus(),
            heartbeat_age=time.monotonic() - leadership.heartbeats.last
            if leadership and leadership.heartbeats.last
            else None,
            sessions=leadership.sessions.count_by_state() if leadership else {},
            capacity=Capacity.of(self._settings).as_payload(),
            commands=health.Commands(
                running=leadership.dispatcher.running if leadership else 0,
                open=leadership.dispatcher.waiting if leadership else 0,
                done=self._counters.by_action(),
            ),
            outbox=leadership.outbox.waiting if leadership else 0,
            hindrance=self._backoff_reason,
            loop_tick_age=time.monotonic() - self._ticked,
            plugins=self._plugins,
            health_address=self._endpoint.address if self._endpoint else "",
        )


async def _unless(stopping: "asyncio.Task[bool]", work: Coroutine[Any, Any, Result]) -> Result | None:
    """The result of ``work``; None if the agent was told to stop first. A store that hangs does not delay the stop."""
    task = asyncio.create_task(work)
    try:
        await asyncio.wait({task, stopping}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
