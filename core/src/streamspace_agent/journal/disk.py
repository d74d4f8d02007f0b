"""Explains why a file in STATE_DIR cannot be used, and what to do about it."""

import errno
import os
import sqlite3
from pathlib import Path

LEAST_ROOM = 256 * 1024
"""Free bytes below which the disk counts as full: SQLite's files grow in steps."""


def line(error: Exception) -> str:
    return " ".join(str(error).split())


def damaged(error: Exception) -> bool:
    return isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError)


_STORAGE = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY}


def cause(path: Path, error: Exception) -> str:
    """The cause of an error and its remedy. Asks the file system, since SQLite reports a full disk in many ways."""
    if damaged(error):
        return f"it is broken ({line(error)}): the next leader takes over what can be read of it"
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if not isinstance(error, OSError) and code not in _STORAGE:
        return line(error)
    text = (error.strerror or str(error)).lower() if isinstance(error, OSError) else str(error)
    if isinstance(error, OSError) and error.errno == errno.EPERM:
        return f"{error.filename}: {text}"
    folder = path.parent
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        system = os.statvfs(folder)
    except OSError:
        return text
    if system.f_flag & os.ST_RDONLY:
        return (
            f"the file system of {folder} is read-only: "
            "remount it writable (dmesg tells whether a disk error made it so), or set STATE_DIR to another"
        )
    if system.f_bavail * system.f_frsize < LEAST_ROOM or system.f_ffree == 0 < system.f_files:
        return f"the disk of {folder} is full: free some room on it, or set STATE_DIR to another"
    if code == sqlite3.SQLITE_IOERR:
        return f"{text}: look after the disk of {folder} (dmesg), or set STATE_DIR to another"
    return f"{text}: let the agent's user (id {os.geteuid()}) write there, or set STATE_DIR to a folder on a local disk"
