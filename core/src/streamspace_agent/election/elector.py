"""Leader election for the agent: the replica's part, on a thread and an event loop of its own.

Renewals so do not share the fate of the agent's main loop; a main loop that is dead still loses, by :meth:`Elector.alive`
not being called. A third thread, the guard, ends the process when work goes on after the lease.
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
from streamspace_agent.election.guard import TICK, Guard
from streamspace_agent.election.identity import Identity
from streamspace_agent.election.lease import Ending, Lease
from streamspace_agent.election.replica import RELEASE_TRIES, Replica, Ticket
from streamspace_agent.election.status import ElectionStatus, Role
from streamspace_agent.election.trace import Trace

__all__ = ["TICK", "Clock", "ElectionStatus", "Elector", "Identity", "Lease", "Role"]

log = logging.getLogger(__name__)
Result = TypeVar("Result")

# Where a lease has no deadline, and so no margin, work gets this long to stop after the lease was lost.
UNTIMED_GRACE = 1.0

# A backend that kept a release waiting to its limit gets no more than this to be closed.
LAST_WAIT = 1.0

# The guard's last words may not keep it: a frozen log pipe is one way for a main loop to die.
LAST_WORDS = 0.5


class Elector:
    """What the agent uses. Constructed anywhere; everything else is called on the agent's main event loop.

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
        self._patience = (1 + RELEASE_TRIES) * (timing.call_timeout + 1.0)
        self._stuck = False
        self._exit = exit
        self._me = me
        self._guard = Guard(clock, timing.lease, stop_grace, self._leave)
        rng = rng or random.Random()  # noqa: S311 - jitter
        self._replica = Replica(backend, me, self._guard, clock=clock, rng=rng, trace=trace)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing = threading.Event()
        self._threads: list[threading.Thread] = []

    async def start(self) -> None:
        """Start the threads. Calls nothing on the backend yet."""
        running: Future[asyncio.AbstractEventLoop] = Future()
        self._threads = [
            threading.Thread(target=self._run, args=[running], name="elector", daemon=True),
            threading.Thread(target=self._watch, name="elector-guard", daemon=True),
        ]
        for thread in self._threads:
            thread.start()
        self._loop = await asyncio.wrap_future(running)

    async def preflight(self) -> list[Problem]:
        """The backend's own check, on the thread where the backend lives."""
        return await self._ask(self._replica.preflight())

    async def lead(self, *, above: int = 0) -> Lease:
        """Wait until this replica leads, in an epoch above ``above``. Cancelling it is safe at every moment.

        Raises :exc:`~streamspace_agent.errors.PreflightError` when the store says that this replica never can.
        """
        ticket = Ticket()
        try:
            return await self._ask(self._replica.lead(ticket, above=above))
        except asyncio.CancelledError:
            self._post(self._replica.abandon(ticket))
            raise

    async def resign(self, lease: Lease, reason: str, *, hold_off: float = 0.0, firm: bool = False) -> None:
        """All work under ``lease`` has stopped, for ``reason``: release it if it is still ours and become a standby.

        ``hold_off`` lets others first for that many seconds; it ends early when another one has led, unless it is ``firm``: then
        this replica could not do better than before. To be called after every lease, however it ended. Bounded, even if the store does not answer or the backend is stuck.
        """
        self._guard.dismiss(lease)
        resigning = asyncio.ensure_future(self._ask(self._replica.resign(lease, reason, hold_off=hold_off, firm=firm)))
        done, _ = await asyncio.wait([resigning], timeout=self._patience)  # cancels nothing: a release is not torn
        if done:
            resigning.result()
        else:
            self._stuck = True
            lease.end(Ending.RESIGNED, reason)
            log.error("the election backend is stuck, epoch %d is not released", lease.epoch)

    def alive(self) -> None:
        """The main loop runs. To be called on it every :data:`TICK` seconds, from start to end."""
        self._guard.beat()

    def status(self) -> ElectionStatus:
        return self._replica.status()

    async def aclose(self) -> None:
        """End the threads and free the backend. Does not release a lease that was not resigned.

        Bounded: threads whose backend hangs in a call are left behind, and end with the process.
        """
        loop = self._loop
        if loop is None:
            return
        self._loop = None
        self._closing.set()
        self._guard.attention.set()
        loop.call_soon_threadsafe(self._stop.set)
        joiner = ThreadPoolExecutor(1)  # threads that all share may hang in something else
        ended = asyncio.get_running_loop().run_in_executor(
            joiner, self._join, LAST_WAIT if self._stuck else self._patience
        )
        joiner.shutdown(wait=False)
        if not await ended:
            log.error(
                "election backend %s hangs in a call: ending without it, a lease it holds ends by itself",
                self._replica.backend_name,
            )

    def _join(self, patience: float) -> bool:
        end = time.monotonic() + patience
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    async def _ask(self, work: Coroutine[Any, Any, Result]) -> Result:
        if self._loop is None:
            work.close()
            raise RuntimeError("the elector is not running")
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    def _post(self, work: Coroutine[Any, Any, None]) -> None:
        if self._loop is None:
            work.close()
        else:
            asyncio.run_coroutine_threadsafe(work, self._loop)

    # The elector's thread.

    def _run(self, running: "Future[asyncio.AbstractEventLoop]") -> None:
        asyncio.run(self._main(running))

    async def _main(self, running: "Future[asyncio.AbstractEventLoop]") -> None:
        self._stop = asyncio.Event()
        running.set_result(asyncio.get_running_loop())
        await self._stop.wait()
        await self._replica.close()

    # The guard's thread.

    def _watch(self) -> None:
        while not self._closing.is_set():
            wait = self._guard.check()
            if wait is not None:
                self._closing.wait(wait)
            elif not self._closing.is_set():
                self._guard.attention.wait()

    def _leave(self, code: int) -> None:
        words = threading.Thread(
            target=log.critical,
            args=[
                "%s still works for agent %s although its lease is over: exiting hard with code %d",
                self._me.instance,
                self._me.agent_id,
                code,
            ],
            daemon=True,
        )
        words.start()
        words.join(LAST_WORDS)
        self._exit(code)
