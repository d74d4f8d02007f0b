"""Finds each place where a handler can be interrupted: where it begins to wait, and the event loop runs on."""

from collections.abc import Awaitable, Callable, Generator
from functools import partial
from typing import Any, Generic, TypeVar

Result = TypeVar("Result")

MOST = 25
"""How many of a handler's waits are tried, from the first: one that polls may have any number."""
ENDS = 5.0
"""Seconds that a handler may take to end after its cancellation."""
WHOLE = 30.0
"""Seconds that a whole run may take, with an engine in memory."""
GRACE = 0.5
"""Seconds from a call of ``require_lease`` to the end of the effect that follows it, such as a call to a store."""


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
            except BaseException as error:  # noqa: BLE001 - the work handles it, above all a cancellation
                step = partial(steps.throw, error)
            else:
                step = partial(next, steps)
