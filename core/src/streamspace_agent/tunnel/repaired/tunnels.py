"""The tunnels of one leadership: one for each running session."""

import asyncio
import functools
import logging
from collections.abc import Mapping
from typing import Any

import pybase64

from streamspace_agent import protocol
from streamspace_agent.clock import Clock
from streamspace_agent.controlplane.link import Link, until_one_ends
from streamspace_agent.runtime import Session, SessionState
from streamspace_agent.tunnel.multiplexer import Multiplexer
from streamspace_agent.tunnel.repaired.tunnel import Tunnel
from streamspace_agent.tunnel.session_server import Connect, SessionServer, has_server, same_server
from streamspace_agent.tunnel.tunnels import Tunnels

log = logging.getLogger(__name__)

CHECK_EVERY = 1.0
FORGOTTEN = 5.0
"""Seconds after which nothing more arrives from a viewer that was closed."""
UNKNOWN_EVERY = 1.0
"""Seconds between two answers to data for a session without a tunnel."""


class RepairedTunnels(Tunnels):
    """Tunnels for the relay described in :mod:`streamspace_agent.tunnel.repaired`."""

    def __init__(self, connect: Connect, multiplexer: Multiplexer, clock: Clock) -> None:
        super().__init__(connect, multiplexer, clock)
        self._tunnels: dict[str, Tunnel] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._ended: dict[str, str] = {}
        """Sessions whose tunnel ended, with the reason that their viewers have still to be sent; "" once it was sent.
        An entry is deleted when nothing more can arrive from such a viewer."""
        self._refused: dict[str, float] = {}

    def _server_of(self, session_id: str) -> SessionServer | None:
        tunnel = self._tunnels.get(session_id)
        return tunnel.server if tunnel else None

    def note(self, session: Session, *, fresh: bool = False) -> None:
        known = self._tunnels.get(session.session_id)
        wanted = session.state is SessionState.RUNNING and has_server(session)
        # A running session that is no longer ready keeps its tunnel, which reconnects by itself, and its greeting.
        if known is not None and not (wanted and same_server(known.session, session)):
            del self._tunnels[session.session_id]
            self._close(known, session.reason or f"the session is {session.state}")
            known = None
        if session.state is not SessionState.RUNNING:
            self._forget_input(session.session_id)
        if wanted and session.ready and known is None:
            self.idle_for(session.session_id)
            unsent = self._ended.pop(session.session_id, None)
            self._tunnels[session.session_id] = Tunnel(
                session,
                self._connect,
                self._multiplexer,
                self._clock,
                functools.partial(self._saw_input, session.session_id),
                fresh=fresh and not unsent,
                follows=unsent is not None,
            )

    def _close(self, tunnel: Tunnel, why: str) -> None:
        session_id = tunnel.session.session_id
        task = asyncio.create_task(self._closed_for(tunnel, why), name=f"tunnel {session_id} closing")
        self._ended[session_id] = why
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def _closed_for(self, tunnel: Tunnel, why: str) -> None:
        if await tunnel.aclose(why):
            self._end_sent(tunnel.session.session_id)

    def _end_sent(self, session_id: str) -> None:
        if session_id in self._ended:
            self._ended[session_id] = ""
            asyncio.get_running_loop().call_later(FORGOTTEN, self._forget, session_id)

    def _forget(self, session_id: str) -> None:
        if self._ended.get(session_id) == "":
            del self._ended[session_id]

    async def _send_ends(self) -> None:
        """Close the viewers of sessions that ended while there was no connection."""
        if not any(self._ended.values()):
            return
        await self._multiplexer.wait_up()
        for session_id, why in list(self._ended.items()):
            if self._closing or self._ended.get(session_id) != why:
                return  # this is being sent already: a second error might close the next viewer
            error = {"sessionId": session_id, "error": protocol.cut(why)}
            if why and await self._multiplexer.send("vnc_error", error):
                self._end_sent(session_id)

    async def serve(self, carrier: Link) -> None:
        try:
            await until_one_ends(self._multiplexer.run(carrier), self._check())
        finally:
            for tunnel in self._tunnels.values():
                tunnel.link_lost()

    async def _check(self) -> None:
        while True:
            await self._send_ends()
            await asyncio.sleep(CHECK_EVERY)
            tunnels = list(self._tunnels.values())
            scarce = self._multiplexer.blocked or self._multiplexer.budget.scarce
            if scarce and [tunnel for tunnel in tunnels if tunnel.presume_read()]:
                self._multiplexer.released()
            if self._multiplexer.blocked and (stalled := [tunnel for tunnel in tunnels if tunnel.stalled]):
                # One at a time: the others may only be waiting for its places.
                max(stalled, key=lambda tunnel: tunnel.unread).give_up()

    async def data(self, payload: Mapping[str, Any]) -> None:
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
            await self._multiplexer.send("vnc_error", {"sessionId": named, "error": error})

    def closed(self, payload: Mapping[str, Any]) -> None:
        tunnel = self._tunnels.get(str(payload.get("sessionId")))
        if tunnel is not None:
            tunnel.viewer_left()

    async def aclose(self) -> None:
        tunnels, self._tunnels = list(self._tunnels.values()), {}
        await asyncio.gather(*(tunnel.aclose() for tunnel in tunnels), *self._closing, return_exceptions=True)
