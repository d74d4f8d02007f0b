"""VNC data on its way from one agent to its viewers: one bounded queue for all, which drops what does not fit."""

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator

GREETING = b"RFB"  # the first bytes of every VNC server


class Viewer:
    """One viewer of a session. It is closed with a reason, which its WebSocket is closed with."""

    def __init__(self, session_id: str) -> None:
        self.session_id = session_id
        self.ready = asyncio.Event()
        self.closed: str | None = None
        self.gone = asyncio.Event()

    def close(self, reason: str) -> None:
        if self.closed is None:
            self.closed = reason
        self.ready.set()
        self.gone.set()


class ViewerQueue:
    """Lives as long as one agent's link. Data for a session without a viewer waits here for one."""

    def __init__(self, limit: int, counters: Counter[str]) -> None:
        self.limit = limit
        self.size = 0
        self.counters = counters
        self.viewers: dict[str, Viewer] = {}
        self._waiting: dict[str, deque[bytes]] = {}
        self._left: set[str] = set()

    def offer(self, session_id: str, data: bytes) -> None:
        if session_id in self._left:
            if not data.startswith(GREETING):
                self.counters["vncAfterClose"] += 1
                return
            self._left.discard(session_id)
        if self.size >= self.limit:
            self.counters["vncDropped"] += 1
            return
        self._waiting.setdefault(session_id, deque()).append(data)
        self.size += 1
        viewer = self.viewers.get(session_id)
        if viewer:
            viewer.ready.set()

    def reopen(self, session_id: str) -> None:
        """Called when the agent has announced a new VNC connection: its data is for the next viewer."""
        self._left.discard(session_id)

    def forget(self, session_id: str) -> None:
        waiting = self._waiting.pop(session_id, deque())
        self.size -= len(waiting)
        waiting.clear()  # `stream` may be iterating over it

    def join(self, session_id: str) -> Viewer:
        """Add a viewer of a session that has none."""
        viewer = self.viewers[session_id] = Viewer(session_id)
        if self._waiting.get(session_id):
            viewer.ready.set()
        return viewer

    def leave(self, viewer: Viewer, reason: str) -> bool:
        """Remove a viewer, and the data on its way to it. Returns whether it was still there."""
        viewer.close(reason)
        if self.viewers.get(viewer.session_id) is not viewer:
            return False
        del self.viewers[viewer.session_id]
        self.forget(viewer.session_id)
        self._left.add(viewer.session_id)
        return True

    async def stream(self, viewer: Viewer) -> AsyncIterator[bytes]:
        """The data for this viewer, until it is closed."""
        while viewer.closed is None:
            await viewer.ready.wait()
            viewer.ready.clear()
            waiting = self._waiting.get(viewer.session_id)
            while waiting and viewer.closed is None:
                self.size -= 1
                yield waiting.popleft()

    def close(self, reason: str) -> None:
        for viewer in self.viewers.values():
            viewer.close(reason)
