"""Sends answers again, once, that the control plane may have overwritten.

The control plane writes ``sent`` after it has sent a command. If the answer was faster, that overwrites it, and the
command stays ``sent`` for ever. An answer that comes again is written again. An answer that took longer than
:data:`QUICK` seconds cannot have been overwritten.
"""

import asyncio
import logging
import time
from collections import OrderedDict

from streamspace_agent.controlplane.outbox import Outbox
from streamspace_agent.errors import JournalError
from streamspace_agent.journal import Journal
from streamspace_agent.protocol import Message

log = logging.getLogger(__name__)

QUICK = 2.0
"""Seconds from a command's arrival within which its answer may be overwritten."""
AFTER = 3.0
"""Seconds from a command's arrival until it is answered again."""
MOST = 4096
"""Commands that are remembered at a time. Beyond that, the oldest are not answered again."""
AT_A_TIME = 100
"""Answers queued in one step: a write to the journal blocks the event loop."""
LATELY = 30.0
"""Seconds before this leadership within which a command may have come and been answered quickly."""


class Repeats:
    """The repeats of one leadership: kept in memory, and made again from the journal by the next leadership."""

    def __init__(self, journal: Journal, outbox: Outbox) -> None:
        self._journal = journal
        self._outbox = outbox
        self._arrived: OrderedDict[str, tuple[float, Message | None]] = OrderedDict()
        """By command id: when it came, and its answer if the journal does not have it."""
        self._more = asyncio.Event()

    def recover(self) -> None:
        """Plan to answer again what came shortly before this leadership."""
        for command_id in self._journal.received_since(time.time() - LATELY, MOST):
            self.arrived(command_id)

    def arrived(self, command_id: str, answer: Message | None = None) -> None:
        """Note that a command came. ``answer`` is given where the journal does not have it."""
        self._arrived.pop(command_id, None)
        self._arrived[command_id] = (time.monotonic(), answer)
        if len(self._arrived) > MOST:
            self._arrived.popitem(last=False)
        self._more.set()

    def answered(self, command_id: str) -> None:
        """Note that a command was answered. A late answer need not be repeated."""
        came, _ = self._arrived.get(command_id, (time.monotonic(), None))
        if time.monotonic() - came > QUICK:
            self._arrived.pop(command_id, None)

    async def run(self) -> None:
        """Answer again what is due, until cancelled."""
        complaint = ""
        while True:
            self._more.clear()
            if not self._arrived:
                await self._more.wait()
            came, _ = next(iter(self._arrived.values()))
            await asyncio.sleep(max(0.0, came + AFTER - time.monotonic()))
            try:
                self._repeat(time.monotonic() - AFTER)
                complaint = ""
            except JournalError as error:
                if str(error) != complaint:  # once: it may be the log's own disk that is full
                    log.warning("cannot answer again what the control plane may have written over: %s", error)
                complaint = str(error)
                await asyncio.sleep(AFTER)

    def flush(self) -> None:
        """Answer again at once all that is left, since this leadership ends. Raises JournalError."""
        while self._arrived:
            self._repeat(time.monotonic())

    def _repeat(self, until: float) -> None:
        """Queue again the oldest answers to commands that came before ``until``; an ``ack`` where there is none."""
        due: dict[str, Message | None] = {}
        for command_id, (came, answer) in self._arrived.items():
            if came > until or len(due) == AT_A_TIME:
                break
            due[command_id] = answer
        self._journal.answer_again([i for i, answer in due.items() if answer is None], [m for m in due.values() if m])
        for command_id in due:
            del self._arrived[command_id]
        if due:
            self._outbox.wake()
