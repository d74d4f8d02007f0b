"""Sees each place where a handler can be interrupted: where it begins to wait for something, and the loop runs on."""

from collections.abc import Awaitable, Callable, Generator
from functools import partial
from typing import Any, Generic, TypeVar

Result = TypeVar("Result")

MOST = 25
"""So many of a handler's waits are tried, from the first: one that polls may have any number."""
ENDS = 5.0
"""Seconds within which a handler has ended after its cancellation."""
WHOLE = 30.0
"""Seconds within which it has ended otherwise, beside an engine in memory."""
GRACE = 0.5
"""Seconds between a question for the lease and the end of the effect that it was for: a call to a store may be under way."""


class Watched(Generic[Result]):
    """Awaits ``work`` and calls ``on_wait`` with a number, from 1, each time that it begins to wait."""

    def __init__(self, work: Awaitable[Result], on_wait: Callable[[int], None]) -> None:
        self._work = work
        self._on_wait = on_wait

    def __await__(self) -> Generator[Any, Any, Result]:
        steps = self._work.__await__()
        step: Callable[[], Any] = partial(next, steps)
        waits = 0
        while True:
            try:
                awaited = step()
            except StopIteration as end:
                result: Result = end.value
                return result
            waits += 1
            self._on_wait(waits)
            try:
                yield awaited
            except BaseException as error:  # noqa: BLE001 - the work's own to handle, a cancellation above all
                step = partial(steps.throw, error)
            else:
                step = partial(next, steps)
