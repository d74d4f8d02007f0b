"""Runs the real elector of many replicas on one store, in virtual time, and checks its promise.

The promise: no two replicas act at once, and epochs strictly rise. A replica acts as long as its lease is valid, and
for ``work`` seconds more: a side effect begun at the last valid moment takes that long.
"""

import asyncio
import random
from dataclasses import dataclass
from itertools import pairwise

from streamspace_agent.election import Guarantee, Timing
from streamspace_agent.election.candidate import LocalCandidate
from streamspace_agent.election.identity import Identity
from streamspace_agent.election.lease import Lease
from streamspace_agent.election.watchdog import TICK, Watchdog
from streamspace_agent.testing.memory import Link, MemoryBackend, Store
from tests.core.virtual_time import VirtualClock, VirtualLoop


class Overlap(AssertionError):
    """Two simulated leaders acted at the same time, or epochs did not rise."""


@dataclass(slots=True)
class Acting:
    """When a replica acted, in true time, which no replica's clock shows."""

    who: str
    epoch: int
    begin: float
    end: float
    stopped: bool = False
    """It resigned or died, so that nothing was under way any more."""


class Simulated:
    """One process: an elector, its watchdog, and a main loop that works while it leads."""

    def __init__(self, world: "World", name: str, timing: Timing, clock: VirtualClock) -> None:
        self.name = name
        self.clock = clock
        self.link = Link()
        self.timing = timing
        self.exits: list[int] = []
        self.lease: Lease | None = None
        self.reasons: list[str] = []
        self.blocked = False
        """The main loop is blocked: it neither beats nor reacts."""
        self.alive = True
        self.hold_off = 0.0
        self.until_expired = False
        self._world = world
        world.births += 1
        nonce = f"{name}-{world.births}"
        self.watchdog = Watchdog(clock, timing.lease, timing.margin or 1.0, self._exit)
        self.backend = MemoryBackend(world.store, timing, link=self.link, guarantees=world.guarantees)
        self.candidate = LocalCandidate(
            self.backend,
            Identity("agent-1", name, nonce, "host"),
            self.watchdog,
            clock=clock,
            rng=random.Random(world.births),
        )
        self._resign = asyncio.Event()
        self._tasks = [asyncio.create_task(work) for work in (self._main(), self._beat(), self._watched())]

    def _exit(self, code: int) -> None:
        self.exits.append(code)
        self.kill()

    def kill(self) -> None:
        """As SIGKILL does: nothing more is sent, no work goes on."""
        self._world.stopped(self)
        self.alive = False
        self.link.cut = True
        for task in self._tasks:
            task.cancel()

    def ask_to_resign(self) -> None:
        self._resign.set()

    async def _main(self) -> None:
        while True:
            self.lease = lease = await self.candidate.lead()
            self._resign.clear()
            end = asyncio.ensure_future(lease.ended())
            wish = asyncio.ensure_future(self._resign.wait())
            await asyncio.wait([end, wish], return_when=asyncio.FIRST_COMPLETED)
            wish.cancel()
            await self._unblocked()
            if end.done():
                self.reasons.append(end.result())
                await asyncio.sleep(self._world.work)
            else:
                end.cancel()
                self._world.stopped(self)
                self.lease = None
            await self._unblocked()
            await self.candidate.resign(lease, "asked to", hold_off=self.hold_off, until_expired=self.until_expired)
            self.lease = None

    async def _beat(self) -> None:
        while True:
            await self._unblocked()
            self.watchdog.beat()
            await asyncio.sleep(TICK)

    async def _watched(self) -> None:
        while True:
            await asyncio.sleep(self.watchdog.check() or TICK)

    async def _unblocked(self) -> None:
        while self.blocked:
            await asyncio.sleep(TICK)

    async def aclose(self) -> None:
        self.kill()
        await asyncio.wait(self._tasks)


class World:
    """Must be made on a :class:`VirtualLoop`."""

    def __init__(self, *, work: float = 0.0, guarantees: frozenset[Guarantee] = frozenset()) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        self.store = Store()
        self.work = work
        self.guarantees = guarantees
        self.births = 0
        self.replicas: list[Simulated] = []
        self.acts: dict[tuple[int, int], Acting] = {}
        self._loop = loop
        loop.before_jump.append(self._look)

    def add(self, name: str, timing: Timing, *, rate: float = 1.0, wall: float = 0.0) -> Simulated:
        replica = Simulated(self, name, timing, VirtualClock(rate=rate, wall=wall))
        self.replicas.append(replica)
        return replica

    @property
    def now(self) -> float:
        return self._loop.time()

    @property
    def leaders(self) -> list[str]:
        return [r.name for r in self.replicas if r.alive and r.lease and r.lease.valid()]

    def _look(self, now: float, then: float) -> None:
        for replica in self.replicas:
            self.note(replica, now, then)

    def note(self, replica: Simulated, now: float | None = None, then: float | None = None) -> None:
        """Record that a replica acted under its lease up to ``then``, or to its deadline if that comes first."""
        lease = replica.lease
        now = self.now if now is None else now
        if not replica.alive or lease is None or not lease.valid():
            return
        left = (lease.deadline - replica.clock.now()) / replica.clock.rate
        end = min(now if then is None else then, now + left)
        key = (id(replica), lease.epoch)
        acting = self.acts.setdefault(key, Acting(replica.name, lease.epoch, now, end))
        acting.end = max(acting.end, end)

    def check(self) -> list[Acting]:
        """Return when replicas acted, in order. Raises :exc:`Overlap` if the promise was broken."""
        acts = sorted(self.acts.values(), key=lambda acting: acting.begin)
        for one, other in pairwise(acts):
            if other.epoch <= one.epoch:
                raise Overlap(f"epochs do not rise: {one} then {other}")
            work = 0.0 if one.stopped else self.work
            if one.end + work > other.begin:
                raise Overlap(f"two act at once: {one} (and {work} s of work) and {other}")
        return acts

    def stopped(self, replica: Simulated) -> None:
        """All its work has stopped now."""
        self.note(replica)
        if replica.alive and replica.lease and (acting := self.acts.get((id(replica), replica.lease.epoch))):
            acting.stopped = replica.lease.valid()

    async def close(self) -> None:
        for replica in self.replicas:
            await replica.aclose()
        self._loop.before_jump.remove(self._look)
