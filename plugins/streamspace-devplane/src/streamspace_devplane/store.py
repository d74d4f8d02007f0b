"""The control plane's database, in SQLite: it survives a restart on the same file."""

import asyncio
import hashlib
import json
import os
import secrets
import sqlite3
import time
import uuid
from importlib import resources
from pathlib import Path
from typing import Any

Row = dict[str, Any]
JSON_COLUMNS = frozenset({"capacity", "metadata", "platform_metadata", "payload", "result"})
BOOLEAN_COLUMNS = frozenset({"vnc_ready"})
LATER_COLUMNS = {"screen": "TEXT NOT NULL DEFAULT 'vnc'", "last_activity": "REAL"} | {
    "streaming_protocol": "TEXT NOT NULL DEFAULT 'vnc'",
    "streaming_port": "INTEGER NOT NULL DEFAULT 5900",
}
LATER_AGENT_COLUMNS = {"told_status": "TEXT"}
PRUNE_EVERY = 20  # events are pruned whenever 1/20 more than `events_kept` have been added
ROUTINE = "type IN ('heartbeat', 'ping', 'pong')"  # messages that come all the time
COMMAND_STEPS = {
    "ack": ("acks", "acked_at"),
    "completed": ("completes", "finished_at"),
    "failed": ("failures", "finished_at"),
}


def key_hash(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.title() for word in rest)


def shape(row: sqlite3.Row) -> Row:
    """A row as the API shows it: names in camelCase, JSON columns parsed."""
    shaped: Row = {}
    for name in row.keys():  # noqa: SIM118 - iterating a sqlite3.Row gives its values
        value = row[name]
        if value is not None and name in JSON_COLUMNS:
            value = json.loads(value)
        shaped[camel(name)] = bool(value) if name in BOOLEAN_COLUMNS else value
    return shaped


def set_up(db: sqlite3.Connection) -> None:
    db.row_factory = sqlite3.Row
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=OFF")  # survives a killed process, which is enough for tests
    db.executescript(resources.files(__package__).joinpath("schema.sql").read_text())
    for table, columns in (("sessions", LATER_COLUMNS), ("agents", LATER_AGENT_COLUMNS)):  # missing in an older file
        there = {column["name"] for column in db.execute(f"PRAGMA table_info({table})")}
        for name, kind in columns.items():
            if name not in there:
                db.execute(f"ALTER TABLE {table} ADD COLUMN {name} {kind}")
    db.execute("UPDATE agents SET status = 'offline'")


