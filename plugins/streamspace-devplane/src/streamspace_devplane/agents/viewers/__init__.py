"""Relays of VNC data between viewers and agents: the deployed control plane's, and a repaired one's."""

from typing import Protocol

from starlette.websockets import WebSocket

from streamspace_devplane.agents.link import Link
from streamspace_devplane.store import Row


class Relay(Protocol):
    """The contract of a relay. A control plane has one, and calls it from the event loop's thread only."""

    def opened(self, link: Link) -> None:
        """Called when an agent's connection was accepted, before anything arrives on it."""

    def closed(self, link: Link) -> None:
        """Called when that connection has ended."""

    def receive(self, link: Link, kind: str, payload: Row) -> None:
        """Called with each `vnc_ready`, `vnc_data` and `vnc_error`. `data` is bytes if it was plain base64."""

    def status(self, link: Link, session_id: str, state: str) -> None:
        """Called when the agent has reported a session's state, which is stored already."""

    def refusal(self, session: Row, /) -> str | None:
        """Why a viewer of this session, whose agent is connected, is refused; `None` if it is not."""

    async def serve(self, socket: WebSocket, link: Link, session_id: str) -> None:
        """Serve a viewer's accepted WebSocket until its end."""

    def waiting(self, link: Link) -> int:
        """The number of the agent's messages that no viewer has taken."""

    async def stop(self) -> None:
        """End everything that runs; nobody is notified."""
