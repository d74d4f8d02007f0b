"""The journal: what must outlive the process, in an SQLite file in ``STATE_DIR``.

It holds commands received and their answers, the agent's own commands while they run (in the table ``orders``), and
messages that the control plane has not acknowledged. The replicas of one host share it; only the leader writes. Every
write is fenced: the file remembers the highest epoch that opened it, and a writer of an older epoch gets
``LeaseLost``. A write survives the death of the process (WAL). A loss of power may cost the last writes, never the
file's consistency.
"""

import asyncio
import json
import logging
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from streamspace_agent import protocol
from streamspace_agent.errors import JournalError, LeaseLost
from streamspace_agent.journal import disk, retention
from streamspace_agent.journal.recovery import finish, rescue
from streamspace_agent.journal.writeahead import PATIENCE, WORTH, WriteAhead
from streamspace_agent.private import private_folder, require_private
from streamspace_agent.protocol import Message

log = logging.getLogger(__name__)

FILE = "journal.db"
UNREADABLE = "journal_unreadable: what STATE_DIR's journal holds of this command cannot be read"
MAX_DEPTH = 200
"""Levels of nesting that are read back: more than are ever accepted from the control plane or a driver."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS tenure (one INTEGER PRIMARY KEY CHECK (one = 1), epoch INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS commands (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, action TEXT NOT NULL, payload TEXT NOT NULL,
  received REAL NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, answer_type TEXT, answer TEXT);
CREATE INDEX IF NOT EXISTS open_commands ON commands (seq) WHERE answer_type IS NULL;
CREATE TABLE IF NOT EXISTS orders (
  id TEXT PRIMARY KEY, action TEXT NOT NULL, payload TEXT NOT NULL, attempts INTEGER NOT NULL DEFAULT 1);
CREATE TABLE IF NOT EXISTS sessions (id TEXT PRIMARY KEY, told TEXT);
CREATE TABLE IF NOT EXISTS outbox (seq INTEGER PRIMARY KEY AUTOINCREMENT, type TEXT NOT NULL, payload TEXT NOT NULL);
"""


def _cannot(verb: str, path: Path, error: Exception) -> JournalError:
    return JournalError(f"STATE_DIR: cannot {verb} the journal {path}: {disk.cause(path, error)}")


@dataclass(frozen=True, slots=True)
class Entry:
    """A command from the control plane, or an ``internal`` one of the agent. ``answer`` is None while it is open."""

    id: str
    action: str
    payload: Mapping[str, Any]
    attempts: int
    answer: Message | None
    internal: bool = False
    readable: bool = True
    """False if the payload in the file cannot be read; ``payload`` is empty then."""


