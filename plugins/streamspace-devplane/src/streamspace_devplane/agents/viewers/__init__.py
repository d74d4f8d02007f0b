"""How viewers' bytes get from and to an agent: as the deployed control plane does it, or a repaired one."""

from typing import Protocol

from starlette.websockets import WebSocket

from streamspace_devplane.agents.link import Link
from streamspace_devplane.store import Row


class Relay(Protocol):
    """One for the whole control plane; all calls are made from the event loop's thread."""

    def opened(self, link: Link) -> None:
        """An agent's connection was accepted; nothing has arrived on it yet."""

    def closed(self, link: Link) -> None:
        """That connection has ended, and nothing more arrives on it."""

    def receive(self, link: Link, kind: str, payload: Row) -> None:
        """The agent sent `vnc_ready`, `vnc_data` or `vnc_error`; the `data` of `vnc_data` is bytes where it was plain base64."""

    def status(self, link: Link, session_id: str, state: str) -> None:
        """The agent reported the session's state, which is written already."""

    def hindrance(self, session: Row, /) -> str | None:
        """Why this session, whose agent is connected, has no viewer now; `None` lets one in."""

    async def serve(self, socket: WebSocket, link: Link, session_id: str) -> None:
        """Own a viewer's accepted WebSocket until it is over, whoever ends it."""

    def waiting(self, link: Link) -> int:
        """Messages of that agent that no viewer has taken."""

    async def stop(self) -> None:
        """The control plane ends: nothing runs afterwards, and nobody is told."""
