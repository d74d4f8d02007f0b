"""Waiting for something that sends no event: another process's doing, a server's state, a log."""

from __future__ import annotations

import asyncio
import inspect
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

TIMEOUT = 30.0
EVERY = 0.01
"""Seconds between two looks, but no less than a look takes: one that starts a process leaves others half of one."""


class NeverCameTrueError(AssertionError):
    """The condition did not hold within the time given."""


async def until(
    condition: Callable[[], Any],
    what: str | Callable[[], str] = "",
    *,
    timeout: float = TIMEOUT,
    every: float = EVERY,
    tolerate: tuple[type[Exception], ...] = (),
) -> Any:
    """Call ``condition``, and await what it returns where that can be awaited, until the result is true; return that.

    ``what`` says what is waited for, or returns it (a log, say); by default that is the condition's own source line. An
    exception of ``tolerate`` counts as false. A call that began in time may take as long again, and is then cancelled.
    """
    last: object = None
    deadline = time.monotonic() + timeout
    try:
        async with asyncio.timeout(2 * timeout) as limit:
            while True:
                began = time.monotonic()
                try:
                    found = condition()
                    last = await found if inspect.isawaitable(found) else found
                    if last:
                        return last
                except tolerate as error:
                    last = error
                now = time.monotonic()
                if now > deadline:
                    break
                await asyncio.sleep(max(every, now - began))
    except TimeoutError:
        if not limit.expired():
            raise
    raise NeverCameTrueError(_message(condition, what, timeout, last))


def until_sync(
    condition: Callable[[], Any],
    what: str | Callable[[], str] = "",
    *,
    timeout: float = TIMEOUT,
    every: float = EVERY,
) -> Any:
    """The same without an event loop."""
    began = time.monotonic()
    deadline = began + timeout
    while not (last := condition()):
        now = time.monotonic()
        if now > deadline:
            raise NeverCameTrueError(_message(condition, what, timeout, last))
        time.sleep(max(every, now - began))
        began = time.monotonic()
    return last


def _message(condition: Callable[[], Any], what: str | Callable[[], str], timeout: float, last: object) -> str:
    named = what() if callable(what) else what or _source(condition)
    return f"waited {timeout:g} s in vain for: {named}\nlast result: {last!r}"


def _source(condition: Callable[[], Any]) -> str:
    try:
        return inspect.getsource(condition).strip()
    except (OSError, TypeError):
        return repr(condition)