class Journal:
    """The journal, open for one leadership. Not thread-safe: used from the agent's main loop only."""

    def __init__(self, path: Path, epoch: int) -> None:
        """Open or create the file and fence off older epochs. Raises JournalError, LeaseLost.

        It reads the whole file to check it: call it in a thread.
        """
        self._epoch = epoch
        self._path = path
        self.previous_epoch = 0
        """The epoch in which the file was last opened; 0 for a new file."""
        self._damage: JournalError | None = None
        self._damaged = asyncio.Event()
        try:
            private_folder(path.parent)
            self._db = self._open()
        except (OSError, sqlite3.Error) as error:
            raise _cannot("use", path, error) from error
        self._log = WriteAhead(self._db, path)

    def _open(self) -> sqlite3.Connection:
        finish(self._path)  # a recovery that an earlier process did not complete
        try:
            return self._connect()
        except sqlite3.DatabaseError as error:
            if not disk.damaged(error):
                raise
            saved = rescue(self._path, _SCHEMA)
            log.error("STATE_DIR: the journal is broken (%s): %s", disk.line(error), saved)  # noqa: TRY400
            return self._connect()

    def _connect(self) -> sqlite3.Connection:
        for suffix in ("", "-wal", "-shm"):
            require_private(self._path.with_name(self._path.name + suffix), create=not suffix)
        # Threads open and close it, but never two at a time.
        db = sqlite3.connect(self._path, timeout=PATIENCE, isolation_level=None, check_same_thread=False)
        try:
            db.execute("PRAGMA secure_delete=ON")  # payloads hold passwords: what is deleted is overwritten
            db.execute("PRAGMA wal_autocheckpoint=0")  # a checkpoint inside a commit would wait for the disk
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=NORMAL")
            db.executescript(_SCHEMA)
            if "told" not in {row[1] for row in db.execute("PRAGMA table_info(sessions)")}:
                db.execute("ALTER TABLE sessions ADD COLUMN told TEXT")  # a journal of an older version
            (found,) = db.execute("PRAGMA quick_check(1)").fetchone()
            if found != "ok":
                raise sqlite3.DatabaseError(found)
            row = db.execute("SELECT epoch FROM tenure").fetchone()
            if row and row[0] > self._epoch:
                raise LeaseLost(
                    f"STATE_DIR: the journal {self._path} was used in epoch {row[0]}, "
                    f"above this leadership's {self._epoch}: "
                    "another replica of this host leads, or its clock was ahead then"
                )
            self.previous_epoch = row[0] if row else 0
            db.execute(
                "INSERT INTO tenure VALUES (1, ?) ON CONFLICT (one) DO UPDATE SET epoch = excluded.epoch",
                (self._epoch,),
            )
        except BaseException:
            db.close()
            raise
        return db

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                (epoch,) = self._db.execute("SELECT epoch FROM tenure").fetchone()
                if epoch != self._epoch:
                    raise LeaseLost(f"the journal was taken over in epoch {epoch}")
                yield self._db
                self._db.execute("COMMIT")
                self._log.commits += 1
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
        except sqlite3.Error as error:
            raise self._failed("write", error) from error

    def receive(self, command_id: str, action: str, payload: Mapping[str, Any]) -> Entry | None:
        """Record a new command and queue its ``ack``.

        A command recorded before is returned; its answer is queued again.
        """
        with self._write() as db:
            row = db.execute(f"{_ENTRY} WHERE id = ?", (command_id,)).fetchone()
            known = _entry(row) if row else None
            _put(db, [Message("ack", {"commandId": command_id}), *([known.answer] if known and known.answer else [])])
            if known is None:
                db.execute(
                    "INSERT INTO commands (id, action, payload, received) VALUES (?, ?, ?, ?)",
                    (command_id, action, json.dumps(payload), time.time()),
                )
        return known

    def begin(self, command_id: str) -> None:
        """Count an attempt to run the command."""
        with self._write() as db:
            db.execute("UPDATE commands SET attempts = attempts + 1 WHERE id = ?", (command_id,))

    def finish(self, command_id: str, answer: Message, states: Iterable[Message] = ()) -> None:
        """Close the command, forget its payload, and queue its states and its answer, all or nothing.

        Closing it again changes nothing.
        """
        with self._write() as db:
            changed = db.execute(
                "UPDATE commands SET answer_type = ?, answer = ?, payload = '{}' WHERE id = ? AND answer_type IS NULL",
                (answer.type, _json(answer.payload), command_id),
            ).rowcount
            if changed:
                _put(db, [*states, answer])

    def begin_internal(self, command_id: str, action: str, payload: Mapping[str, Any]) -> None:
        """Record a command of the agent's own, and count the attempt to run it."""
        with self._write() as db:
            db.execute(
                "INSERT INTO orders (id, action, payload) VALUES (?, ?, ?)"
                " ON CONFLICT (id) DO UPDATE SET attempts = attempts + 1",
                (command_id, action, json.dumps(payload)),
            )

    def finish_internal(self, command_id: str, states: Iterable[Message]) -> None:
        """Forget the internal command and queue its states, all or nothing."""
        with self._write() as db:
            db.execute("DELETE FROM orders WHERE id = ?", (command_id,))
            _put(db, states)

    def open_commands(self) -> list[Entry]:
        """Internal commands that were begun and not finished, then commands received and not closed.

        An internal command comes first because it began before the commands that wait in its lane.
        """
        internal = self._read("SELECT id, action, payload, attempts, NULL, NULL FROM orders ORDER BY rowid")
        commands = self._read(f"{_ENTRY} WHERE answer_type IS NULL ORDER BY seq")
        return [replace(_entry(row), internal=True) for row in internal] + [_entry(row) for row in commands]

    def _read(self, query: str, *values: object) -> list[Any]:
        try:
            return self._db.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise self._failed("read", error) from error

    def _failed(self, verb: str, error: sqlite3.Error) -> JournalError:
        failure = _cannot(verb, self._path, error)
        if disk.damaged(error):
            self._damage = self._damage or failure
            self._damaged.set()
        return failure

    async def damage(self) -> JournalError:
        """Wait until the file turns out to be damaged, and return the error. Only a new :class:`Journal` mends it."""
        await self._damaged.wait()
        assert self._damage is not None
        return self._damage

    def put(self, *messages: Message) -> None:
        with self._write() as db:
            _put(db, messages)

    def pending(self, after: int, limit: int = 100) -> list[tuple[int, Message]]:
        """Queued messages with a number above ``after``, in order."""
        rows = self._read("SELECT seq, type, payload FROM outbox WHERE seq > ? ORDER BY seq LIMIT ?", after, limit)
        return [(seq, Message(kind, _object(payload) or {})) for seq, kind, payload in rows]

    def delivered(self, up_to: int) -> None:
        """Delete messages that the control plane has acknowledged."""
        with self._write() as db:
            db.execute("DELETE FROM outbox WHERE seq <= ?", (up_to,))

    def last_queued(self) -> int:
        """The number of the newest queued message; 0 if there is none."""
        ((last,),) = self._read("SELECT coalesce(max(seq), 0) FROM outbox")
        return int(last)

    def outbox_size(self, after: int = 0) -> int:
        ((count,),) = self._read("SELECT count(*) FROM outbox WHERE seq > ?", after)
        return int(count)

    def announced(self) -> dict[str, str]:
        """What any leadership last announced of each session (:func:`protocol.announced`); "" where that is not known.

        A session that was announced as ``terminated`` is not among them.
        """
        return {i: told or "" for i, told in self._read("SELECT id, told FROM sessions")}

    def doubt(self) -> None:
        """Mark what was announced as not known: another host's leader may have announced something else since."""
        with self._write() as db:
            db.execute("UPDATE sessions SET told = NULL")

    def forget(self, session_ids: Iterable[str]) -> None:
        """Delete sessions of which nothing has to be announced any more."""
        with self._write() as db:
            db.executemany("DELETE FROM sessions WHERE id = ?", [(session_id,) for session_id in session_ids])

    def received_since(self, moment: float, limit: int) -> list[str]:
        """Ids of the last commands received after this Unix time, oldest first."""
        query = "SELECT id FROM commands WHERE received > ? ORDER BY seq DESC LIMIT ?"
        return [i for (i,) in self._read(query, moment, limit)][::-1]

    def answer_again(self, command_ids: Iterable[str], others: Iterable[Message] = ()) -> None:
        """Queue the answers of these commands once more (an ``ack`` for those that are open), and ``others``."""
        with self._write() as db:
            for command_id in command_ids:
                row = db.execute("SELECT answer_type, answer FROM commands WHERE id = ?", (command_id,)).fetchone()
                if row and row[0]:
                    db.execute("INSERT INTO outbox (type, payload) VALUES (?, ?)", row)
                elif row:
                    _put(db, [Message("ack", {"commandId": command_id})])
            _put(db, others)

    async def prune(self) -> None:
        """Delete answers that are no longer kept, and payloads that an earlier version kept.

        It works in steps, with room for other tasks in between.
        """
        ((first, last),) = self._read("SELECT coalesce(min(seq), 0), coalesce(max(seq), 0) FROM commands")
        for start in range(first, last + 1, retention.STEP):
            with self._write() as db:
                retention.prune(db, start)
            await self.checkpoint()
            await asyncio.sleep(0)

    async def checkpoint(self, *, all_of_it: bool = False) -> None:
        """Move the write-ahead log into the file if it is large enough, in a thread because that waits for the disk.

        With ``all_of_it`` it is moved whatever its size, so that nothing deleted stays in the log.
        """
        try:
            if all_of_it or self._log.size > WORTH:
                await self._log.empty()
        except (OSError, sqlite3.Error) as error:
            log.debug("no checkpoint of %s: %s", self._path, error)

    def close(self) -> None:
        """Close the journal. That waits for the disk: call it in a thread."""
        with suppress(sqlite3.ProgrammingError):  # closed before
            self._log.syncing(True)  # the last connection to close moves everything into the file
        self._db.close()


