"""What a command's handler is given."""

from dataclasses import dataclass

from streamspace_agent.commands.capacity import Capacity
from streamspace_agent.commands.jobs import Report
from streamspace_agent.config import Settings
from streamspace_agent.election.lease import Lease
from streamspace_agent.runtime import Progress, RuntimeDriver, Session
from streamspace_agent.sessions.progress import ProgressBoard
from streamspace_agent.sessions.reconciler import Reconciler
from streamspace_agent.tunnel.tunnels import Tunnels


@dataclass(slots=True)
class HandlerContext:
    """What one command's handler may use (:class:`streamspace_agent.commands.Context`)."""

    settings: Settings
    driver: RuntimeDriver
    capacity: Capacity
    lease: Lease
    board: ProgressBoard
    reconciler: Reconciler
    tunnels: Tunnels
    reports: list[Report]
    """What the handler reports is appended here."""

    def require_lease(self) -> None:
        self.lease.require()

    def progress(self, session_id: str, step: Progress) -> None:
        self.board.show(session_id, step)

    def report(self, session: Session) -> None:
        self.board.done(session.session_id)
        self.tunnels.note(session, fresh=True)
        announcement = self.reconciler.announcement(session)
        self.reports.append(Report(announcement, lambda: self.reconciler.announced(session)))
