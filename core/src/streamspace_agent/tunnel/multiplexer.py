"""The one place where tunnels' bytes enter the connection to the control plane: fair, a message at a time."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, Protocol

from websockets.exceptions import ConnectionClosed

from streamspace_agent import protocol
from streamspace_agent.clock import Clock
from streamspace_agent.errors import LeaseLost, LinkDown
from streamspace_agent.tunnel.channel import Channel
from streamspace_agent.tunnel.flow_control import Budget, Window
from streamspace_agent.tunnel.stream import Buffers


class Carrier(Protocol):
    """The present connection to the control plane. Every method raises once it is gone."""

    async def send(self, kind: str, payload: Mapping[str, Any]) -> None: ...
    async def send_text(self, frame: str | bytes) -> None: ...
    async def ping(self) -> Awaitable[float]: ...


SMALL = 4096
"""Bytes up to which what is ready goes before all that is larger: echoes of keys, cursor shapes."""
SETTLES = 0.04
"""Seconds from the control plane's having read a message until it has said that the message's viewer is gone, where it is (5 ms were
seen, over 25 on a busy machine: it writes to its database before). A viewer that asks for the next update is there: no pause follows. Such pauses also keep a viewer that tears its connection from meeting a write in the relay, which would end the control plane.
"""
OVERDRAFT = 2
"""Small messages may exceed the window by this factor."""


class Multiplexer:
    """Takes turns between channels, the small before the large, and hands the socket one message at a time.

    What else the agent has to say (acknowledgements, results, heartbeats) does not pass through here: it is written to the
    socket at once, behind no more than what the window lets be on its way.
    """

    def __init__(self, require_lease: Callable[[], None], flushed: Callable[[], Awaitable[None]], clock: Clock) -> None:
        """``flushed`` returns once the states that wait for the control plane have reached it."""
        self.budget = Budget()
        self.buffers = Buffers()
        self._require_lease = require_lease
        self._flushed = flushed
        self._clock = clock
        self._carrier: Carrier | None = None
        self._window = Window(clock)
        self._turns: dict[bool, deque[Channel]] = {True: deque(), False: deque()}
        self._queued: set[Channel] = set()
        self._blocked: set[Channel] = set()
        self._held: set[Channel] = set()
        self._vouching: set[asyncio.Task[None]] = set()
        self._more = asyncio.Event()
        self._up = asyncio.Event()
        self.connection = 0
        """Counts the connections to the control plane."""

    async def run(self, carrier: Carrier) -> None:
        """Serve one connection until it is gone or this is cancelled."""
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
                    await self._send(carrier, channel)
        finally:
            self.down(carrier)

    def down(self, carrier: Carrier) -> None:
        """Nothing more goes over this connection."""
        if self._carrier is carrier:
            self._carrier = None
            self._up.clear()

    async def up(self) -> int:
        """Wait for a connection over which a session may be announced; returns its number.

        A state of a session's past that arrived late would throw away the greeting of its present.
        """
        while True:
            await self._up.wait()
            await self._flushed()
            if self._up.is_set():
                return self.connection

    async def tell(self, kind: str, payload: Mapping[str, Any]) -> bool:
        """Send a word about a tunnel, ahead of all data that waits. False when there is no connection."""
        if self._carrier is None:
            return False
        try:
            self._require_lease()
            await self._carrier.send(kind, payload)
        except (ConnectionClosed, LinkDown, LeaseLost, OSError):
            return False
        return True

    async def say(self, session_id: str, data: bytes, channel: Channel | None = None) -> bool:
        """Send a viewer bytes of the agent's own, ahead of all data that waits; ``channel`` is its own, if it has one.

        False when there is no connection.
        """
        if self._carrier is None:
            return False
        try:
            self._require_lease()
            if channel:
                channel.said()
            await self._carrier.send_text(protocol.vnc_data(session_id, data))
            if channel:
                await self._confirm(self._carrier, channel)
        except (ConnectionClosed, LinkDown, LeaseLost, OSError):
            return False
        return True

    async def greet(self, channel: Channel, arrived: Callable[[], None]) -> bool:
        """Send a channel's greeting; ``arrived`` is called once the control plane has read it. False when there is no connection."""
        if self._carrier is None:
            return False
        channel.greeted()
        try:
            self._require_lease()
            # Begins when the greeting waits for room in the socket, and so comes right behind it, also where this is cancelled.
            vouching = asyncio.create_task(self._vouch(self._carrier, arrived))
            self._vouching.add(vouching)
            vouching.add_done_callback(self._vouching.discard)
            await self._carrier.send_text(protocol.vnc_data(channel.session_id, channel.greeting))
        except (ConnectionClosed, LinkDown, LeaseLost, OSError):
            return False
        return True

    async def _vouch(self, carrier: Carrier, arrived: Callable[[], None]) -> None:
        with suppress(ConnectionClosed, LinkDown, OSError):
            await (await carrier.ping())
            arrived()

    async def heard(self, pause: float) -> bool:
        """Wait until the control plane has read all that was sent, and ``pause`` seconds more. False when there is no connection."""
        if self._carrier is None:
            return False
        try:
            await (await self._carrier.ping())
        except (ConnectionClosed, LinkDown, OSError):
            return False
        await asyncio.sleep(pause)
        return self._carrier is not None

    def offer(self, channel: Channel) -> None:
        """The channel has bytes to send. Offering it twice does nothing."""
        if channel not in self._queued:
            self._queued.add(channel)
            self._turns[channel.waiting <= SMALL].append(channel)
            self._more.set()

    def released(self) -> None:
        """There may be room again in the control plane's queue."""
        blocked, self._blocked = self._blocked, set()
        for channel in blocked:
            self.offer(channel)

    @property
    def blocked(self) -> bool:
        """Some channel has to wait for room in the control plane's queue."""
        return bool(self._blocked)

    def blocks(self, channel: Channel) -> bool:
        """That one has to."""
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
                    self.offer(channel)  # it has grown: among the large
                else:
                    return channel
        return None

    def _hold(self, channel: Channel, seconds: float) -> None:
        if channel not in self._held:
            self._held.add(channel)
            asyncio.get_running_loop().call_later(seconds, self._held_for_long, channel)

    def _held_for_long(self, channel: Channel) -> None:
        self._held.discard(channel)
        self.offer(channel)

    async def _send(self, carrier: Carrier, channel: Channel) -> None:
        data = channel.take(channel.size(self._window.size))
        self._require_lease()
        await carrier.send_text(protocol.vnc_data(channel.session_id, data))
        if channel.stepwise:
            await self._confirm(carrier, channel)
        elif channel.waiting:
            self.offer(channel)
        if probe := self._window.sent(len(data)):
            window, pong = self._window, asyncio.ensure_future(await carrier.ping())
            pong.add_done_callback(lambda pong: self._answered(window, probe, pong))

    async def _confirm(self, carrier: Carrier, channel: Channel) -> None:
        """Let the channel go on once the control plane has had the time to say that the message's viewer is gone."""
        read, steps = asyncio.ensure_future(await carrier.ping()), channel.steps
        read.add_done_callback(lambda read: self._read(channel, steps, read))

    def _read(self, channel: Channel, steps: int, pong: asyncio.Future[float]) -> None:
        if not _failed(pong):
            asyncio.get_running_loop().call_later(SETTLES, self._settled, channel, steps)

    def _settled(self, channel: Channel, steps: int) -> None:
        channel.confirm(steps)
        if channel.waiting:
            self.offer(channel)

    def _answered(self, window: Window, probe: int, pong: asyncio.Future[float]) -> None:
        if not _failed(pong):
            window.answered(probe, pong.result())
            self._more.set()


def _failed(pong: asyncio.Future[float]) -> bool:
    return pong.cancelled() or pong.exception() is not None
