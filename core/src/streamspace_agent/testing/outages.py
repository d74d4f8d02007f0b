"""The part of the suite of election backends about silence: a store that does not answer has said neither yes nor no."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

from streamspace_agent.election import Candidate, ElectionBackend, Grant, Record
from streamspace_agent.errors import BackendUnavailable, LeaseLost, PreflightError
from streamspace_agent.testing.suite import Suite

Outage = Callable[[], AbstractContextManager[object]]
"""A context manager in which the store does not answer."""
Result = TypeVar("Result")
Make = Callable[..., Awaitable[ElectionBackend]]

AGENT_ID = "agent-1"


class BackendFactory(Protocol):
    """Makes a new backend of an agent's store: one for each replica of a test."""

    def __call__(self, agent_id: str = AGENT_ID, /) -> ElectionBackend: ...


PATIENCE = 30.0
"""Seconds for what a store on a busy machine does at once."""
TRIES = 5
"""So often is tried what has to be quick."""
HOPELESS = 3.0
"""Seconds beyond ``call_timeout`` after which no other try is made: no machine is as busy as that."""
SLACK = 1.25
"""So much longer than ``call_timeout`` may a call take that is cancelled then, at the best of its tries."""

NOW = 1_800_000_000_000
"""An epoch's floor as an agent has it: Unix time in milliseconds, far beyond 32 bits."""
HOST = "a-host-in-a-data-centre-far-away-whose-name-has-all-64-letters-1"


def candidate(backend: ElectionBackend, name: str = "one", *, agent_id: str = AGENT_ID, floor: int = NOW) -> Candidate:
    """Who stands for election, with a host, names and numbers as long as real ones."""
    digits = hashlib.sha256(name.encode()).hexdigest()
    instance, nonce = f"{HOST}-{digits[:12]}-{name}", f"{digits[:16]}.1000000"
    return Candidate(agent_id, instance, nonce, HOST, digits, backend.timing.lease, floor)


async def grant_of(backend: ElectionBackend, me: Candidate, within: float = PATIENCE) -> Grant:
    """Acquire as the core does once it has found the record free, trying on where a store lets nobody in at first."""
    async with asyncio.timeout(within):
        while True:
            result = await backend.acquire(me, await patiently(backend.observe))
            if isinstance(result, Grant):
                return result
            await asyncio.sleep(0.05)


async def seen_by(backend: ElectionBackend) -> Record:
    """The record that stands there; that there is one is part of the test."""
    record = await patiently(backend.observe)
    assert record is not None, "the store shows no record"
    return record


async def patiently(call: Callable[[], Awaitable[Result]]) -> Result:
    """Call a second and a third time where a busy machine may have kept the answer."""
    for _ in range(2):
        try:
            return await call()
        except BackendUnavailable:
            await asyncio.sleep(0.1)
    return await call()


async def outcome(backend: ElectionBackend, call: Awaitable[object]) -> object:
    """What the core makes of a call in an outage: a result, a "no", or None for "cannot tell"."""
    try:
        async with asyncio.timeout(backend.timing.call_timeout):
            return await call
    except (LeaseLost, PreflightError) as error:
        return error
    except Exception:  # noqa: BLE001 - by the contract every other exception counts as "cannot tell"
        return None


async def ended(backend: ElectionBackend, call: Callable[[], Awaitable[object]]) -> None:
    """Call as the core does, whatever comes of it."""
    task = asyncio.ensure_future(call())
    await asyncio.wait([task], timeout=backend.timing.call_timeout)
    task.cancel()
    await asyncio.wait([task], timeout=HOPELESS)
    await put_away(task)


async def put_away(task: "asyncio.Future[Any]") -> None:
    """End it, even if it swallows its cancellation: no test may hang on another's fault."""
    for _ in range(100):
        if not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=0.01)
    if task.done() and not task.cancelled():
        task.exception()  # looked at, so that nobody complains of it


async def answered(call: Callable[[], Awaitable[Result]]) -> Result:
    """Call as the core does after an outage, or where an outcome is unknown: until the store answers."""
    last: Exception | None = None
    try:
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    return await call()
                except (LeaseLost, PreflightError, AssertionError):
                    raise
                except Exception as error:  # noqa: BLE001 - by the contract every other exception counts as "cannot tell"
                    last = error
                await asyncio.sleep(0.05)
    except TimeoutError as error:
        raise TimeoutError(f"no answer within {PATIENCE:g} s: {last!r}") from error


async def _whatever(call: Awaitable[object]) -> bool:
    """True for any answer, None included."""
    await call
    return True


class Outages(Suite):
    async def test_a_renewal_in_an_outage_is_neither_yes_nor_no(self, make: Make, outage: Outage) -> None:
        one = await make()
        grant = await grant_of(one, candidate(one))
        with outage():
            for _ in range(3):
                assert await outcome(one, one.renew(grant)) is None
        renewed = await answered(lambda: one.renew(grant))
        assert renewed.record.same_tenure(grant.record)

    async def test_a_look_in_an_outage_shows_nothing_old_and_nothing_empty(self, make: Make, outage: Outage) -> None:
        one, other = await make(), await make()
        grant = await grant_of(one, candidate(one))
        await other.observe()
        with outage():
            for backend in (one, other):
                answer = await outcome(backend, _whatever(backend.observe()))
                assert answer is None, "observe() answered although the store did not"
        assert (await answered(lambda: seen_by(other))).same_tenure(grant.record)

    async def test_a_candidate_in_an_outage_gets_neither_the_lease_nor_a_refusal(
        self, make: Make, outage: Outage
    ) -> None:
        one, other = await make(), await make()
        grant = await grant_of(one, candidate(one))
        await other.observe()
        with outage():
            assert await outcome(other, other.acquire(candidate(other, "other"), None)) is None
            assert await outcome(other, other.holder_is_dead(grant.record)) is not True
        await answered(lambda: one.renew(grant))

    async def test_a_release_in_an_outage_is_not_confirmed_unless_it_was_made(self, make: Make, outage: Outage) -> None:
        one, other = await make(), await make()
        grant = await grant_of(one, candidate(one))
        with outage():
            confirmed = await outcome(one, _whatever(one.release(grant))) is not None
        if confirmed:
            assert (await answered(lambda: seen_by(other))).released, "release() returned, but nothing was released"

        async def release() -> None:
            await one.release(grant)

        await answered(release)
        assert (await seen_by(other)).released
