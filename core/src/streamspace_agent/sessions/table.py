"""The table of sessions that the parts of one leadership share."""

import asyncio
from collections import Counter

from streamspace_agent.runtime import Session


class SessionTable(dict[str, Session]):
    """Sessions by id, as last announced to the control plane.

    The reconciler fills the table and the dispatcher ``busy``; all others only read.
    """

    def __init__(self, *sessions: Session) -> None:
        super().__init__({session.session_id: session for session in sessions})
        self.busy: set[str] = set()
        """Ids of sessions with a command that waits or runs: nothing else may touch them."""
        self.pending: set[str] = set()
        """Ids of sessions whose last report was a step of a start or wake: its end has to be announced."""
        self.adopted = asyncio.Event()
        """Set once the engine has been asked for its sessions: only then is the table complete."""

    def count_by_state(self) -> dict[str, int]:
        """May be called from any thread."""
        return dict(Counter(str(session.state) for session in list(self.values())))
