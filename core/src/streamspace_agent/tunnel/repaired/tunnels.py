"""The tunnels of one tenure: one for each session that runs."""

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pybase64

from streamspace_agent import protocol
from streamspace_agent.clock import Clock
from streamspace_agent.controlplane.link import raise_worst
from streamspace_agent.runtime import Session, SessionState
from streamspace_agent.tunnel.multiplexer import Carrier, Multiplexer
from streamspace_agent.tunnel.repaired.tunnel import Tunnel
from streamspace_agent.tunnel.session_server import Connect, SessionServer, has_server, same_server
from streamspace_agent.tunnel.tunnels import Tunnels

log = logging.getLogger(__name__)

CHECK_EVERY = 1.0
FORGOTTEN = 5.0
"""Seconds after which nothing is heard any more of a viewer that was told to leave."""
UNKNOWN_EVERY = 1.0
"""Seconds between two answers to data for a session that has no tunnel."""


class RepairedTunnels(Tunnels):
    """Opens and closes tunnels as sessions come and go, and passes on what viewers say."""

    def __init__(
        self,
        connect: Connect,
        require_lease: Callable[[], None],
        flushed: Callable[[], Awaitable[None]],
        clock: Clock,
    ) -> None:
        """``flushed`` returns once the states that wait for the control plane have reached it."""
        super().__init__(clock)
        self._connect = connect
        self._multiplexer = Multiplexer(require_lease, flushed, clock)
        self._tunnels: dict[str, Tunnel] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._ended: dict[str, str] = {}
        """Sessions whose tunnel ended, and what their viewers have still to be told of it. Forgotten once they have been told, and
        nothing can be heard of them any more."""
        self._refused: dict[str, float] = {}

    def _server_of(self, session_id: str) -> SessionServer | None:
        tunnel = self._tunnels.get(session_id)
        return tunnel.server if tunnel else None

    def note(self, session: Session, *, fresh: bool = False) -> None:
        known = self._tunnels.get(session.session_id)
        wanted = session.state is SessionState.RUNNING and has_server(session)
        # One that runs and is not ready any more keeps its tunnel, which looks after its server itself, and the greeting that was told.
        if known is not None and not (wanted and same_server(known.session, session)):
            del self._tunnels[session.session_id]
            self._close(known, session.reason or f"the session is {session.state}")
            known = None
        if session.state is not SessionState.RUNNING:
            self._forget_input(session.session_id)
        if wanted and session.ready and known is None:
            self.idle_for(session.session_id)
            untold = self._ended.pop(session.session_id, None)
            self._tunnels[session.session_id] = Tunnel(
                session,
                self._connect,
                self._multiplexer,
                self._clock,
                functools.partial(self._saw_input, session.session_id),
                fresh=fresh and not untold,
                follows=untold is not None,
            )

    def _close(self, tunnel: Tunnel, why: str) -> None:
        session_id = tunnel.session.session_id
        task = asyncio.create_task(self._closed_for(tunnel, why), name=f"tunnel {session_id} closing")
        self._ended[session_id] = why
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _closed_for(self, tunnel: Tunnel, why: str) -> None:
        if await tunnel.aclose(why):
            self._ended_told(tunnel.session.session_id)

    def _ended_told(self, session_id: str) -> None:
        if session_id in self._ended:
            self._ended[session_id] = ""
            asyncio.get_running_loop().call_later(FORGOTTEN, self._forget, session_id)

    def _forget(self, session_id: str) -> None:
        if self._ended.get(session_id) == "":
            del self._ended[session_id]

    async def _tell_ends(self) -> None:
        """Close the viewers of sessions that ended while there was no connection."""
        if not any(self._ended.values()):
            return
        await self._multiplexer.up()
        for session_id, why in list(self._ended.items()):
            if self._closing or self._ended.get(session_id) != why:
                return  # these are being told just now: a second word might meet the next viewer
            error = {"sessionId": session_id, "error": protocol.cut(why)}
            if why and await self._multiplexer.tell("vnc_error", error):
                self._ended_told(session_id)

    async def serve(self, carrier: Carrier) -> None:
        """Serve one connection to the control plane until it is gone."""
        tasks = [
            asyncio.create_task(self._multiplexer.run(carrier), name="tunnels"),
            asyncio.create_task(self._check()),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            raise_worst(done)
        finally:
            self._multiplexer.down(carrier)
            for tunnel in self._tunnels.values():
                tunnel.link_lost()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _check(self) -> None:
        while True:
            await self._tell_ends()
            await asyncio.sleep(CHECK_EVERY)
            tunnels = list(self._tunnels.values())
            scarce = self._multiplexer.blocked or self._multiplexer.budget.scarce
            if scarce and [tunnel for tunnel in tunnels if tunnel.settle()]:
                self._multiplexer.released()
            if self._multiplexer.blocked and (stalled := [tunnel for tunnel in tunnels if tunnel.stalled]):
                # One at a time: the others may only have waited for its places.
                max(stalled, key=lambda tunnel: tunnel.unread).give_up()

    async def data(self, payload: Mapping[str, Any]) -> None:
        """A ``vnc_data`` message."""
        session_id, data = payload.get("sessionId"), payload.get("data")
        if not isinstance(session_id, str) or data in (None, ""):
            return
        tunnel = self._tunnels.get(session_id)
        if tunnel is None:
            await self._refuse(session_id)
            return
        try:
            raw = pybase64.b64decode(data, validate=True)
        except (ValueError, TypeError):
            await tunnel.garbled("the control plane sent viewer data that is not base64")
        else:
            await tunnel.received(raw)

    async def _refuse(self, session_id: str) -> None:
        now, named = self._clock.now(), session_id[:100]
        if now - self._refused.get(named, float("-inf")) >= UNKNOWN_EVERY:
            self._refused = {s: at for s, at in self._refused.items() if now - at < UNKNOWN_EVERY} | {named: now}
            error = "there is no such session here, or it does not run"
            await self._multiplexer.tell("vnc_error", {"sessionId": named, "error": error})

    def closed(self, payload: Mapping[str, Any]) -> None:
        """A ``vnc_close`` message."""
        tunnel = self._tunnels.get(str(payload.get("sessionId")))
        if tunnel is not None:
            tunnel.viewer_left()

    async def aclose(self) -> None:
        tunnels, self._tunnels = list(self._tunnels.values()), {}
        await asyncio.gather(*(tunnel.aclose() for tunnel in tunnels), *self._closing, return_exceptions=True)
