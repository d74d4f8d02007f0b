"""The journal's file, by connections of the test's own: it sees, and changes, what another process could."""

import sqlite3
from contextlib import closing, contextmanager

TABLES = ("commands", "orders", "sessions", "outbox")


class JournalFile:
    def __init__(self, path):
        self.path = path

    def rows(self, statement, *values):
        """Run one statement; its rows."""
        with closing(sqlite3.connect(self.path, isolation_level=None)) as database:
            return database.execute(statement, values).fetchall()

    @contextmanager
    def refuses(self, *changes):
        """Changes such as `DELETE ON outbox` fail, all of them by default: by a trigger whose function nobody has."""
        changes = changes or [f"{verb} ON {table}" for verb in ("INSERT", "UPDATE", "DELETE") for table in TABLES]
        for number, change in enumerate(changes):
            self.rows(f"CREATE TRIGGER refused{number} BEFORE {change} BEGIN SELECT refused(); END")
        try:
            yield
        finally:
            for number in range(len(changes)):
                self.rows(f"DROP TRIGGER refused{number}")
