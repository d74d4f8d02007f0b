"""Sends the data of all tunnels over the link: in turns, one message at a time."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

from streamspace_agent import protocol
from streamspace_agent.clock import Clock
from streamspace_agent.controlplane.link import LOST, Link
from streamspace_agent.errors import LeaseLost
from streamspace_agent.tunnel.channel import Channel
from streamspace_agent.tunnel.flow_control import Budget, Window
from streamspace_agent.tunnel.rfb import ClientActivity
from streamspace_agent.tunnel.stream import Buffers

SMALL = 4096
"""Data of at most this many bytes is sent before larger data: echoes of keys, cursor shapes."""
CLOSE_FOLLOWS = 0.04
"""Seconds from the acknowledgement of a message until its ``vnc_close`` has arrived, if its viewer is gone (5 ms were
seen, over 25 on a busy machine: the control plane writes to its database first). A viewer that asks for the next
update is there, so there is no pause. These pauses also keep a viewer that breaks its connection from meeting a write
in the relay, which would crash the control plane."""
OVERDRAFT = 2
"""Factor by which small messages may exceed the window."""


class Multiplexer:
    """Takes turns between channels, small data before large, and gives the socket one message at a time.

    All other messages (acknowledgements, results, heartbeats) bypass it: they are written to the socket at once, behind
    no more than the window's bytes in flight.
    """

    def __init__(self, require_lease: Callable[[], None], flushed: Callable[[], Awaitable[None]], clock: Clock) -> None:
        """``flushed`` returns once the control plane has all session states that wait in the outbox."""
        self.budget = Budget()
        self.buffers = Buffers()
        self._require_lease = require_lease
        self._flushed = flushed
        self._clock = clock
        self._carrier: Link | None = None
        self._window = Window(clock)
        self._turns: dict[bool, deque[Channel]] = {True: deque(), False: deque()}
        self._queued: set[Channel] = set()
        self._blocked: set[Channel] = set()
        self._held: set[Channel] = set()
        self._acknowledging: set[asyncio.Task[None]] = set()
        self._more = asyncio.Event()
        self._up = asyncio.Event()
        self.connection = 0
        """Number of the current connection to the control plane."""

    async def run(self, carrier: Link) -> None:
        """Send over one connection until it is gone or this is cancelled."""
        self._carrier, self._window = carrier, Window(self._clock)
        self.connection += 1
        self._up.set()
        try:
            while True:
                channel = self._next()
                if channel is None:
                    self._more.clear()
                    await self._more.wait()
                else:
                    await self._send_next(carrier, channel)
        finally:
            if self._carrier is carrier:
                self._carrier = None
                self._up.clear()

    async def wait_up(self) -> int:
        """Wait for a connection over which a session may be announced; returns its number.

        Session states are delivered first: an old one that arrived later would discard the greeting.
        """
        while True:
            await self._up.wait()
            await self._flushed()
            if self._up.is_set():
                return self.connection

    async def _attempt(self, work: Callable[[Link], Awaitable[None]]) -> bool:
        """Send something ahead of waiting data. False if there is no connection."""
        if self._carrier is None:
            return False
        try:
            self._require_lease()
            await work(self._carrier)
        except (*LOST, LeaseLost):
            return False
        return True

    async def send(self, kind: str, payload: Mapping[str, Any]) -> bool:
        """Send a message about a tunnel, ahead of waiting data. False if there is no connection."""
        return await self._attempt(lambda carrier: carrier.send(kind, payload))

    async def send_data(self, session_id: str, data: bytes, channel: Channel | None = None) -> bool:
        """Send a viewer bytes of the agent's own, ahead of waiting data. False if there is no connection.

        ``channel``: the viewer's channel, if it has one.
        """

        async def work(carrier: Link) -> None:
            if channel:
                channel.sent_own()
            await carrier.send_text(protocol.vnc_data(session_id, data))
            if channel:
                await self._confirm(carrier, channel)

        return await self._attempt(work)

    async def greet(self, channel: Channel, arrived: Callable[[], None]) -> bool:
        """Send a channel's greeting; ``arrived`` is called once it is acknowledged. False if there is no connection."""

        async def work(carrier: Link) -> None:
            channel.greeted()
            # The task starts while the greeting waits for room in the socket, so its ping follows the greeting even if
            # this is cancelled.
            acknowledging = asyncio.create_task(self._acknowledge(carrier, arrived))
            self._acknowledging.add(acknowledging)
            acknowledging.add_done_callback(self._acknowledging.discard)
            await carrier.send_text(protocol.vnc_data(channel.session_id, channel.greeting))

        return await self._attempt(work)

    async def _acknowledge(self, carrier: Link, arrived: Callable[[], None]) -> None:
        with suppress(*LOST):
            await (await carrier.ping())
            arrived()

    async def acknowledged(self, pause: float) -> bool:
        """Wait until all messages are acknowledged, plus ``pause`` seconds. False if there is no connection."""
        if self._carrier is None:
            return False
        try:
            await (await self._carrier.ping())
        except LOST:
            return False
        await asyncio.sleep(pause)
        return self._carrier is not None

    def offer(self, channel: Channel) -> None:
        """Queue a channel that has bytes to send. Doing so twice has no effect."""
        if channel not in self._queued:
            self._queued.add(channel)
            self._turns[channel.waiting <= SMALL].append(channel)
            self._more.set()

    async def pass_on(self, channel: Channel, data: bytes, saw_input: Callable[[], None]) -> None:
        """Pass a viewer's bytes to the server; ``saw_input`` is called if a person sent them."""
        activity = channel.received(data)
        if ClientActivity.READ in activity:
            self.released()
        if ClientActivity.INPUT in activity:
            saw_input()
        await channel.drained()

    def released(self) -> None:
        """Try blocked channels again: there may be room in the control plane's queue."""
        blocked, self._blocked = self._blocked, set()
        for channel in blocked:
            self.offer(channel)

    @property
    def blocked(self) -> int:
        """Number of channels that wait for room in the control plane's queue."""
        return len(self._blocked)

    def blocks(self, channel: Channel) -> bool:
        return channel in self._blocked

    def _next(self) -> Channel | None:
        for small in (True, False):
            turns = self._turns[small]
            while turns:
                if not self._window.open and not (small and self._window.in_flight < OVERDRAFT * self._window.size):
                    break
                channel = turns.popleft()
                self._queued.discard(channel)
                if not channel.waiting:
                    continue
                if not channel.allowed:
                    self._blocked.add(channel)
                elif (early := channel.early) > 0:
                    self._hold(channel, early)
                elif small and channel.waiting > SMALL:
                    self.offer(channel)  # it has grown: queue it as large
                else:
                    return channel
        return None

    def _hold(self, channel: Channel, seconds: float) -> None:
        if channel not in self._held:
            self._held.add(channel)
            asyncio.get_running_loop().call_later(seconds, self._release, channel)

    def _release(self, channel: Channel) -> None:
        self._held.discard(channel)
        self.offer(channel)

    async def _send_next(self, carrier: Link, channel: Channel) -> None:
        data = channel.take(channel.size(self._window.size))
        self._require_lease()
        await carrier.send_text(protocol.vnc_data(channel.session_id, data))
        if channel.stepwise:
            await self._confirm(carrier, channel)
        elif channel.waiting:
            self.offer(channel)
        if probe := self._window.sent(len(data)):
            window, pong = self._window, asyncio.ensure_future(await carrier.ping())
            pong.add_done_callback(lambda pong: self._pong(window, probe, pong))

    async def _confirm(self, carrier: Link, channel: Channel) -> None:
        """Let the channel go on once the message is acknowledged and its viewer's ``vnc_close`` would have arrived."""
        read, steps = asyncio.ensure_future(await carrier.ping()), channel.steps
        read.add_done_callback(lambda read: self._acknowledged(channel, steps, read))

    def _acknowledged(self, channel: Channel, steps: int, pong: asyncio.Future[float]) -> None:
        if not _failed(pong):
            asyncio.get_running_loop().call_later(CLOSE_FOLLOWS, self._confirmed, channel, steps)

    def _confirmed(self, channel: Channel, steps: int) -> None:
        channel.confirm(steps)
        if channel.waiting:
            self.offer(channel)

    def _pong(self, window: Window, probe: int, pong: asyncio.Future[float]) -> None:
        if not _failed(pong):
            window.answered(probe, pong.result())
            self._more.set()


def _failed(pong: asyncio.Future[float]) -> bool:
    return pong.cancelled() or pong.exception() is not None
