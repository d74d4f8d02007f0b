"""For how long the journal keeps the answers of commands."""

import sqlite3
import time

KEEP_SECONDS = 7 * 86400.0
"""Seconds for which the answer of a command is kept, in case the command comes again."""
STEP = 500
"""Commands in one step: those that an earlier version wrote may be large."""


def prune(db: sqlite3.Connection, start: int) -> None:
    """Delete what is no longer kept of the :data:`STEP` commands from the sequence number ``start`` on."""
    these, oldest = (start, start + STEP), time.time() - KEEP_SECONDS
    db.execute(
        "DELETE FROM commands WHERE seq >= ? AND seq < ? AND answer_type IS NOT NULL AND received < ?",
        (*these, oldest),
    )
    db.execute(
        "UPDATE commands SET payload = '{}' WHERE seq >= ? AND seq < ? AND answer_type IS NOT NULL AND payload != '{}'",
        these,
    )
