"""What the journal holds of a command from its receipt to its one answer, and the messages that this queues."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from streamspace_agent.backoff import Backoff
from streamspace_agent.commands.jobs import Job
from streamspace_agent.commands.repeats import Repeats
from streamspace_agent.controlplane.outbox import Outbox
from streamspace_agent.errors import JournalError
from streamspace_agent.journal import Entry, Journal
from streamspace_agent.protocol import Message

log = logging.getLogger(__name__)


class Answers:
    """Records each step of a command in the journal, and wakes the outbox for what that queued."""

    def __init__(self, journal: Journal, outbox: Outbox, repeats: Repeats) -> None:
        self._journal = journal
        self._outbox = outbox
        self._repeats = repeats

    def received(self, command_id: str, action: str, payload: Mapping[str, Any]) -> Entry | None:
        """Record and acknowledge a command. Returns one received before, whose answer goes out again; else None.

        Raises JournalError.
        """
        known = self._journal.receive(command_id, action, payload)
        self._repeats.arrived(command_id)
        self._outbox.wake()
        return known

    def refused(self, command_id: str, answer: Message) -> None:
        """Queue the answer to a message that never became a command. Raises JournalError."""
        self._repeats.arrived(command_id, answer)
        self._outbox.put(answer)

    async def begin(self, job: Job) -> None:
        """Count an attempt to run the command."""
        command = job.command
        write = partial(self._journal.begin, command.id)
        if job.internal:
            write = partial(self._journal.begin_internal, command.id, command.action, command.payload)
        await _persist(f"command {command.id} waits", write)

    async def finish(self, job: Job, answer: Message) -> None:
        """Close the command, and queue its reports and then its answer, all or nothing.

        An internal command has no answer.
        """
        command_id, messages = job.command.id, [report.message for report in job.reports]
        if job.internal:
            await _persist(f"what {command_id} did waits", lambda: self._journal.finish_internal(command_id, messages))
        else:
            write = partial(self._journal.finish, command_id, answer, messages)
            await _persist(f"the outcome of command {command_id} waits", write)
            self._repeats.answered(command_id)
        for report in job.reports:
            report.written()
        self._outbox.wake()


async def _persist(what_waits: str, write: Callable[[], object]) -> None:
    """Write to the journal, however long it takes until it can be written."""
    backoff = Backoff(base=0.5, cap=5.0)
    while True:
        try:
            write()
            return
        except JournalError as error:
            if not backoff.failures:
                log.error("%s: %s", what_waits, error)  # noqa: TRY400 - the cause is known
            await asyncio.sleep(0.2 + backoff.delay())
