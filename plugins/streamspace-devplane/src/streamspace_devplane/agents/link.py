"""One agent's WebSocket: reads, writes, pings, and applies the fault switches."""

import asyncio
import contextlib
import random
import time
from collections import deque
from typing import Any, Protocol

from starlette.websockets import WebSocket, WebSocketDisconnect

from streamspace_devplane.agents import envelopes
from streamspace_devplane.agents.faults import Faults
from streamspace_devplane.agents.wire import Wire
from streamspace_devplane.errors import Unreadable
from streamspace_devplane.settings import Settings
from streamspace_devplane.tasks import first_done

CLOSE_TIMEOUT = 5.0  # seconds
PACK_BYTES = 8 * 1024**2


class Peer(Protocol):
    """What a link needs from the control plane that it belongs to."""

    settings: Settings
    faults: Faults
    dice: random.Random
    listening: asyncio.Event
    """Set unless the control plane reads nothing and sends nothing now."""

    def sent(self, link: "Link", kind: str, payload: dict[str, Any]) -> None:
        """An envelope is about to be queued for the agent."""

    def receive(self, link: "Link", envelope: envelopes.Envelope) -> None:
        """An envelope came from the agent."""

    def unreadable(self, link: "Link", reason: str, text: str | bytes) -> None:
        """A message came that is no envelope; `reason` names the counter."""


class Link:
    """Lives from the accepted handshake to the end of the connection."""

    def __init__(self, peer: Peer, agent_id: str, socket: WebSocket, wire: Wire) -> None:
        self._peer = peer
        self.agent_id = agent_id
        self.wire = wire
        self.last_heartbeat = time.monotonic()
        self.closing: str | None = None
        """Why the control plane ends this link; None while it does not."""
        self._socket = socket
        self._outgoing: deque[str] = deque()
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self.passed = 0
        """Messages so far, in both directions."""
        self._ended = asyncio.Event()

    async def run(self) -> None:
        try:
            done = await first_done(self._read(), self._write(), self._keep_alive(), self._ended.wait())
        finally:
            self._ended.set()
            self._room.set()
        for job in done:
            error = job.exception()
            if error and not isinstance(error, WebSocketDisconnect):
                raise error

    def close(self, reason: str) -> None:
        """Close the WebSocket, or abort the connection if the agent does not answer the close."""
        self.closing = self.closing or reason
        self._wake.set()
        asyncio.get_running_loop().call_later(CLOSE_TIMEOUT, self.wire.abort)

    def cut(self) -> None:
        """End the link as a broken network would."""
        self.closing = self.closing or "cut"
        self.wire.abort()
        self._ended.set()

    def send(self, kind: str, payload: dict[str, Any]) -> None:
        """Queue one envelope for the agent, as the fault switches let it pass."""
        if self._ended.is_set():
            return
        for delay in self._peer.faults.deliveries("to_agent", kind, self._peer.dice):
            self._peer.sent(self, kind, payload)
            self._later(delay, self.send_raw, envelopes.encode(kind, payload))

    def send_raw(self, frame: str) -> None:
        """Queue a text frame as it is."""
        self._outgoing.append(frame)
        self._wake.set()

    @property
    def takes_more(self) -> bool:
        """Whether the send buffer has room. The deployed control plane never waits for room."""
        return len(self._outgoing) < self._peer.settings.send_buffer

    async def room(self) -> None:
        """Wait until the send buffer has room, so that a viewer cannot send faster than the agent takes it."""
        while not self.takes_more and not self._ended.is_set():
            self._room.clear()
            await self._room.wait()

    def _later(self, delay: float, action: Any, argument: Any) -> None:
        if delay:
            asyncio.get_running_loop().call_later(delay, action, argument)
        else:
            action(argument)

    async def _read(self) -> None:
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            await self._peer.listening.wait()
            text = message.get("text") or message.get("bytes") or b""
            try:
                envelope = envelopes.decode(text)
            except Unreadable as reason:
                self._peer.unreadable(self, str(reason), text)
                continue
            for delay in self._peer.faults.deliveries("from_agent", envelope.type, self._peer.dice):
                self._later(delay, self._arrive, envelope)

    def _arrive(self, envelope: envelopes.Envelope) -> None:
        if not self._ended.is_set():
            self._peer.receive(self, envelope)
            self._count()

    def _count(self, passed: int = 1) -> None:
        self.passed += passed
        cut = self._peer.faults.cut
        if cut and cut.after and self.passed >= cut.after and cut.agent_id in (None, self.agent_id):
            self._peer.faults.cut = None
            self.cut()

    async def _write(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._outgoing and not self.closing:
                await self._hold_to_pack()
                await self._peer.listening.wait()
                frames = self._packed()
                self._room.set()
                await self._socket.send_text("\n".join(frames))
                self._count(len(frames))
            if self.closing:
                await self._socket.close()
                return

    def _packed(self) -> list[str]:
        """Take all that waits, to be sent as one message, as the deployed control plane does.

        That one sends a long message in small fragments, so that no agent has to hold it; here it becomes several.
        """
        frames: list[str] = []
        size = 0
        while self._outgoing and (not frames or size + len(self._outgoing[0]) <= PACK_BYTES):
            size += len(self._outgoing[0])
            frames.append(self._outgoing.popleft())
        return frames

    async def _hold_to_pack(self) -> None:
        pack = self._peer.faults.pack
        if not pack:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pack.seconds):
                while len(self._outgoing) < pack.count and not self.closing:
                    self._wake.clear()
                    await self._wake.wait()

    async def _keep_alive(self) -> None:
        """Ping the agent, and drop it if it neither answers nor pings by itself."""
        loop = asyncio.get_running_loop()
        settings = self._peer.settings
        next_ping = loop.time() + settings.ping_interval
        while True:
            deadline = self.wire.last_sign + settings.pong_timeout
            await asyncio.sleep(max(0.0, min(next_ping, deadline) - loop.time()))
            if loop.time() >= self.wire.last_sign + settings.pong_timeout:
                self.closing = self.closing or "no pong or ping in time"
                self.wire.abort()
                return
            if loop.time() >= next_ping:
                if self._peer.listening.is_set():
                    self.wire.ping()
                next_ping += settings.ping_interval
