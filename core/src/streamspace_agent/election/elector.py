"""Leader election as the agent uses it: the entrance to this package.

A lease's way through it, from the top:

* :class:`Elector` runs everything below on a thread and an event loop of its own, so that renewals do not depend on the
  agent's main loop. A main loop that is dead loses the lease all the same: it no longer calls :meth:`Elector.alive`.
* :mod:`~streamspace_agent.election.candidate`: acquire the lease, renew it, release it, again
* :mod:`~streamspace_agent.election.acquisition`: observe, wait, take; the rules are in
  :mod:`~streamspace_agent.election.takeover`
* :mod:`~streamspace_agent.election.lease`: the right to act, a deadline that is read before every side effect
* :mod:`~streamspace_agent.election.renewal`: move the deadline on, until the lease is over
* :mod:`~streamspace_agent.election.watchdog`: a third thread, which ends the process when work goes on after the lease
* :mod:`~streamspace_agent.election.bounded_backend`: every call to the store, with a time limit
"""

import asyncio
import logging
import os
import random
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from streamspace_agent.clock import BoottimeClock, Clock
from streamspace_agent.election import ElectionBackend, Problem
from streamspace_agent.election.candidate import RELEASE_TRIES, LeadRequest, LocalCandidate
from streamspace_agent.election.identity import Identity
from streamspace_agent.election.lease import Ending, Lease
from streamspace_agent.election.status import ElectionStatus
from streamspace_agent.election.trace import Trace
from streamspace_agent.election.watchdog import Watchdog

log = logging.getLogger(__name__)
Result = TypeVar("Result")

# Seconds that work gets to stop after a lease without a deadline, and so without a margin, was lost.
UNTIMED_GRACE = 1.0

# Seconds for closing a backend that did not answer a release in time.
CLOSE_STUCK = 1.0

# Seconds for the watchdog's last log line, which may not delay the exit: a frozen log pipe may be what blocks the loop.
LAST_LOG_LINE = 0.5


class Elector:
    """The election of one replica. Constructed anywhere; all else is called on the agent's main event loop.

    ``exit`` is called with :data:`~streamspace_agent.errors.EXIT_LEADERSHIP` when :meth:`resign` was not called
    within ``stop_grace`` seconds after a lease ended. By default that is the backend's margin, so that the process is
    gone before another replica may start.
    """

    def __init__(
        self,
        backend: ElectionBackend,
        me: Identity,
        *,
        clock: Clock | None = None,
        rng: random.Random | None = None,
        exit: Callable[[int], None] = os._exit,  # noqa: A002 - it is what it does
        stop_grace: float | None = None,
        trace: Trace | None = None,
    ) -> None:
        clock = clock or BoottimeClock()
        timing = backend.timing
        if stop_grace is None:
            stop_grace = UNTIMED_GRACE if timing.lease is None else timing.margin
        # A renewal under way, the tries of the release, and the pauses between them.
        self._release_timeout = (1 + RELEASE_TRIES) * (timing.call_timeout + 1.0)
        self._stuck = False
        self._exit = exit
        self._me = me
        self._backend_name = backend.name
        self._watchdog = Watchdog(clock, timing.lease, stop_grace, self._exit_hard)
        rng = rng or random.Random()  # noqa: S311 - jitter
        self._candidate = LocalCandidate(backend, me, self._watchdog, clock=clock, rng=rng, trace=trace)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._closing = threading.Event()
        self._threads: list[threading.Thread] = []

    async def start(self) -> None:
        """Start the threads. Calls nothing on the backend yet."""
        running: Future[asyncio.AbstractEventLoop] = Future()
        self._threads = [
            threading.Thread(target=asyncio.run, args=[self._main(running)], name="elector", daemon=True),
            threading.Thread(target=self._watch, name="elector-watchdog", daemon=True),
        ]
        for thread in self._threads:
            thread.start()
        self._loop = await asyncio.wrap_future(running)

    async def preflight(self) -> list[Problem]:
        """Run the backend's own check, on the thread where the backend lives."""
        return await self._ask(self._candidate.preflight())

    async def lead(self, *, above: int = 0) -> Lease:
        """Wait until this replica leads, in an epoch above ``above``. May be cancelled at any moment.

        Raises :exc:`~streamspace_agent.errors.PreflightError` when the store says that this replica never can.
        """
        request = LeadRequest()
        try:
            return await self._ask(self._candidate.lead(request, above=above))
        except asyncio.CancelledError:
            if self._loop is not None:
                asyncio.run_coroutine_threadsafe(self._candidate.abandon(request), self._loop)
            raise

    async def resign(self, lease: Lease, reason: str, *, hold_off: float = 0.0, until_expired: bool = False) -> None:
        """All work under ``lease`` has stopped, for ``reason``: release it if it is still held and become a standby.

        For ``hold_off`` seconds this replica lets the others go first. That ends early once another one has led, unless
        ``until_expired`` says that this replica could not do better than before.
        To be called after every lease, however it ended. Takes a limited time even if the store does not answer or the
        backend is stuck.
        """
        self._watchdog.dismiss(lease)
        resignation = self._candidate.resign(lease, reason, hold_off=hold_off, until_expired=until_expired)
        resigning = asyncio.ensure_future(self._ask(resignation))
        # Cancels nothing: a release is not interrupted.
        done, _ = await asyncio.wait([resigning], timeout=self._release_timeout)
        if done:
            resigning.result()
        else:
            self._stuck = True
            lease.end(Ending.RESIGNED, reason)
            log.error("the election backend does not return from a call: epoch %d is not released", lease.epoch)

    def alive(self) -> None:
        """The main loop runs. To be called on it every ``watchdog.TICK`` seconds, from start to end."""
        self._watchdog.beat()

    def status(self) -> ElectionStatus:
        return self._candidate.status()

    async def aclose(self) -> None:
        """End the threads and free the backend. Does not release a lease that was not resigned.

        Takes a limited time: threads whose backend hangs in a call are left behind, and end with the process.
        """
        loop = self._loop
        if loop is None:
            return
        self._loop = None
        self._closing.set()
        self._watchdog.armed.set()
        loop.call_soon_threadsafe(self._stop.set)
        joiner = ThreadPoolExecutor(1)  # not the default executor: its threads may hang in something else
        ended = asyncio.get_running_loop().run_in_executor(
            joiner, self._join, CLOSE_STUCK if self._stuck else self._release_timeout
        )
        joiner.shutdown(wait=False)
        if not await ended:
            log.error(
                "election backend %s hangs in a call: ending without it, a lease it holds ends by itself",
                self._backend_name,
            )

    def _join(self, timeout: float) -> bool:
        end = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    async def _ask(self, work: Coroutine[Any, Any, Result]) -> Result:
        if self._loop is None:
            work.close()
            raise RuntimeError("the elector is not running")
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    # The elector's thread.

    async def _main(self, running: "Future[asyncio.AbstractEventLoop]") -> None:
        running.set_result(asyncio.get_running_loop())
        await self._stop.wait()
        await self._candidate.close()

    # The watchdog's thread.

    def _watch(self) -> None:
        while not self._closing.is_set():
            wait = self._watchdog.check()
            if wait is not None:
                self._closing.wait(wait)
            elif not self._closing.is_set():
                self._watchdog.armed.wait()

    def _exit_hard(self, code: int) -> None:
        last_line = threading.Thread(
            target=log.critical,
            args=[
                "%s still acts for %s although its lease is over: exiting at once with code %d",
                self._me.instance,
                self._me.agent_id,
                code,
            ],
            daemon=True,
        )
        last_line.start()
        last_line.join(LAST_LOG_LINE)
        self._exit(code)
