"""Puts the agent's own messages into the control plane's queue when it is safe: greetings, probes, refusals."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from streamspace_agent.clock import Clock
from streamspace_agent.tunnel.deployed.screen import Screen
from streamspace_agent.tunnel.deployed.times import Times
from streamspace_agent.tunnel.multiplexer import Multiplexer

AT_ONCE = 8
"""Greetings sent in one turn while a viewer is served, since they delay it."""
PLACES = 240
"""Of the queue's 256 places: the most that unread greetings and announcements take. The rest is for data."""
PROBE_PLACES = 120
"""Probes for viewers that read a greeting and left are sent while fewer places than these are taken."""


@dataclass(eq=False)
class Queue:
    """The queue of one connection, for all sessions. Its content is an estimate."""

    _multiplexer: Multiplexer
    _clock: Clock
    _times: Times
    _screens: Mapping[str, Screen]
    _renew: Callable[[str], None]
    """Called with the reason when only a new connection can help."""
    _standing: int = 0
    """Estimated number of messages in the queue that no viewer waits for."""
    _connected_at: float = 0.0
    viewed_at: float = 0.0
    """When a viewer was last served or waiting."""

    def emptied(self, *, connected_at: float | None = None) -> None:
        """The queue is empty: a relay has taken everything, or (``connected_at``) the connection is new."""
        self._standing = 0
        if connected_at is not None:
            self._connected_at = self.viewed_at = connected_at

    def safe(self, screen: Screen, now: float) -> bool:
        """Whether a message for this session cannot crash the control plane."""
        return now - (screen.viewer.since if screen.viewer else screen.clear) < self._times.safe

    async def _send(self, screen: Screen, data: bytes) -> bool:
        """Send a viewer bytes of the agent's own, if that is safe."""
        now = self._clock.now()
        channel = screen.viewer.channel if screen.viewer else None
        if not self.safe(screen, now) or not await self._multiplexer.send_data(screen.session_id, data, channel):
            return False
        screen.sent_at = now
        return True

    async def send_to_viewer(self, screen: Screen, data: bytes) -> None:
        """Send one copy per relay: relays take turns, so this viewer's gets one, and the others discard theirs."""
        for _ in [other for other in self._screens.values() if other.viewer]:
            await self._send(screen, data)

    async def greet(self, relays: int) -> None:
        """Send missing greetings. ``relays``: number of other sessions' relays, which discard what is not theirs."""
        now, sent = self._clock.now(), 0
        for screen in list(self._screens.values()):
            if screen.server is None or screen.viewer or screen.greeting_queued:
                continue
            if screen.client_first:
                if relays or self._standing < PLACES:
                    await self._announce(screen)
                continue
            if relays and (sent >= AT_ONCE or now - screen.greeted_at < self._times.greet_again):
                continue
            if not self.safe(screen, now):
                if not relays:
                    self._renew(f"it is unknown who waits for session {screen.session_id}")
                    return
                continue
            if screen.server.greeting is None and now - screen.clear < self._times.first_greeting:
                continue
            if not relays and self._standing + 2 > PLACES:
                continue
            sent += 1
            sent_it = await self._greet_one(screen, copies=1 + relays)
            # it may have been answered already
            screen.greeting_queued = sent_it and not relays and screen.viewer is None

    async def _announce(self, screen: Screen) -> bool:
        """Announce the session once per connection. No relay passes this on, so it is always safe."""
        session = screen.session
        if not screen.announced:
            ready = {"sessionId": session.session_id, "vncPort": session.port, "podName": session.place}
            if not await self._multiplexer.send("vnc_ready", ready):
                return False
            screen.announced = True
            self._standing += 1
        return True

    async def _greet_one(self, screen: Screen, copies: int) -> bool:
        if not await self._announce(screen) or screen.viewer or screen.server is None:
            return False  # the state may have changed while that was sent
        # Set before sending: the answer may arrive before send returns.
        screen.greeting = screen.server.greeting or screen.greeting
        screen.greeted_before = screen.greeted_at if copies > 1 else float("-inf")
        screen.greeted, screen.greeted_at, screen.probes = True, self._clock.now(), 0
        screen.first_greeted_at = min(screen.first_greeted_at, screen.greeted_at)
        self._standing += 1
        for _ in range(copies):  # relays take turns: this session's gets exactly one
            if not await self._send(screen, screen.greeting):
                return False
        return True

    async def probe_greetings(self) -> None:
        """Detect viewers that read a greeting and left without an answer."""
        now, stale = self._clock.now(), False
        for screen in list(self._screens.values()):
            if screen.server is None or screen.viewer or not screen.greeting_queued or screen.client_first:
                continue
            if screen.maybe_viewed and now - self.viewed_at > self._times.alone:
                self._renew(f"another viewer of session {screen.session_id} may still be there")
                return
            stale |= now - self._connected_at > self._times.stale and not self.safe(screen, now)
            if screen.probes >= len(self._times.probes_after) or self._standing >= PROBE_PLACES:
                continue
            if now - screen.greeted_at > self._times.probes_after[screen.probes] and await self._send(screen, b""):
                screen.probes += 1
                self._standing += 1
        if stale:
            self._renew("greetings have been in its queue for long, and may have been read by viewers that left")
