"""The sessions of one leadership, and which of them a command is working on: the state that its parts share."""

import asyncio
from collections import Counter

from streamspace_agent.runtime import Session


class SessionTable(dict[str, Session]):
    """Sessions by id, as the control plane last heard of them.

    The reconciler fills it, the dispatcher keeps ``busy``; all others only read. It changes between two turns of the event loop.
    """

    def __init__(self, *sessions: Session) -> None:
        super().__init__({session.session_id: session for session in sessions})
        self.busy: set[str] = set()
        """Ids of sessions with a command that waits or runs: everything else leaves them to it."""
        self.pending: set[str] = set()
        """Ids of sessions whose last report was a step of a start or wake: the control plane must hear how that ended."""
        self.adopted = asyncio.Event()
        """Set once the engine has been asked what runs: only from then on are these all the sessions there are."""

    def count_by_state(self) -> dict[str, int]:
        """May be called from any thread."""
        return dict(Counter(str(session.state) for session in list(self.values())))
