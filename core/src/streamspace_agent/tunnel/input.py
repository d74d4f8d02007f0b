"""When a person last touched each session's keyboard or mouse."""

from streamspace_agent.clock import Clock


class LastInput:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._seen: dict[str, float] = {}

    def idle_for(self, session_id: str) -> float:
        """Seconds since a person last used the session, or since this was first asked."""
        now = self._clock.now()
        return now - self._seen.setdefault(session_id, now)

    def saw(self, session_id: str) -> None:
        self._seen[session_id] = self._clock.now()

    def forget(self, session_id: str) -> None:
        """The session runs no more: it begins anew when it does."""
        self._seen.pop(session_id, None)
