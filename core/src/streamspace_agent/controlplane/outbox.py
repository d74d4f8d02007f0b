"""Delivers queued messages in order, and keeps each until the control plane has acknowledged it by a WebSocket pong.

The protocol acknowledges no message, and a message whose send has returned may still be lost with the connection. So a
ping follows each batch: its pong proves that the control plane has read all messages before it, since frames are
handled in order. Only then is the batch deleted. If the connection breaks before the pong, the batch is sent again;
its effects (a command's end, a session's state) are the same when applied twice.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from streamspace_agent import protocol
from streamspace_agent.errors import JournalError
from streamspace_agent.journal import Journal
from streamspace_agent.protocol import Message

log = logging.getLogger(__name__)

Send = Callable[[str], Awaitable[None]]
"""Sends one text frame. Raises if there is no connection."""
Ping = Callable[[], Awaitable[Awaitable[object]]]
"""Sends a ping; returns an awaitable for its pong. Raises if there is no connection."""


class Outbox:
    """The outgoing queue of one leadership, kept in the journal."""

    def __init__(self, journal: Journal, require_lease: Callable[[], None]) -> None:
        self._journal = journal
        self._require_lease = require_lease
        self._more = asyncio.Event()
        self._delivered = asyncio.Event()
        self._acknowledged = 0
        """Number of the last acknowledged message, also while the journal cannot delete it."""
        self.waiting = journal.outbox_size()
        """Number of undelivered messages; may be read from any thread."""

    def put(self, *messages: Message) -> None:
        self._journal.put(*messages)
        self.wake()

    def wake(self) -> None:
        """Say that the journal holds new messages."""
        self.waiting = self._journal.outbox_size(after=self._acknowledged)
        self._more.set()

    async def flushed(self) -> None:
        """Wait until every message that is queued now has been acknowledged."""
        last = self._journal.last_queued()
        while self._acknowledged < last:
            self._delivered.clear()
            await self._delivered.wait()

    async def deliver(self, send: Send, ping: Ping) -> None:
        """Deliver over one connection until it is gone."""
        while True:
            self._more.clear()
            batch = self._journal.pending(after=self._acknowledged)
            for _, message in batch:
                self._require_lease()
                if frame := encode(message):
                    await send(frame)
            if batch:
                await (await ping())
                self._acknowledged = batch[-1][0]
                self._delivered.set()
                self._delete()
                self.waiting = self._journal.outbox_size(after=self._acknowledged)
            else:
                await self._more.wait()

    def _delete(self) -> None:
        try:
            self._journal.delivered(self._acknowledged)
        except JournalError as error:  # deleted with the next batch; sent again only if the process ends before
            log.warning("cannot delete delivered messages: %s", error)


def encode(message: Message) -> str:
    """The frame of a message. A message that is too large is shortened; "" if nothing can be sent."""
    payload = message.payload
    if not payload:  # the row could not be read
        return ""
    try:
        return protocol.encode(message.type, payload)
    except ValueError as error:
        log.error("a %s message cannot be sent as it is: %s", message.type, error)  # noqa: TRY400 - the cause is known
        problem = str(error)
    try:
        if command_id := protocol.usable_id(payload.get("commandId")):
            return protocol.encode("failed", protocol.failed(command_id, f"result_too_large: {problem}"))
        return protocol.encode(message.type, {k: v for k, v in payload.items() if k != "platformMetadata"})
    except ValueError:
        return ""
