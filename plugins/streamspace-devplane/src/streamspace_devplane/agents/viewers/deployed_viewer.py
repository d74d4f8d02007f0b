"""One viewer of the deployed relay: the four routines that serve it, and how each ends."""

import asyncio
from collections.abc import Callable
from typing import Any

import pybase64
from starlette.websockets import WebSocket

from streamspace_devplane.agents.envelopes import SURROGATE
from streamspace_devplane.agents.state import State
from streamspace_devplane.agents.viewers.deployed_queue import STOP, Message, Messages, Routine, StopSignal
from streamspace_devplane.agents.wire import SCOPE_KEY, Wire
from streamspace_devplane.errors import WriteFailed


class Viewing:
    """Lives from the accepted WebSocket until its relay returns, which may be long after the viewer left."""

    def __init__(
        self,
        state: State,
        socket: WebSocket,
        queue: Messages,
        agent_id: str,
        session_id: str,
        returned: Callable[["Viewing"], None],
    ) -> None:
        """`returned` is called once, when the relay has ended."""
        self._state = state
        self._returned = returned
        self.socket = socket
        self.wire: Wire = socket.scope[SCOPE_KEY]
        self.queue = queue
        self.agent_id = agent_id
        self.session_id = session_id
        self.reading = True
        """Whether the routine that reads from the viewer still runs."""
        self.writing = False
        self.deadline: float | None = None
        """The deadline of all writes, set by each ping and never cleared."""
        self.stop = StopSignal(self._ended)
        self._crashed = False
        self._loop = asyncio.get_running_loop()
        self._routines = {
            Routine.PING: asyncio.create_task(self._ping()),
            Routine.ACTIVITY: asyncio.create_task(self._keep_active()),
            Routine.RELAY: asyncio.create_task(self._relay()),
        }
        self.wire.on_ping = lambda: self._set_deadline("the answer to the viewer's ping")

    async def run(self) -> None:
        """Runs until the WebSocket is over; the relay may go on."""
        left = await self._read()
        self.reading = False
        if not self._routines[Routine.RELAY].done():
            self.stop.send()
        # If only the reading failed, the relay still writes.
        while not left:
            left = (await self.socket.receive())["type"] == "websocket.disconnect"

    def cancel(self) -> None:
        for routine in self._routines.values():
            routine.cancel()

    async def over(self) -> None:
        await self._routines[Routine.RELAY]

    def _ended(self, routine: Routine) -> None:
        """A routine took the stop signal that was meant for all."""
        self._state.counters[f"viewerStopTakenBy{routine.value.title()}"] += 1
        self._routines[routine].cancel()

    # From the agent to the viewer

    async def _relay(self) -> None:
        handled = 0
        while (message := await self._next(first=not handled)) is not STOP:
            handled += 1
            if cause := await self._handle(*message):
                break
            await asyncio.sleep(0)  # so that other relays of this agent get their turn
        else:
            cause = None
            self._state.counters["viewerStopTakenByRelay"] += 1
        self._return(cause)

    async def _next(self, *, first: bool) -> Message | None:
        taker: asyncio.Future[Message | None] = self._loop.create_future()
        both = self.stop.pending and self.queue.waiting
        if (both and self._state.dice.random() < 0.5) or not self.queue.take(taker):  # Go chooses at random
            self.stop.wait(taker, first=first)
        return await taker

    async def _handle(self, kind: str, payload: dict[str, Any]) -> str | None:
        """Returns why the relay ends, if it does."""
        counters = self._state.counters
        if payload.get("sessionId") != self.session_id:
            counters["vncThrownAway"] += kind == "vnc_data"
            return None
        if kind == "vnc_error":
            return f"vnc_error: {payload.get('error')}"
        data = payload.get("data", "")
        if kind != "vnc_data" or not isinstance(data, str | bytes):
            return None
        try:
            await self._write(data if isinstance(data, str) else pybase64.b64encode_as_string(data))
        except WriteFailed as failure:
            counters["vncLostAtDeadViewer"] += 1
            return f"a write to the viewer failed: {failure}"
        return None

    async def _write(self, text: str) -> None:
        if self.wire.is_closing:
            raise WriteFailed("it has left")
        left = None if self.deadline is None else self.deadline - self._loop.time()
        if left is not None and left <= 0:
            raise WriteFailed("the write deadline that a ping set has passed")
        self.writing = True
        try:
            async with asyncio.timeout(left):
                await self.socket.send_text(text)
        except TimeoutError:
            raise WriteFailed("it did not read until the write deadline that a ping set") from None
        except Exception as error:  # uvicorn raises several for a broken connection
            raise WriteFailed(f"its connection broke: {error!r}") from error
        finally:
            self.writing = False

    def _return(self, cause: str | None) -> None:
        alive = self.reading and not self.wire.is_closing
        for routine in (Routine.PING, Routine.ACTIVITY):
            self._routines[routine].cancel()
        self.wire.on_ping = None
        self.wire.abort()
        self._returned(self)
        if cause and alive:
            self._crash(f"send on closed channel: its relay returned while the viewer was connected, after {cause}")

    # Pings and activity

    async def _ping(self) -> None:
        while True:
            await asyncio.sleep(self._state.settings.viewer_ping_interval)
            self.stop.leave(Routine.PING)
            if self._set_deadline("the control plane's own ping"):
                self.wire.ping()
            else:
                self.stop.send()
                return
            self.stop.again(Routine.PING)

    def _set_deadline(self, what: str) -> bool:
        """Returns whether the viewer's socket can be written to."""
        self.deadline = self._loop.time() + self._state.settings.viewer_write_wait
        if self.writing and not self.wire.is_closing:
            self._crash(f"concurrent write to websocket connection: {what} while a write to the viewer was blocked")
            self.wire.abort()
        return not self.wire.is_closing

    async def _keep_active(self) -> None:
        while True:
            await asyncio.sleep(self._state.settings.viewer_activity_interval)
            self.stop.leave(Routine.ACTIVITY)
            self._state.store.touch(self.session_id)
            self.stop.again(Routine.ACTIVITY)

    # From the viewer to the agent

    async def _read(self) -> bool:
        """Read until it fails; returns whether that was because the viewer left.

        Else the viewer was silent for too long, or the agent's send buffer was full.
        """
        last = self._loop.time()
        while True:
            deadline = max(last, self.wire.last_sign) + self._state.settings.viewer_read_wait
            try:
                async with asyncio.timeout_at(deadline):
                    message = await self.socket.receive()
            except TimeoutError:
                if max(last, self.wire.last_sign) + self._state.settings.viewer_read_wait > self._loop.time():
                    continue
                return False
            if message["type"] == "websocket.disconnect":
                return True
            last = self._loop.time()
            if not self._pass_on(message.get("text"), message.get("bytes")):
                return False
            await asyncio.sleep(0)  # so that the agent's connection can send it

    def _pass_on(self, text: str | None, data: bytes | None) -> bool:
        if text is None:
            self._state.counters["viewerBinaryFrames"] += 1
            text = SURROGATE.sub("\ufffd", (data or b"").decode(errors="surrogateescape"))  # one for each, as in Go
        link = self._state.links.get(self.agent_id)
        if link is None or not link.takes_more:
            self._state.counters["viewerNotPassedOn"] += 1
            return False
        link.send("vnc_data", {"sessionId": self.session_id, "data": text})
        return True

    def _crash(self, cause: str) -> None:
        if not self._crashed and not self._state.stopping.is_set():
            self._crashed = True
            self._state.crashes.note(cause, self.session_id, self.agent_id)
