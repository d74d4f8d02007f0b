"""What the tests of election backends share: candidates with realistic names, and calls as the core makes them."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

from streamspace_agent.election import Candidate, ElectionBackend, Grant, Record
from streamspace_agent.errors import BackendUnavailable, LeaseLost, PreflightError

Outage = Callable[[], AbstractContextManager[object]]
"""Returns a context manager inside which the store does not answer."""
Result = TypeVar("Result")
Make = Callable[..., Awaitable[ElectionBackend]]

AGENT_ID = "agent-1"
UNKNOWN = object()
"""The outcome of a call whose answer is neither yes nor no."""


class BackendFactory(Protocol):
    """Returns a new backend of the agent id on the store under test."""

    def __call__(self, agent_id: str = AGENT_ID, /) -> ElectionBackend: ...


PATIENCE = 30.0
"""Seconds for what takes a store no time, on a busy machine."""
TRIES = 5
"""How often a call that has to be quick is tried. Its quickest try counts."""
HOPELESS = 3.0
"""Seconds beyond ``call_timeout`` after which a call is not tried again: no machine is that busy."""

NOW = 1_800_000_000_000
"""An epoch's floor as an agent has it: Unix time in milliseconds, far beyond 32 bits."""
HOST = "a-host-in-a-data-centre-far-away-whose-name-has-all-64-letters-1"


def candidate(backend: ElectionBackend, name: str = "one", *, agent_id: str = AGENT_ID, floor: int = NOW) -> Candidate:
    """A candidate whose host, names and numbers are as long as real ones."""
    digits = hashlib.sha256(name.encode()).hexdigest()
    instance, nonce = f"{HOST}-{digits[:12]}-{name}", f"{digits[:16]}.1000000"
    return Candidate(agent_id, instance, nonce, HOST, digits, backend.timing.lease, floor)


async def grant_of(backend: ElectionBackend, me: Candidate) -> Grant:
    """Acquire as the core does once the record is free; try again where a store grants nothing at first."""
    async with asyncio.timeout(PATIENCE):
        while True:
            result = await backend.acquire(me, await patiently(backend.observe))
            if isinstance(result, Grant):
                return result
            await asyncio.sleep(0.05)


async def one_leads(make: Make) -> tuple[ElectionBackend, ElectionBackend, Grant]:
    """A replica that holds the lease, another one, and the grant."""
    one, other = await make(), await make()
    return one, other, await grant_of(one, candidate(one))


async def seen_by(backend: ElectionBackend) -> Record:
    """The store's record. Fails the test if there is none."""
    record = await patiently(backend.observe)
    assert record is not None, "the store shows no record"
    return record


async def sees_release(backend: ElectionBackend, record: Record | None, timeout: float) -> None:
    """Wait for changes, each for ``timeout`` seconds at most, until the record is released or gone."""
    while record is not None and not record.released:
        await backend.wait_change(record, timeout)
        record = await backend.observe()


async def patiently(call: Callable[[], Awaitable[Result]]) -> Result:
    """Call up to three times: on a busy machine an answer may come too late."""
    for _ in range(2):
        try:
            return await call()
        except BackendUnavailable:
            await asyncio.sleep(0.1)
    return await call()


async def outcome(backend: ElectionBackend, call: Awaitable[object]) -> object:
    """What the core makes of a call in an outage: a result, the exception for "no", or :data:`UNKNOWN`."""
    try:
        async with asyncio.timeout(backend.timing.call_timeout):
            return await call
    except (LeaseLost, PreflightError) as error:
        return error
    except Exception:  # noqa: BLE001 - any other exception is an unknown outcome
        return UNKNOWN


async def ended(backend: ElectionBackend, call: Callable[[], Awaitable[object]]) -> None:
    """Call with the core's time limit and ignore the outcome."""
    task = asyncio.ensure_future(call())
    await asyncio.wait([task], timeout=backend.timing.call_timeout)
    task.cancel()
    await asyncio.wait([task], timeout=HOPELESS)
    await put_away(task)


async def put_away(task: "asyncio.Future[Any]") -> None:
    """End a task even if it swallows its cancellation, so that no test hangs."""
    for _ in range(100):
        if not task.done():
            task.cancel()
            await asyncio.wait([task], timeout=0.01)
    if task.done() and not task.cancelled():
        task.exception()  # retrieved, so that asyncio does not warn


async def answered(call: Callable[[], Awaitable[Result]]) -> Result:
    """Call until the store answers, as the core does after an outage or an unknown outcome."""
    last: Exception | None = None
    try:
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    return await call()
                except (LeaseLost, PreflightError, AssertionError):
                    raise
                except Exception as error:  # noqa: BLE001 - any other exception is an unknown outcome
                    last = error
                await asyncio.sleep(0.05)
    except TimeoutError as error:
        raise TimeoutError(f"no answer within {PATIENCE:g} s: {last!r}") from error
