"""The journal's write-ahead log, emptied so that no commit ever waits for the disk.

A commit writes to the log and syncs nothing, but for one: SQLite begins the log anew in its place once all of it has been moved into the
file, and syncs that beginning, lest a loss of power leave old and new ones mixed. So here the log is never begun anew in its place. A
thread moves it, a reader keeps every writer from the beginning meanwhile, and then it is cut to nothing, where there is nothing to mix.
"""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

WORTH = 2 * 1024**2
"""Bytes from which the log is worth the while."""
MOST = 20 * WORTH
"""Bytes that it may come to while writers leave no moment in which it could be emptied; then they wait for the disk, once."""
PASSES = 3
"""Tries to find such a moment: what is written during one is little, and moved by the next."""
PATIENCE = 2.0
"""Seconds that the journal's connection waits for another's lock."""


class WriteAhead:
    """The log of one connection ``db`` that is the file's only writer."""

    def __init__(self, db: sqlite3.Connection, path: Path) -> None:
        self._db = db
        self._path = path
        self._log = path.with_name(f"{path.name}-wal")
        self.commits = 0
        """To be counted by whoever writes."""

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
        """Whether what SQLite would sync is synced: not while a log lasts that began as an empty file, which commits only add to."""
        self._db.execute(f"PRAGMA synchronous={'NORMAL' if needed else 'OFF'}")

    async def _moved(self) -> bool:
        """Move what is there; True where nothing came behind it, so that the log may be cut before anything does."""
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
