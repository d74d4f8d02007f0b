"""The tests of election backends about time: answers within ``call_timeout``, prompt cancellation, an unblocked loop.

A call that has to be quick is tried up to :data:`TRIES` times and its quickest try counts: a busy machine delays one
try, but not all.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from statistics import median
from typing import Any

import pytest

from streamspace_agent.election import ElectionBackend, Grant, Guarantee, Record
from streamspace_agent.errors import LeaseLost
from streamspace_agent.testing.election.fixtures import (
    HOPELESS,
    TRIES,
    Make,
    Outage,
    Result,
    answered,
    candidate,
    ended,
    grant_of,
    one_leads,
    put_away,
    seen_by,
    sees_release,
)
from streamspace_agent.testing.loop_blocking import Blockage
from streamspace_agent.testing.suite import Suite

SLACK = 1.25
"""A call that the core cancels after ``call_timeout`` may take this many times as long, at the best of its tries."""
WOKEN = 0.1
"""Seconds after a change within which a store that pushes has woken a waiter, at the median of :data:`CHANGES`."""
CHANGES = 5
PREFLIGHT = 5.0
"""The core's time limit for a preflight in seconds, or ``call_timeout`` where that is longer."""
LONG = 30.0
"""Seconds of a wait in which nothing happens."""


class Promptness(Suite):
    async def test_every_call_is_answered_within_its_time(self, make: Make) -> None:
        """A call that always takes longer than ``call_timeout`` always fails: the core cancels it."""
        one, other = await make(), await make()
        limit = one.timing.call_timeout
        least: dict[str, float] = {}

        async def timed(name: str, call: Callable[[], Awaitable[Result]]) -> Result:
            began = time.monotonic()
            answer = await call()
            least[name] = min(least.get(name, LONG), time.monotonic() - began)
            return answer

        await one.release(await grant_of(one, candidate(one)))
        for number in range(TRIES):
            me = candidate(one, f"one-{number}")
            seen = await one.observe()
            grant = await timed("acquire", partial(one.acquire, me, seen))
            assert isinstance(grant, Grant)
            grant = await timed("renew", partial(one.renew, grant))
            record = await timed("observe", other.observe)
            assert record is not None
            await timed("holder_is_dead", partial(other.holder_is_dead, record))
            await timed("release", partial(one.release, grant))
            if all(seconds < limit for seconds in least.values()) or max(least.values()) >= limit + HOPELESS:
                break
        late = {name: f"{seconds:.2f} s" for name, seconds in least.items() if seconds >= limit}
        assert not late, f"later than call_timeout, {limit:g} s, at the best of {TRIES} tries: {late}"
        await timed("preflight", other.preflight)
        assert least["preflight"] < max(PREFLIGHT, limit)

    async def test_a_call_in_an_outage_ends_with_its_time(self, make: Make, outage: Outage) -> None:
        """Whatever the client library tries meanwhile: a call that outlives its cancellation costs the next renewal."""
        one, other = await make(), await make()
        limit = SLACK * one.timing.call_timeout
        grant = await grant_of(one, candidate(one))
        seen = await seen_by(other)
        calls = _calls(one, other, grant, seen) | {"holder_is_dead": lambda: other.holder_is_dead(seen)}
        with outage():
            for name, call in calls.items():
                least = LONG
                for _ in range(TRIES):
                    began = time.monotonic()
                    await ended(one, call)
                    least = min(least, time.monotonic() - began)
                    if least < limit or least >= one.timing.call_timeout + HOPELESS:
                        break
                assert least < limit, (
                    f"{name}() took {least:.2f} s at the best of {TRIES} tries; the core cancels it after"
                    f" call_timeout, {one.timing.call_timeout:g} s, and it must end then"
                )
        await answered(lambda: seen_by(other))

    async def test_a_cancelled_call_in_an_outage_ends_at_once_and_as_cancelled(
        self, make: Make, outage: Outage
    ) -> None:
        """Unless it has ended before. One that swallows its cancellation may write when nobody expects it."""
        one, other, grant = await one_leads(make)
        seen = await seen_by(other)
        calls = _calls(one, other, grant, seen) | {"wait_change": lambda: other.wait_change(seen, LONG)}
        with outage():
            for name, call in calls.items():
                task = asyncio.ensure_future(call())
                await asyncio.wait([task], timeout=one.timing.call_timeout / 4)
                await _ends_as_cancelled(name, task, one.timing.call_timeout + 1.0)
        await answered(lambda: seen_by(other))

    async def test_a_cancelled_wait_ends_at_once_and_as_cancelled(self, make: Make) -> None:
        """The core cancels a wait when it stops, and when it has to act at once."""
        one, other, _ = await one_leads(make)
        for _ in range(TRIES):
            waiting = asyncio.ensure_future(other.wait_change(await other.observe(), LONG))
            await asyncio.sleep(0.1)
            await _ends_as_cancelled("wait_change", waiting, one.timing.call_timeout + 1.0)

    async def test_a_look_does_not_wait_for_a_wait(self, make: Make) -> None:
        one, other, grant = await one_leads(make)
        limit = one.timing.call_timeout
        waiting = asyncio.ensure_future(other.wait_change(grant.record, LONG))
        answers = 0
        try:
            for _ in range(TRIES):
                await asyncio.sleep(0.05)
                if waiting.done():  # early returns are allowed
                    waiting = asyncio.ensure_future(other.wait_change(await other.observe(), LONG))
                with suppress(TimeoutError):
                    async with asyncio.timeout(limit):
                        assert (await seen_by(other)).same_tenure(grant.record)
                        await other.holder_is_dead(grant.record)
                        answers += 1
        finally:
            await put_away(waiting)
        assert answers > TRIES // 2, f"{answers} of {TRIES} looks were answered within call_timeout beside a wait"

    async def test_waiting_leaves_the_loop_free(self, make: Make) -> None:
        """A wait may take long, so it must not block: renewals, observations and the agent's end share its loop."""
        one, other, grant = await one_leads(make)
        limit = one.timing.call_timeout
        least = LONG
        for _ in range(3):
            async with Blockage() as blockage:
                await other.wait_change(grant.record, 2.5 * limit)
            least = min(least, blockage.longest)
            if least < limit:
                break
        assert least < limit, f"wait_change() blocked the loop for {least:.1f} s"

    async def test_a_waiter_is_woken_by_the_change_where_the_store_pushes(self, make: Make) -> None:
        """Also one that has waited for long. A release wakes a waiter; a renewal need not."""
        one, other = await make(), await make()
        if Guarantee.PUSHES_WAKEUPS not in other.guarantees:
            return
        medians = []
        for number in range(3):
            medians.append(median([await _woken_after(one, other, f"{number}-{n}") for n in range(CHANGES)]))
            if medians[-1] < WOKEN:
                break
        assert min(medians) < WOKEN, f"PUSHES_WAKEUPS is declared, yet waiters wake {min(medians):.2f} s after a change"

    async def test_a_renewal_or_a_release_of_another_tenure_is_refused(self, make: Make) -> None:
        """A tenure is a nonce *and* an epoch: after the loss of a store two replicas may have had the same epoch."""
        one, other, first = await one_leads(make)
        grant = await one.renew(first)
        theirs = replace(first.record, nonce=candidate(one, "another").nonce)
        earlier = replace(first.record, epoch=first.record.epoch - 1)
        for record in (theirs, earlier):
            for backend in (one, other):
                with pytest.raises(LeaseLost):
                    await backend.renew(Grant(record, first.token))
                await backend.release(Grant(record, first.token))
        seen = await seen_by(other)
        assert seen.same_tenure(grant.record)
        assert not seen.released
        await one.renew(grant)