def highest_epoch(path: Path) -> int:
    """The highest epoch that ever used the journal; 0 if that is unknown. Reads only, beside a running agent."""
    try:
        rows = _look(path, "SELECT epoch FROM tenure")
    except sqlite3.Error:  # missing or damaged: opening it for writing reports that
        return 0
    return int(rows[0][0]) if rows else 0


def sessions_with_open_commands(path: Path) -> frozenset[str]:
    """Ids of sessions with an open command. Reads only, beside a running agent. Raises JournalError."""
    if not path.exists():
        return frozenset()
    try:
        rows = _look(path, "SELECT payload FROM commands WHERE answer_type IS NULL")
    except sqlite3.Error as error:
        raise _cannot("read", path, error) from error
    return frozenset(str((_object(payload) or {}).get("sessionId")) for (payload,) in rows)


def _look(path: Path, query: str) -> list[Any]:
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=2.0)) as db:
        return db.execute(query).fetchall()


_ENTRY = "SELECT id, action, payload, attempts, answer_type, answer FROM commands"


def _entry(row: tuple[str, str, str, int, str | None, str | None]) -> Entry:
    command_id, action, text, attempts, kind, said = row
    payload = _object(text)
    answer = None
    if kind is not None:
        told = _object(said or "{}")
        answer = Message(kind, told) if told is not None else Message("failed", protocol.failed(command_id, UNREADABLE))
    return Entry(command_id, action, payload or {}, attempts, answer, readable=payload is not None)


def _object(text: str) -> dict[str, Any] | None:
    """The JSON object of a text; None if it is none, or nested too deep."""
    try:
        value = protocol.parse(text, MAX_DEPTH)
    except (ValueError, TypeError):
        return None
    return value if isinstance(value, dict) else None


def _json(payload: Mapping[str, Any]) -> str:
    """The JSON text of a payload. Values that JSON does not know become text: a driver's details may be anything."""
    return json.dumps(payload, default=str)


def _put(db: sqlite3.Connection, messages: Iterable[Message]) -> None:
    for message in messages:
        db.execute("INSERT INTO outbox (type, payload) VALUES (?, ?)", (message.type, _json(message.payload)))
        if message.type == "status":
            session_id = str(message.payload.get("sessionId"))
            if message.payload.get("state") == "terminated":
                db.execute("DELETE FROM sessions WHERE id = ?", (session_id,))
            else:
                change = "INSERT INTO sessions VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET told = excluded.told"
                db.execute(change, (session_id, protocol.announced(message.payload)))
