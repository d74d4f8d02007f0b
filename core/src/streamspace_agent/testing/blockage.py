"""How long something kept the event loop from running, however busy the machine is beside it."""

import asyncio
import threading
import time
from types import TracebackType
from typing import Self

SAMPLE = 0.02
"""Seconds between two looks at the loop."""

DELAY = 0.1
"""Seconds that count of a look which came late: what is more, the machine was too busy to run either thread."""

LIMIT = 0.5
"""Seconds for which a call may keep the loop from running, as the suites measure it: what nobody does by accident. On the
agent's loop run heartbeats, lease checks and all screens, so that 50 ms are seen there already."""


class Blockage:
    """Watches the loop that it is entered on: ``longest`` is the longest time, in seconds, for which it did not run.

    A thread looks whether the loop goes on. Time in which the thread itself did not run counts only as far as this process
    used the processor: on a busy machine both wait, and that is nobody's fault.
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

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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
