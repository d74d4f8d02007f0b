"""Connections that hold as much as they may because somebody does not read: together, too, they have a bound."""

import logging

from streamspace_gateway.peer import Peer

log = logging.getLogger(__name__)

MOST = 250
"""At once. Each holds up to a megabyte, on its way to the browser or to the session: half of what the shipped limits give the agent."""


class Stalls:
    """The longest first. One too many, and that one is ended."""

    def __init__(self) -> None:
        self._peers: dict[Peer, None] = {}

    def note(self, peer: Peer) -> None:
        """Whether it is stalled may have changed, or it is gone."""
        if not peer.stalled or peer.lost.is_set():
            self._peers.pop(peer, None)
            return
        self._peers.setdefault(peer)
        if len(self._peers) > MOST:
            longest = next(iter(self._peers))
            del self._peers[longest]
            log.warning("web gateway: ended a connection that was not read: %d others wait for their readers too", MOST)
            longest.reset()