class Store:
    """All calls are quick, and made from the event loop's thread only.

    `changed` is set, and replaced, at each change; not for `vnc_data`, which nobody waits for.
    """

    def __init__(self, path: Path | str, events_kept: int | None = None) -> None:
        self.events_kept = events_kept
        if path != ":memory:":  # it holds keys, and its folder may be open to others
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            Path(path).chmod(0o600)
        self.db = sqlite3.connect(path, isolation_level=None)
        try:
            set_up(self.db)
        except sqlite3.Error:  # it is not a database, or not ours
            self.db.close()
            raise
        self.changed = asyncio.Event()
        self._events: list[tuple[float, str | None, str, str, str]] = []
        self._flushing: asyncio.TimerHandle | None = None
        self._unpruned = 0
        self._prune()

    def close(self) -> None:
        self.flush()
        self.db.close()

    def note_change(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()

    def rows(self, sql: str, *values: Any) -> list[Row]:
        return [shape(row) for row in self.db.execute(sql, values)]

    def row(self, sql: str, *values: Any) -> Row | None:
        found = self.db.execute(sql, values).fetchone()
        return None if found is None else shape(found)

    def change(self, sql: str, *values: Any) -> int:
        count = self.db.execute(sql, values).rowcount
        self.note_change()
        return count

    # Keys

    def issue_key(self, agent_id: str | None) -> str:
        """A new key of 64 hex characters; `None` makes a bootstrap key. Only its hash is kept."""
        key = secrets.token_hex(32)
        self.change("INSERT INTO api_keys VALUES (?, ?, ?)", key_hash(key), agent_id, time.time())
        return key

    def key_owner(self, key: str) -> tuple[bool, str | None]:
        """(Whether the key is known, its agent id). A known key without an agent id is a bootstrap key."""
        found = self.db.execute("SELECT agent_id FROM api_keys WHERE hash = ?", (key_hash(key),)).fetchone()
        return (False, None) if found is None else (True, found["agent_id"])

    # Agents

    def has_key(self, agent_id: str) -> bool:
        """Whether a key was issued for the agent, registered or not."""
        return self.row("SELECT 1 FROM api_keys WHERE agent_id = ?", agent_id) is not None

    def agent(self, agent_id: str) -> Row | None:
        return self.row("SELECT * FROM agents WHERE agent_id = ?", agent_id)

    def save_agent(self, request: Row, approval: str) -> None:
        """Insert or update an agent. A known one keeps its approval, and is `online` at once."""
        self.change(
            "INSERT INTO agents (agent_id, id, platform, region, capacity, metadata, approval, created_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (agent_id) DO UPDATE SET platform = excluded.platform,"
            " region = excluded.region, capacity = excluded.capacity, metadata = excluded.metadata, status = 'online'",
            request["agentId"], str(uuid.uuid4()), request["platform"], request.get("region"),
            json.dumps(request.get("capacity") or {}), json.dumps(request.get("metadata") or {}),
            approval, time.time(),
        )  # fmt: skip

    # Sessions and commands

    def session(self, session_id: str) -> Row | None:
        return self.row("SELECT * FROM sessions WHERE session_id = ?", session_id)

    def add_command(self, command_id: str, agent_id: str, action: str, payload: Row) -> None:
        session_id = payload.get("sessionId")
        self.change(
            "INSERT INTO commands (command_id, agent_id, session_id, action, payload, created_at)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            command_id, agent_id, session_id if isinstance(session_id, str) else None, action, json.dumps(payload),
            time.time(),
        )  # fmt: skip

    def command(self, command_id: str) -> Row | None:
        return self.row("SELECT * FROM commands WHERE command_id = ?", command_id)

    def last_command(self, session_id: str, action: str | None = None) -> Row | None:
        return self.row(
            "SELECT command_id, action, state, error, created_at, finished_at FROM commands"
            " WHERE session_id = ? AND action = COALESCE(?, action) ORDER BY seq DESC LIMIT 1",
            session_id, action,
        )  # fmt: skip

    def pending(self, agent_id: str | None = None) -> list[Row]:
        """The commands that were not sent yet, of one agent or of all."""
        return self.rows(
            "SELECT * FROM commands WHERE agent_id = COALESCE(?, agent_id) AND state = 'pending' ORDER BY seq", agent_id
        )

    def ask_state(self, session_id: str, state: str, *before: str) -> None:
        """Set the state that a person asked for, such as `hibernating`, if the session is in one of those `before`."""
        marks = ", ".join("?" * len(before))
        sql = f"UPDATE sessions SET state = ?, status_at = ? WHERE session_id = ? AND state IN ({marks})"  # noqa: S608 - question marks
        self.change(sql, state, time.time(), session_id, *before)

    def touch(self, session_id: str) -> None:
        """Note that somebody used the session."""
        self.change("UPDATE sessions SET last_activity = ? WHERE session_id = ?", time.time(), session_id)

    def mark_sent(self, command_id: str) -> None:
        self.change("UPDATE commands SET state = 'sent', sent_at = ? WHERE command_id = ?", time.time(), command_id)

    def mark(self, command_id: str, state: str, error: str | None = None, result: Any = None) -> bool:
        """Set `ack`, `completed` or `failed`, and count it. Returns whether the command exists."""
        counter, moment = COMMAND_STEPS[state]
        return self.change(
            "UPDATE commands SET state = ?, error = COALESCE(?, error), result = COALESCE(?, result),"  # noqa: S608 - own constants
            f" {moment} = ?, {counter} = {counter} + 1 WHERE command_id = ?",
            state, error, None if result is None else json.dumps(result), time.time(), command_id,
        ) > 0  # fmt: skip

    def refuse(self, command_id: str, error: str) -> None:
        """Fail a command that was never sent."""
        self.change(
            "UPDATE commands SET state = 'failed', error = ?, finished_at = ? WHERE command_id = ?",
            error, time.time(), command_id,
        )  # fmt: skip

    # Events

    def log(self, agent_id: str | None, direction: str, kind: str, payload: Row) -> None:
        """Add an event. They are written in batches, because a VNC stream makes thousands a second."""
        self._events.append((time.time(), agent_id, direction, kind, json.dumps(payload, default=str)))
        if self._flushing is None:
            self._flushing = asyncio.get_running_loop().call_later(0.02, self.flush)

    def flush(self) -> None:
        if self._flushing is not None:
            self._flushing.cancel()
            self._flushing = None
        batch, self._events = self._events, []
        if not batch:
            return
        self.db.execute("BEGIN")
        self.db.executemany(
            "INSERT INTO events (time, agent_id, direction, type, payload) VALUES (?, ?, ?, ?, ?)", batch
        )
        self.db.execute("COMMIT")
        self._unpruned += len(batch)
        if self.events_kept is not None and self._unpruned > self.events_kept // PRUNE_EVERY:
            self._prune()
        if any(kind != "vnc_data" for _, _, _, kind, _ in batch):
            self.note_change()

    def _prune(self) -> None:
        """Drop the oldest events. `vnc_data`, thousands a second, does not displace other messages."""
        self._unpruned = 0
        if self.events_kept is None:
            return
        for kinds in ("= 'vnc_data'", "!= 'vnc_data'"):
            self.db.execute(
                f"DELETE FROM events WHERE type {kinds} AND seq <="  # noqa: S608 - own operators
                f" (SELECT seq FROM events WHERE type {kinds} ORDER BY seq DESC LIMIT 1 OFFSET ?)",
                (self.events_kept,),
            )

    def events(self, after: int = 0, limit: int = 1000, **equal: str | None) -> list[Row]:
        """Events with a sequence number above `after`, oldest first. Filters: `agent_id`, `direction`, `type`."""
        self.flush()
        chosen = {name: value for name, value in equal.items() if value is not None}
        where = "".join(f" AND {name} = ?" for name in chosen)
        sql = f"SELECT * FROM events WHERE seq > ?{where} ORDER BY seq LIMIT ?"  # noqa: S608 - names are this module's
        return self.rows(sql, after, *chosen.values(), limit)

    def log_since(self, after: int, limit: int, routine_limit: int) -> tuple[list[Row], int]:
        """The newest events above `after` for the page, oldest first, without `vnc_data`, and the last number.

        Routine messages have a limit of their own, so that they do not displace the others.
        """
        self.flush()
        last = self.db.execute("SELECT COALESCE(MAX(seq), 0) FROM events").fetchone()[0]
        newest = "SELECT * FROM events WHERE seq > ? AND type != 'vnc_data' AND {} ORDER BY seq DESC LIMIT ?"
        halves = (newest.format(f"NOT {ROUTINE}"), newest.format(ROUTINE))
        sql = "SELECT * FROM ({}) UNION ALL SELECT * FROM ({}) ORDER BY seq".format(*halves)  # noqa: S608 - own constants
        return self.rows(sql, after, limit, after, routine_limit), int(last)

    def session_log(self, session_id: str, limit: int) -> list[Row]:
        """The last messages about one session, oldest first, without `vnc_data`."""
        self.flush()
        sql = (  # matches the index events_of_session
            "SELECT * FROM events WHERE CASE WHEN json_valid(payload) THEN json_extract(payload, '$.sessionId') END = ?"
            " AND type != 'vnc_data' ORDER BY seq DESC LIMIT ?"
        )
        return self.rows(sql, session_id, limit)[::-1]

    def readings(self, agent_id: str, session_id: str, limit: int) -> list[Row]:
        """What the session used, by its agent's last heartbeats, oldest first: time, cpu, memory."""
        self.flush()
        sql = "SELECT time, payload FROM events WHERE type = 'heartbeat' AND agent_id = ? ORDER BY seq DESC LIMIT ?"
        found = []
        for row in self.rows(sql, agent_id, limit)[::-1]:
            sessions = row["payload"].get("sessions") if isinstance(row["payload"], dict) else None
            used = sessions.get(session_id) if isinstance(sessions, dict) else None
            if isinstance(used, dict):
                found.append({"time": row["time"], "cpu": used.get("cpu"), "memory": used.get("memory")})
        return found
