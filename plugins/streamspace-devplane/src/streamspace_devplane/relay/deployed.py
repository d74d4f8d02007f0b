"""The viewer relay of the deployed control plane, with all its faults: what it loses, forgets and dies of.

Each agent's connection has one queue for all its sessions, which only relays empty. Each viewer has a relay, and each
relay takes whatever comes next, passes on what is its own session's, and throws away the rest. See the README for what
follows from that.
"""

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

from starlette.websockets import WebSocket

from streamspace_devplane.link import Link
from streamspace_devplane.relay.channel import Messages
from streamspace_devplane.relay.viewing import Viewing
from streamspace_devplane.store import Row

if TYPE_CHECKING:
    from streamspace_devplane.hub import Hub


class DeployedRelay:
    """`active` is the control plane's own idea of who views what; it is wrong whenever a relay outlives its viewer."""

    def __init__(self, hub: "Hub") -> None:
        self.hub = hub
        self.active: dict[str, Viewing] = {}
        self.viewings: set[Viewing] = set()
        """Relays that run, those of viewers long gone too."""
        self._queues: dict[Link, Messages] = {}

    def opened(self, link: Link) -> None:
        self._queues[link] = Messages(self.hub.settings.viewer_queue)

    def closed(self, link: Link) -> None:
        del self._queues[link]  # relays go on waiting on it

    def waiting(self, link: Link) -> int:
        return len(self._queues[link].waiting)

    def status(self, link: Link, session_id: str, state: str) -> None:
        pass

    def hindrance(self, _session: Row, /) -> str | None:
        return None

    def receive(self, link: Link, kind: str, payload: Row) -> None:
        if not self._queues[link].put((kind, payload)):
            self.hub.counters["vncDropped"] += 1

    async def serve(self, socket: WebSocket, link: Link, session_id: str) -> None:
        older = self.active.pop(session_id, None)
        if older:
            older.wire.abort()
        viewing = Viewing(self, socket, self._queues[link], link.agent_id, session_id)
        self.active[session_id] = viewing
        self.viewings.add(viewing)
        self.touch(session_id)
        await viewing.run()

    def touch(self, session_id: str) -> None:
        self.hub.store.change("UPDATE sessions SET last_activity = ? WHERE session_id = ?", time.time(), session_id)

    def returned(self, viewing: Viewing) -> None:
        """A relay has ended. Another viewer's entry goes with its own, and the agent's present connection is told."""
        self.viewings.discard(viewing)
        self.active.pop(viewing.session_id, None)
        link = self.hub.links.get(viewing.agent_id)
        if link and link.takes_more:
            link.send("vnc_close", {"sessionId": viewing.session_id, "reason": "client_disconnect"})

    async def stop(self) -> None:
        for viewing in self.viewings:
            viewing.cancel()
        for viewing in list(self.viewings):
            with contextlib.suppress(asyncio.CancelledError):
                await viewing.over()
        self.viewings.clear()
