"""What the agent puts into the control plane's one queue by itself: greetings, empty messages, last words. Only where that is safe."""

from collections.abc import Callable, Mapping

from streamspace_agent.clock import Clock
from streamspace_agent.tunnel.deployed.screen import Screen
from streamspace_agent.tunnel.deployed.times import Times
from streamspace_agent.tunnel.multiplexer import Multiplexer

AT_ONCE = 8
"""Greetings sent in one turn while somebody is served, whom they delay."""
PLACES = 240
"""Of the queue's 256: greetings and announcements that nobody has read take no more. The rest is for answers on their way."""
PROBE_PLACES = 120
"""As long as fewer places than these are taken, empty messages look for viewers that read a greeting and left."""


class Queue:
    """One for all sessions; what is in it is only supposed, and forgotten with the connection."""

    def __init__(
        self,
        multiplexer: Multiplexer,
        clock: Clock,
        times: Times,
        screens: Mapping[str, Screen],
        renew: Callable[[str], None],
    ) -> None:
        """``renew`` is called with the reason where only a new connection can help."""
        self._multiplexer = multiplexer
        self._clock = clock
        self._times = times
        self._screens = screens
        self._renew = renew
        self._standing = 0
        """Messages that lie in the queue for nobody, as far as is known."""
        self._connected_at = 0.0
        self.viewed_at = 0.0
        """When somebody last had a screen, or waited for one."""

    def emptied(self, *, connected_at: float | None = None) -> None:
        """A viewer's relay has taken all that lay there, or (``connected_at``) the connection is new."""
        self._standing = 0
        if connected_at is not None:
            self._connected_at = self.viewed_at = connected_at

    def safe(self, screen: Screen, now: float) -> bool:
        """Whether a message for this session can do no harm."""
        return now - (screen.viewer.since if screen.viewer else screen.clear) < self._times.safe

    async def _send(self, screen: Screen, data: bytes) -> bool:
        """Send a viewer bytes of the agent's own, if that can do no harm."""
        now = self._clock.now()
        channel = screen.viewer.channel if screen.viewer else None
        if not self.safe(screen, now) or not await self._multiplexer.say(screen.session_id, data, channel):
            return False
        screen.said_at = now
        return True

    async def say(self, screen: Screen, data: bytes) -> None:
        """Say it as often as there are relays: they take turns, so that its own gets one, and others throw theirs away."""
        for _ in [other for other in self._screens.values() if other.viewer]:
            await self._send(screen, data)

    async def greet(self, relays: int) -> None:
        """Send what greetings are missing. ``relays``: so many others' are there, and throw away what is not their own."""
        now, sent = self._clock.now(), 0
        for screen in list(self._screens.values()):
            if screen.server is None or screen.viewer or screen.lies:
                continue
            if screen.silent:
                if relays or self._standing < PLACES:
                    await self._announce(screen)
                continue
            if relays and (sent >= AT_ONCE or now - screen.greeted_at < self._times.greet_again):
                continue
            if not self.safe(screen, now):
                if not relays:
                    self._renew(f"nobody can tell who waits for session {screen.session_id}")
                    return
                continue
            if screen.server.greeting is None and now - screen.clear < self._times.first_greeting:
                continue
            if not relays and self._standing + 2 > PLACES:
                continue
            sent += 1
            sent_it = await self._greet_one(screen, copies=1 + relays)
            screen.lies = sent_it and not relays and screen.viewer is None  # it may be answered already

    async def _announce(self, screen: Screen) -> bool:
        """Tell the control plane of the session, once a connection. No relay passes that on, so it can do no harm."""
        session = screen.session
        if not screen.announced:
            ready = {"sessionId": session.session_id, "vncPort": session.port, "podName": session.place}
            if not await self._multiplexer.tell("vnc_ready", ready):
                return False
            screen.announced = True
            self._standing += 1
        return True

    async def _greet_one(self, screen: Screen, copies: int) -> bool:
        if not await self._announce(screen) or screen.viewer or screen.server is None:
            return False  # it may have changed while that was sent
        # Before it is sent: the answer may be here before control comes back.
        screen.greeting = screen.server.greeting or screen.greeting
        screen.greeted_before = screen.greeted_at if copies > 1 else float("-inf")
        screen.greeted, screen.greeted_at, screen.probes = True, self._clock.now(), 0
        screen.first_greeted_at = min(screen.first_greeted_at, screen.greeted_at)
        self._standing += 1
        for _ in range(copies):  # relays take turns: whoever waits for this session gets one, and no more
            if not await self._send(screen, screen.greeting):
                return False
        return True

    async def look_behind_greetings(self) -> None:
        """Find viewers that read a greeting and left without a word."""
        now, stale = self._clock.now(), False
        for screen in list(self._screens.values()):
            if screen.server is None or screen.viewer or not screen.lies or screen.silent:
                continue
            if screen.haunted and now - self.viewed_at > self._times.alone:
                self._renew(f"another viewer of session {screen.session_id} may be left")
                return
            stale |= now - self._connected_at > self._times.stale and not self.safe(screen, now)
            if screen.probes >= len(self._times.probes_after) or self._standing >= PROBE_PLACES:
                continue
            if now - screen.greeted_at > self._times.probes_after[screen.probes] and await self._send(screen, b""):
                screen.probes += 1
                self._standing += 1
        if stale:
            self._renew("greetings have lain in its queue for long, and may have been read by viewers that left")
