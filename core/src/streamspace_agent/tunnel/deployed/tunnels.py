"""The tunnels of one leadership through the deployed relay: who is served, and when the connection is renewed."""

import asyncio
import logging
import random
from collections.abc import Coroutine, Mapping
from functools import partial
from typing import Any

import pybase64

from streamspace_agent import logs
from streamspace_agent.clock import Clock
from streamspace_agent.controlplane.link import Link, until_one_ends
from streamspace_agent.errors import LeaseLost, ServerUnreachable
from streamspace_agent.runtime import Session, SessionState
from streamspace_agent.tunnel.channel import Channel
from streamspace_agent.tunnel.deployed.queue import Queue
from streamspace_agent.tunnel.deployed.screen import FLOWS, Phase, Screen, Viewer
from streamspace_agent.tunnel.deployed.times import Times
from streamspace_agent.tunnel.multiplexer import CLOSE_FOLLOWS, Multiplexer
from streamspace_agent.tunnel.session_server import Connect, SessionServer, has_server, same_server
from streamspace_agent.tunnel.tunnels import MAX_EARLY, RENEWED, Tunnels

log = logging.getLogger(__name__)

ENDED = frozenset({SessionState.TERMINATED, SessionState.FAILED})
BUSY = (
    "another session of this host is being viewed, and this control plane carries one screen at a time: "
    "try again when it is closed"
)
TIME_IS_UP = "this control plane cannot carry a screen for longer than a minute: open it again"


