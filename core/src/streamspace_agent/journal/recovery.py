"""Recovery of a damaged journal: copies what can be read into a new file, and keeps the damaged one.

The new file gets its final name only when it is complete. Only then the damaged file is renamed, with its write-ahead
log. If the process dies in between, the next one completes that, so no step loses what an earlier one has saved.
"""

import json
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

_TABLES = {
    "tenure": ("one", "epoch"),
    "sessions": ("id", "told"),
    "orders": ("id", "action", "payload", "attempts"),
    "commands": ("seq", "id", "action", "payload", "received", "attempts", "answer_type", "answer"),
    "outbox": ("seq", "type", "payload"),
}
_JSON = {"payload", "answer"}


def rescue(path: Path, schema: str) -> str:
    """Replace a damaged journal. Returns what was saved, for people.

    Raises OSError or sqlite3.Error; the damaged one is still in its place then.
    """
    unfinished = path.with_name(f"{path.name}.unfinished")
    unfinished.unlink(missing_ok=True)
    os.close(os.open(unfinished, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    with closing(sqlite3.connect(unfinished, isolation_level=None)) as new:
        new.executescript(schema)
        new.execute("BEGIN")
        copied = [_copy(path, new, table) for table in _TABLES]
        new.execute("COMMIT")
        (commands,) = new.execute("SELECT count(*) FROM commands WHERE answer_type IS NULL").fetchone()
        (messages,) = new.execute("SELECT count(*) FROM outbox").fetchone()
    unfinished.rename(_rescued(path))
    much, lost = "all", ""
    if not all(copied):
        much = "what could be read"
        lost = "; a command that the control plane shows as acknowledged for long has to be given again"
    return (
        f"{much} of it went into a new one, {commands} open commands and {messages} undelivered messages among it; "
        f"the broken one is kept as {finish(path)}{lost}"
    )


def finish(path: Path) -> Path:
    """Put a complete new journal, if there is one, in the place of the damaged one.

    Returns the name under which the damaged one is kept.
    """
    aside = path.with_name(f"{path.name}.broken-{time.time_ns()}")
    if _rescued(path).exists():
        path.with_name(f"{path.name}-shm").unlink(missing_ok=True)  # only the log's index
        for suffix in ("-wal", ""):  # the log first: SQLite would take it for the new file's
            with suppress(FileNotFoundError):
                path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
        _rescued(path).rename(path)
    return aside


def _rescued(path: Path) -> Path:
    return path.with_name(f"{path.name}.rescued")


def _copy(path: Path, new: sqlite3.Connection, table: str) -> bool:
    """Copy a table from both ends, so that a bad page costs only its own rows. Returns whether every row was read."""
    columns = _TABLES[table]
    insert = f"INSERT OR IGNORE INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"  # noqa: S608
    whole = True
    for order in ("ASC", "DESC"):
        try:
            for row in _rows(path, table, order):
                if _sound(dict(zip(columns, row, strict=True))):
                    new.execute(insert, row)
                else:
                    whole = False
            break
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}:
                raise  # a full or failing disk: try again later
            whole = False
    return whole


def _rows(path: Path, table: str, order: str) -> Iterator[tuple[object, ...]]:
    # Read only, so that nothing is moved from the log into the damaged file.
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=2.0)) as old:
        # A journal of an older version has fewer columns.
        there = {row[1] for row in old.execute(f"PRAGMA table_info({table})")}
        columns = ", ".join(name if name in there else f"NULL AS {name}" for name in _TABLES[table])
        yield from old.execute(f"SELECT {columns} FROM {table} ORDER BY rowid {order}")  # noqa: S608 - as above


def _sound(row: dict[str, object]) -> bool:
    texts = [row[name] for name in _JSON & row.keys() if name != "answer" or row[name] is not None]
    try:
        return all(isinstance(text, str) and isinstance(json.loads(text), dict) for text in texts)
    except (ValueError, RecursionError):
        return False
