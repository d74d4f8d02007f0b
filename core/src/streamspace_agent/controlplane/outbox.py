"""Delivers queued messages to the control plane in order, until its end of the socket has read them.

The protocol has no answer to a message, and a send that returned may still be lost with the connection. So a
WebSocket ping follows what was sent: its pong proves that the control plane has read all before it (frames are handled in order).
Only then is a message forgotten. A connection that breaks between reading and pong makes a message go out again: its
effects there (a command's end, a session's state) are the same when applied twice.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from streamspace_agent import protocol
from streamspace_agent.errors import JournalError
from streamspace_agent.journal import Journal, Message

log = logging.getLogger(__name__)

Send = Callable[[str], Awaitable[None]]
"""Sends one text frame. Raises when the connection is gone."""
Ping = Callable[[], Awaitable[Awaitable[object]]]
"""Sends a ping; returns an awaitable for its pong. Raises when the connection is gone."""


class Outbox:
    """The queue of one tenure, kept in the journal."""

    def __init__(self, journal: Journal, require_lease: Callable[[], None]) -> None:
        self._journal = journal
        self._require_lease = require_lease
        self._more = asyncio.Event()
        self._delivered = asyncio.Event()
        self._taken = 0
        """Number of the last message that the control plane has taken, also while the journal cannot forget it."""
        self.waiting = journal.outbox_size()
        """Messages not delivered yet; may be read from any thread."""

    def put(self, *messages: Message) -> None:
        self._journal.put(*messages)
        self.wake()

    def wake(self) -> None:
        """Tell the sender that the journal has more."""
        self.waiting = self._journal.outbox_size(after=self._taken)
        self._more.set()

    async def flushed(self) -> None:
        """Wait until everything that is queued now has been delivered, whatever comes behind it."""
        last = self._journal.last_queued()
        while self._taken < last:
            self._delivered.clear()
            await self._delivered.wait()

    async def deliver(self, send: Send, ping: Ping) -> None:
        """Deliver over one connection, for as long as it lives."""
        while True:
            self._more.clear()
            batch = self._journal.pending(after=self._taken)
            for _, message in batch:
                self._require_lease()
                if frame := encode(message):
                    await send(frame)
            if batch:
                await (await ping())
                self._taken = batch[-1][0]
                self._delivered.set()
                self._forget()
                self.waiting = self._journal.outbox_size(after=self._taken)
            else:
                await self._more.wait()

    def _forget(self) -> None:
        try:
            self._journal.delivered(self._taken)
        except JournalError as error:  # it is forgotten with the next; sent again only if the process ends before that
            log.warning("cannot forget what was delivered: %s", error)


def encode(message: Message) -> str:
    """The frame for a message; what is too large goes out without what made it so, "" where nothing is left to send."""
    payload = message.payload
    if not payload:  # a row that could not be read
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
