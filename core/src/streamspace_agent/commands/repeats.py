"""Answers that the control plane may have overwritten, sent again once.

It writes ``sent`` after a command went out, and so over an answer that was faster: the command then stays ``sent`` for ever. An answer
that comes again is simply written again. What took longer than :data:`QUICK` seconds cannot have been overwritten.
"""

import asyncio
import logging
import time
from collections import OrderedDict

from streamspace_agent.controlplane.outbox import Outbox
from streamspace_agent.errors import JournalError
from streamspace_agent.journal import Journal, Message

log = logging.getLogger(__name__)

QUICK = 2.0
"""Seconds from a command's arrival within which its answer may be overwritten."""
AFTER = 3.0
"""Seconds from a command's arrival until it is answered again."""
MOST = 4096
"""Commands remembered at a time; of more, the oldest are not answered again."""
AT_A_TIME = 100
"""Answers queued in one step: the journal's write holds up everything else."""
LATELY = 30.0
"""Seconds before the end of the last leader, or this process's start, within which a command may have come and been answered quickly."""


class Repeats:
    """Those of one tenure; kept in memory, and made again from the journal by the next tenure."""

    def __init__(self, journal: Journal, outbox: Outbox) -> None:
        self._journal = journal
        self._outbox = outbox
        self._arrived: OrderedDict[str, tuple[float, Message | None]] = OrderedDict()
        """Command id -> when it came, and its answer where the journal does not know it."""
        self._more = asyncio.Event()

    def recover(self) -> None:
        """Answer again what came shortly before this tenure."""
        for command_id in self._journal.received_since(time.time() - LATELY, MOST):
            self.arrived(command_id)

    def arrived(self, command_id: str, answer: Message | None = None) -> None:
        """A command came; ``answer`` is that of one which the journal does not keep."""
        self._arrived.pop(command_id, None)
        self._arrived[command_id] = (time.monotonic(), answer)
        if len(self._arrived) > MOST:
            self._arrived.popitem(last=False)
        self._more.set()

    def answered(self, command_id: str) -> None:
        """It has its answer; one that came late is good as it is."""
        came, _ = self._arrived.get(command_id, (time.monotonic(), None))
        if time.monotonic() - came > QUICK:
            self._arrived.pop(command_id, None)

    async def run(self) -> None:
        """Answer again when it is time, until cancelled."""
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
        """Answer again at once whatever waits for it: this tenure ends. Raises JournalError."""
        while self._arrived:
            self._repeat(time.monotonic())

    def _repeat(self, until: float) -> None:
        """Queue again the answers of the oldest commands that came before ``until``, an ``ack`` for those that have none."""
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
