"""Limits how many containers start at the same time, since each start takes a core of the engine's host.

Sixteen at once on two cores are all ready when the last one is; one after another, the first user waits a fraction of
that and the last no longer. A start that hangs does not hold up the others.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager

LONGEST_START = 2.0
"""Seconds after which the next start may begin although this one has not returned."""


class StartLimiter:
    """At most ``limit`` starts run at once; if ``limit`` is 0, as many as ``cores`` returns."""

    def __init__(self, limit: int, cores: Callable[[], Awaitable[int]]) -> None:
        self._limit = limit
        self._cores = cores
        self._free: asyncio.Semaphore | None = None

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        limit = self._limit or await self._cores()
        self._free = self._free or asyncio.Semaphore(max(1, limit))
        await self._free.acquire()
        free_again = ExitStack()
        free_again.callback(self._free.release)
        late = asyncio.get_running_loop().call_later(LONGEST_START, free_again.close)
        try:
            yield
        finally:
            late.cancel()
            free_again.close()
