"""Virtual time, which jumps whenever all tasks wait: an hour takes a few milliseconds, and each run is the same."""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop that jumps to its next timer instead of sleeping. It supports neither threads nor sockets."""

    def __init__(self) -> None:
        self._virtual = 1000.0
        self.before_jump: list[Callable[[float, float], None]] = []
        """Each is called with the present time and the time of the jump. Nothing happens in between."""
        super().__init__(_Jumping(self))

    def time(self) -> float:
        return self._virtual

    def jump(self, seconds: float) -> None:
        for look in self.before_jump:
            look(self._virtual, self._virtual + seconds)
        self._virtual += seconds


class _Jumping(selectors.DefaultSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._owner = loop

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:
            raise RuntimeError("all tasks wait for ever")
        self._owner.jump(max(timeout, 1e-9))
        return []


def run(main: Coroutine[Any, Any, Result]) -> Result:
    """``asyncio.run`` in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


class VirtualClock:
    """A replica's clock on the running loop: ``rate`` 1.01 is 1 % fast, ``wall`` its wall clock's error in seconds."""

    def __init__(self, *, rate: float = 1.0, wall: float = 0.0) -> None:
        self.rate = rate
        self.wall = wall
        self.slept = 0.0
        """Seconds for which this host alone was suspended, and its timers stood still."""

    def now(self) -> float:
        return asyncio.get_running_loop().time() * self.rate + self.slept

    def wall_ms(self) -> int:
        return int((asyncio.get_running_loop().time() + self.wall) * 1000)
