"""The tests of election backends about concurrency: replicas that act at the same moment, as processes do.

Each replica here has a thread, an event loop and a backend object of its own, as in an agent: on one loop, the steps of
a backend that blocks (SQLite, files) could never run at once, and a missing lock would not show.

Measured on two processors beside two busy processes: a backend that reads and writes SQLite without a transaction, and
one that replaces a file where it should make a link, failed each of these tests in 100 of 100 runs. Without the pauses
below, the steps of four threads overlapped in 1 to 11 of 100 rounds.
"""

import asyncio
import random
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeVar

import pytest

from streamspace_agent.election import ElectionBackend, Grant, Held, Record
from streamspace_agent.errors import LeaseLost
from streamspace_agent.testing.election.fixtures import PATIENCE, BackendFactory, answered, candidate, grant_of, seen_by
from streamspace_agent.testing.suite import Suite

Result = TypeVar("Result")
Step = Callable[[ElectionBackend], Awaitable[Result]]

REPLICAS = 4
ROUNDS = 15
ENOUGH = 3.0
"""Seconds after which no further round begins: with a store that slow, few rounds are enough."""
PAUSE_PROBABILITY = 0.01
PAUSE = 0.0003
"""Seconds. A pause follows some calls and returns on a replica's thread, those of C functions included, so that other
replicas' steps fall between one replica's read and its write, however busy the machine is."""


class Replica:
    def __init__(self, backend: ElectionBackend) -> None:
        self._backend = backend
        self._running: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._live()), daemon=True)
        self._thread.start()
        self._loop, self._end = self._running.result()

    async def run(self, step: Step[Result], together: threading.Barrier | None = None) -> Result:
        """Run a step on this replica's thread, as soon as all others have reached the barrier too."""

        async def stepping() -> Result:
            if together:
                together.wait(PATIENCE)
            return await step(self._backend)

        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(stepping(), self._loop))

    async def close(self) -> None:
        await self.run(lambda backend: backend.aclose())
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(PATIENCE)

    async def _live(self) -> None:
        end = asyncio.Event()
        self._running.set_result((asyncio.get_running_loop(), end))
        await end.wait()


@asynccontextmanager
async def replicas_of(factory: BackendFactory, count: int) -> AsyncIterator[list[Replica]]:
    profile = threading.getprofile()
    threading.setprofile(_pause)  # of threads that are started from now on
    replicas = [Replica(factory()) for _ in range(count)]
    try:
        yield replicas
    finally:
        threading.setprofile(profile)
        for replica in replicas:
            await replica.close()


def _pause(*_: object) -> None:
    if random.random() < PAUSE_PROBABILITY:  # noqa: S311 - no secret
        time.sleep(PAUSE)


def rounds() -> Iterator[int]:
    end = time.monotonic() + ENOUGH
    for number in range(ROUNDS):
        if time.monotonic() < end:
            yield number


class Concurrency(Suite):
    async def test_of_many_at_once_exactly_one_gets_it(self, backend_factory: BackendFactory) -> None:
        async with replicas_of(backend_factory, REPLICAS) as replicas:
            for number in rounds():
                winners = await _candidates_race(replicas, number)
                while not winners and await replicas[0].run(_observed) is None:
                    await asyncio.sleep(0.05)  # some stores grant nothing at first
                    winners = await _candidates_race(replicas, number)
                assert len(winners) == 1, f"round {number}: {len(winners)} winners"
                ((winner, grant),) = winners
                for replica in replicas:
                    assert (await replica.run(seen_by)).same_tenure(grant.record)
                await winner.run(partial(_kept, "release", grant))

    @pytest.mark.parametrize("verb", ["renew", "release"])
    async def test_a_holders_step_and_a_takeover_at_once_do_not_both_count(
        self, backend_factory: BackendFactory, verb: str
    ) -> None:
        """The holder wakes up after its lease has run out, at the moment when another takes it."""
        async with replicas_of(backend_factory, 2) as (holder, taker):
            for number in rounds():
                old, kept, taken = await _takeover_race(holder, taker, verb, number)
                stands = await taker.run(seen_by)
                if isinstance(taken, Grant):
                    assert verb == "release" or not kept, f"round {number}: one renewed what the other took"
                    assert stands.same_tenure(taken.record), f"round {number}: the one overwrote what the other took"
                    assert not stands.released
                    await taker.run(partial(_kept, "release", taken))
                else:
                    assert kept, f"round {number}: neither has it"
                    assert stands.same_tenure(old.record)
                    assert stands.released == (verb == "release")
                    await holder.run(partial(_kept, "release", old))


async def _candidates_race(replicas: list[Replica], number: int) -> list[tuple[Replica, Grant]]:
    seen = [await replica.run(_observed) for replica in replicas]
    together = threading.Barrier(len(replicas))
    steps = [partial(_acquired, f"replica-{place}-{number}", record) for place, record in enumerate(seen)]
    attempts = [replica.run(step, together) for replica, step in zip(replicas, steps, strict=True)]
    results = await asyncio.gather(*attempts)
    return [(replica, result) for replica, result in zip(replicas, results, strict=True) if isinstance(result, Grant)]


async def _takeover_race(holder: Replica, taker: Replica, verb: str, number: int) -> tuple[Grant, bool, Grant | Held]:
    old = await holder.run(lambda backend: grant_of(backend, candidate(backend, f"holder-{number}")))
    seen = await taker.run(_observed)
    together = threading.Barrier(2)
    keeping = holder.run(partial(_kept, verb, old), together)
    taking = taker.run(partial(_acquired, f"taker-{number}", seen), together)
    return old, *await asyncio.gather(keeping, taking)


async def _observed(backend: ElectionBackend) -> Record | None:
    return await answered(backend.observe)


async def _acquired(name: str, seen: Record | None, backend: ElectionBackend) -> Grant | Held:
    return await answered(lambda: backend.acquire(candidate(backend, name), seen))


async def _kept(verb: str, grant: Grant, backend: ElectionBackend) -> bool:
    """Whether the holder's step was accepted."""
    try:
        await answered(lambda: getattr(backend, verb)(grant))
    except LeaseLost:
        return False
    return True