def _calls(
    one: ElectionBackend, other: ElectionBackend, grant: Grant, seen: Record
) -> dict[str, Callable[[], Awaitable[object]]]:
    return {
        "observe": other.observe,
        "renew": lambda: one.renew(grant),
        "acquire": lambda: other.acquire(candidate(other, "other"), seen),
        "release": lambda: one.release(grant),
    }


async def _ends_as_cancelled(name: str, task: "asyncio.Future[Any]", within: float) -> None:
    """Unless it has ended before."""
    if task.cancel():
        done, _ = await asyncio.wait([task], timeout=within)
        cancelled = task.done() and task.cancelled()
        await put_away(task)
        assert done, f"{name}() did not end within {within:g} s of its cancellation"
        assert cancelled, f"{name}() swallowed its cancellation"
    await put_away(task)


async def _woken_after(one: ElectionBackend, other: ElectionBackend, name: str) -> float:
    """Seconds from a release, well into the wait for it, to the waiter's seeing it."""
    grant = await grant_of(one, candidate(one, name))
    seen = await seen_by(other)

    async def woken_at() -> float:
        await sees_release(other, seen, LONG)
        return time.monotonic()

    waiting = asyncio.ensure_future(woken_at())
    try:
        await asyncio.sleep(0.3)
        await one.release(grant)
        released_at = time.monotonic()
        async with asyncio.timeout(LONG):
            return await waiting - released_at
    finally:
        await put_away(waiting)
