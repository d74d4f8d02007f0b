"""A long answer of the engine, read in a thread and handed to the event loop line by line."""

import asyncio
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Protocol

Line = dict[str, Any]


class Source(Protocol):
    """What :class:`Reader` reads: lines that come when they come, and a way to end that from outside."""

    def __iter__(self) -> Any: ...

    def close(self) -> None: ...


class Reader:
    """An async iterator over the lines of a :class:`Source`. Made on the event loop, :meth:`run` in a thread."""

    def __init__(self, opener: Callable[[], Source], translate: Callable[[Exception], Exception]) -> None:
        self._opener = opener
        self._translate = translate
        self._loop = asyncio.get_running_loop()
        self._lines: asyncio.Queue[Line | Exception | None] = asyncio.Queue()
        self._source: Source | None = None
        self._left = False
        self._lock = threading.Lock()

    def run(self) -> None:
        try:
            source = self._opener()
            with self._lock:
                self._source = source
                left = self._left
            if left:
                source.close()
                return
            self._tell({})
            lines: Iterable[Line] = source
            for line in lines:
                self._tell(line)
            self._tell(None)
        except Exception as error:  # noqa: BLE001  # carried to the event loop, where it is raised
            self._tell(self._translate(error))

    def _tell(self, item: Line | Exception | None) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(self._lines.put_nowait, item)

    async def opened(self) -> None:
        """Return when the engine has begun to answer; raise what it refused with."""
        first = await self._lines.get()
        if isinstance(first, Exception):
            raise first

    def leave(self) -> None:
        """Stop reading. The thread ends soon after; nothing waits for it."""
        with self._lock:
            self._left = True
            source = self._source
        if source is not None:
            source.close()

    def __aiter__(self) -> "Reader":
        return self

    async def __anext__(self) -> Line:
        line = await self._lines.get()
        if line is None:
            raise StopAsyncIteration
        if isinstance(line, Exception):
            raise line
        return line