class DeployedTunnels(Tunnels):
    """Tunnels for the relay described in :mod:`streamspace_agent.tunnel.deployed`."""

    def __init__(self, connect: Connect, multiplexer: Multiplexer, clock: Clock, *, times: Times | None = None) -> None:
        super().__init__(connect, multiplexer, clock)
        self._times = times or Times()
        self._rng = random.Random()  # noqa: S311 - spreads messages, guards nothing
        self._screens: dict[str, Screen] = {}
        self._queue = Queue(multiplexer, clock, self._times, self._screens, self._renew_because)
        self._keeping: dict[str, asyncio.Task[None]] = {}
        """The tasks that keep a spare connection to each session's server."""
        self._serving: set[asyncio.Task[None]] = set()
        self._connected = False
        self._connected_at = 0.0
        self._renew = asyncio.Event()

    # For the rest of the agent

    def _server_of(self, session_id: str) -> SessionServer | None:
        screen = self._screens.get(session_id)
        return screen.server if screen else None

    def note(self, session: Session, *, fresh: bool = False) -> None:
        screen = self._screens.get(session.session_id)
        wanted = session.state is SessionState.RUNNING and has_server(session)
        if session.state is not SessionState.RUNNING:
            self._forget_input(session.session_id)
        if screen is not None and screen.server is not None and not (wanted and same_server(screen.session, session)):
            self._drop_server(screen, session)
        if session.state in ENDED and screen is not None and not screen.viewer:
            del self._screens[session.session_id]
        if not (wanted and session.ready):
            return
        self.idle_for(session.session_id)
        if screen is None:
            screen = Screen(session, None, self._clock.now() if fresh else self._connected_at, orphan=not fresh)
            self._screens[session.session_id] = screen
        if screen.server is None:
            screen.session = session
            screen.server = SessionServer(session, self._connect, self._multiplexer, self._clock, filtered=True)
            self._keeping[session.session_id] = asyncio.create_task(
                screen.server.run(),
                name=f"server of {session.session_id}",
                context=logs.context(session=session.session_id),
            )

    def _drop_server(self, screen: Screen, session: Session) -> None:
        screen.server, screen.session = None, session
        self._keeping.pop(screen.session_id).cancel()
        if screen.viewer:
            self._leave(screen, screen.viewer, session.reason or f"the session is {session.state}")

    # One connection

    async def serve(self, carrier: Link) -> None:
        now = self._clock.now()
        self._connected_at = now
        self._renew.clear()
        self._queue.emptied(connected_at=now)
        for screen in list(self._screens.values()):
            screen.connected(now)
            if screen.session.state in ENDED:
                # It was kept for its viewer's vnc_close, which cannot come any more.
                del self._screens[screen.session_id]
        self._connected = True
        try:
            await until_one_ends(self._multiplexer.run(carrier), self._turns(), self._renew.wait())
        finally:
            self._connected = False
            for screen in self._screens.values():
                if screen.viewer and screen.viewer.channel:
                    screen.viewer.channel.close()
            for task in self._serving:
                task.cancel()
            await asyncio.gather(*self._serving, return_exceptions=True)

    def _renew_because(self, why: str) -> None:
        if not self._renew.is_set():
            log.info("renewing the connection to the control plane: %s", why)
            self._renew.set()

    async def _turns(self) -> None:
        while True:
            await asyncio.sleep(self._times.turn)
            now = self._clock.now()
            viewed = [(screen, screen.viewer) for screen in self._screens.values() if screen.viewer]
            self._queue.viewed_at = now if viewed else self._queue.viewed_at
            # Not right after a message at which its relay may have ended: the greeting would stay in the queue.
            if all(self._is_there(screen, viewer, now) for screen, viewer in viewed):
                await self._queue.greet(relays=len(viewed))
            for screen, viewer in viewed:
                if screen.viewer is viewer:
                    await self._look_after(screen, viewer)
            if not viewed:
                await self._queue.probe_greetings()

    def _is_there(self, screen: Screen, viewer: Viewer, now: float) -> bool:
        """Whether that viewer's relay takes messages now: it neither ended at the last one nor is stuck in it."""
        channel = viewer.channel
        if channel is None:
            return now - screen.sent_at > self._times.unsure
        return channel.confirmed and (channel.unread_bytes <= FLOWS or now - channel.last_sent > self._times.reads)

    # Viewers

    async def data(self, payload: Mapping[str, Any]) -> None:
        if not self._connected:  # the viewer's relay reads the queue of an earlier connection
            return
        screen, text = self._screens.get(str(payload.get("sessionId"))), payload.get("data")
        if screen is None or text in (None, ""):
            return
        try:
            data = pybase64.b64decode(text, validate=True)
        except (ValueError, TypeError):
            if screen.viewer:
                self._leave(screen, screen.viewer, "its viewer sent data that is not base64")
            return
        viewer = screen.viewer
        if viewer is None:
            if not screen.begins(data):
                screen.overheard()
                return
            viewer = self._begin(screen)
        viewer.heard = self._clock.now()
        if len(viewer.head) < len(screen.greeting):
            viewer.head += data[: len(screen.greeting)]
        if viewer.phase is Phase.LEAVING:
            return
        if viewer.channel is None:
            viewer.early += data
            if len(viewer.early) > MAX_EARLY:
                self._leave(screen, viewer, "its viewer sent too much before it was served")
        else:
            await self._pass_on(screen, viewer.channel, data)

    async def _pass_on(self, screen: Screen, channel: Channel, data: bytes) -> None:
        if not channel.ended.done():
            await self._multiplexer.pass_on(channel, data, partial(self._saw_input, screen.session_id))

    def _begin(self, screen: Screen) -> Viewer:
        """A viewer has answered, so its relay has emptied the queue, at least up to the greeting."""
        now = self._clock.now()
        others = [other for other in self._screens.values() if other is not screen]
        rivals = [other.viewer for other in others if other.viewer]
        since = screen.clear
        # A viewer that waited when the last relay ended would have answered the first greeting after that.
        sole = screen.closed_at < screen.clear or now - screen.first_greeted_at > self._times.round_trip
        if screen.client_first:
            since = now - self._times.round_trip  # its client speaks first, and at once
        elif screen.greeting_queued and not rivals and now - screen.greeted_at > self._times.round_trip:
            # The greeting was in the queue until now. Another relay would have taken it, so there was none.
            since, sole = max(since, now - self._times.round_trip), True
            for other in others:
                other.clear, other.maybe_viewed = max(other.clear, since), False
        for other in others:
            other.greeting_queued = False
        self._queue.emptied()
        screen.greeting_queued = screen.greeted = False
        came = max(since, screen.greeted_before)
        viewer = screen.viewer = Viewer(since, came, Phase.WAITING, now, now, sole=sole)
        if rivals:
            for rival in rivals:
                if rival.channel:
                    rival.channel.hold(held=True)
        else:
            self._serve(screen, viewer)
        return viewer

    def _serve(self, screen: Screen, viewer: Viewer) -> None:
        viewer.enter(Phase.SERVED, self._clock.now())
        self._begin_task(self._served(screen, viewer), f"viewer of {screen.session_id}", screen)

    def _begin_task(self, work: Coroutine[Any, Any, None], name: str, screen: Screen) -> None:
        task = asyncio.create_task(work, name=name, context=logs.context(session=screen.session_id))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _served(self, screen: Screen, viewer: Viewer) -> None:
        server = screen.server
        if server is None:
            self._leave(screen, viewer, "the session does not run")
            return
        try:
            channel = await server.take()
            try:
                why = await self._converse(screen, viewer, channel)
            finally:
                channel.close()
                self._multiplexer.released()
                server.give_back()
        except LeaseLost:
            return  # all tunnels end with the leadership
        except ServerUnreachable as error:
            why = f"the session's server cannot be reached: {error}"
        except Exception:
            log.exception("session %s: its viewer failed for a reason that is a fault of the agent", screen.session_id)
            why = RENEWED
        self._leave(screen, viewer, why)

    async def _converse(self, screen: Screen, viewer: Viewer, channel: Channel) -> str:
        """Carry the bytes of one viewer until it ends; returns why."""
        if viewer.phase is not Phase.SERVED:
            return ""
        if channel.greeting != screen.greeting and not screen.client_first:
            screen.greeting = channel.greeting
            return "the session's server speaks another version of RFB than it did: try again"
        channel.deadline = viewer.since + self._times.safe
        viewer.channel = channel
        early = bytes(viewer.early)
        viewer.early.clear()
        await self._pass_on(screen, channel, early)
        await asyncio.wait({channel.ended})
        return channel.ended.result().why

    async def _look_after(self, screen: Screen, viewer: Viewer) -> None:
        now = self._clock.now()
        channel, age = viewer.channel, now - viewer.since
        if viewer.phase is Phase.WAITING and now - viewer.phase_since > self._times.patience:
            self._leave(screen, viewer, BUSY)
        elif viewer.phase is Phase.SERVED and channel is not None:
            if channel.silence > self._times.stall and self._multiplexer.blocks(channel):
                self._leave(screen, viewer, f"the viewer has not read for {channel.silence:.0f} s")
            elif age > self._times.stay:
                channel.fall_silent()
                if channel.quiet_for > self._times.quiet or age > self._times.stay + self._times.goodbye:
                    self._leave(screen, viewer, TIME_IS_UP)
            elif channel.presume_read():
                self._multiplexer.released()
        elif viewer.phase is Phase.SERVED and age > self._times.stay + self._times.goodbye:
            self._leave(screen, viewer, TIME_IS_UP)
        if viewer.phase is Phase.LEAVING and (
            now - viewer.phase_since > self._times.lingers or not self._queue.safe(screen, now)
        ):
            self._renew_because(f"it is unknown whether a viewer of session {screen.session_id} has left")
        elif now - screen.sent_at > self._times.probe * self._rng.uniform(2 / 3, 4 / 3):
            await self._queue.send_to_viewer(screen, b"")

    def _leave(self, screen: Screen, viewer: Viewer, why: str) -> None:
        """End a viewer by means of RFB. That may take a moment, so it runs as a task."""
        if viewer.phase is Phase.LEAVING or screen.viewer is not viewer:
            return
        log.info("session %s: ending its viewer: %s", screen.session_id, why)
        viewer.enter(Phase.LEAVING, self._clock.now())
        if viewer.channel:
            viewer.channel.close()
            self._multiplexer.released()
        self._begin_task(self._send_refusal(screen, viewer, why), f"viewer of {screen.session_id} leaving", screen)

    async def _send_refusal(self, screen: Screen, viewer: Viewer, why: str) -> None:
        if not screen.client_first and await self._stays(screen, viewer):
            await self._queue.send_to_viewer(screen, viewer.refusal(why))
        viewer.channel = None

    async def _stays(self, screen: Screen, viewer: Viewer) -> bool:
        """Whether the viewer's relay outlived the last message. Otherwise a refusal would stay in the queue."""
        until = self._clock.now() + self._times.unsure
        while screen.viewer is viewer and (now := self._clock.now()) < until:
            if viewer.channel.confirmed if viewer.channel else now - screen.sent_at > 2 * CLOSE_FOLLOWS:
                break
            await asyncio.sleep(CLOSE_FOLLOWS / 4)
        return screen.viewer is viewer

    def closed(self, payload: Mapping[str, Any]) -> None:
        screen = self._screens.get(str(payload.get("sessionId")))
        if screen is None or not self._connected:
            return
        now, viewer = self._clock.now(), screen.viewer
        sole = viewer.sole if viewer else screen.closed_at < screen.clear
        screen.closed_at = self._queue.viewed_at = now
        if viewer is None:
            # It left without answering the greeting and was detected by a probe, or it is of an earlier connection.
            if screen.orphan and now - screen.sent_at > self._times.unsure:
                screen.orphan = False
            elif screen.greeted:
                screen.freed(now - self._times.unnoticed, sole=sole)
            return
        screen.freed(now - self._times.unnoticed, sole=sole)
        if viewer.channel:
            viewer.channel.close()
            self._multiplexer.released()
        if screen.session.state in ENDED:
            self._screens.pop(screen.session_id, None)
        self._next(viewer)

    def _next(self, gone: Viewer) -> None:
        """A viewer's relay has ended: serve a viewer that waits, or let the other one go on."""
        viewed = [(screen, screen.viewer) for screen in self._screens.values() if screen.viewer]
        for screen in self._screens.values():
            if not viewed:
                screen.greeting_queued = False  # discarded by the relay that was there
        if len(viewed) != 1:
            return
        [(screen, viewer)] = viewed
        if viewer.phase is Phase.WAITING:
            self._serve(screen, viewer)
        elif viewer.channel and viewer.channel.held:
            if viewer.channel.sent_since_read and viewer.channel.last_sent > gone.came:
                self._leave(screen, viewer, "messages to it may have been lost to another session's viewer")
            else:
                viewer.channel.hold(held=False)

    async def aclose(self) -> None:
        tasks = [*self._keeping.values(), *self._serving]
        for task in tasks:
            task.cancel()
        self._screens.clear()
        self._keeping.clear()
        await asyncio.gather(*tasks, return_exceptions=True)
