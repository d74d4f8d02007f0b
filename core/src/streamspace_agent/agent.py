"""The process: choose plugins, stand for election, lead, step down, stand again, until told to stop."""

import asyncio
import logging
import os
import random
import signal
import time
from collections.abc import Mapping

from streamspace_agent import logs
from streamspace_agent.config import Settings
from streamspace_agent.election import ElectionBackend
from streamspace_agent.elector import Elector
from streamspace_agent.errors import LeaseLost
from streamspace_agent.faults import Faults
from streamspace_agent.identity import Identity
from streamspace_agent.leadership import Counters, Leadership
from streamspace_agent.lease import Lease
from streamspace_agent.link import Link
from streamspace_agent.plugins import Plugins
from streamspace_agent.registration import Keys, Registrar, tls_context
from streamspace_agent.standalone import StandaloneBackend

log = logging.getLogger(__name__)

TICK = 0.25
"""Seconds between two signs of life that the main loop gives the elector and the watchdog."""
KILLED = 130


async def run(settings: Settings, environ: Mapping[str, str]) -> int:
    """Run the agent until SIGTERM or SIGINT, or the control plane's ``shutdown``. Returns the exit code.

    A second signal ends the process at once. Raises AgentError for what ends it otherwise.
    """
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
        plugins = Plugins()
        self._registry = plugins.commands()
        self._driver = plugins.runtime_driver(settings, environ)
        backend: ElectionBackend = (
            plugins.election_backend(settings, environ) if settings.enable_ha else StandaloneBackend()
        )
        self._faults = Faults(environ)
        self._identity = Identity.discover(settings.agent_id)
        self._elector = Elector(backend, self._identity)
        rng = random.Random()  # noqa: S311 - spreads retries, guards nothing
        keys = Keys(settings, logs.hide)
        context = tls_context(settings)
        self._link = Link(settings, keys, context, rng, Registrar(settings, keys, context, rng))
        self._counters = Counters()
        self._tenure: Leadership | None = None
        self._stopping = asyncio.Event()
        self._stop_reason = ""
        self._ticked = time.monotonic()

    def on_signal(self, number: int) -> None:
        if self._stopping.is_set():
            log.warning("second signal: exiting at once")
            os._exit(KILLED)
        self.stop(signal.Signals(number).name)

    def stop(self, reason: str) -> None:
        """Drain, hand leadership over, and let :meth:`run` return."""
        self._stop_reason = reason
        self._stopping.set()
        if self._tenure is not None:
            self._tenure.shut_down(reason)

    async def run(self) -> None:
        log.info("starting: %s, control plane %s", self._identity.instance, self._settings.control_plane_url)
        tick = asyncio.create_task(self._tick(), name="tick")
        try:
            await self._elector.start()
            stopping = asyncio.create_task(self._stopping.wait(), name="stop")
            while not self._stopping.is_set():
                candidacy = asyncio.create_task(self._elector.lead(), name="candidacy")
                await asyncio.wait({candidacy, stopping}, return_when=asyncio.FIRST_COMPLETED)
                if not candidacy.done():
                    candidacy.cancel()
                    await asyncio.gather(candidacy, return_exceptions=True)
                    break
                await self._lead(candidacy.result())
        finally:
            await self._elector.aclose()
            tick.cancel()
            await self._driver.aclose()
        log.info("stopped: %s", self._stop_reason)

    async def _lead(self, lease: Lease) -> None:
        """One tenure, from a fresh lease to its release."""
        logs.set_epoch(lease.epoch)
        reason = "the tenure could not begin"
        try:
            self._tenure = Leadership(
                self._settings, lease, self._driver, self._registry, self._link, self._faults, self._counters
            )
            reason = await self._tenure.run()
            if lease.valid() and not self._stopping.is_set():
                self.stop(reason)  # the control plane's shutdown
        except LeaseLost as error:
            reason = str(error)
        finally:
            self._tenure = None
            await self._elector.resign(lease, reason)
            logs.set_epoch(None)

    async def _tick(self) -> None:
        while True:
            self._ticked = time.monotonic()
            self._elector.alive()
            await asyncio.sleep(TICK)
