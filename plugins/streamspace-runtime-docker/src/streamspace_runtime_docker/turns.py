"""Container starts take turns: they cost the engine's host a core each.

Sixteen at once on two cores are all ready when the last one is; one after another, the first user waits a fraction
of that and the last no longer. Nobody keeps a turn for long: a start that hangs holds up no other session.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

LONGEST_TURN = 2.0
"""Seconds after which the next start may begin although this one has not come back."""


class Turns:
    """``places`` tells how many may be taken at once; asked for once, at the first start."""

    def __init__(self, places: Callable[[], Awaitable[int]]) -> None:
        self._places = places
        self._free: asyncio.Semaphore | None = None

    @asynccontextmanager
    async def take(self) -> AsyncIterator[None]:
        free = self._free or self._settle(await self._places())
        await free.acquire()
        given_back = False

        def give_back() -> None:
            nonlocal given_back
            if not given_back:
                given_back = True
                free.release()

        late = asyncio.get_running_loop().call_later(LONGEST_TURN, give_back)
        try:
            yield
        finally:
            late.cancel()
            give_back()

    def _settle(self, places: int) -> asyncio.Semaphore:
        if self._free is None:  # several may have asked at the same time
            self._free = asyncio.Semaphore(max(1, places))
        return self._free
