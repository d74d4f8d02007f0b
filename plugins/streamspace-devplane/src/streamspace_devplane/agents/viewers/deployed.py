"""The viewer relay of the deployed control plane, with all its faults.

Each agent's connection has one queue for all its sessions, which only relays empty. Each viewer has a relay of its own,
which takes whatever message comes next, passes on those of its session, and throws the others away. The README says
what follows from that.
"""

import asyncio
import contextlib

from starlette.websockets import WebSocket

from streamspace_devplane.agents.link import Link
from streamspace_devplane.agents.state import State
from streamspace_devplane.agents.viewers.deployed_queue import Messages
from streamspace_devplane.agents.viewers.deployed_viewer import Viewing
from streamspace_devplane.store import Row


class DeployedRelay:
    """`active` is what the control plane believes who views what: wrong whenever a relay outlives its viewer."""

    def __init__(self, state: State) -> None:
        self._state = state
        self.active: dict[str, Viewing] = {}
        self.viewings: set[Viewing] = set()
        """The relays that run, including those of viewers that have left."""
        self._queues: dict[Link, Messages] = {}

    def opened(self, link: Link) -> None:
        self._queues[link] = Messages(self._state.settings.viewer_queue)

    def closed(self, link: Link) -> None:
        del self._queues[link]  # relays still wait on it

    def waiting(self, link: Link) -> int:
        return len(self._queues[link].waiting)

    def status(self, link: Link, session_id: str, state: str) -> None:
        pass

    def refusal(self, _session: Row, /) -> str | None:
        return None

    def receive(self, link: Link, kind: str, payload: Row) -> None:
        if not self._queues[link].put((kind, payload)):
            self._state.counters["vncDropped"] += 1

    async def serve(self, socket: WebSocket, link: Link, session_id: str) -> None:
        older = self.active.pop(session_id, None)
        if older:
            older.wire.abort()
        viewing = Viewing(self._state, socket, self._queues[link], link.agent_id, session_id, self._returned)
        self.active[session_id] = viewing
        self.viewings.add(viewing)
        self._state.store.touch(session_id)
        await viewing.run()

    def _returned(self, viewing: Viewing) -> None:
        """A relay has ended: drop the session's entry, even another viewer's, and tell the agent."""
        self.viewings.discard(viewing)
        self.active.pop(viewing.session_id, None)
        link = self._state.links.get(viewing.agent_id)
        if link and link.takes_more:
            link.send("vnc_close", {"sessionId": viewing.session_id, "reason": "client_disconnect"})

    async def stop(self) -> None:
        for viewing in self.viewings:
            viewing.cancel()
        for viewing in list(self.viewings):
            with contextlib.suppress(asyncio.CancelledError):
                await viewing.over()
        self.viewings.clear()
