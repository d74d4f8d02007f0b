"""Who may use the gateway: whoever can is in every web session."""

import logging
from collections.abc import Callable, Iterable

from streamspace_agent.addresses import Network, source

log = logging.getLogger(__name__)

MAX_TOLD = 1000
"""Sources that the log tells of, once each."""


class Access:
    """``sessions`` tells the sessions' own addresses. They lie in private networks, and a session must not enter another."""

    def __init__(self, allowed: Iterable[Network], sessions: Callable[[], Iterable[str]]) -> None:
        self._allowed = tuple(allowed)
        self._sessions = sessions
        self._told: set[str] = set()

    def refusal(self, peer: str) -> str:
        """Why a peer may not use it, or ""."""
        address = source(peer)
        if address is None:
            why = "its address is unknown"
        elif str(address) in set(self._sessions()):
            why = "it is a session's: sessions may not use the gateway"
        elif any(address in network for network in self._allowed):
            return ""
        else:
            why = "its network is not in WEB_GATEWAY_ALLOW"
        if peer not in self._told and len(self._told) < MAX_TOLD:
            self._told.add(peer)
            log.warning("web gateway: refused a connection from %s: %s", peer, why)
        return f"{peer} may not use this gateway: {why}"
