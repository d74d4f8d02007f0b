"""Who may use the gateway. Whoever may can reach every web session."""

import logging
from collections.abc import Callable, Iterable

from streamspace_agent.addresses import Network, source

log = logging.getLogger(__name__)

MAX_LOGGED = 1000
"""Refused sources that are logged, once each."""


class Access:
    """``sessions`` returns the sessions' own addresses: a session may not reach another one."""

    def __init__(self, allowed: Iterable[Network], sessions: Callable[[], Iterable[str]]) -> None:
        self._allowed = tuple(allowed)
        self._sessions = sessions
        self._logged: set[str] = set()

    def refusal(self, peer: str) -> str:
        """Why the gateway refuses a source; "" when it does not."""
        address = source(peer)
        if address is None:
            why = "its address is unknown"
        elif str(address) in set(self._sessions()):
            why = "it is a session's: sessions may not use the gateway"
        elif any(address in network for network in self._allowed):
            return ""
        else:
            why = "its network is not in WEB_GATEWAY_ALLOW"
        if peer not in self._logged and len(self._logged) < MAX_LOGGED:
            self._logged.add(peer)
            log.warning("web gateway: refused a connection from %s: %s", peer, why)
        return f"{peer} may not use this gateway: {why}"
