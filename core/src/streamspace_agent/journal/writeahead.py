"""The journal's write-ahead log, emptied in such a way that no commit waits for the disk.

A commit appends to the log and syncs nothing, with one exception: once all of the log has been moved into the file,
SQLite overwrites the log from its start, and syncs that start, so that a loss of power cannot mix old and new
entries. Here the log is therefore never overwritten. A thread moves it into the file, while an open reader keeps
writers from starting it anew, and then it is truncated.
"""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

WORTH = 2 * 1024**2
"""Bytes from which it is worth while to empty the log."""
MOST = 20 * WORTH
"""Bytes that it may grow to while constant writes keep it from being emptied; then they wait for the disk, once."""
PASSES = 3
"""Attempts to move all of the log before anything more is written: what is written during one is moved by the next."""
PATIENCE = 2.0
"""Seconds that the journal's connection waits for another's lock."""


class WriteAhead:
    """The log of one connection ``db`` that is the file's only writer."""

    def __init__(self, db: sqlite3.Connection, path: Path) -> None:
        self._db = db
        self._path = path
        self._log = path.with_name(f"{path.name}-wal")
        self.commits = 0
        """Counted up by the writer at each commit."""

    @property
    def size(self) -> int:
        return self._log.stat().st_size

    async def empty(self) -> None:
        """Move all of the log into the file. Raises OSError, sqlite3.Error."""
        self.syncing(True)
        for _ in range(PASSES):
            if await self._moved():
                break
        else:
            if self.size < MOST:
                return
        self._db.execute("PRAGMA busy_timeout=0")
        try:
            busy, *_ = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        finally:
            self._db.execute(f"PRAGMA busy_timeout={PATIENCE * 1000:.0f}")
        if not busy:
            self.syncing(False)

    def syncing(self, needed: bool) -> None:
        """Choose whether SQLite syncs. It need not while commits only append to a log that began as an empty file."""
        self._db.execute(f"PRAGMA synchronous={'NORMAL' if needed else 'OFF'}")

    async def _moved(self) -> bool:
        """Move what is there. Returns whether nothing was written meanwhile, so that the log may be truncated."""
        before = self.commits
        with closing(sqlite3.connect(self._path, timeout=0.0)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT epoch FROM tenure").fetchone()
            whole = await asyncio.to_thread(self._move)
        return whole and self.commits == before

    def _move(self) -> bool:
        with closing(sqlite3.connect(self._path, timeout=0.0)) as db:
            busy, pages, moved = db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        return not busy and pages == moved
