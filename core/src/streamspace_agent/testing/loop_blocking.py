"""Measures how long something blocks the event loop, and how often it makes the loop run, even on a busy machine."""

import asyncio
import selectors
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, Self, TypeVar

Result = TypeVar("Result")

SAMPLE = 0.02
"""Seconds between two checks of the loop."""

DELAY = 0.1
"""Most seconds that count between two checks: beyond that, the machine was too busy to run either thread."""

LIMIT = 0.5
"""Seconds for which a call may block the loop in the suites' measurements. Generous: heartbeats, lease checks and all
screens run on the agent's loop, where 50 ms already show."""


class Blockage:
    """Watches the loop that it is entered on: ``longest`` is the longest time, in seconds, for which it did not run.

    A thread checks whether the loop goes on. Time in which the thread itself did not run counts only as far as this
    process used the processor: on a busy machine both threads have to wait.
    """

    def __init__(self) -> None:
        self.longest = 0.0
        self._beats = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    async def __aenter__(self) -> Self:
        self._beating = asyncio.create_task(self._beat())
        self._thread.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._end.set()
        self._beating.cancel()
        await asyncio.wait([self._beating])
        self._thread.join()

    async def _beat(self) -> None:
        while True:
            self._beats += 1
            await asyncio.sleep(SAMPLE / 2)

    def _look(self) -> None:
        seen, still = -1, 0.0
        wall, used = time.monotonic(), time.process_time()
        while not self._end.wait(SAMPLE):
            now, using = time.monotonic(), time.process_time()
            passed = min(now - wall, max(DELAY, using - used))
            still = still + passed if self._beats == seen else 0.0
            wall, used, seen = now, using, self._beats
            self.longest = max(self.longest, still)


class _Counting(selectors.DefaultSelector):
    passes = 0

    def select(self, timeout: float | None = None) -> Any:
        self.passes += 1
        return super().select(timeout)


async def counted(main: Callable[[Callable[[], int]], Coroutine[Any, Any, Result]]) -> Result:
    """Run ``main`` on an event loop of its own, in a thread. Its argument returns how many passes that loop has made.

    A busy loop makes thousands a second, even on a small share of a processor.
    """

    def run() -> Result:
        selector = _Counting()
        with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
            return runner.run(main(lambda: selector.passes))

    return await asyncio.to_thread(run)
